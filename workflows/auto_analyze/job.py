"""`AutoAnalyze`: label chat sessions consistently, in segments that continue as new with no child workflow open."""

import asyncio
from typing import NoReturn

from temporalio import workflow
from temporalio.exceptions import FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from pydantic import ValidationError

    from activities.auto_analyze.runs import RunActivities
    from parley import visibility
    from parley.domain.auto_analyze.contract import (
        WORKFLOW,
        AutoAnalyzeInput,
        AutoAnalyzeProgress,
        AutoAnalyzeResult,
        Batch,
        BatchReport,
        CloseStep,
        FinishStep,
        Job,
        LabelKind,
        Phase,
        RunSnapshot,
        StreamWaiting,
    )
    from parley.domain.errors import InvalidInput, ParleyError
    from parley.failures import reason_of
    from workflows.auto_analyze.batches import BatchLabeller
    from workflows.auto_analyze.conflicts import ConflictResolver
    from workflows.auto_analyze.reassignment import Reassigner
    from workflows.auto_analyze.rounds import Rounds
    from workflows.auto_analyze.run_state import RunState, history_is_long
    from workflows.fallback import raise_if_cancelled
    from workflows.policies import BULK_STEP


@workflow.defn(name=WORKFLOW, failure_exception_types=[ParleyError, ValidationError])
class AutoAnalyze:
    """Discover labels on a sample, label the rest in synchronized streams, merge duplicate labels, look again."""

    def __init__(self) -> None:
        self._state = RunState()
        self._rounds: Rounds | None = None
        self._labeller: BatchLabeller | None = None

    @workflow.run
    async def run(self, start: AutoAnalyzeInput | None = None) -> AutoAnalyzeResult:
        """Run the job. Cancelling it keeps the labels that are stored, and counts what was paid.

        Raises:
            InvalidInput: the workflow was started without input.
            ApplicationError: the run failed; its type is the name of the `ParleyError`.
        """
        if start is None:
            raise InvalidInput("AutoAnalyze needs an AutoAnalyzeInput", where="input")
        if start.snapshot is not None and workflow.info().continued_run_id is None:
            raise InvalidInput(
                "is set by the workflow itself: leave it out", where="AutoAnalyzeInput", field="snapshot"
            )
        visibility.record_start(start.workspace_id, WORKFLOW)
        self._job = Job(
            input=start.model_copy(update={"snapshot": None}),
            job_key=workflow.info().first_execution_run_id,
            workflow_id=workflow.info().workflow_id,
        )
        try:
            await self._begin(start.snapshot)
            return await self._analyse()
        except (FailureError, ParleyError, asyncio.CancelledError) as error:
            await self._close(error)
            raise

    @workflow.query
    def get_progress(self) -> AutoAnalyzeProgress:
        return self._state.progress()

    @workflow.signal
    def round_done(self, report: BatchReport) -> None:
        """A stream has finished its batch, or reports what it used before it ends."""
        self._state.record_report(report)

    @workflow.signal
    def stream_waiting(self, notice: StreamWaiting) -> None:
        """A stream waits for a provider."""
        self._state.record_waiting(notice)

    async def _analyse(self) -> AutoAnalyzeResult:
        if self._state.discovery_pending:
            await self._discover()
        if self._state.labelling_pending:
            await self._label_in_rounds()
        if self._state.reassignment is None:
            await self._resolve_conflicts()
        if self._job.input.reassign:
            await self._reassign()
        return await self._finish()

    async def _begin(self, snapshot: RunSnapshot | None) -> None:
        """Plan the run, or go on where the previous segment ended."""
        if snapshot is not None:
            self._state.restore(self._job.input, snapshot)
            return
        plan = await workflow.execute_activity_method(
            RunActivities.prepare, self._job, summary="sample, order, budget", **BULK_STEP
        )
        raise_if_cancelled()
        self._state.begin(self._job.input, plan)

    async def _discover(self) -> None:
        """Phase 1: label the sample one session at a time, each with the labels found so far."""
        self._state.start_phase(Phase.DISCOVERY)
        labeller = self._make_labeller(Phase.DISCOVERY)
        while self._state.discovery_pending:
            ordinal = self._state.next_ordinal
            report = await labeller.label(self._state.next_round, Batch(start=ordinal, count=1))
            self._state.complete_round([report], ordinal + 1)
            if history_is_long():
                self._continue_as_new()

    async def _label_in_rounds(self) -> None:
        """Phase 2: rounds of parallel streams, a segment of them at a time."""
        self._state.start_phase(Phase.PARALLEL)
        self._rounds = Rounds(self._job, self._state, self._make_labeller)
        if self._state.degraded:
            await self._rounds.run_sequential()
        else:
            await self._rounds.run_parallel()
        if self._state.labelling_pending:
            self._continue_as_new()

    async def _resolve_conflicts(self) -> None:
        """Phase 3: merge labels with the same meaning."""
        self._state.start_phase(Phase.CONFLICTS)
        resolver = ConflictResolver(self._job, self._state)
        for kind in [*LabelKind][self._state.kinds_resolved :]:
            if history_is_long():
                self._continue_as_new()
            await resolver.resolve(kind)
            self._state.complete_kind()
        await resolver.apply()

    async def _reassign(self) -> None:
        """Look again at the intents that are in doubt, now that all labels are known."""
        self._state.start_phase(Phase.REASSIGNMENT)
        if not await Reassigner(self._job, self._state).run():
            self._continue_as_new()

    async def _finish(self) -> AutoAnalyzeResult:
        self._state.start_phase(Phase.FINISH)
        statistics = await workflow.execute_activity_method(
            RunActivities.finish,
            FinishStep(job=self._job, statistics=self._state.statistics()),
            summary="store the statistics",
            **BULK_STEP,
        )
        visibility.record_end("completed", cost_usd=statistics.cost_usd)
        return AutoAnalyzeResult(job_key=self._job.job_key, status="completed", statistics=statistics)

    async def _close(self, error: BaseException) -> None:
        """End early: stop the streams, count what they used, and keep the labels that are stored."""
        status = "cancelled" if is_cancelled_exception(error) else "failed"
        if self._rounds is not None:
            await self._rounds.stop()
        self._state.interrupt_round(self._labeller.report if self._labeller else None)
        statistics = await workflow.execute_activity_method(
            RunActivities.close,
            CloseStep(job=self._job, status=status, reason=reason_of(error), statistics=self._state.statistics()),
            summary=f"mark as {status}",
            **BULK_STEP,
        )
        visibility.record_end(status, cost_usd=statistics.cost_usd)

    def _make_labeller(self, phase: Phase, stream: int = 0) -> BatchLabeller:
        """A labeller for batches that the run labels itself, in place of a stream."""
        candidates = self._state.plan.candidates
        self._labeller = BatchLabeller(self._job, candidates, phase, stream, self._state.wait_for_provider)
        return self._labeller

    def _continue_as_new(self) -> NoReturn:
        workflow.continue_as_new(self._job.input.model_copy(update={"snapshot": self._state.snapshot()}))
