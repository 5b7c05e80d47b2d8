"""Phase 2: rounds of parallel streams with a barrier after each. Labels found in a round are known in the next."""

import asyncio
from collections.abc import Callable
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.auto_analyze.runs import RunActivities
    from parley.domain.auto_analyze.batching import rounds_per_segment
    from parley.domain.auto_analyze.contract import (
        Batch,
        BatchAssignment,
        BatchReport,
        BatchStatus,
        Job,
        OpenRound,
        Phase,
        Round,
        StreamInput,
    )
    from parley.domain.errors import BudgetExhausted, NotFound, ProviderUnavailable
    from workflows.auto_analyze.batches import BatchLabeller
    from workflows.auto_analyze.run_state import RunState, history_is_long
    from workflows.auto_analyze.stream import AutoAnalyzeStream
    from workflows.fallback import raise_if_cancelled
    from workflows.policies import STORAGE_STEP

# After so many failed streams the rest is labelled sequentially, one batch after the other.
TOLERATED_STREAM_FAILURES = 3
# These errors end the whole run, because every other stream would meet them too.
ENDS_THE_RUN = {error.__name__ for error in (BudgetExhausted, ProviderUnavailable, NotFound)}

Stream = workflow.ChildWorkflowHandle[Any, None]


class Rounds:
    """The rounds of one segment. `make_labeller` makes the labeller for batches that the run labels itself."""

    def __init__(self, job: Job, state: RunState, make_labeller: Callable[[Phase, int], BatchLabeller]) -> None:
        self._job, self._state, self._make_labeller = job, state, make_labeller
        self._streams: dict[int, Stream] = {}

    async def run_parallel(self) -> None:
        """Run rounds until all is labelled, the segment is full, or streams have failed. No stream stays open."""
        rounds = rounds_per_segment(self._job.input.streams, workflow.info().get_current_history_length())
        if rounds:
            for number in range(1, self._job.input.streams + 1):
                self._streams[number] = await self._start_stream(number)
        for _ in range(rounds):
            stream_is_long = await self._run_round()
            over = not self._state.labelling_pending or not self._streams or self._state.degraded
            if over or stream_is_long or history_is_long():
                break
        last = self._state.next_round
        await asyncio.gather(*(self._assign(stream, last, None) for stream in self._streams.values()))
        await self._all_ended()

    async def run_sequential(self) -> None:
        """Label one batch after the other, until all is labelled or the segment is full."""
        labeller = self._make_labeller(Phase.PARALLEL, 1)
        while self._state.labelling_pending and not history_is_long():
            opened = await self._open_round(1)
            [batch] = opened.batches
            report = await labeller.label(opened.number, batch)
            self._state.complete_round([report], opened.next_ordinal, parallel=True)

    async def stop(self) -> None:
        """Cancel the streams, and wait until they have ended."""
        for stream in self._streams.values():
            stream.cancel()
        await self._all_ended()

    async def _all_ended(self) -> None:
        await asyncio.gather(*self._streams.values(), return_exceptions=True)
        self._streams.clear()

    async def _start_stream(self, number: int) -> Stream:
        """Start a stream for this segment: a parent that continues as new would terminate its open children."""
        info = workflow.info()
        return await workflow.start_child_workflow(
            AutoAnalyzeStream.run,
            StreamInput(job=self._job, candidates=self._state.plan.candidates, stream=number),
            id=f"{info.workflow_id}/{self._job.job_key[-8:]}/round-{self._state.next_round}/stream-{number}",
            static_summary=f"stream {number}",
        )

    async def _run_round(self) -> bool:
        """Assign a batch to every running stream, and wait until each has reported or failed.

        Returns whether a stream's history is long.
        """
        opened = await self._open_round(len(self._streams))
        batches = dict(zip(self._streams, opened.batches, strict=False))
        self._state.start_round(batches)
        await asyncio.gather(
            *(self._assign(self._streams[number], opened.number, batch) for number, batch in batches.items())
        )
        await workflow.wait_condition(
            lambda: all(number in self._state.reports or self._streams[number].done() for number in batches)
        )
        for number in [number for number in batches if number not in self._state.reports]:
            self._count_failure(self._streams.pop(number))
        for number, batch in batches.items():
            report = self._state.reports.get(number)
            if report is None or report.status is BatchStatus.OVER_BUDGET:
                self._state.reports[number] = await self._label_again(number, opened.number, batch)
        reports = [*self._state.reports.values()]
        self._state.complete_round(reports, opened.next_ordinal, parallel=True)
        return any(report.history_is_long for report in reports)

    async def _open_round(self, streams: int) -> Round:
        state = self._state
        opened = await workflow.execute_activity_method(
            RunActivities.open_round,
            OpenRound(
                job=self._job,
                candidate=state.plan.candidates[0],
                number=state.next_round,
                start=state.next_ordinal,
                streams=streams,
            ),
            summary=f"batches of round {state.next_round}",
            **STORAGE_STEP,
        )
        raise_if_cancelled()
        return opened

    async def _assign(self, stream: Stream, round_number: int, batch: Batch | None) -> None:
        """Assign a batch to a stream. A stream that has ended cannot be signalled; the barrier counts it as failed."""
        try:
            await stream.signal(AutoAnalyzeStream.assign_batch, BatchAssignment(round=round_number, batch=batch))
        except ApplicationError:
            workflow.logger.warning("a stream has ended early")

    def _count_failure(self, stream: Stream) -> None:
        """Count a stream that failed. The others go on; repeated failures end the parallel work, with a warning."""
        error = stream.exception()
        cause = error.__cause__ if error else None
        if isinstance(cause, ApplicationError) and cause.type in ENDS_THE_RUN:
            raise cause
        self._state.add_stream_failure(str(cause or error), tolerated=TOLERATED_STREAM_FAILURES)

    async def _label_again(self, number: int, round_number: int, batch: Batch) -> BatchReport:
        """Label a batch that its stream did not finish. The request ids are the same, so that nothing is paid twice.

        The other streams have finished theirs, so no concurrent request holds a reservation any more.
        """
        labeller = self._make_labeller(Phase.PARALLEL, number)
        try:
            return await labeller.label(round_number, batch)
        except ApplicationError as error:
            if error.type in ENDS_THE_RUN:
                raise
            return await labeller.finish_with_fallback()
