"""Phase 2: parallel streams that take their batches from the plan, and meet in the database."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.auto_analyze.runs import RunActivities
    from parley.domain.auto_analyze.contract import Job, Phase, ReadProgress
    from parley.domain.auto_analyze.steps import (
        Batch,
        BatchReport,
        EndStream,
        PlanBatches,
        StreamEnd,
        StreamInput,
        StreamReport,
        TakeBatches,
    )
    from parley.domain.errors import BadRequest, BudgetExhausted, NotFound, ProviderUnavailable
    from workflows.auto_analyze.batches import BatchLabeller
    from workflows.auto_analyze.run_state import RunState, refused_in_a_row
    from workflows.auto_analyze.stream import AutoAnalyzeStream, failed_stream
    from workflows.fallback import raise_if_cancelled
    from workflows.operating import history_is_long
    from workflows.policies import BULK_STEP, LOCAL_STEP

# After so many failures of streams that labelled nothing between them, the rest is labelled sequentially. One outage
# ends all streams at once, and does not make a run of a million sessions slow for the rest of its time.
TOLERATED_STREAM_FAILURES = 3
# One step reads so many batches, within 2 KB.
READ_AT_ONCE = 24
# These errors end the whole run, because every other stream would meet them too.
ENDS_THE_RUN = {error.__name__ for error in (BudgetExhausted, ProviderUnavailable, NotFound, BadRequest)}
# The progress is read this often: soon after the start, and then after a fifth of the time so far.
SOONEST_LOOK, LATEST_LOOK, LOOKS = timedelta(seconds=2), timedelta(seconds=15), 5

Stream = workflow.ChildWorkflowHandle[Any, StreamReport]


async def show_progress(job: Job, state: RunState) -> None:
    """Read what is labelled, and show it."""
    progress = await workflow.execute_local_activity_method(
        RunActivities.read_progress,
        ReadProgress(job=job, sized_for=state.plan.candidates[0].model),
        summary="progress of the streams",
        **LOCAL_STEP,
    )
    raise_if_cancelled()
    state.show_streams(progress)


class ParallelStreams:
    """The streams of one segment. `make_labeller` makes the labeller for batches that the run labels itself."""

    def __init__(self, job: Job, state: RunState, make_labeller: Callable[[Phase], BatchLabeller]) -> None:
        self._job, self._state, self._make_labeller = job, state, make_labeller
        self._streams: dict[int, Stream] = {}
        self._is_ending = False

    async def label(self) -> bool:
        """Label what is left, or as much of it as a segment can. No stream stays open. Returns whether it was all."""
        await self.plan()
        if not self._state.sequential:
            await self._run_streams()
        return await self._label_sequentially() if self._state.sequential else not self._is_ending

    async def stop(self) -> None:
        """Cancel the streams, and count what they have done."""
        for stream in self._streams.values():
            stream.cancel()
        for result in await asyncio.gather(*self._streams.values(), return_exceptions=True):
            has_ended = isinstance(result, StreamReport)
            self._state.add_reports([result.counted if has_ended else failed_stream(result.__cause__)[1]])
        self._streams.clear()

    async def plan(self) -> None:
        """Cut what is left into batches, if it is not cut for this number of streams. No stream is open."""
        while not self._state.is_planned:
            await self._plan()

    async def _plan(self) -> None:
        """Cut what is left into batches. Those of the next segment begin with these."""
        state = self._state
        planned = await workflow.execute_activity_method(
            RunActivities.plan_batches,
            PlanBatches(
                job=self._job,
                candidate=state.plan.candidates[0],
                start=state.next_ordinal,
                end=state.plan.requested,
                plan=state.planned.plan + 1 if state.planned else 1,
                streams=state.parallel_streams,
            ),
            summary=f"batches of {state.parallel_streams} streams",
            **BULK_STEP,
        )
        raise_if_cancelled()
        state.set_planned(planned)

    async def _run_streams(self) -> None:
        """Run the streams until each has ended: its batches are labelled, or the segment is to end."""
        planned, started = self._state.planned, workflow.now()
        count = min(planned.streams, planned.batches) if planned else 0
        await asyncio.gather(*(self._start_stream(number) for number in range(1, count + 1)))
        while self._streams:
            await self._wait(workflow.now() - started)
            ended = [number for number, stream in self._streams.items() if stream.done()]
            for number in ended:
                await self._complete(number, self._streams.pop(number))
            if self._state.is_held:
                await self._end_streams("an operator asked the run to pause or to finish")
            elif not self._state.is_planned:
                await self._end_streams("an operator asked for another number of streams")
            elif history_is_long():
                await self._end_streams("the history of the run is long")
            if not (ended and self._streams):
                await show_progress(self._job, self._state)
        self._state.add_capacity((workflow.now() - started).total_seconds(), count)

    async def _wait(self, elapsed: timedelta) -> None:
        """Wait until a stream ends, an operator asks for it, or it is time to look at the progress."""
        pause = max(SOONEST_LOOK, min(elapsed / LOOKS, LATEST_LOOK))
        try:
            await workflow.wait_condition(
                lambda: self._is_asked_to_end or any(stream.done() for stream in self._streams.values()), timeout=pause
            )
        except TimeoutError:
            return

    @property
    def _is_asked_to_end(self) -> bool:
        return (self._state.is_held or not self._state.is_planned) and not self._is_ending

    async def _start_stream(self, number: int) -> None:
        """Start a stream for this segment: a parent that continues as new would terminate its open children."""
        info = workflow.info()
        self._streams[number] = await workflow.start_child_workflow(
            AutoAnalyzeStream.run,
            StreamInput(
                job=self._job,
                candidates=self._state.plan.candidates,
                stream=number,
                refused_in_a_row=self._state.refused_in_a_row,
            ),
            id=f"{info.workflow_id}/{self._job.job_key[-8:]}/stream-{number}",
            # A run that is reset finds the streams of before, which report to a run that has ended.
            id_reuse_policy=WorkflowIDReusePolicy.TERMINATE_IF_RUNNING,
            static_summary=f"stream {number}",
        )

    async def _complete(self, number: int, stream: Stream) -> None:
        """Count a stream that has ended. A stream that failed is started again, where it was."""
        error = stream.exception()
        if error is None:
            report = stream.result()
            self._state.add_reports([report.counted])
            if report.end is StreamEnd.OVER_BUDGET:
                self._state.sequential = True
                await self._end_streams("the requests of all streams together exceed the budget")
            if report.end is not StreamEnd.CANCELLED:
                return
        cause, counted = failed_stream(error.__cause__ if error else None)
        self._state.add_reports([counted])
        if cause is not None and cause.type in ENDS_THE_RUN:
            raise cause
        problem = str((error and error.__cause__) or error or "cancelled")
        has_labelled = counted.labelled > 0
        self._state.add_stream_failure(problem, has_labelled=has_labelled, tolerated=TOLERATED_STREAM_FAILURES)
        if self._state.degraded:
            await self._end_streams("streams have failed")
        elif not self._is_ending:
            await self._start_stream(number)

    async def _end_streams(self, reason: str) -> None:
        """Ask all streams to end after the batch at hand."""
        if self._is_ending:
            return
        self._is_ending = True
        request = EndStream(reason=reason)
        signals = [stream.signal(AutoAnalyzeStream.end, request) for stream in self._streams.values()]
        # A stream that has ended cannot be signalled.
        await asyncio.gather(*signals, return_exceptions=True)
        raise_if_cancelled()

    async def _label_sequentially(self) -> bool:
        """Label one batch after the other. No concurrent request holds a reservation any more.

        Returns whether all are labelled; the segment may be full before.
        """
        labeller = self._make_labeller(Phase.PARALLEL)
        while not history_is_long() and not self._state.is_held:
            taken = await workflow.execute_local_activity_method(
                RunActivities.take_batches,
                TakeBatches(job=self._job, stream=None, most=READ_AT_ONCE),
                summary="the next batches",
                **LOCAL_STEP,
            )
            raise_if_cancelled()
            if not taken.batches:
                return True
            for batch in taken.batches:
                report = await self._label_batch(labeller, batch)
                self._state.add_reports([report])
                self._state.add_capacity(report.seconds, self._state.parallel_streams)
                self._state.refused_in_a_row = refused_in_a_row(self._state.refused_in_a_row, [report])
            await show_progress(self._job, self._state)
        return False

    async def _label_batch(self, labeller: BatchLabeller, batch: Batch) -> BatchReport:
        """Label a batch; one that fails gets the fallback. Request ids are the same as in a stream: nothing is paid
        twice."""
        try:
            return await labeller.label(batch)
        except ApplicationError as error:
            if error.type in ENDS_THE_RUN:
                raise
            return await labeller.finish_with_fallback()
