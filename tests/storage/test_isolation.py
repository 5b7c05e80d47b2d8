"""A caller who knows another workspace's ids can neither read nor change its rows."""

import importlib
import inspect
import pkgutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, get_origin
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

import parley.storage
from parley.client.generate import generate_input
from parley.client.reading import read_session
from parley.domain.auto_analyze.consistency import Consistency
from parley.domain.auto_analyze.contract import Aspect, LabelKind
from parley.domain.auto_analyze.evidence import LabelEvidence
from parley.domain.budgets import Period
from parley.domain.conversation.context import RunningSummary
from parley.domain.conversation.contract import ConversationCost, NewTurn
from parley.domain.conversation.memory import Changes, Memory
from parley.domain.costs import BilledAttempt, Correction, Costs
from parley.domain.errors import Billed, BudgetExhausted, InsufficientEnergy, InvalidInput, NotFound, ParleyError
from parley.domain.generate.contract import Prompt, SummaryReference
from parley.domain.knowledge import DocumentKind, chunks_of, read_document
from parley.domain.phone.contract import CallStatus, Counts, NewCall, TurnMeasures
from parley.domain.phone.keys import OpenEntry
from parley.domain.phone.limits import Use
from parley.domain.phone.settings import KeyAction
from parley.domain.reports import Feedback, Span, Spend
from parley.domain.requests import ChatReply, Finish, Message, Provider, Usage
from parley.domain.session import Session
from parley.domain.streaming import TextDelta
from parley.storage import (
    alerts,
    analyses,
    attempts,
    audit,
    breaker,
    budgets,
    cache,
    configuration,
    conversations,
    corrections,
    earlier_runs,
    energy,
    forgetting,
    generations,
    jobs,
    knowledge,
    label_consistency,
    label_evidence,
    label_explorer,
    ledger,
    memories,
    outbox,
    paid_requests,
    phone_calls,
    probes,
    reassignments,
    reports,
    rubrics,
    run_overview,
    sessions,
    streams,
    submissions,
    summaries,
    taxonomies,
    usage,
)
from parley.storage.breaker import BreakerView, Passes, Waits
from parley.storage.configuration import WORKSPACE, Glance, Stored
from parley.storage.driver import Query, fetch
from parley.storage.forgetting import RepliesPage
from parley.storage.ledger import Counted, Failure
from parley.storage.retention import Old
from parley.storage.tables import CachedAnswer, Generation, StoredAnalysis, Submission, SubmissionLine, utc_now
from tests.domain.coaching.material import SALES
from tests.parts import SAMPLES
from tests.storage.ledger_fixture import COST, EXPIRED, JOB, RATES, TERMS, USER, LedgerFixture, reply

THEIRS = "globex"
SUBMISSION = UUID(int=7)
SENT = Submission(id=SUBMISSION, workspace_id="acme", job_key="job", provider="openai")
SECRET = Message(role="user", content="our secret")
DELTA = TextDelta(text="our secret")
CONTINUED = ChatReply(text="whole", finish=Finish.STOP, usage=Usage(), model="model-1", continues=True)
MEMORY = Memory(
    id=UUID(int=7),
    subject="user",
    predicate="lives_in",
    value="our secret",
    confidence=1,
    importance=1,
    valid_from=utc_now(),
)
DOCUMENT = read_document(b"our secret", DocumentKind.TEXT)
VECTOR = [0.5] * 384
ENDING = Changes(ended=((MEMORY.id, utc_now()),))
DOCUMENT_ID = knowledge.document_id("acme", "secret.txt")
MODEL = (Provider.ANTHROPIC, "model-1")
NUMBER, CALL = "+15550100002", "CA1"
FAILURE = Failure("SomeError", "it went wrong", Billed.NO, trips_breaker=False)


@dataclass(frozen=True)
class Ids:
    """Ids that a caller of another workspace may know."""

    attempt: UUID
    session: Session
    session_sha256: str
    recording_sha256: str
    prompt: Prompt
    summary: SummaryReference


@pytest.fixture
async def ids(books: LedgerFixture) -> Ids:
    """The ids of a workspace that has rows in every table."""
    attempt = await books.granted(terms=EXPIRED)
    settled = await books.granted("settled")
    await books.settle(settled)
    await books.cap(Period.DAY, Decimal(1))
    session = read_session(next(SAMPLES.glob("*.json")))
    async with books.database.transaction() as tx:
        session_sha256 = await sessions.save_session(tx, books.workspace, session)
        recording_sha256 = await sessions.save_recording(tx, books.workspace, b"audio", 1.5)
        row = StoredAnalysis(
            workspace_id=books.workspace,
            job_key="job",
            workflow_id="workflow",
            session_id=session.session_id,
            session_sha256=session_sha256,
            user_id=USER,
            rubric="own@1",
        )
        await analyses.begin(tx, row)
        await rubrics.save(tx, books.workspace, SALES.model_copy(update={"id": "own"}))
        result = {"coaching": {"processed": True}, "strategy": "standard"}
        await analyses.end(tx, books.workspace, "job", "completed", result)
        tx.add(generation(books.workspace, attempt))
        tx.add(cached_answer(books.workspace, attempt))
        await configuration.save(tx, books.workspace, "company", {"name": "Acme"}, owner=WORKSPACE)
        await configuration.save(tx, books.workspace, "ai_settings", {"tone": "dry"}, owner=USER)
        prompt = await generations.save_prompt(tx, books.workspace, Prompt(messages=(SECRET,)))
        await summaries.store(tx, books.workspace, "beginning", 1, settled)
        turn = NewTurn.of("talk", "turn", generate_input(books.workspace, "secret", user_id=USER))
        await conversations.begin_turn(tx, turn)
        await conversations.start_turn(tx, books.workspace, "talk", "turn")
        await phone_calls.save_number(tx, books.workspace, NUMBER, {})
        await phone_calls.begin(tx, phone_call(books.workspace))
        await memories.apply(tx, books.workspace, USER, Changes(added=(MEMORY,)), settled)
        vectors = ("model", [VECTOR])
        await knowledge.put(tx, books.workspace, "secret.txt", "hash", DOCUMENT, chunks_of(DOCUMENT), vectors)
        sent = {"workspace_id": books.workspace, "job_key": JOB, "provider": "openai"}
        await submissions.begin(tx, Submission(id=SUBMISSION, **sent))
        line = {"workspace_id": books.workspace, "submission_id": SUBMISSION, "step": 0}
        await submissions.add_line(tx, SubmissionLine(attempt_id=attempt, **line))
        await streams.open_attempt(tx, books.workspace, "stream", "ws://127.0.0.1:1")
        await streams.store(tx, books.workspace, "stream", 1, streams.News(0, (DELTA,)))
    return Ids(
        attempt, session, session_sha256, recording_sha256, prompt, SummaryReference(attempt_id=settled, messages=1)
    )


def later(ids: Ids) -> StoredAnalysis:
    """An analysis after that of the workspace, of the same user under the same rubric."""
    fields = {"workspace_id": THEIRS, "job_key": "later", "workflow_id": "later", "session_id": "another"}
    when = datetime.now(UTC) + timedelta(days=1)
    return StoredAnalysis(**fields, session_sha256=ids.session_sha256, user_id=USER, rubric="own@1", created_at=when)


def same(ids: Ids) -> StoredAnalysis:
    """Another analysis of the workspace's session, in another workspace."""
    return later(ids).model_copy(update={"session_id": ids.session.session_id})


def phone_call(workspace_id: str) -> NewCall:
    ends = {"number": NUMBER, "caller": "+15550100001"}
    return NewCall(workspace_id=workspace_id, call_sid=CALL, user_id=USER, language="en-US", **ends)


def generation(workspace_id: str, attempt_id: UUID) -> Generation:
    fields = {"request_id": "asked/generate", "job_key": "asked", "fingerprint": "asked", "workflow_id": "workflow"}
    fields |= {"user_id": USER, "action": "ai_message"}
    return Generation(
        workspace_id=workspace_id, outcome="failed", attempt_id=attempt_id, experiment="e", arm="a", **fields
    )


def cached_answer(workspace_id: str, attempt_id: UUID) -> CachedAnswer:
    who = {"workspace_id": workspace_id, "user_id": USER, "action": "ai_message", "simulated": True}
    what = {"key": "key", "context_sha256": "context", "question": "How?", "reply": reply().model_dump(mode="json")}
    expires_at = utc_now() + timedelta(hours=1)
    provider, model = MODEL
    return CachedAnswer(
        **who, **what, provider=provider.value, model=model, attempt_id=attempt_id, cost_usd=COST, expires_at=expires_at
    )


def hit(attempt_id: UUID) -> cache.Hit:
    return cache.Hit("key", reply(), *MODEL, simulated=True, attempt_id=attempt_id, cost_usd=COST, expired=False)


def correction(attempt_id: UUID) -> Correction:
    return Correction(attempt_id=attempt_id, source="line 2", upper_bound_usd=COST, cost_usd=COST, billed=True)


async def nothing(tx: AsyncSession, job_key: str) -> None:
    """Write nothing more."""


NOT_BILLED = Counted(Decimal(0), Usage(), is_billed=False)
Trespass = Callable[[AsyncSession, Ids], Awaitable[Any]]


def reading(report: Callable[[AsyncSession, str, Span], Awaitable[Any]], field: str) -> Trespass:
    """Read one field of the other workspace's report from yesterday to tomorrow. It must be empty."""

    async def read(tx: AsyncSession, _: Ids) -> Any:
        span = Span(since=utc_now() - timedelta(days=1), until=utc_now() + timedelta(days=1))
        return getattr(await report(tx, THEIRS, span), field)

    return read


async def daily_costs(tx: AsyncSession, workspace_id: str, span: Span) -> Any:
    series = await reports.over_time(tx, workspace_id, span, timedelta(days=1))
    return SimpleNamespace(costs={line.spend.attempts for line in series.lines} - {0})


def billed(attempt_id: UUID) -> BilledAttempt:
    return BilledAttempt(source="line 1", attempt_id=attempt_id, cost_usd=Decimal(9))


# Each function of the storage that takes a workspace, called with another workspace's ids, and its expected result.
TRESPASSES: dict[str, tuple[Trespass, Any]] = {
    "ledger.renew": (lambda tx, ids: ledger.renew(tx, THEIRS, ids.attempt, 60), False),
    "ledger.settle": (
        lambda tx, ids: ledger.settle(tx, ledger.Settlement(THEIRS, ids.attempt, reply(), COST, RATES)),
        NotFound,
    ),
    "ledger.settle_jointly": (
        lambda tx, ids: ledger.settle_jointly(tx, [ledger.Settlement(THEIRS, ids.attempt, reply(), COST, RATES)]),
        NotFound,
    ),
    "ledger.journaled": (lambda tx, _: ledger.journaled(tx, THEIRS, "job/step", "what was asked"), None),
    "ledger.fail": (lambda tx, ids: ledger.fail(tx, THEIRS, ids.attempt, FAILURE, TERMS), NotFound),
    "budgets.change_envelope": (
        lambda tx, _: budgets.change_envelope(tx, THEIRS, budgets.job_scope(JOB), Decimal(1000)),
        False,
    ),
    "budgets.lock": (lambda tx, _: budgets.lock(tx, THEIRS, budgets.job_scope(JOB)), False),
    "paid_requests.lock": (lambda tx, _: paid_requests.lock(tx, THEIRS, "job/step"), NotFound),
    "paid_requests.lock_with_attempt": (
        lambda tx, ids: paid_requests.lock_with_attempt(tx, THEIRS, ids.attempt),
        NotFound,
    ),
    "paid_requests.attempt": (lambda tx, ids: paid_requests.attempt(tx, THEIRS, ids.attempt), None),
    "paid_requests.journaled": (lambda tx, _: paid_requests.journaled(tx, THEIRS, "job/step"), NotFound),
    "ledger.settled_by": (lambda tx, ids: ledger.settled_by(tx, THEIRS, ids.attempt), None),
    "ledger.end_stale": (lambda tx, _: ledger.end_stale(tx, THEIRS, "job/step"), NotFound),
    "budgets.reserve": (lambda tx, _: budgets.reserve(tx, THEIRS, "job:job", Decimal(0)), BudgetExhausted),
    "budgets.move": (lambda tx, _: budgets.move(tx, THEIRS, "job:job", confirmed=Decimal(1)), NotFound),
    "budgets.lock_caps": (lambda tx, _: budgets.lock_caps(tx, THEIRS), False),
    "budgets.caps": (lambda tx, _: fetch(tx, budgets.caps(THEIRS)), []),
    "generations.load_prompt": (lambda tx, ids: generations.load_prompt(tx, THEIRS, ids.prompt), NotFound),
    "generations.find": (lambda tx, _: generations.find(tx, THEIRS, "asked/generate"), None),
    "generations.last_reply": (lambda tx, _: generations.last_reply(tx, THEIRS, "asked"), None),
    "generations.record_cost": (lambda tx, _: generations.record_cost(tx, THEIRS, "asked"), None),
    "paid_requests.repeat": (lambda tx, _: paid_requests.repeat(tx, THEIRS, "job/step"), None),
    "paid_requests.is_charged": (lambda tx, _: paid_requests.is_charged(tx, THEIRS, "job/step"), False),
    "generations.answer": (lambda tx, _: generations.answer(tx, THEIRS, "asked/generate"), NotFound),
    "generations.totals": (lambda tx, _: generations.totals(tx, THEIRS, "job"), (Decimal(0), 0)),
    "generations.usage": (lambda tx, _: generations.usage(tx, THEIRS, "job", CONTINUED), Usage()),
    "energy.account": (lambda tx, _: energy.account(tx, THEIRS, USER), None),
    "energy.set_tier": (lambda tx, _: energy.set_tier(tx, THEIRS, USER, "pro"), None),
    "energy.reserve": (lambda tx, _: energy.reserve(tx, THEIRS, USER, 1, "job/step"), InsufficientEnergy),
    "energy.charge": (lambda tx, _: energy.charge(tx, THEIRS, USER, 1, "job/step"), NotFound),
    "energy.release": (lambda tx, _: energy.release(tx, THEIRS, USER, 1, "job/step"), NotFound),
    "energy.reserve_if_possible": (lambda tx, _: energy.reserve_if_possible(tx, THEIRS, USER, 1, "job/step"), 0),
    "jobs.find_jobs": (lambda tx, _: jobs.find_jobs(tx, THEIRS, limit=10), []),
    "jobs.spent_usd": (lambda tx, _: jobs.spent_usd(tx, THEIRS, ["job"]), {}),
    "usage.tokens_by_step": (lambda tx, _: usage.tokens_by_step(tx, THEIRS, "job"), {}),
    "usage.seconds_per_token": (
        lambda tx, _: usage.seconds_per_token(tx, THEIRS, Provider.OPENAI, "gpt-4o-mini"),
        None,
    ),
    "usage.prompt_cache": (lambda tx, _: usage.prompt_cache(tx, THEIRS, "job"), usage.PromptCache(0, Decimal(0))),
    "usage.total_usd": (lambda tx, _: usage.total_usd(tx, THEIRS, "job"), Decimal(0)),
    "usage.costs": (lambda tx, _: usage.costs(tx, THEIRS, job_key="job", user_id=USER), Costs(lines=())),
    "audit.audit": (lambda tx, _: audit.audit(tx, THEIRS), []),
    "corrections.find": (lambda tx, ids: corrections.find(tx, THEIRS, [billed(ids.attempt)], utc_now()), []),
    "corrections.apply": (lambda tx, ids: corrections.apply(tx, THEIRS, correction(ids.attempt)), NotFound),
    "ledger.confirm": (lambda tx, ids: ledger.confirm(tx, THEIRS, ids.attempt, NOT_BILLED, nothing), NotFound),
    "audit.audit_billed": (lambda tx, ids: audit.audit_billed(tx, THEIRS, [billed(ids.attempt)]), []),
    "generations.grade": (lambda tx, _: generations.grade(tx, THEIRS, "asked/generate", Decimal(1)), False),
    "configuration.look": (lambda tx, _: fetch(tx, configuration.look(THEIRS, USER)), Glance((), {})),
    "configuration.load": (lambda tx, _: configuration.load(tx, THEIRS, USER), Stored((), {"profile": {}})),
    "configuration.refresh": (lambda tx, _: configuration.refresh(tx, THEIRS, USER), 0),
    "configuration.replace": (lambda tx, _: configuration.replace(tx, THEIRS, "company", {}, owner=WORKSPACE), None),
    "configuration.remove": (lambda tx, _: configuration.remove(tx, THEIRS, "company", owner=WORKSPACE), False),
    "generations.rate": (lambda tx, _: generations.rate(tx, THEIRS, "asked/generate", Feedback.BAD), NotFound),
    "attempts.of_job": (lambda tx, _: attempts.of_job(tx, THEIRS, JOB, limit=10), []),
    "run_overview.flows": (lambda tx, _: run_overview.flows(tx, THEIRS, JOB), []),
    "run_overview.new_labels": (lambda tx, _: run_overview.new_labels(tx, THEIRS, JOB), []),
    "run_overview.phase_costs": (lambda tx, _: run_overview.phase_costs(tx, THEIRS, JOB), []),
    "run_overview.quoted_sessions": (
        lambda tx, _: run_overview.quoted_sessions(tx, THEIRS, JOB, after=-1, limit=10),
        [],
    ),
    "label_consistency.measure": (lambda tx, _: label_consistency.measure(tx, THEIRS, JOB, 0), Consistency()),
    "label_consistency.intents": (lambda tx, _: label_consistency.intents(tx, THEIRS, JOB, first=True), {}),
    "label_consistency.copies": (lambda tx, _: label_consistency.copies(tx, THEIRS, JOB), []),
    "label_evidence.sample": (lambda tx, _: label_evidence.sample(tx, THEIRS, JOB, LabelKind.INTENT, 10), {}),
    "label_evidence.store_evidence": (
        lambda tx, _: label_evidence.store_evidence(
            tx, THEIRS, JOB, LabelKind.INTENT, [LabelEvidence(label="label", sessions=7)]
        ),
        None,
    ),
    "label_evidence.evidence": (lambda tx, _: label_evidence.evidence(tx, THEIRS, JOB, LabelKind.INTENT), []),
    "label_evidence.first_sessions": (
        lambda tx, _: label_evidence.first_sessions(tx, THEIRS, JOB, LabelKind.INTENT),
        [],
    ),
    "label_evidence.merged_on": (lambda tx, _: label_evidence.merged_on(tx, THEIRS, JOB, LabelKind.INTENT, 0), {}),
    "label_explorer.examples": (
        lambda tx, _: label_explorer.examples(tx, THEIRS, JOB, LabelKind.INTENT, "label", after=-1, limit=10),
        [],
    ),
    "label_explorer.origins": (
        lambda tx, _: label_explorer.origins(tx, THEIRS, JOB, LabelKind.INTENT, "label"),
        [],
    ),
    "taxonomies.load": (lambda tx, _: taxonomies.load(tx, THEIRS, "labels"), NotFound),
    "taxonomies.given": (lambda tx, _: taxonomies.given(tx, THEIRS, JOB), {kind: [] for kind in LabelKind}),
    "earlier_runs.lineage": (lambda tx, _: earlier_runs.lineage(tx, THEIRS, JOB), NotFound),
    "earlier_runs.labelled_positions": (
        lambda tx, _: earlier_runs.labelled_positions(tx, THEIRS, "dataset", [JOB]),
        set(),
    ),
    "earlier_runs.labelled_contents": (lambda tx, _: earlier_runs.labelled_contents(tx, THEIRS, [JOB]), set()),
    "earlier_runs.final_labels": (lambda tx, _: earlier_runs.final_labels(tx, THEIRS, JOB), []),
    "earlier_runs.sessions_of_labels": (
        lambda tx, _: earlier_runs.sessions_of_labels(tx, THEIRS, JOB, LabelKind.INTENT),
        {},
    ),
    "earlier_runs.batch_sizes": (lambda tx, _: earlier_runs.batch_sizes(tx, THEIRS, JOB, 0), []),
    "earlier_runs.pairs_of_labels": (lambda tx, _: earlier_runs.pairs_of_labels(tx, THEIRS, JOB, JOB), {}),
    "earlier_runs.session_with": (
        lambda tx, _: earlier_runs.session_with(tx, THEIRS, JOB, JOB, ("label", "label")),
        None,
    ),
    "probes.rounds_of": (lambda tx, _: probes.rounds_of(tx, THEIRS, JOB, [0], 10_000), {}),
    "probes.pairs": (lambda tx, _: probes.pairs(tx, THEIRS, JOB), []),
    "label_explorer.first_rounds": (
        lambda tx, _: label_explorer.first_rounds(tx, THEIRS, JOB, LabelKind.INTENT),
        {},
    ),
    "reassignments.batch": (lambda tx, _: reassignments.batch(tx, THEIRS, JOB, 0), []),
    "reassignments.open_numbers": (lambda tx, _: reassignments.open_numbers(tx, THEIRS, JOB, after=-1, limit=9), []),
    "reassignments.complete": (lambda tx, _: reassignments.complete(tx, THEIRS, JOB, 0), None),
    "reassignments.sample": (lambda tx, _: reassignments.sample(tx, THEIRS, JOB, 16, Aspect.ALONE), []),
    "reassignments.store": (lambda tx, _: reassignments.store(tx, THEIRS, JOB, {0: "label"}), None),
    "reassignments.apply": (lambda tx, _: reassignments.apply(tx, THEIRS, JOB), 0),
    "reassignments.intents_left": (lambda tx, _: reassignments.intents_left(tx, THEIRS, JOB), 0),
    "submissions.find": (lambda tx, _: submissions.find(tx, THEIRS, SUBMISSION), submissions.NotBegun),
    "submissions.change": (lambda tx, _: submissions.change(tx, THEIRS, SUBMISSION, was=SENT, state="ended"), None),
    "submissions.lines": (lambda tx, _: submissions.lines(tx, THEIRS, SUBMISSION), set()),
    "submissions.attempts_in": (lambda tx, _: submissions.attempts_in(tx, THEIRS, SUBMISSION, "open"), []),
    "submissions.open_batches": (lambda tx, _: submissions.open_batches(tx, THEIRS, JOB, after=-1, limit=9), []),
    "submissions.answered_steps": (
        lambda tx, _: submissions.answered_steps(tx, THEIRS, SUBMISSION, after=-1, limit=9),
        [],
    ),
    "submissions.answering": (lambda tx, _: submissions.answering(tx, THEIRS, ["a/coaching"]), {}),
    "submissions.answered_batches": (
        lambda tx, _: submissions.answered_batches(tx, THEIRS, JOB, SUBMISSION, after=-1, limit=9),
        [],
    ),
    "reassignments.plan": (lambda tx, _: reassignments.plan(tx, THEIRS, JOB, 10), range(0)),
    "reports.over_time": (reading(daily_costs, "costs"), set()),
    "reports.summary": (reading(reports.summary, "total"), Spend()),
    "reports.daily": (reading(reports.daily, "total"), Spend()),
    "reports.weekly": (reading(reports.weekly, "total"), Spend()),
    "reports.users": (reading(reports.users, "lines"), ()),
    "reports.actions": (reading(reports.actions, "lines"), ()),
    "reports.tokens": (reading(reports.tokens, "lines"), ()),
    "reports.models": (reading(reports.models, "lines"), ()),
    "reports.experiments": (reading(reports.experiments, "lines"), ()),
    "reports.evidence": (reading(reports.evidence, "servings"), ()),
    "sessions.load_session": (
        lambda tx, ids: sessions.load_session(tx, THEIRS, ids.session.session_id, ids.session_sha256),
        NotFound,
    ),
    "sessions.load_recording": (lambda tx, ids: sessions.load_recording(tx, THEIRS, ids.recording_sha256), NotFound),
    "analyses.load": (lambda tx, _: analyses.load(tx, THEIRS, "job"), NotFound),
    "analyses.find": (lambda tx, _: analyses.find(tx, THEIRS, "workflow"), NotFound),
    "analyses.count": (lambda tx, _: analyses.count(tx, THEIRS, USER), 0),
    "analyses.latest_of": (lambda tx, ids: analyses.latest_of(tx, THEIRS, same(ids), ()), None),
    "analyses.of_about": (lambda tx, ids: analyses.of_about(tx, THEIRS, same(ids), 600, (), limit=10), []),
    "analyses.earlier": (lambda tx, ids: analyses.earlier(tx, THEIRS, later(ids), (), limit=10), []),
    "rubrics.stored": (lambda tx, _: rubrics.stored(tx, THEIRS), []),
    "rubrics.load": (lambda tx, _: rubrics.load(tx, THEIRS, "own"), InvalidInput),
    "sessions.recording_seconds": (
        lambda tx, ids: sessions.recording_seconds(tx, THEIRS, ids.recording_sha256),
        NotFound,
    ),
    "sessions.recording_part": (
        lambda tx, ids: sessions.recording_part(tx, THEIRS, ids.recording_sha256, 0, 10),
        NotFound,
    ),
    "analyses.store_parts": (lambda tx, _: analyses.store_parts(tx, THEIRS, "job", status="failed"), None),
    "outbox.events": (lambda tx, _: outbox.events(tx, THEIRS), []),
    "outbox.retry": (lambda tx, _: outbox.retry(tx, THEIRS, 1), NotFound),
    "cache.find": (lambda tx, _: cache.find(tx, THEIRS, "key", [MODEL]), None),
    "cache.find_stale": (
        lambda tx, _: cache.find_stale(tx, THEIRS, "key", [MODEL], [(Provider.ANTHROPIC, True)]),
        None,
    ),
    "cache.find_similar": (
        lambda tx, _: cache.find_similar(tx, THEIRS, USER, "ai_message", "context", "How?", [MODEL]),
        None,
    ),
    "cache.used": (lambda tx, ids: cache.used(tx, THEIRS, hit(ids.attempt)), None),
    "summaries.find": (lambda tx, _: summaries.find(tx, THEIRS, ["beginning"], [(Provider.ANTHROPIC, True)]), None),
    "summaries.load": (lambda tx, ids: summaries.load(tx, THEIRS, ids.summary), NotFound),
    "memories.lock": (lambda tx, _: memories.lock(tx, THEIRS, USER), None),
    "memories.valid_about": (lambda tx, _: memories.valid_about(tx, THEIRS, USER, ["user"]), ()),
    "memories.apply": (lambda tx, _: memories.apply(tx, THEIRS, USER, ENDING), 0),
    "memories.without_vector": (lambda tx, _: memories.without_vector(tx, THEIRS, USER, "model", limit=10), ()),
    "memories.store_vectors": (
        lambda tx, _: memories.store_vectors(tx, THEIRS, USER, "model", {MEMORY.id: [0.5] * 384}),
        None,
    ),
    "memories.exist": (lambda tx, _: fetch(tx, memories.exist(THEIRS, USER)), False),
    "memories.near": (lambda tx, _: memories.near(tx, THEIRS, USER, [0.5] * 384, "model"), ()),
    "memories.of_user": (lambda tx, _: memories.of_user(tx, THEIRS, USER, with_ended=True), ()),
    "memories.find": (lambda tx, _: memories.find(tx, THEIRS, USER, MEMORY.id), NotFound),
    "memories.correct": (lambda tx, _: memories.correct(tx, THEIRS, USER, MEMORY.id, "new", uuid4()), NotFound),
    "memories.forget_asked": (lambda tx, _: memories.forget_asked(tx, THEIRS, USER, MEMORY.id), NotFound),
    "memories.forget": (lambda tx, _: memories.forget(tx, THEIRS, USER), 0),
    "forgetting.forget_old": (
        lambda tx, _: forgetting.forget_old(tx, THEIRS, "llm_cache", Old(utc_now(), ()), limit=9),
        0,
    ),
    "forgetting.forget_old_replies": (
        lambda tx, _: forgetting.forget_old_replies(tx, THEIRS, Old(utc_now(), ()), after=None, limit=9),
        RepliesPage(),
    ),
    "forgetting.is_forgotten": (lambda tx, _: forgetting.is_forgotten(tx, THEIRS, "one"), False),
    "forgetting.forget_user": (lambda tx, _: forgetting.forget_user(tx, THEIRS, USER), {}),
    "knowledge.lock": (lambda tx, _: knowledge.lock(tx, THEIRS, "secret.txt"), None),
    "knowledge.find": (lambda tx, _: knowledge.find(tx, THEIRS, "secret.txt"), None),
    "knowledge.exists": (lambda tx, _: knowledge.exists(tx, THEIRS), False),
    "knowledge.documents": (lambda tx, _: knowledge.documents(tx, THEIRS), ()),
    "knowledge.remove": (lambda tx, _: knowledge.remove(tx, THEIRS, DOCUMENT_ID), NotFound),
    "knowledge.search": (lambda tx, _: knowledge.search(tx, THEIRS, "our secret", VECTOR, 9, model="model"), ()),
    "knowledge.rank_by_words": (lambda tx, _: knowledge.rank_by_words(tx, THEIRS, "our secret"), []),
    "knowledge.rank_by_vectors": (lambda tx, _: knowledge.rank_by_vectors(tx, THEIRS, VECTOR, "model"), {}),
    "knowledge.passages": (lambda tx, _: knowledge.passages(tx, THEIRS, {(DOCUMENT_ID, 1): 1.0}), ()),
    "paid_requests.held_seconds": (lambda tx, _: paid_requests.held_seconds(tx, THEIRS, uuid4()), 0.0),
    "streams.record_claim": (lambda tx, _: streams.record_claim(tx, THEIRS, "stream", 1, ("job/step", "id", 0)), False),
    "streams.store": (lambda tx, _: streams.store(tx, THEIRS, "stream", 1, streams.News(0, (DELTA,))), None),
    "streams.load": (lambda tx, _: streams.load(tx, THEIRS, "stream", after=0), None),
    "streams.add_receiver": (lambda tx, _: streams.add_receiver(tx, THEIRS, "stream", "ws://127.0.0.1:9"), False),
    "conversations.find": (lambda tx, _: conversations.find(tx, THEIRS, "talk"), None),
    "conversations.newest": (lambda tx, _: conversations.newest(tx, THEIRS, before=None, limit=9), []),
    "conversations.find_turn": (lambda tx, _: conversations.find_turn(tx, THEIRS, "talk", "turn"), None),
    "conversations.said": (lambda tx, _: conversations.said(tx, THEIRS, "talk", ["turn"]), []),
    "conversations.all_turns": (lambda tx, _: conversations.all_turns(tx, THEIRS, "talk"), []),
    "conversations.start_turn": (lambda tx, _: conversations.start_turn(tx, THEIRS, "talk", "turn"), NotFound),
    "conversations.record_knowledge": (
        lambda tx, _: conversations.record_knowledge(tx, THEIRS, "talk", "turn", ()),
        False,
    ),
    "conversations.end_turn": (
        lambda tx, _: conversations.end_turn(tx, THEIRS, "talk", "turn", outcome="failed"),
        False,
    ),
    "conversations.exchanges": (lambda tx, _: conversations.exchanges(tx, THEIRS, "talk", after=0, through=9), ()),
    "conversations.sizes": (lambda tx, _: conversations.sizes(tx, THEIRS, "talk", after=0), ()),
    "conversations.save_summary": (
        lambda tx, _: conversations.save_summary(tx, THEIRS, "talk", RunningSummary(text="s", through=9)),
        False,
    ),
    "conversations.close": (lambda tx, _: conversations.close(tx, THEIRS, "talk"), NotFound),
    "conversations.history": (lambda tx, _: conversations.history(tx, THEIRS, "talk", after=0, limit=9), []),
    "conversations.state": (lambda tx, _: conversations.state(tx, THEIRS, "talk"), NotFound),
    "conversations.cost": (lambda tx, _: conversations.cost(tx, THEIRS, "talk"), ConversationCost()),
    "phone_calls.save_number": (lambda tx, _: phone_calls.save_number(tx, THEIRS, NUMBER, {"a": 1}), InvalidInput),
    "phone_calls.numbers": (lambda tx, _: phone_calls.numbers(tx, THEIRS), []),
    "phone_calls.remove_number": (lambda tx, _: phone_calls.remove_number(tx, THEIRS, NUMBER), False),
    "phone_calls.lock_limits": (lambda tx, _: phone_calls.lock_limits(tx, THEIRS), None),
    "phone_calls.used": (lambda tx, _: phone_calls.used(tx, THEIRS, NUMBER, "+15550100001"), Use()),
    "phone_calls.find": (lambda tx, _: phone_calls.find(tx, THEIRS, CALL), None),
    "phone_calls.newest": (lambda tx, _: phone_calls.newest(tx, THEIRS, before=None, limit=9), []),
    "phone_calls.set_status": (lambda tx, _: phone_calls.set_status(tx, THEIRS, CALL, CallStatus.COMPLETED), False),
    "phone_calls.explain": (lambda tx, _: phone_calls.explain(tx, THEIRS, CALL, "caller"), False),
    "phone_calls.set_language": (lambda tx, _: phone_calls.set_language(tx, THEIRS, CALL, "es", "prompt"), False),
    "phone_calls.set_analysis": (lambda tx, _: phone_calls.set_analysis(tx, THEIRS, CALL, "job"), False),
    "phone_calls.set_secret_entry": (
        lambda tx, _: phone_calls.set_secret_entry(tx, THEIRS, CALL, 0, OpenEntry(entry=KeyAction(kind="enter"))),
        False,
    ),
    "phone_calls.count": (lambda tx, _: phone_calls.count(tx, THEIRS, CALL, Counts(errors=1)), False),
    "phone_calls.last_turn_number": (lambda tx, _: phone_calls.last_turn_number(tx, THEIRS, "talk"), 0),
    "phone_calls.last_turn": (lambda tx, _: phone_calls.last_turn(tx, THEIRS, "talk"), None),
    "phone_calls.turn_counts": (lambda tx, _: phone_calls.turn_counts(tx, THEIRS, ["talk"]), {}),
    "phone_calls.measure": (
        lambda tx, _: phone_calls.measure(tx, THEIRS, "talk", "turn", TurnMeasures(heard="a")),
        False,
    ),
    "phone_calls.costs": (lambda tx, _: phone_calls.costs(tx, THEIRS, "talk"), {}),
    "phone_calls.go_on": (lambda tx, _: phone_calls.go_on(tx, THEIRS, "talk", "turn"), False),
    "phone_calls.cut_short": (lambda tx, _: phone_calls.cut_short(tx, THEIRS, "talk", "turn"), False),
    "alerts.alerts": (lambda tx, _: alerts.alerts(tx, THEIRS), []),
    "analyses.is_provisional": (lambda tx, _: analyses.is_provisional(tx, THEIRS, "job"), NotFound),
    "analyses.end": (lambda tx, _: analyses.end(tx, THEIRS, "job", "failed", None), None),
    "breaker.look": (lambda tx, _: breaker.look(tx, Provider.ANTHROPIC, THEIRS), BreakerView(0, 0, 0)),
    "breaker.waits": (lambda tx, _: fetch(tx, breaker.waits(THEIRS)), Waits({}, {})),
    "breaker.pass_through": (
        lambda tx, _: breaker.pass_through(tx, Provider.ANTHROPIC, THEIRS, TERMS.breaker, shares_key=True),
        Passes(0, 0),
    ),
    "breaker.succeeded": (lambda tx, _: breaker.succeeded(tx, Provider.ANTHROPIC, THEIRS, Passes(0, None)), None),
    "breaker.not_counted": (lambda tx, _: breaker.not_counted(tx, Provider.ANTHROPIC, THEIRS, Passes(0, None)), None),
}
# These create rows of the caller's workspace, with any id.
CREATES_ROWS = {
    "breaker.failed",
    "budgets.open_envelope",
    "configuration.save",
    "budgets.reserve_day",
    "budgets.set_cap",
    "energy.grant",
    "energy.open_account",
    "generations.save_prompt",
    "knowledge.put",
    "summaries.store",
    "taxonomies.store",
    "taxonomies.give",
    "probes.store",
    "rubrics.save",
    "sessions.save_session",
    "sessions.save_recording",
    "streams.open_attempt",
}


# The tests of these modules check their isolation.
CHECKED_ELSEWHERE = {f"parley.storage.{name}" for name in ("auto_analyze", "datasets", "gateway_keys", "label_maps")}


def functions_with_a_workspace() -> set[str]:
    found: set[str] = set()
    for module in pkgutil.iter_modules(parley.storage.__path__, "parley.storage."):
        if module.ispkg or module.name in CHECKED_ELSEWHERE:
            continue
        for name, function in inspect.getmembers(importlib.import_module(module.name), inspect.isfunction):
            reads = inspect.iscoroutinefunction(function) or get_origin(function.__annotations__.get("return")) is Query
            own = function.__module__ == module.name and not name.startswith("_") and reads
            if own and {"workspace_id", "settlement", "settlements"} & inspect.signature(function).parameters.keys():
                found.add(f"{module.name.removeprefix('parley.storage.')}.{name}")
    return found


def test_every_function_that_takes_a_workspace_is_checked():
    assert functions_with_a_workspace() == set(TRESPASSES) | CREATES_ROWS


async def contents(books: LedgerFixture) -> str:
    """All rows of all tables, as text."""
    async with books.database.transaction() as tx:
        tables = (await tx.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))).scalars()
        queries = [f"SELECT x::text FROM {table} x ORDER BY 1" for table in sorted(tables)]
        return "\n".join([line for query in queries for line in (await tx.execute(text(query))).scalars()])


async def answer_to(books: LedgerFixture, trespass: Trespass, ids: Ids) -> Any:
    """What the function returns, or the kind of error that it raises."""
    try:
        async with books.database.transaction() as tx:
            return await trespass(tx, ids)
    except ParleyError as error:
        return type(error)


async def test_another_workspace_finds_and_changes_nothing(books: LedgerFixture, ids: Ids):
    before = await contents(books)
    for name, (trespass, expected) in TRESPASSES.items():
        assert await answer_to(books, trespass, ids) == expected, name
        assert await contents(books) == before, name


async def test_the_same_request_id_in_another_workspace_is_another_request(books: LedgerFixture):
    other = await LedgerFixture(books.database, THEIRS).open()
    mine, theirs = await books.granted(), await other.granted()
    await books.settle(mine, reply("mine"))
    assert (await other.settle(theirs, reply("theirs"))).reply.text == "theirs"
    assert await books.energy() == await other.energy() == (10, 0)
