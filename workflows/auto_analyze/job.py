"""`AutoAnalyze`: label chat sessions consistently, in segments that continue as new with no child workflow open."""

import asyncio
from collections.abc import Sequence
from typing import NoReturn

from temporalio import workflow
from temporalio.exceptions import ApplicationError, FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from pydantic import ValidationError

    from activities.auto_analyze.runs import RunActivities
    from parley import visibility
    from parley.domain.auto_analyze.batching import discovery_round, discovery_rounds, discovery_width
    from parley.domain.auto_analyze.contract import (
        WORKFLOW,
        AutoAnalyzeInput,
        AutoAnalyzeProgress,
        AutoAnalyzeResult,
        Batch,
        BatchReport,
        CloseStep,
        CopyLabels,
        FinishStep,
        Job,
        LabelKind,
        Phase,
        RunSnapshot,
        StreamWaiting,
    )
    from parley.domain.auto_analyze.sampling import SATURATED
    from parley.domain.errors import BudgetExhausted, InvalidInput, ParleyError
    from parley.failures import reason_of
    from workflows.auto_analyze.batches import BatchLabeller
    from workflows.auto_analyze.conflicts import ConflictResolver
    from workflows.auto_analyze.parallel import ParallelStreams
    from workflows.auto_analyze.run_state import RunState, history_is_long
    from workflows.fallback import raise_if_cancelled
    from workflows.policies import BULK_STEP, LOCAL_STEP


@workflow.defn(name=WORKFLOW, failure_exception_types=[ParleyError, ValidationError])
class AutoAnalyze:
    """Discover labels on a sample, label the rest in parallel streams, merge duplicate labels."""

    def __init__(self) -> None:
        self._state = RunState()
        self._streams: ParallelStreams | None = None
        self._labellers: list[BatchLabeller] = []

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
    def stream_waiting(self, notice: StreamWaiting) -> None:
        """A stream waits for a provider."""
        self._state.record_waiting(notice)

    async def _analyse(self) -> AutoAnalyzeResult:
        if self._state.discovery_pending:
            await self._discover()
        await self._label_in_streams()
        await self._copy_labels()
        await self._resolve_conflicts()
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
        """Phase 1: label the sample in rounds of a few requests, each with the labels of all earlier rounds.

        It ends early when new labels have become rare; the streams label what is left of the sample.
        """
        state = self._state
        state.start_phase(Phase.DISCOVERY)
        sizes = state.plan.discovery_cuts
        rounds = discovery_rounds(len(sizes))
        while state.discovery_pending:
            done = sum(map(discovery_width, range(state.discovery_steps)))
            batches = discovery_round(sizes[done:], state.discovery_steps, state.next_ordinal, rounds)
            reports = await self._label_at_once(batches)
            state.complete_discovery_round(reports, batches[-1].start + batches[-1].count)
            if await self._is_saturated():
                break
            if history_is_long():
                self._continue_as_new()
        state.complete_discovery()

    async def _label_at_once(self, batches: Sequence[Batch]) -> list[BatchReport]:
        """Label batches at the same time. Those that the budget allows only one by one are labelled one by one."""
        labellers = [self._make_labeller(Phase.DISCOVERY) for _ in batches]
        self._labellers = labellers
        labelling = [labeller.label(batch) for labeller, batch in zip(labellers, batches, strict=True)]
        results = await asyncio.gather(*labelling, return_exceptions=True)
        reports: list[BatchReport] = []
        for labeller, batch, result in zip(labellers, batches, results, strict=True):
            if isinstance(result, ApplicationError) and result.type == BudgetExhausted.__name__:
                reports.append(labeller.report.plus(await labeller.label(batch)))
            elif isinstance(result, BaseException):
                raise result
            else:
                reports.append(result)
        self._labellers = []
        return reports

    async def _is_saturated(self) -> bool:
        """Whether discovery has found nearly all labels, as far as its sample can tell."""
        state = self._state
        if not state.plan.least <= state.next_ordinal < state.plan.discovery:
            return False
        found = await workflow.execute_local_activity_method(
            RunActivities.measure_saturation, self._job, summary="how rare new labels are", **LOCAL_STEP
        )
        raise_if_cancelled()
        return found.coverage >= SATURATED

    async def _label_in_streams(self) -> None:
        """Phase 2: parallel streams, a segment of them at a time."""
        if self._state.next_ordinal >= self._state.plan.requested or self._state.kinds_resolved:
            return
        self._state.start_phase(Phase.PARALLEL)
        self._streams = ParallelStreams(self._job, self._state, self._make_labeller)
        if not await self._streams.label():
            self._continue_as_new()

    async def _copy_labels(self) -> None:
        """Sessions with the same transcript have the same labels."""
        if not self._state.plan.copies:
            return
        await workflow.execute_activity_method(
            RunActivities.copy_labels, CopyLabels(job=self._job), summary="labels of copies", **BULK_STEP
        )
        raise_if_cancelled()
        self._state.complete_copies()

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

    async def _finish(self) -> AutoAnalyzeResult:
        self._state.start_phase(Phase.FINISH)
        statistics = await workflow.execute_activity_method(
            RunActivities.finish,
            FinishStep(job=self._job, statistics=self._state.statistics()),
            summary="store the statistics",
            **BULK_STEP,
        )
        self._state.set_ended(statistics)
        visibility.record_end("completed", cost_usd=statistics.cost_usd)
        return AutoAnalyzeResult(job_key=self._job.job_key, status="completed", statistics=statistics)

    async def _close(self, error: BaseException) -> None:
        """End early: stop the streams, count what they used, and keep the labels that are stored."""
        status = "cancelled" if is_cancelled_exception(error) else "failed"
        if self._streams is not None:
            await self._streams.stop()
        self._state.add_reports([labeller.report for labeller in self._labellers])
        self._state.end_early()
        statistics = await workflow.execute_activity_method(
            RunActivities.close,
            CloseStep(job=self._job, status=status, reason=reason_of(error), statistics=self._state.statistics()),
            summary=f"mark as {status}",
            **BULK_STEP,
        )
        self._state.set_ended(statistics)
        visibility.record_end(status, cost_usd=statistics.cost_usd)

    def _make_labeller(self, phase: Phase) -> BatchLabeller:
        """A labeller for batches that the run labels itself."""
        return BatchLabeller(self._job, self._state.plan.candidates, phase, self._state.wait_for_provider)

    def _continue_as_new(self) -> NoReturn:
        workflow.continue_as_new(self._job.input.model_copy(update={"snapshot": self._state.snapshot()}))
