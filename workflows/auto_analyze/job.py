"""`AutoAnalyze`: chat sessions to consistent labels, in segments that continue as new with no child open."""

import asyncio
from typing import Literal, NoReturn

from temporalio import workflow
from temporalio.exceptions import FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from pydantic import ValidationError

    from activities.auto_analyze.runs import RunActivities as Activities
    from parley import visibility
    from parley.domain.auto_analyze.contract import (
        WORKFLOW,
        AutoAnalyzeInput,
        AutoAnalyzeProgress,
        AutoAnalyzeResult,
        Batch,
        BatchReport,
        Carried,
        CloseStep,
        FinishStep,
        Job,
        LabelKind,
        Phase,
        StreamParked,
    )
    from parley.domain.errors import InvalidInput, ParleyError
    from workflows.auto_analyze.batches import BatchLabeller
    from workflows.auto_analyze.books import Books, history_is_long
    from workflows.auto_analyze.conflicts import ConflictResolver
    from workflows.auto_analyze.rounds import Rounds
    from workflows.fallback import raise_if_cancelled
    from workflows.policies import BULK_STEP


@workflow.defn(name=WORKFLOW, failure_exception_types=[ParleyError, ValidationError])
class AutoAnalyze:
    """Discover labels on a sample, label the rest in synchronized streams, merge duplicate labels."""

    def __init__(self) -> None:
        self._books = Books()
        self._rounds: Rounds | None = None
        self._labeller: BatchLabeller | None = None

    @workflow.run
    async def run(self, start: AutoAnalyzeInput | None = None) -> AutoAnalyzeResult:
        """Run the job; cancelling it keeps what is labelled and paid.

        Raises:
            InvalidInput: the workflow was started without input.
            ApplicationError: typed after the `ParleyError` that stopped the run.
        """
        if start is None:
            raise InvalidInput("AutoAnalyze needs an AutoAnalyzeInput", where="input")
        if start.carried is not None and workflow.info().continued_run_id is None:
            raise InvalidInput("is set by the workflow itself", where="AutoAnalyzeInput", field="carried")
        visibility.record_start(start.workspace_id, WORKFLOW)
        self._job = Job(
            input=start.model_copy(update={"carried": None}),
            job_key=workflow.info().first_execution_run_id,
            workflow_id=workflow.info().workflow_id,
        )
        try:
            self._books.open(self._job.input, start.carried or await self._prepare())
            return await self._analyse()
        except (FailureError, ParleyError, asyncio.CancelledError) as error:
            await self._close("cancelled" if is_cancelled_exception(error) else "failed")
            raise

    @workflow.query
    def get_progress(self) -> AutoAnalyzeProgress:
        return self._books.progress

    @workflow.signal
    def round_done(self, report: BatchReport) -> None:
        """A stream has reached the barrier, or tells what it took before it ends."""
        self._books.reported(report)

    @workflow.signal
    def stream_parked(self, told: StreamParked) -> None:
        """A stream waits for a provider."""
        self._books.stream_parked(told)

    async def _analyse(self) -> AutoAnalyzeResult:
        if self._books.undiscovered:
            await self._discover()
        if self._books.unlabelled:
            await self._label_in_rounds()
        await self._resolve_conflicts()
        return await self._finish()

    async def _prepare(self) -> Carried:
        plan = await workflow.execute_activity_method(
            Activities.prepare, self._job, summary="sample, order, budget", **BULK_STEP
        )
        raise_if_cancelled()
        progress = AutoAnalyzeProgress(
            phase=Phase.PREPARE, discovery_total=plan.discovery, sessions_total=plan.sessions
        )
        return Carried(plan=plan, started_at=workflow.now(), progress=progress)

    async def _discover(self) -> None:
        """Phase 1: one session after the other, each call seeing the labels so far."""
        self._books.enter(Phase.DISCOVERY)
        labeller = self._label_as(Phase.DISCOVERY)
        while self._books.undiscovered:
            ordinal = self._books.state.next_ordinal
            report = await labeller.label(self._books.state.next_round, Batch(start=ordinal, count=1))
            self._books.advance([report], ordinal + 1)
            if history_is_long():
                self._continue_as_new()

    async def _label_in_rounds(self) -> None:
        """Phase 2: rounds of parallel streams, a segment of them at a time."""
        self._books.enter(Phase.PARALLEL)
        self._rounds = Rounds(self._job, self._books, self._label_as)
        if self._books.statistics.degraded:
            await self._rounds.in_sequence()
        else:
            await self._rounds.in_streams()
        if self._books.unlabelled:
            self._continue_as_new()

    async def _resolve_conflicts(self) -> None:
        """Phase 3: labels that mean the same get one name."""
        self._books.enter(Phase.CONFLICTS)
        resolver = ConflictResolver(self._job, self._books)
        for kind in [*LabelKind][self._books.state.kinds_resolved :]:
            if history_is_long():
                self._continue_as_new()
            await resolver.resolve(kind)
            self._books.keep(kinds_resolved=self._books.state.kinds_resolved + 1)
        await resolver.apply()

    async def _finish(self) -> AutoAnalyzeResult:
        self._books.enter(Phase.FINISH)
        statistics = await workflow.execute_activity_method(
            Activities.finish,
            FinishStep(job=self._job, statistics=self._books.statistics),
            summary="store the statistics",
            **BULK_STEP,
        )
        visibility.record(visibility.STATUS, "completed")
        return AutoAnalyzeResult(job_key=self._job.job_key, status="completed", statistics=statistics)

    async def _close(self, status: Literal["failed", "cancelled"]) -> None:
        """End early: no stream works on, what they took is counted, and what is labelled stays."""
        visibility.record(visibility.STATUS, status)
        if self._rounds is not None:
            await self._rounds.stop()
        self._books.break_off(self._labeller.report if self._labeller else None)
        await workflow.execute_activity_method(
            Activities.close,
            CloseStep(job=self._job, status=status, statistics=self._books.statistics),
            summary=f"mark as {status}",
            **BULK_STEP,
        )

    def _label_as(self, phase: Phase, stream: int = 0) -> BatchLabeller:
        """A labeller that the run itself works with, in place of a stream."""
        self._labeller = BatchLabeller(self._job, self._books.state.plan.candidates, phase, stream, self._books.parked)
        return self._labeller

    def _continue_as_new(self) -> NoReturn:
        workflow.continue_as_new(self._books.carried())
