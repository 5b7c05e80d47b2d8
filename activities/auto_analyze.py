"""The side effects of `AutoAnalyze`: plan rounds, label batches, condense, find duplicate labels, store."""

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence

from temporalio import activity

from activities.boundary import boundary
from activities.paid_call import PaidCalls, Payer
from domain.auto_analyze.batching import (
    BYTES_PER_LABEL_TOKEN,
    CAREFUL,
    affordable,
    fits,
    labels_at_once,
    narrower,
    parts,
    prompt_budget,
    round_batches,
    tokens_of_labels,
    window,
)
from domain.auto_analyze.contract import (
    ACTION,
    AppliedConflicts,
    ApplyConflicts,
    AskOutcome,
    AutoAnalyzeInput,
    BatchStep,
    CallOutcome,
    ClassifyOutcome,
    ClassifyStep,
    CloseStep,
    CondenseStep,
    ConflictPlan,
    FinishStep,
    GiveUpStep,
    Job,
    LabelKind,
    OpenRound,
    Plan,
    PlanConflicts,
    ResolveOutcome,
    ResolveStep,
    Round,
    Statistics,
)
from domain.auto_analyze.labels import chunks, duplicates, read_groups
from domain.auto_analyze.prompts import classification_request, condense_request, resolution_request
from domain.auto_analyze.sampling import SessionFacts, discovery_sample
from domain.auto_analyze.validation import SessionLabels, Verdict, fallback_labels, judge, no_text_labels
from domain.calls import ChatReply, ChatRequest, request_id
from domain.errors import ContextTooLong
from domain.routing import Candidate, rank
from storage import auto_analyze as runs
from storage import budgets
from storage.auto_analyze import Work
from storage.database import Database
from storage.datasets import load_dataset, session_facts
from storage.tables import AutoRun

UNREADABLE_CHARACTERS = 2000


class AutoAnalyzeActivities:
    """Activities of one worker, on its database and its providers."""

    def __init__(self, database: Database, paid_calls: PaidCalls) -> None:
        self._database = database
        self._paid_calls = paid_calls

    @activity.defn(name="auto_analyze.prepare")
    @boundary
    async def prepare(self, job: Job) -> Plan:
        """Choose the discovery sample and the processing order; open the envelope."""
        asked = job.input
        options = await self._paid_calls.candidates.chat_options(asked.workspace_id, asked.provider, asked.model)
        candidates = tuple(rank(options, preferred=asked.provider, cheapest_first=True))
        async with self._database.transaction(bulk=True) as tx:
            dataset = await load_dataset(tx, asked.workspace_id, asked.dataset_id)
            facts = await session_facts(tx, asked.workspace_id, asked.dataset_id)
        # Of a million sessions this takes seconds, for which no transaction need be open, nor heartbeats wait.
        sample, rest = await asyncio.to_thread(_processing_order, facts, asked)
        async with self._database.transaction(bulk=True) as tx:
            await budgets.open_envelope(tx, asked.workspace_id, budgets.job_scope(job.job_key), asked.budget_usd)
            await runs.begin(tx, _row(job), sample + rest)
        return Plan(candidates=candidates, discovery=len(sample), sessions=dataset.sessions)

    @activity.defn(name="auto_analyze.open_round")
    @boundary
    async def open_round(self, step: OpenRound) -> Round:
        """Cut the next sessions into a batch per stream, by what fits with the labels known so far."""
        asked, model = step.job.input, step.candidate.model
        async with self._database.transaction() as tx:
            known = await runs.known_labels(tx, asked.workspace_id, step.job.job_key, step.number)
            limit = step.streams * (asked.sessions_per_stream or window(model).cap)
            tokens = await runs.tokens_from(tx, asked.workspace_id, step.job.job_key, step.start, limit)
        room = tokens_of_labels(affordable(known, model))
        batches = round_batches(tokens, step.start, step.streams, model, asked.sessions_per_stream, room)
        taken = sum(batch.count for batch in batches)
        return Round(number=step.number, batches=batches, next_ordinal=step.start + taken)

    @activity.defn(name="auto_analyze.classify")
    @boundary
    async def classify(self, step: ClassifyStep) -> ClassifyOutcome:
        """Label a batch in one request; what the reply leaves out is named, not guessed.

        Raises:
            ContextTooLong: what is made for the smallest window is too long for this candidate.
        """
        asked, job_key = step.job.input, step.job.job_key
        async with self._database.transaction() as tx:
            work = await runs.load_work(tx, asked.workspace_id, job_key, step.ordinals)
            known = affordable(await runs.known_labels(tx, asked.workspace_id, job_key, step.round), step.sized_for)
        label_tokens = tokens_of_labels(known)
        oversized = _oversized(work, prompt_budget(step.sized_for, label_tokens, len(work)))
        if oversized:
            return ClassifyOutcome(oversized=oversized)
        found = {item.ordinal: no_text_labels(item.session.containment) for item in work if not _has_text(item)}
        spoken = {f"s{item.ordinal}": item for item in work if _has_text(item)}
        outcome = ClassifyOutcome()
        if spoken:
            if not _fits_candidate(step, spoken.values(), label_tokens):
                return _too_long(step, work)
            try:
                verdict, used = await self._labels_of(step, spoken, known)
            except ContextTooLong:
                if step.sized_for == CAREFUL:
                    raise
                return _too_long(step, work)
            found |= {spoken[name].ordinal: labels for name, labels in verdict.labels.items()}
            missing = tuple(spoken[name].ordinal for name in verdict.missing)
            outcome = ClassifyOutcome(**used.model_dump(), missing=missing, invented=verdict.invented)
        kept = await self._keep(step, found)
        return outcome.model_copy(update=kept)

    async def _labels_of(
        self, step: ClassifyStep, work: Mapping[str, Work], known: Mapping[LabelKind, Sequence[str]]
    ) -> tuple[Verdict, CallOutcome]:
        """Ask for the labels of these sessions, and judge the reply."""
        condensed = {name: item.condensed for name, item in work.items() if item.condensed}
        request = classification_request({name: item.session for name, item in work.items()}, known, condensed)
        name = step.request_step([work[name].ordinal for name in condensed])
        reply, used = await self._ask(step.job, step.candidate, name, request)
        return judge(reply, {name: item.session.containment for name, item in work.items()}), used

    @activity.defn(name="auto_analyze.condense")
    @boundary
    async def condense(self, step: CondenseStep) -> AskOutcome:
        """Summarise an oversized session part by part; its label is then asked for on the summaries.

        Raises:
            ContextTooLong: parts that are cut for the smallest window are too long for this candidate.
        """
        asked, job_key = step.job.input, step.job.job_key
        async with self._database.transaction() as tx:
            [item] = await runs.load_work(tx, asked.workspace_id, job_key, [step.ordinal])
        if item.condensed is not None:
            return AskOutcome()
        model = step.candidate.model
        if narrower(model, step.sized_for):
            return AskOutcome(too_long_for=model)
        pieces = parts(item.session.messages, item.tokens, prompt_budget(step.sized_for, 0))
        total, summaries = AskOutcome(), list[str]()
        for number, piece in enumerate(pieces):
            request = condense_request(piece, number, len(pieces))
            try:
                reply, used = await self._ask(step.job, step.candidate, step.request_step(number), request)
            except ContextTooLong:
                if step.sized_for == CAREFUL:
                    raise
                return total.model_copy(update={"too_long_for": model})
            summaries.append(_summary(reply))
            total = AskOutcome(tokens=total.tokens + used.tokens, cost_usd=total.cost_usd + used.cost_usd)
        async with self._database.transaction() as tx:
            await runs.keep_condensed(tx, asked.workspace_id, job_key, step.ordinal, "\n".join(summaries))
        return total

    @activity.defn(name="auto_analyze.give_up")
    @boundary
    async def give_up(self, step: GiveUpStep) -> ClassifyOutcome:
        """The fallback classification, marked, for sessions that no reply could be used for."""
        async with self._database.transaction() as tx:
            work = await runs.load_work(tx, step.job.input.workspace_id, step.job.job_key, step.ordinals)
        kept = await self._keep(step, {item.ordinal: fallback_labels(item.session.containment) for item in work})
        return ClassifyOutcome().model_copy(update=kept)

    async def _keep(self, step: BatchStep, found: Mapping[int, SessionLabels]) -> dict[str, int]:
        async with self._database.transaction() as tx:
            new = await runs.keep_labels(
                tx,
                step.job.input.workspace_id,
                step.job.job_key,
                found,
                phase=step.phase,
                round_number=step.round,
                stream=step.stream,
            )
        return {"labelled": len(found), "new_labels": new}

    @activity.defn(name="auto_analyze.plan_conflicts")
    @boundary
    async def plan_conflicts(self, step: PlanConflicts) -> ConflictPlan:
        """How many labels of a kind are left on a level, and in how many chunks they are compared."""
        cut = await self._chunks(step.job, step.kind, step.level, step.sized_for)
        labels = sum(map(len, cut))
        return ConflictPlan(labels=labels, chunks=len(cut) if labels > 1 else 0)

    @activity.defn(name="auto_analyze.resolve")
    @boundary
    async def resolve(self, step: ResolveStep) -> ResolveOutcome:
        """Ask for the duplicates in one chunk of labels; an unusable reply is said to be one.

        Raises:
            ContextTooLong: a chunk that is cut for the smallest window is too long for this candidate.
        """
        labels = (await self._chunks(step.job, step.kind, step.level, step.sized_for))[step.chunk]
        model = step.candidate.model
        if narrower(model, step.sized_for) and len(labels) > labels_at_once(model):
            return ResolveOutcome(too_long_for=model)
        request = resolution_request(step.kind, labels)
        try:
            reply, used = await self._ask(step.job, step.candidate, step.request_step, request)
        except ContextTooLong:
            if step.sized_for == CAREFUL:
                raise
            return ResolveOutcome(too_long_for=model)
        mapping, problem = read_groups(reply, labels)
        found = duplicates({label: mapping[label] for label in labels if label in mapping})
        if not problem:
            async with self._database.transaction() as tx:
                workspace_id = step.job.input.workspace_id
                await runs.keep_merges(tx, workspace_id, step.job.job_key, step.kind, step.level, mapping)
        return ResolveOutcome(**used.model_dump(), problem=problem, found=found)

    @activity.defn(name="auto_analyze.apply_conflicts")
    @boundary
    async def apply_conflicts(self, step: ApplyConflicts) -> AppliedConflicts:
        """Write the canonical labels to labels and sessions, all in one transaction."""
        workspace_id, job_key = step.job.input.workspace_id, step.job.job_key
        mappings: dict[LabelKind, dict[str, str]] = {}
        async with self._database.transaction(bulk=True) as tx:
            for kind in LabelKind:
                mappings[kind] = await runs.canonical_labels(tx, workspace_id, job_key, kind, LAST_LEVEL)
                await runs.apply_canonical(tx, workspace_id, job_key, kind, mappings[kind])
        return AppliedConflicts(
            canonical_labels={kind: len(set(mapping.values())) for kind, mapping in mappings.items()},
            canonical_mappings={kind: duplicates(mapping) for kind, mapping in mappings.items()},
        )

    @activity.defn(name="auto_analyze.finish")
    @boundary
    async def finish(self, step: FinishStep) -> Statistics:
        """Store the run's statistics, with the counts that the database knows best."""
        return await self._end(step.job, "completed", step.statistics)

    @activity.defn(name="auto_analyze.close")
    @boundary
    async def close(self, step: CloseStep) -> None:
        """Mark a run that ends early; what was labelled stays."""
        await self._end(step.job, step.status, step.statistics)

    async def _end(self, job: Job, status: str, statistics: Statistics) -> Statistics:
        workspace_id = job.input.workspace_id
        async with self._database.transaction(bulk=True) as tx:
            counted = await runs.counts(tx, workspace_id, job.job_key)
            unique = {
                kind: len(await runs.canonical_labels(tx, workspace_id, job.job_key, kind, 0)) for kind in LabelKind
            }
            complete = statistics.model_copy(update={**counted, "unique_labels": unique})
            await runs.end(tx, workspace_id, job.job_key, status, complete.model_dump(mode="json"))
        return complete

    async def _chunks(self, job: Job, kind: LabelKind, level: int, sized_for: str) -> list[list[str]]:
        """The labels that are left of a kind, cut for one request each."""
        async with self._database.transaction() as tx:
            mapping = await runs.canonical_labels(tx, job.input.workspace_id, job.job_key, kind, level)
        return chunks(sorted(set(mapping.values())), level, labels_at_once(sized_for))

    async def _ask(
        self, job: Job, candidate: Candidate, step: str, request: ChatRequest
    ) -> tuple[ChatReply, CallOutcome]:
        """One paid request of the run. Users are not charged energy for it: its envelope bounds it in dollars."""
        payer = Payer(
            workspace_id=job.input.workspace_id,
            user_id=job.input.user_id,
            job_key=job.job_key,
            workflow_id=job.workflow_id,
            request_id=request_id(job.job_key, step),
            action=ACTION,
            energy=0,
        )
        settled = await self._paid_calls.make(payer, request, candidate.provider, candidate.model)
        assert isinstance(settled.reply, ChatReply)  # noqa: S101 - a chat request was asked
        return settled.reply, CallOutcome(tokens=settled.reply.usage.total_tokens, cost_usd=settled.cost_usd)


LAST_LEVEL = 1000


def _processing_order(facts: Sequence[SessionFacts], asked: AutoAnalyzeInput) -> tuple[list[int], list[int]]:
    """Positions of the discovery sample, and of the rest in the file's order."""
    sample = discovery_sample(facts, asked.discovery, asked.seed)
    chosen = set(sample)
    return sample, [session.position for session in facts if session.position not in chosen]


def _row(job: Job) -> AutoRun:
    return AutoRun(
        workspace_id=job.input.workspace_id,
        job_key=job.job_key,
        workflow_id=job.workflow_id,
        dataset_id=job.input.dataset_id,
        user_id=job.input.user_id,
        settings=job.input.model_dump(mode="json"),
    )


def _has_text(item: Work) -> bool:
    return item.session.has_user_text


def _oversized(work: Sequence[Work], budget: int) -> tuple[int, ...]:
    return tuple(item.ordinal for item in work if item.condensed is None and item.tokens > budget and _has_text(item))


def _fits_candidate(step: ClassifyStep, work: Iterable[Work], label_tokens: int) -> bool:
    """Whether the candidate has room for what is made for another model. Some servers do not say so, and cut."""
    model = step.candidate.model
    if step.sized_for in (CAREFUL, model):
        return True
    sizes = [_prompt_tokens(item) for item in work]
    return fits(sum(sizes), len(sizes), model, label_tokens)


def _prompt_tokens(item: Work) -> int:
    return item.tokens if item.condensed is None else len(item.condensed.encode()) // BYTES_PER_LABEL_TOKEN


def _too_long(step: ClassifyStep, work: Sequence[Work]) -> ClassifyOutcome:
    """A session that is too long although it is alone is to be condensed, unless it is."""
    whole = tuple(item.ordinal for item in work if item.condensed is None)
    return ClassifyOutcome(too_long_for=step.candidate.model, oversized=whole if len(work) == 1 else ())


def _summary(reply: ChatReply) -> str:
    """The condensed text; a reply that is not as the schema says is used as it is, cut to a length."""
    try:
        return str(json.loads(reply.text)["summary"])
    except (ValueError, KeyError, TypeError):
        return reply.text[:UNREADABLE_CHARACTERS]
