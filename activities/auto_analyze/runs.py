"""The storage steps of a run: plan it, cut its rounds, store fallback and canonical labels, store its statistics."""

import asyncio
from collections.abc import Mapping, Sequence

from temporalio import activity

from activities.auto_analyze.evidence import LAST_LEVEL, collect_evidence, comparison
from activities.auto_analyze.reassigning import SESSIONS_AT_ONCE
from activities.boundary import boundary
from activities.candidates import Candidates
from parley.domain.auto_analyze.batching import evidence_room, labels_that_fit, round_batches, tokens_of_labels
from parley.domain.auto_analyze.consistency import consistency
from parley.domain.auto_analyze.contract import (
    AppliedConflicts,
    AppliedReassignment,
    ApplyConflicts,
    ApplyReassignment,
    AutoAnalyzeInput,
    BatchStep,
    ClassifyOutcome,
    CloseStep,
    ConflictPlan,
    FallbackStep,
    FinishStep,
    Job,
    LabelKind,
    OpenRound,
    Plan,
    PlanConflicts,
    PlanReassignment,
    ReassignmentPlan,
    Round,
    Statistics,
)
from parley.domain.auto_analyze.labels import duplicates
from parley.domain.auto_analyze.sampling import SessionFacts, discovery_sample
from parley.domain.auto_analyze.validation import SessionLabels, fallback_labels
from parley.domain.capabilities import window
from parley.domain.routing import Order, RoutingRequest, rank
from parley.storage import auto_analyze as runs
from parley.storage import budgets, label_consistency, reassignments, usage
from parley.storage.database import Database
from parley.storage.datasets import load_dataset, session_facts
from parley.storage.tables import AutoRun


class RunActivities:
    """Activities of one worker, on its database."""

    def __init__(self, database: Database, candidates: Candidates) -> None:
        self._database, self._candidates = database, candidates

    @activity.defn(name="auto_analyze.prepare")
    @boundary
    async def prepare(self, job: Job) -> Plan:
        """Choose the discovery sample and the processing order, and open the job's budget."""
        given = job.input
        options = await self._candidates.chat_options(given.workspace_id, given.provider, given.model)
        ranking = rank(options, RoutingRequest(provider=given.provider, order=Order.CHEAPEST_FIRST))
        async with self._database.transaction(bulk=True) as tx:
            dataset = await load_dataset(tx, given.workspace_id, given.dataset_id)
            facts = await session_facts(tx, given.workspace_id, given.dataset_id)
        # For a million sessions this takes seconds: outside of a transaction, and in a thread so that heartbeats go on.
        sample, rest = await asyncio.to_thread(_processing_order, facts, given)
        async with self._database.transaction(bulk=True) as tx:
            await budgets.open_envelope(tx, given.workspace_id, budgets.job_scope(job.job_key), given.budget_usd)
            await runs.begin(tx, _row(job), sample + rest)
        return Plan(candidates=ranking.candidates, discovery=len(sample), sessions=dataset.sessions)

    @activity.defn(name="auto_analyze.open_round")
    @boundary
    async def open_round(self, step: OpenRound) -> Round:
        """Cut the next sessions into a batch per stream, by what fits together with the labels known so far."""
        given, model = step.job.input, step.candidate.model
        async with self._database.transaction() as tx:
            known = await runs.known_labels(tx, given.workspace_id, step.job.job_key, step.number)
            limit = step.streams * (given.sessions_per_stream or window(model).cap)
            tokens = await runs.tokens_from(tx, given.workspace_id, step.job.job_key, step.start, limit)
        label_tokens = tokens_of_labels(labels_that_fit(known, model)) + evidence_room(model)
        batches = round_batches(tokens, step.start, step.streams, model, given.sessions_per_stream, label_tokens)
        taken = sum(batch.count for batch in batches)
        return Round(number=step.number, batches=batches, next_ordinal=step.start + taken)

    @activity.defn(name="auto_analyze.apply_fallback")
    @boundary
    async def apply_fallback(self, step: FallbackStep) -> ClassifyOutcome:
        """Store the fallback labels, marked, for sessions without a usable reply."""
        async with self._database.transaction() as tx:
            work = await runs.load_work(tx, step.job.input.workspace_id, step.job.job_key, step.ordinals)
        labels = {item.ordinal: fallback_labels(item.session.containment) for item in work}
        return await store_labels(self._database, step, labels)

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

    @activity.defn(name="auto_analyze.plan_reassignment")
    @boundary
    async def plan_reassignment(self, step: PlanReassignment) -> ReassignmentPlan:
        """Put the sessions that are looked at again into batches."""
        async with self._database.transaction(bulk=True) as tx:
            batches = await reassignments.plan(tx, step.job.input.workspace_id, step.job.job_key, SESSIONS_AT_ONCE)
        return ReassignmentPlan(batches=batches)

    @activity.defn(name="auto_analyze.apply_reassignment")
    @boundary
    async def apply_reassignment(self, step: ApplyReassignment) -> AppliedReassignment:
        """Give all sessions the labels of the second look, in one transaction."""
        workspace_id, job_key = step.job.input.workspace_id, step.job.job_key
        async with self._database.transaction(bulk=True) as tx:
            sessions = await reassignments.apply(tx, workspace_id, job_key)
            intents = await reassignments.intents_left(tx, workspace_id, job_key)
        return AppliedReassignment(sessions=sessions, intents=intents)

    @activity.defn(name="auto_analyze.finish")
    @boundary
    async def finish(self, step: FinishStep) -> Statistics:
        """Store the statistics of a completed run, with the counts of sessions and labels from the database."""
        scope = (step.job.input.workspace_id, step.job.job_key)
        async with self._database.transaction(bulk=True) as tx:
            before = await label_consistency.intents(tx, *scope, first=True)
            after = await label_consistency.intents(tx, *scope, first=False)
            copies = await label_consistency.copies(tx, *scope)
            sessions = (await runs.counts(tx, *scope))["sessions"]
        figures = consistency(before, after, copies, sessions)
        return await self._end(step.job, "completed", step.statistics.model_copy(update={"consistency": figures}))

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
            unique = {
                kind: len(await runs.canonical_labels(tx, workspace_id, job.job_key, kind, 0)) for kind in LabelKind
            }
            cost_usd = await usage.total_usd(tx, workspace_id, job.job_key)
            complete = statistics.model_copy(update={**counted, "unique_labels": unique, "cost_usd": cost_usd})
            await runs.end(tx, workspace_id, job.job_key, status, complete.model_dump(mode="json"), reason)
        return complete


async def store_labels(database: Database, step: BatchStep, labels: Mapping[int, SessionLabels]) -> ClassifyOutcome:
    """Store the labels of sessions by ordinal. Returns how many sessions were labelled, and how many labels are new."""
    async with database.transaction() as tx:
        new = await runs.store_labels(
            tx,
            step.job.input.workspace_id,
            step.job.job_key,
            labels,
            phase=step.phase,
            round_number=step.round,
            stream=step.stream,
        )
    return ClassifyOutcome(labelled=len(labels), new_labels=new)


def _processing_order(facts: Sequence[SessionFacts], given: AutoAnalyzeInput) -> tuple[list[int], list[int]]:
    """Positions of the discovery sample, and of the rest in the order of the file."""
    sample = discovery_sample(facts, given.discovery, given.seed)
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
