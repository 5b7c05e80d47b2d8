"""A run's beginning and end: plan it, open its envelope, store what it reports."""

import asyncio
from collections.abc import Sequence

from temporalio import activity

from activities.boundary import boundary
from activities.candidates import Candidates
from parley.domain.auto_analyze.contract import (
    AutoAnalyzeInput,
    CloseStep,
    FinishStep,
    Job,
    LabelKind,
    Plan,
    Statistics,
)
from parley.domain.auto_analyze.sampling import SessionFacts, discovery_sample
from parley.domain.routing import Order, RoutingRequest, rank
from parley.storage import auto_analyze as runs
from parley.storage import budgets
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
        """Choose the discovery sample and the processing order; open the envelope."""
        asked = job.input
        options = await self._candidates.chat_options(asked.workspace_id, asked.provider, asked.model)
        ranking = rank(options, RoutingRequest(provider=asked.provider, order=Order.CHEAPEST_FIRST))
        async with self._database.transaction(bulk=True) as tx:
            dataset = await load_dataset(tx, asked.workspace_id, asked.dataset_id)
            facts = await session_facts(tx, asked.workspace_id, asked.dataset_id)
        # Of a million sessions this takes seconds, for which no transaction need be open, nor heartbeats wait.
        sample, rest = await asyncio.to_thread(_processing_order, facts, asked)
        async with self._database.transaction(bulk=True) as tx:
            await budgets.open_envelope(tx, asked.workspace_id, budgets.job_scope(job.job_key), asked.budget_usd)
            await runs.begin(tx, _row(job), sample + rest)
        return Plan(candidates=ranking.candidates, discovery=len(sample), sessions=dataset.sessions)

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
