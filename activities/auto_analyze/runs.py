"""The storage steps of a run: plan it, cut its batches, store fallback and canonical labels, store its statistics."""

import asyncio
from collections.abc import Callable, Mapping

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity

from activities.auto_analyze.evidence import collect_evidence, comparison
from activities.auto_analyze.reassigning import SESSIONS_AT_ONCE
from activities.auto_analyze.starting import starting_point
from activities.boundary import boundary
from activities.candidates import Candidates
from parley.domain.auto_analyze.batching import cuts, even_quota, labels_that_fit, left_out, tokens_of_instructions
from parley.domain.auto_analyze.contract import (
    PHASE_OF_STEP,
    BudgetIsSet,
    Job,
    Phase,
    Plan,
    PlannedBatches,
    ReadProgress,
    ReassignmentPlan,
    RunProgress,
    SetBudget,
    Statistics,
)
from parley.domain.auto_analyze.estimate import discovery_quota, idle_streams, set_aside_usd
from parley.domain.auto_analyze.probing import AT_ONCE, LONGEST_PROBE_TOKENS, drawn, probe_batches, probe_count
from parley.domain.auto_analyze.processing import with_batch_api
from parley.domain.auto_analyze.quotes import warning_of
from parley.domain.auto_analyze.sampling import coverage, least_sample, processing_order
from parley.domain.auto_analyze.steps import (
    AppliedReassignment,
    ApplyReassignment,
    Batch,
    BatchStep,
    ClassifyOutcome,
    CloseStep,
    ConflictPlan,
    CopyLabels,
    FallbackStep,
    FinishStep,
    LooksLeft,
    PlanBatches,
    PlanConflicts,
    PlanProbes,
    PlanReassignment,
    Probes,
    ReadLooks,
    Saturation,
    TakeBatches,
    TakenBatches,
)
from parley.domain.auto_analyze.validation import SessionLabels, fallback_labels
from parley.domain.errors import InvalidInput
from parley.domain.pricing import rates_for
from parley.domain.requests import Provider
from parley.domain.routing import Candidate, Order, RoutingRequest, rank
from parley.storage import auto_analyze as runs
from parley.storage import (
    budgets,
    earlier_runs,
    label_consistency,
    label_maps,
    probes,
    reassignments,
    taxonomies,
    usage,
)
from parley.storage.auto_analyze import NOTHING_SAID, OpenBatch, Stored
from parley.storage.database import Database
from parley.storage.datasets import load_dataset, session_facts
from parley.storage.tables import AutoRun


class RunActivities:
    """Activities of one worker, on its database."""

    def __init__(self, database: Database, candidates: Candidates, limits: Callable[[Provider], float]) -> None:
        """`limits`: the requests per second of a provider."""
        self._database, self._candidates, self._limits = database, candidates, limits

    @activity.defn(name="auto_analyze.prepare")
    @boundary
    async def prepare(self, job: Job) -> Plan:
        """Choose the discovery sample and the processing order, give the run its labels, and open the job's budget.

        Raises:
            NotFound: the workspace has no such dataset, labels or earlier run.
        """
        given = job.input
        options = await self._candidates.chat_options(given.workspace_id, given.provider, given.model)
        ranking = rank(options, RoutingRequest(provider=given.provider, order=Order.CHEAPEST_FIRST))
        async with self._database.transaction(bulk=True) as tx:
            dataset = await load_dataset(tx, given.workspace_id, given.dataset_id)
            facts = await session_facts(tx, given.workspace_id, given.dataset_id)
        start = await starting_point(self._database, given)
        facts = [session for session in facts if session.position not in start.labelled]
        terms = None if given.has_closed_intents else given.discovery
        # For a million sessions this takes seconds: outside of a transaction, and in a thread so that heartbeats go on.
        order = await asyncio.to_thread(processing_order, facts, terms, given.seed)
        candidates = with_batch_api(ranking.candidates) if given.processing == "batch" else ranking.candidates
        first = candidates[0]
        rates = rates_for(first.provider, first.model, self._candidates.rates)
        set_aside = set_aside_usd(given.budget_usd, rates)
        async with self._database.transaction(bulk=True) as tx:
            labelling = given.budget_usd - set_aside
            await budgets.open_envelope(tx, given.workspace_id, budgets.job_scope(job.job_key), labelling)
            await runs.begin(tx, _row(job), order.positions, order.copies)
            await taxonomies.give(tx, given.workspace_id, job.job_key, start.labels)
        # A fork has the sample of its original: as many sessions as that needed.
        sample = order.sample[: start.sample] if start.sample is not None else order.sample
        chosen = set(sample)
        sizes = {session.position: session.tokens for session in facts if session.position in chosen}
        quota, added = discovery_quota(given.sessions_per_stream), tokens_of_instructions(given.instructions)
        least = least_sample(len(order.positions) - len(order.copies), given.discovery)
        return Plan(
            candidates=candidates,
            discovery=len(sample),
            discovery_cuts=tuple(cuts([sizes[position] for position in sample], first.model, quota, added)),
            least=len(sample) if start.sample is not None else least,
            sessions=len(order.positions),
            copies=len(order.copies),
            already_labelled=dataset.sessions - len(order.positions),
            set_aside_usd=set_aside,
            warnings=self._idle_streams(given.streams, first),
        )

    def _idle_streams(self, streams: int, candidate: Candidate) -> tuple[str, ...]:
        """A warning if the provider's limit keeps streams idle."""
        limit = self._limits(candidate.provider)
        warning = idle_streams(streams, limit)
        return (f"{candidate.provider.value}: {warning}",) if warning else ()

    @activity.defn(name="auto_analyze.plan_batches")
    @boundary
    async def plan_batches(self, step: PlanBatches) -> PlannedBatches:
        """Cut all sessions that are left into batches, and give each its round.

        Rounds that have begun stay as they are, so that no request is paid for under two ids. A plan that is stored
        already is not made again.
        """
        given, model = step.job.input, step.candidate.model
        scope = (given.workspace_id, step.job.job_key)
        async with self._database.transaction(bulk=True) as tx:
            begun = await runs.begun(tx, *scope, step.start)
            tokens = await runs.tokens_from(tx, *scope, begun.end, step.end)
            original = await earlier_runs.batch_sizes(tx, scope[0], given.fork_of, begun.end) if given.fork_of else []
        quota = given.sessions_per_stream or even_quota(len(tokens), step.streams, model)
        # The sessions of a fork are those of its original, in the same order, so its batches can be the same.
        is_original = sum(original) == len(tokens)
        added = tokens_of_instructions(given.instructions)
        counts = original if is_original else await asyncio.to_thread(cuts, tokens, model, quota, added)
        async with self._database.transaction(bulk=True) as tx:
            if await runs.replan(tx, *scope, step.plan, step.streams):
                await runs.drop_batches(tx, *scope, begun.round)
                await runs.store_batches(tx, *scope, begun.end, counts, step.streams, after=begun)
            plans = await runs.plans(tx, *scope)
            left = await runs.open_count(tx, *scope)
        warnings = self._idle_streams(plans[-1], step.candidate)
        return PlannedBatches(batches=left, plan=len(plans), streams=plans[-1], warnings=warnings)

    @activity.defn(name="auto_analyze.take_batches")
    @boundary
    async def take_batches(self, step: TakeBatches) -> TakenBatches:
        """The next batches that are not labelled; or the one of a stream, which takes the next free one."""
        given, job_key = step.job.input, step.job.job_key
        async with self._database.transaction() as tx:
            if step.stream is not None:
                await runs.take_batch(tx, given.workspace_id, job_key, step.stream)
            taken = await runs.open_batches(tx, given.workspace_id, job_key, step.stream, step.most)
        return TakenBatches(batches=tuple(_batch(one, given.streams) for one in taken))

    @activity.defn(name="auto_analyze.read_progress")
    @boundary
    async def read_progress(self, step: ReadProgress) -> RunProgress:
        """What the streams have done so far."""
        scope = (step.job.input.workspace_id, step.job.job_key)
        async with self._database.reads() as tx:
            streams = await runs.progress(tx, *scope)
            labels = await runs.known_labels(tx, *scope)
            given = await taxonomies.given(tx, *scope)
            steps = await usage.tokens_by_step(tx, *scope)
            cost_usd = await usage.total_usd(tx, *scope)
            cached = await usage.prompt_cache(tx, *scope)
        at_work = [number for _, number, given, labelled in streams if labelled < given]
        return RunProgress(
            labelled=sum(labelled for *_, labelled in streams),
            rounds=min(at_work) - 1 if at_work else max((number for _, number, *_ in streams), default=0),
            new_labels=sum(map(len, labels.values())) - sum(map(len, given.values())),
            left_out=left_out(labels, labels_that_fit(labels, step.sized_for)),
            tokens=sum(steps.values()),
            cached_tokens=cached.tokens,
            cost_usd=cost_usd,
            streams=tuple(streams),
        )

    @activity.defn(name="auto_analyze.measure_saturation")
    @boundary
    async def measure_saturation(self, job: Job) -> Saturation:
        """Estimate how well the discovery covers the labels: of the kind that it covers least."""
        async with self._database.reads() as tx:
            counted = await runs.discovered_labels(tx, job.input.workspace_id, job.job_key)
            given = await taxonomies.given(tx, job.input.workspace_id, job.job_key)
        return Saturation(coverage=min(coverage(labels, given[kind]) for kind, labels in counted.items()))

    @activity.defn(name="auto_analyze.copy_labels")
    @boundary
    async def copy_labels(self, step: CopyLabels) -> ClassifyOutcome:
        """Give the copies of a transcript the labels of the session that was sent to a model."""
        async with self._database.transaction(bulk=True) as tx:
            copied = await runs.copy_labels(tx, step.job.input.workspace_id, step.job.job_key)
        return ClassifyOutcome(labelled=copied)

    @activity.defn(name="auto_analyze.plan_probes")
    @boundary
    async def plan_probes(self, step: PlanProbes) -> Probes:
        """Choose the sessions that are labelled a second time. Long ones are left out."""
        given, scope = step.job.input, (step.job.input.workspace_id, step.job.job_key)
        count = probe_count(given.probes, step.end)
        ordinals = drawn(step.end, count, given.seed)
        async with self._database.reads() as tx:
            own_rounds = await probes.rounds_of(tx, *scope, ordinals, LONGEST_PROBE_TOKENS)
        size = min(given.sessions_per_stream or AT_ONCE, AT_ONCE)
        made = probe_batches(own_rounds, count, size, step.rounds, given.seed)
        return Probes(batches=tuple((one.round, one.ordinals) for one in made))

    @activity.defn(name="auto_analyze.apply_fallback")
    @boundary
    async def apply_fallback(self, step: FallbackStep) -> ClassifyOutcome:
        """Store the fallback labels, marked, for sessions without a usable reply."""
        async with self._database.transaction() as tx:
            work = await runs.load_work(tx, step.job.input.workspace_id, step.job.job_key, step.ordinals)
            labels = {item.ordinal: fallback_labels(item.session.containment) for item in work}
            stored = await keep_labels(tx, step, labels)
        return outcome_of(step, len(labels), stored)

    @activity.defn(name="auto_analyze.set_budget")
    @boundary
    async def set_budget(self, step: SetBudget) -> BudgetIsSet:
        """Set what the run may spend from now on.

        Raises:
            InvalidInput: more than that is spent and reserved.
        """
        scope = (step.job.input.workspace_id, budgets.job_scope(step.job.job_key))
        async with self._database.transaction() as tx:
            if not await budgets.change_envelope(tx, *scope, step.budget_usd - step.set_aside_usd):
                part = f", of which ${step.set_aside_usd} is set aside for merging," if step.set_aside_usd else ""
                problem = f"${step.budget_usd}{part} is less than what is spent and reserved"
                raise InvalidInput(problem, where="budget_usd")
        return BudgetIsSet()

    @activity.defn(name="auto_analyze.plan_conflicts")
    @boundary
    async def plan_conflicts(self, step: PlanConflicts) -> ConflictPlan:
        """Count the labels of a kind that are left on a level, and the chunks in which they are compared.

        On the first level, collect their evidence, and merge labels that are only written differently.
        """
        spelled = await collect_evidence(self._database, step.job, step.kind) if step.level == 0 else 0
        compared = await comparison(self._database, step.job, step.kind, step.level, step.sized_for)
        labels = len(compared.labels)
        return ConflictPlan(labels=labels, chunks=len(compared.chunks) if labels > 1 else 0, spelled_alike=spelled)

    @activity.defn(name="auto_analyze.plan_reassignment")
    @boundary
    async def plan_reassignment(self, step: PlanReassignment) -> ReassignmentPlan:
        """Put the sessions that are looked at again into batches."""
        async with self._database.transaction(bulk=True) as tx:
            scope = (step.job.input.workspace_id, step.job.job_key)
            numbers = await reassignments.plan(tx, *scope, SESSIONS_AT_ONCE[step.aspect], step.aspect)
        return ReassignmentPlan(aspect=step.aspect, first=numbers.start, batches=numbers.stop)

    @activity.defn(name="auto_analyze.read_looks")
    @boundary
    async def read_looks(self, step: ReadLooks) -> LooksLeft:
        """Read which batches of sessions are still to be looked at."""
        scope = (step.job.input.workspace_id, step.job.job_key)
        async with self._database.reads() as tx:
            left = await reassignments.open_numbers(tx, *scope, after=step.after, limit=step.most)
        return LooksLeft(batches=tuple(left))

    @activity.defn(name="auto_analyze.apply_reassignment")
    @boundary
    async def apply_reassignment(self, step: ApplyReassignment) -> AppliedReassignment:
        """Give all sessions the labels of the second look, in one transaction."""
        workspace_id, job_key = step.job.input.workspace_id, step.job.job_key
        async with self._database.transaction(bulk=True) as tx:
            sessions = await reassignments.apply(tx, workspace_id, job_key)
            if sessions:
                await label_maps.record_second_look(tx, workspace_id, job_key)
            intents = await reassignments.intents_left(tx, workspace_id, job_key)
        return AppliedReassignment(sessions=sessions, intents=intents)

    @activity.defn(name="auto_analyze.finish")
    @boundary
    async def finish(self, step: FinishStep) -> Statistics:
        """Store the statistics of a completed run, with the counts of sessions and labels from the database."""
        scope = (step.job.input.workspace_id, step.job.job_key)
        async with self._database.transaction(bulk=True) as tx:
            sessions = (await runs.counts(tx, *scope))["sessions"]
            figures = await label_consistency.measure(tx, *scope, sessions)
            quotes = await runs.count_quotes(tx, *scope)
        warnings = (*step.statistics.warnings, warning_of(quotes))
        found = {"consistency": figures, "quotes_missing": quotes.missing, "warnings": tuple(filter(None, warnings))}
        return await self._end(step.job, "completed", step.statistics.model_copy(update=found))

    @activity.defn(name="auto_analyze.close")
    @boundary
    async def close(self, step: CloseStep) -> Statistics:
        """Store the statistics of a run that ends early; its labels stay."""
        return await self._end(step.job, step.status, step.statistics, step.reason)

    async def _end(self, job: Job, status: str, statistics: Statistics, reason: str = "") -> Statistics:
        workspace_id = job.input.workspace_id
        async with self._database.transaction(bulk=True) as tx:
            if reason:  # a run that failed before it had a row gets one, for its reason
                await runs.begin(tx, _row(job), ())
            counted = await runs.counts(tx, workspace_id, job.job_key)
            found = await runs.found_labels(tx, workspace_id, job.job_key)
            unique = {kind: len(labels) for kind, labels in found.items()}
            given = sum(map(len, (await taxonomies.given(tx, workspace_id, job.job_key)).values()))
            cost_usd = await usage.total_usd(tx, workspace_id, job.job_key)
            steps = await usage.tokens_by_step(tx, workspace_id, job.job_key)
            cached = await usage.prompt_cache(tx, workspace_id, job.job_key)
            tokens = {PHASE_OF_STEP[word]: tokens for word, tokens in steps.items()}
            ended = {
                "unique_labels": unique,
                "given_labels": given,
                "cost_usd": cost_usd,
                "tokens_by_phase": tokens,
                "cached_tokens": cached.tokens,
                "prompt_cache_saved_usd": cached.saved_usd,
            }
            complete = statistics.model_copy(update=counted | ended)
            await runs.end(tx, workspace_id, job.job_key, status, complete.model_dump(mode="json"), reason)
        return complete


async def keep_labels(
    tx: AsyncSession, step: BatchStep, labels: Mapping[int, SessionLabels], said: Mapping[int, str] = NOTHING_SAID
) -> Stored:
    """Store the labels of sessions by ordinal. `said`: what the users of the sessions said first."""
    if step.phase is Phase.PROBES:
        await probes.store(tx, step.job.input.workspace_id, step.job.job_key, labels, said, step.round)
        return Stored(0)
    place = runs.Place(step.phase, step.round, step.stream, step.ends, takes_next=step.takes_next)
    return await runs.store_labels(tx, step.job.input.workspace_id, step.job.job_key, labels, place, said)


def outcome_of(step: BatchStep, labelled: int, stored: Stored) -> ClassifyOutcome:
    """The outcome of labels that are stored, with the batch that the stream has taken."""
    taken = _batch(stored.taken, step.job.input.streams) if stored.taken else None
    return ClassifyOutcome(labelled=labelled, new_labels=stored.new, next_batch=taken)


def _batch(row: OpenBatch, streams: int) -> Batch:
    return Batch(number=row.number, round=row.round, stream=row.stream_of(streams), start=row.start, count=row.count)


def _row(job: Job) -> AutoRun:
    return AutoRun(
        workspace_id=job.input.workspace_id,
        job_key=job.job_key,
        workflow_id=job.workflow_id,
        dataset_id=job.input.dataset_id,
        user_id=job.input.user_id,
        settings=job.input.model_dump(mode="json"),
    )
