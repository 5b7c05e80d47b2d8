"""`AutoAnalyze`: label chat sessions consistently, in segments that continue as new with no child workflow open."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple, NoReturn

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from pydantic import ValidationError

    from activities.auto_analyze.runs import RunActivities
    from parley import visibility
    from parley.domain.auto_analyze.batching import discovery_round, discovery_rounds, discovery_width
    from parley.domain.auto_analyze.contract import (
        APPROVE,
        FINISH,
        PAUSE,
        RESUME,
        SET_STREAMS,
        WORKFLOW,
        AutoAnalyzeInput,
        AutoAnalyzeProgress,
        AutoAnalyzeResult,
        FinishRun,
        Job,
        LabelKind,
        PauseRun,
        Phase,
        ResumeRun,
        RunControls,
        RunSnapshot,
        SetBudget,
        SetStreams,
    )
    from parley.domain.auto_analyze.probing import probe_count
    from parley.domain.auto_analyze.sampling import SATURATED
    from parley.domain.auto_analyze.steps import (
        ApproveLabels,
        Batch,
        BatchReport,
        CloseStep,
        CopyLabels,
        FinishStep,
        StreamWaiting,
    )
    from parley.domain.errors import InvalidInput, ParleyError
    from parley.failures import reason_of
    from workflows.auto_analyze.batches import BatchLabeller
    from workflows.auto_analyze.conflicts import ConflictResolver
    from workflows.auto_analyze.parallel import ParallelStreams, show_progress
    from workflows.auto_analyze.probing import Prober
    from workflows.auto_analyze.reassignment import Reassigner
    from workflows.auto_analyze.review import Review
    from workflows.auto_analyze.run_state import RunState
    from workflows.auto_analyze.submissions import BatchProcessing
    from workflows.fallback import is_over_budget, raise_if_cancelled
    from workflows.operating import history_is_long, refused
    from workflows.policies import BULK_STEP, LOCAL_STEP


# A run whose budget or cap is used up looks so often whether there is room again.
TRY_AGAIN_AFTER = timedelta(hours=1)


class Parked(NamedTuple):
    """Until when a run waits for room in its budget and the caps, and what it had cost as it began to wait."""

    until: datetime
    cost_usd: Decimal


@workflow.defn(name=WORKFLOW, failure_exception_types=[ParleyError, ValidationError])
class AutoAnalyze:
    """Discover labels on a sample, label the rest in parallel streams, merge duplicate labels, look again."""

    def __init__(self) -> None:
        self._state = RunState()
        self._budget = asyncio.Lock()  # an operator may change it as merging gets its part
        self._streams: ParallelStreams | None = None
        self._batches: BatchProcessing | None = None
        self._labellers: list[BatchLabeller] = []
        self._review: Review | None = None

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

    @workflow.update(name=PAUSE)
    async def pause(self, _: PauseRun) -> RunControls:
        """Start no further request. Those in flight are finished."""
        self._state.pause()
        return self._state.controls

    @workflow.update(name=RESUME)
    async def resume(self, given: ResumeRun) -> RunControls:
        """Go on, with a new budget if one is given.

        Raises:
            InvalidInput: the new budget is less than what is spent and reserved.
        """
        await workflow.wait_condition(lambda: self._state.has_begun)
        async with self._budget:
            if given.budget_usd is not None:
                await self._set_budget(given.budget_usd)
            self._state.resume(given.budget_usd)
        return self._state.controls

    @workflow.update(name=FINISH)
    async def finish(self, _: FinishRun) -> RunControls:
        """Label no further session: merge the labels that there are, and end as completed."""
        self._state.finish_now()
        return self._state.controls

    @workflow.update(name=APPROVE)
    async def approve(self, given: ApproveLabels) -> RunControls:
        """Apply the labels of a version of the map, and go on.

        Raises:
            LabelsChanged: the labels have another version by now.
        """
        assert self._review is not None  # noqa: S101 - the validator has looked
        await self._review.approve(given)
        return self._state.controls

    @approve.validator
    def _check_approval(self, given: ApproveLabels) -> None:  # noqa: ARG002 - the name of the update's argument
        if self._review is None or not self._state.awaits_review:
            raise refused(InvalidInput("the run does not wait for a review of its labels"))

    @workflow.update(name=SET_STREAMS)
    async def set_streams(self, given: SetStreams) -> RunControls:
        """Label what is left with another number of streams, once those that work have ended their batches."""
        await workflow.wait_condition(lambda: self._state.has_begun)
        self._state.set_streams(given.streams)
        return self._state.controls

    @set_streams.validator
    def _check_streams(self, given: SetStreams) -> None:  # noqa: ARG002 - the name is that of the update
        if not self._state.has_streams:
            raise refused(InvalidInput("can be changed only until all sessions are labelled", where="streams"))

    @workflow.signal
    def stream_waiting(self, notice: StreamWaiting) -> None:
        """A stream waits for a provider."""
        self._state.record_waiting(notice)

    async def _analyse(self) -> AutoAnalyzeResult:
        if not self._state.is_labelled:
            await self._within_budget(self._discover)
            await self._within_budget(self._label_in_streams)
            await self._copy_labels()
        if not self._state.probed:
            await self._probe()
        if self._state.reassignment is None:
            await self._within_budget(self._resolve_conflicts)
            await self._wait_for_review()
            await self._merge()
        if self._state.reassigns(self._job.input):
            await self._reassign()
        return await self._finish()

    async def _within_budget(self, phase: Callable[[], Awaitable[None]]) -> None:
        """Run a phase. If the budget or a cap is used up, park until an operator raises it, or lets the run finish.

        A phase that runs again repeats no paid request: its requests have the same ids.

        Raises:
            ApplicationError: nothing was paid within the wait limit; its type is `BudgetExhausted`.
        """
        parked: Parked | None = None
        while True:
            await workflow.wait_condition(lambda: not self._state.paused)
            try:
                await phase()
            except ApplicationError as error:
                if not is_over_budget(error):
                    raise
                parked = await self._park(error, parked)
                if not self._state.finishing:
                    continue
                if self._state.phase is Phase.CONFLICTS:
                    self._state.add_warning(f"some labels stay unmerged: {error.message}")
            if not self._state.paused:
                return

    async def _park(self, error: ApplicationError, parked: Parked | None) -> Parked | None:
        """Wait until the run is resumed, is to finish, or tries again: a cap has room again when its period ends.

        `parked`: since the last time; it is the same wait as long as nothing was paid. Returns None once an operator
        has decided.
        """
        state = self._state
        if state.finishing:
            return None
        if parked is None or state.cost_usd > parked.cost_usd:
            limit = timedelta(seconds=self._job.input.wait_limit_seconds)
            parked = Parked(workflow.now() + limit, state.cost_usd)
        state.park(str(error.message))
        pause = min(parked.until - workflow.now(), TRY_AGAIN_AFTER)
        try:
            await workflow.wait_condition(lambda: not state.over_budget, timeout=pause)
        except TimeoutError:
            if workflow.now() >= parked.until:
                raise error from None
            state.try_again()
            return parked
        return None

    async def _set_budget(self, budget_usd: Decimal) -> None:
        """Set what the run may spend now: merging has its part only when it begins."""
        merges = self._state.phase in (Phase.CONFLICTS, Phase.REVIEW, Phase.REASSIGNMENT, Phase.FINISH)
        set_aside = Decimal(0) if merges else self._state.plan.set_aside_usd
        step = SetBudget(job=self._job, budget_usd=budget_usd, set_aside_usd=set_aside)
        try:
            await workflow.execute_local_activity_method(
                RunActivities.set_budget, step, summary=f"a budget of ${budget_usd}", **LOCAL_STEP
            )
        except ActivityError as error:
            raise error.cause or error from None

    async def _free_set_aside(self) -> None:
        """Let merging spend its part of the budget. If labelling has cost more than the whole, no request passes it."""
        try:
            async with self._budget:
                await self._set_budget(self._state.budget_usd)
        except ApplicationError as error:
            if error.type != InvalidInput.__name__:
                raise

    async def _begin(self, snapshot: RunSnapshot | None) -> None:
        """Plan the run, or go on where the previous segment ended."""
        if snapshot is not None:
            self._state.restore(self._job.input, snapshot)
            # Its open submissions are to be settled, however early the segment ends.
            self._batches = BatchProcessing(self._job, self._state)
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
        if not state.discovery_pending:
            return
        state.start_phase(Phase.DISCOVERY)
        sizes = state.plan.discovery_cuts
        rounds = discovery_rounds(len(sizes))
        while state.discovery_pending and not state.is_held:
            done = sum(map(discovery_width, range(state.discovery_steps)))
            batches = discovery_round(sizes[done:], state.discovery_steps, state.next_ordinal, rounds)
            reports = await self._label_at_once(batches)
            state.complete_discovery_round(reports, batches[-1].start + batches[-1].count)
            if await self._is_saturated():
                state.complete_discovery()  # also where it is held by now: a pause changes no label
                break
            if history_is_long():
                await self._continue_as_new()
        if not state.is_held:
            state.complete_discovery()

    async def _label_at_once(self, batches: Sequence[Batch]) -> list[BatchReport]:
        """Label batches at the same time. Those that the budget allows only one by one are labelled one by one."""
        labellers = [self._make_labeller(Phase.DISCOVERY) for _ in batches]
        self._labellers = labellers
        labelling = [labeller.label(batch) for labeller, batch in zip(labellers, batches, strict=True)]
        results = await asyncio.gather(*labelling, return_exceptions=True)
        reports: list[BatchReport] = []
        for labeller, batch, result in zip(labellers, batches, results, strict=True):
            if is_over_budget(result):
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
        state = self._state
        if state.next_ordinal >= state.plan.requested or state.has_finished_labelling:
            return
        self._state.start_phase(Phase.PARALLEL)
        self._streams = ParallelStreams(self._job, self._state, self._make_labeller)
        if await self._ask_in_batches(self._streams) and not state.finishing and await self._streams.label():
            return
        if state.has_finished_labelling:
            return
        await workflow.wait_condition(lambda: not state.paused)
        await self._continue_as_new()

    async def _ask_in_batches(self, streams: ParallelStreams) -> bool:
        """Ask what the streams would ask in batches, if the run is to. Returns False where it must go on later."""
        if self._job.input.processing != "batch":
            return True
        await streams.plan()
        self._batches = BatchProcessing(self._job, self._state)
        return await self._batches.run()

    async def _copy_labels(self) -> None:
        """Sessions with the same transcript have the same labels."""
        if self._state.finishing:
            await show_progress(self._job, self._state)  # it has not looked since its last request
        if not self._state.plan.copies:
            return
        copied = await workflow.execute_activity_method(
            RunActivities.copy_labels, CopyLabels(job=self._job), summary="labels of copies", **BULK_STEP
        )
        raise_if_cancelled()
        self._state.complete_copies(copied.labelled)

    async def _probe(self) -> None:
        """Label a few sessions a second time, to measure how often two streams agree."""
        if self._state.finishing or not probe_count(self._job.input.probes, self._state.plan.requested):
            return
        self._state.start_phase(Phase.PROBES)
        if history_is_long():
            await self._continue_as_new()
        await Prober(self._job, self._state).run()
        self._state.probed = True

    async def _resolve_conflicts(self) -> None:
        """Phase 3: compare labels for equal meaning, with the part of the budget that was set aside.

        The kinds are compared at the same time. Those that the budget allows only one by one are compared one by one.
        """
        if self._state.phase is not Phase.CONFLICTS:
            self._state.start_phase(Phase.CONFLICTS)
            await self._free_set_aside()
        if history_is_long():
            await self._continue_as_new()
        resolver = ConflictResolver(self._job, self._state)
        kinds = [kind for kind in LabelKind if kind not in self._state.kinds_resolved]
        results = await asyncio.gather(*map(resolver.resolve, kinds), return_exceptions=True)
        for result in results:
            if result is not None and not is_over_budget(result):
                raise result
        for kind, result in zip(kinds, results, strict=True):
            if result is not None:
                await resolver.resolve(kind)

    async def _wait_for_review(self) -> None:
        """Let a person look at the merges before they are applied."""
        if self._job.input.review and not self._state.finishing:
            self._state.start_phase(Phase.REVIEW)
            self._review = Review(self._job, self._state)
            await self._review.wait()

    async def _merge(self) -> None:
        """Write the canonical labels to all sessions."""
        await ConflictResolver(self._job, self._state).apply()

    async def _reassign(self) -> None:
        """Look again at the intents that are in doubt, now that all labels are known.

        The run does not park for it: if the budget is used up, the other sessions keep their labels.
        """
        self._state.start_phase(Phase.REASSIGNMENT)
        batches = None
        if self._job.input.processing == "batch":
            self._state.begin_submissions("second look")
            batches = self._batches = BatchProcessing(self._job, self._state)
        if not await Reassigner(self._job, self._state, batches).run():
            await self._continue_as_new()

    async def _finish(self) -> AutoAnalyzeResult:
        self._state.start_phase(Phase.FINISH)
        left = self._state.plan.sessions - self._state.sessions_done
        if self._state.finishing and left:
            self._state.add_warning(f"{left} sessions have no labels: an operator let the run finish before")
        await workflow.wait_condition(workflow.all_handlers_finished)
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
        if self._batches is not None:
            await self._batches.stop()
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

    async def _continue_as_new(self) -> NoReturn:
        await workflow.wait_condition(workflow.all_handlers_finished)
        workflow.continue_as_new(self._job.input.model_copy(update={"snapshot": self._state.snapshot()}))
