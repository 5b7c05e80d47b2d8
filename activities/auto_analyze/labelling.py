"""The paid steps of a run: label a batch, condense a session that is too long, find duplicate labels."""

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity

from activities.auto_analyze.evidence import comparison, store_merges
from activities.auto_analyze.known_labels import Behind, KnownLabels
from activities.auto_analyze.meaning import WORDS_ALONE, Meaning
from activities.auto_analyze.reassigning import KnownChoices, answered_in_batches, doubts_at_once, doubts_of
from activities.auto_analyze.runs import keep_labels, outcome_of
from activities.boundary import boundary
from parley.domain.auto_analyze.batching import (
    BYTES_PER_LABEL_TOKEN,
    compared_at_once,
    fits,
    parts,
    prompt_budget,
    tokens_of_instructions,
)
from parley.domain.auto_analyze.contract import ACTION, Job, LabelKind
from parley.domain.auto_analyze.evidence import opening
from parley.domain.auto_analyze.merging import merges_of, read_groups
from parley.domain.auto_analyze.nearest import Fitting, NearestLabels
from parley.domain.auto_analyze.prompts import (
    classification_request,
    condense_request,
    reassignment_request,
    resolution_request,
)
from parley.domain.auto_analyze.quotes import with_checked_quotes
from parley.domain.auto_analyze.reassigning import Doubt, read_decisions
from parley.domain.auto_analyze.steps import (
    ClassifyOutcome,
    ClassifyStep,
    CondenseStep,
    ReassignOutcome,
    ReassignStep,
    RequestOutcome,
    ResolveOutcome,
    ResolveStep,
    StepUsage,
)
from parley.domain.auto_analyze.taxonomy import Allowed, within
from parley.domain.auto_analyze.validation import SessionLabels, Verdict, judge, no_text_labels
from parley.domain.capabilities import UNKNOWN_MODEL, narrower
from parley.domain.chat import ChatSession
from parley.domain.errors import ContextTooLong, EmptyReply, IdempotencyConflict
from parley.domain.reply_json import read_reply_json
from parley.domain.requests import (
    ChatReply,
    ChatRequest,
    Finish,
    Provider,
    Reply,
    Request,
    Usage,
    request_id,
)
from parley.domain.routing import Candidate
from parley.storage import auto_analyze as runs
from parley.storage import reassignments
from parley.storage.auto_analyze import Stored, Work
from parley.storage.database import Database
from parley.storage.ledger import Charge, OnReply, Settled

MALFORMED_SUMMARY_CHARACTERS = 2000


class _Labelled(NamedTuple):
    """Labels of so many sessions, from a reply, that are stored. `step`: with the batch that they end."""

    verdict: Verdict
    step: ClassifyStep
    sessions: int
    stored: Stored


class _Shown(NamedTuple):
    """The labels that a request shows, and all that a closed kind has."""

    fitting: Fitting
    allowed: Allowed


class Look(NamedTuple):
    """A request of the second look. step: its id within the job. doubts: about its sessions, by their names in it."""

    step: str
    doubts: Mapping[str, Doubt]
    request: ChatRequest


class MakesPaidCalls(Protocol):
    """What makes the paid requests of the steps, as `PaidCalls.make` does."""

    async def make(
        self,
        charge: Charge,
        request: Request,
        provider: Provider,
        model: str,
        *,
        fingerprint: str | None = None,
        on_reply: OnReply | None = None,
    ) -> Settled:
        """Get the one reply to a request."""
        ...


class LabellingActivities:
    """Activities of one worker, on its database and its providers."""

    def __init__(
        self,
        database: Database,
        paid_calls: MakesPaidCalls,
        limits: Callable[[Provider], float],
        meaning: Meaning = WORDS_ALONE,
    ) -> None:
        """`limits`: the requests per second of a provider. `meaning`: compares labels and sessions."""
        self._database, self._paid_calls, self._meaning = database, paid_calls, meaning
        self._known, self._choices = KnownLabels(database, limits), KnownChoices(meaning)

    @activity.defn(name="auto_analyze.classify")
    @boundary
    async def classify(self, step: ClassifyStep) -> ClassifyOutcome:
        """Label sessions in one request. Sessions without usable labels in the reply are returned as missing.

        The labels are stored in the transaction that settles the request. It waits for labels that another stream has
        yet to find and that the request must contain; if that takes too long, nothing is requested.

        Raises:
            ContextTooLong: a prompt that is made for the smallest window is too long for this candidate.
        """
        clock = asyncio.get_running_loop()
        began = clock.time()
        known = await self._known.of(step)
        waited = round(clock.time() - began, 3)
        if isinstance(known, Behind):
            return ClassifyOutcome(waits_for=known.stream, waited_seconds=waited)
        outcome = await self._classify(step, known)
        return outcome.model_copy(update={"waited_seconds": waited})

    async def _classify(self, step: ClassifyStep, known: NearestLabels) -> ClassifyOutcome:
        async with self._database.reads() as tx:
            work = await runs.load_work(tx, step.job.input.workspace_id, step.job.job_key, step.ordinals)
        said = {item.ordinal: opening(item.session.messages) for item in work}
        closed = step.job.input.closed
        fitting = await asyncio.to_thread(known.fitting, [*said.values()], step.sized_for)
        taken = fitting.tokens + tokens_of_instructions(step.job.input.instructions)
        oversized = _oversized(work, prompt_budget(step.sized_for, taken, len(work)))
        if oversized:
            return ClassifyOutcome(oversized=oversized)
        found = {item.ordinal: no_text_labels(item.session.containment) for item in work if not _has_text(item)}
        with_text = {f"s{item.ordinal}": item for item in work if _has_text(item)}
        said = {item.ordinal: said[item.ordinal] for item in with_text.values()}
        if not with_text:
            return await self._store_labels(step, found)
        if not _fits_candidate(step, with_text.values(), taken):
            return _too_long(step, work)
        try:
            return await self._request_labels(step, with_text, _Shown(fitting, known.allowed(closed)), found, said)
        except ContextTooLong:
            if step.sized_for == UNKNOWN_MODEL:
                raise
            return _too_long(step, work)

    @activity.defn(name="auto_analyze.condense")
    @boundary
    async def condense(self, step: CondenseStep) -> RequestOutcome:
        """Condense an oversized session part by part. Its labels are then requested on the summaries.

        The outcome says so where no part has a summary.

        Raises:
            ContextTooLong: parts that are cut for the smallest window are too long for this candidate.
        """
        workspace_id, job_key = step.job.input.workspace_id, step.job.job_key
        async with self._database.transaction() as tx:
            [item] = await runs.load_work(tx, workspace_id, job_key, [step.ordinal])
        if item.condensed is not None:
            return RequestOutcome()
        model = step.candidate.model
        if narrower(model, step.sized_for):
            return RequestOutcome(too_long_for=model)
        cut = parts(item.session.messages, item.tokens, prompt_budget(step.sized_for, 0))
        total, summaries = RequestOutcome(), list[str]()
        for number, messages in enumerate(cut):
            request = condense_request(messages, number, len(cut))
            try:
                reply, usage, _ = await self._request(step.job, step.candidate, step.request_step(number), request)
            except ContextTooLong:
                if step.sized_for == UNKNOWN_MODEL:
                    raise
                return total.model_copy(update={"too_long_for": model})
            summaries.append(_summary(reply))
            total = RequestOutcome(tokens=total.tokens + usage.tokens, cost_usd=total.cost_usd + usage.cost_usd)
        summary = "\n".join(filter(None, summaries))
        if not summary:
            return total.model_copy(update={"problem": "the summary is empty"})
        async with self._database.transaction() as tx:
            await runs.store_condensed(tx, workspace_id, job_key, step.ordinal, summary)
        return total

    @activity.defn(name="auto_analyze.resolve")
    @boundary
    async def resolve(self, step: ResolveStep) -> ResolveOutcome:
        """Find the duplicates in one chunk of labels. The outcome says why a reply cannot be used.

        Raises:
            ContextTooLong: a chunk that is cut for the smallest window is too long for this candidate.
        """
        compared = await comparison(self._database, step.job, step.kind, step.level, step.sized_for)
        labels = compared.members(step.chunk)
        model = step.candidate.model
        instructions = step.job.input.instructions
        if narrower(model, step.sized_for) and not compared_at_once(
            labels, model, tokens_of_instructions(instructions)
        ):
            return ResolveOutcome(too_long_for=model)
        request = resolution_request(step.kind, labels, instructions)
        try:
            reply, usage, _ = await self._request(step.job, step.candidate, step.request_step, request)
        except ContextTooLong:
            if step.sized_for == UNKNOWN_MODEL:
                raise
            return ResolveOutcome(too_long_for=model)
        groups = read_groups(reply, labels)
        # What users said first shows their intent, and not why or where they left.
        shown = groups.groups if step.kind is LabelKind.INTENT else ()
        meaning = await self._meaning.of_labels(one for group in shown for one in group)
        merges = merges_of(groups, compared.likeness, meaning)
        merged = await store_merges(self._database, step, merges.mapping)
        counted = {"found": merges.found, "kept_apart": merges.refused, "merged": merged, "problem": merges.problem}
        return ResolveOutcome.model_validate(usage.model_dump() | counted)

    @activity.defn(name="auto_analyze.reassign")
    @boundary
    async def reassign(self, step: ReassignStep) -> ReassignOutcome:
        """Look again at the sessions of a batch whose intents are in doubt, and store which of them get another one.

        Raises:
            ContextTooLong: parts that are cut for the smallest window are too long for this candidate.
        """
        model = step.candidate.model
        if narrower(model, step.sized_for):
            return ReassignOutcome(too_long_for=model)
        total = ReassignOutcome()
        for look in await self._looks_left(step):
            try:
                total = total.plus(await self.look(step, look))
            except IdempotencyConflict as error:  # a version before has asked, with another fingerprint
                total = total.plus(ReassignOutcome(problem=str(error)))
            except ContextTooLong:
                if step.sized_for == UNKNOWN_MODEL:
                    raise
                return total.model_copy(update={"too_long_for": model})
        async with self._database.transaction() as tx:
            await reassignments.complete(tx, step.job.input.workspace_id, step.job.job_key, step.batch)
        return total

    async def looks(self, step: ReassignStep) -> list[Look]:
        """The requests by which the sessions of a batch are looked at; none if none is in doubt."""
        known = await self._choices.of(self._database, step.job, step.aspect)
        doubts, choices = await doubts_of(self._database, step, known), known.choices
        instructions = step.job.input.instructions
        at_once = doubts_at_once(doubts, choices, step.sized_for, tokens_of_instructions(instructions))
        found: list[Look] = []
        for number, part in enumerate(at_once):
            named = {f"s{ordinal}": doubt for ordinal, doubt in part.items()}
            request = reassignment_request(named, choices.labels, instructions)
            found.append(Look(step.request_step(number), named, request))
        return found

    async def _looks_left(self, step: ReassignStep) -> list[Look]:
        """Without those that a batch has answered: they were stored and counted as it was settled."""
        looks = await self.looks(step)
        answered = await answered_in_batches(self._database, step.job, [look.step for look in looks])
        return [look for look in looks if look.step not in answered]

    async def look(self, step: ReassignStep, look: Look) -> ReassignOutcome:
        """Make one of these requests, and store what it gives."""
        reply, usage, _ = await self._request(step.job, step.candidate, look.step, look.request)
        decisions = read_decisions(reply, look.doubts)
        better = {int(name[1:]): label for name, label in decisions.better.items()}
        async with self._database.transaction() as tx:
            await reassignments.store(tx, step.job.input.workspace_id, step.job.job_key, better)
        counted = {"looked_at": len(look.doubts), "better": len(better), "problem": decisions.problem}
        return ReassignOutcome.model_validate(usage.model_dump() | counted)

    async def _request_labels(
        self,
        step: ClassifyStep,
        work: Mapping[str, Work],
        shown: _Shown,
        by_rule: dict[int, SessionLabels],
        said: Mapping[int, str],
    ) -> ClassifyOutcome:
        """Request the labels of these sessions, and store what the reply gives.

        `shown`: the labels that the request shows, and those of closed kinds. `by_rule`: labels to store with it.
        `said`: what the users of the sessions said first.
        """
        condensed = {name: item.condensed for name, item in work.items() if item.condensed}
        sessions = {name: item.session for name, item in work.items()}
        closed, fitting = step.job.input.closed, shown.fitting
        request = classification_request(
            sessions,
            closed=closed,
            condensed=condensed,
            instructions=step.job.input.instructions,
            known=fitting.labels,
            nearest=fitting.evidence,
            common=fitting.common,
        )
        request_step = step.request_step([work[name].ordinal for name in condensed])
        labelled: _Labelled | None = None

        async def store(tx: AsyncSession, reply: Reply) -> None:
            nonlocal labelled
            assert isinstance(reply, ChatReply)  # noqa: S101 - it answers a chat request
            verdict = judge(reply, {name: item.session.containment for name, item in work.items()})
            # A label that a closed kind does not have: the session is asked again, and then gets "other".
            verdict = within(verdict, shown.allowed, to_other=step.ask > 1)
            quoted = await asyncio.to_thread(_with_quotes, verdict.labels, sessions)
            found = {work[name].ordinal: labels for name, labels in quoted.items()} | by_rule
            complete = step.model_copy(update={"ends": None}) if verdict.missing else step
            labelled = _Labelled(verdict, complete, len(found), await keep_labels(tx, complete, found, said))

        reply, usage, is_stored = await self._request(step.job, step.candidate, request_step, request, on_reply=store)
        if not is_stored:
            async with self._database.transaction() as tx:
                await store(tx, reply)
        assert labelled is not None  # noqa: S101 - `store` has set it
        missing = tuple(work[name].ordinal for name in labelled.verdict.missing)
        verdict = labelled.verdict
        counted = {
            "missing": missing,
            "invented": verdict.invented,
            "outside": verdict.outside,
            "left_out": fitting.left_out,
        }
        outcome = self._outcome(labelled.step, labelled.sessions, labelled.stored)
        return outcome.model_copy(update=counted | usage.model_dump())

    async def _store_labels(self, step: ClassifyStep, found: dict[int, SessionLabels]) -> ClassifyOutcome:
        """Store labels that need no request."""
        async with self._database.transaction() as tx:
            stored = await keep_labels(tx, step, found)
        return self._outcome(step, len(found), stored)

    def _outcome(self, step: ClassifyStep, labelled: int, stored: Stored) -> ClassifyOutcome:
        """The outcome of labels that are committed. Where they end a batch, the steps go on that wait for its round."""
        if step.ends is not None:
            run = (step.job.input.workspace_id, step.job.job_key)
            self._known.set_open_round(run, stored.first_open.round if stored.first_open else None)
        return outcome_of(step, labelled, stored)

    async def _request(
        self,
        job: Job,
        candidate: Candidate,
        step: str,
        request: ChatRequest,
        *,
        on_reply: OnReply | None = None,
    ) -> tuple[ChatReply, StepUsage, bool]:
        """Make one paid request. Users are charged no energy for it; the job's budget limits its cost.

        Returns the reply, its usage, and whether what `on_reply` writes is committed with it.
        """
        try:
            settled = await self._paid_calls.make(
                charge_of(job, step),
                request,
                candidate.provider,
                candidate.model,
                fingerprint=fingerprint_of_step(step),
                on_reply=on_reply,
            )
        except EmptyReply as error:
            # No label is in it, as in any other reply that cannot be used: less is requested next.
            usage = error.usage or Usage()
            reply = ChatReply(text="", finish=Finish.LENGTH, usage=usage, model=candidate.model)
            return reply, StepUsage(tokens=usage.total_tokens), False
        assert isinstance(settled.reply, ChatReply)  # noqa: S101 - it answers a chat request
        used = StepUsage(tokens=settled.reply.usage.total_tokens, cost_usd=settled.cost_usd)
        return settled.reply, used, settled.has_followed


def charge_of(job: Job, step: str) -> Charge:
    """Who pays for a request of a run, and its id. Users are charged no energy for it."""
    return Charge(
        workspace_id=job.input.workspace_id,
        user_id=job.input.user_id,
        job_key=job.job_key,
        workflow_id=job.workflow_id,
        request_id=request_id(job.job_key, step),
        action=ACTION,
        energy=0,
    )


def fingerprint_of_step(step: str) -> str:
    """The fingerprint of a request of a run: what it asks about, and not the words of its prompt.

    A repetition may have other words. A user is forgotten while all providers are down, or while one of them has the
    request in a batch; other sessions have brought new labels; the next version of Parley asks in other words; a worker
    computes no vectors. It is the same request nevertheless: refusing it would give its sessions the fallback.
    """
    return hashlib.sha256(step.encode()).hexdigest()


def _has_text(item: Work) -> bool:
    return item.session.has_user_text


def _oversized(work: Sequence[Work], budget: int) -> tuple[int, ...]:
    return tuple(item.ordinal for item in work if item.condensed is None and item.tokens > budget and _has_text(item))


def _fits_candidate(step: ClassifyStep, work: Iterable[Work], label_tokens: int) -> bool:
    """Whether a prompt that is made for another model fits the candidate. Some servers truncate without an error."""
    model = step.candidate.model
    if step.sized_for in (UNKNOWN_MODEL, model):
        return True
    sizes = [_prompt_tokens(item) for item in work]
    return fits(sum(sizes), len(sizes), model, label_tokens)


def _prompt_tokens(item: Work) -> int:
    return item.tokens if item.condensed is None else len(item.condensed.encode()) // BYTES_PER_LABEL_TOKEN


def _too_long(step: ClassifyStep, work: Sequence[Work]) -> ClassifyOutcome:
    """A single session that is too long has to be condensed, unless it is already."""
    whole = tuple(item.ordinal for item in work if item.condensed is None)
    return ClassifyOutcome(too_long_for=step.candidate.model, oversized=whole if len(work) == 1 else ())


def _with_quotes(labels: Mapping[str, SessionLabels], sessions: Mapping[str, ChatSession]) -> dict[str, SessionLabels]:
    """The labels of sessions, each with the quotes that its session has."""
    return {name: with_checked_quotes(found, sessions[name]) for name, found in labels.items()}


def _summary(reply: ChatReply) -> str:
    """The summary in a reply; empty if there is none. One that does not follow the schema is used as it is, cut."""
    try:
        found = read_reply_json(reply.text)["summary"]
    except (ValueError, KeyError, TypeError):
        found = reply.text[:MALFORMED_SUMMARY_CHARACTERS]
    return found.strip() if isinstance(found, str) else ""
