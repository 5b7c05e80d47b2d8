"""Phase 2: rounds of parallel streams with a barrier after each; what a round finds is shared from the next."""

import asyncio
from collections.abc import Callable
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.auto_analyze.labelling import LabellingActivities as Activities
    from parley.domain.auto_analyze.contract import (
        Batch,
        BatchReport,
        Ending,
        GoSignal,
        Job,
        OpenRound,
        Phase,
        Round,
        StreamInput,
    )
    from parley.domain.auto_analyze.segments import rounds_per_segment
    from parley.domain.errors import BudgetExhausted, NotFound, ProviderUnavailable
    from workflows.auto_analyze.batches import BatchLabeller
    from workflows.auto_analyze.books import Books, history_is_long
    from workflows.auto_analyze.stream import AutoAnalyzeStream
    from workflows.fallback import raise_if_cancelled
    from workflows.policies import STORAGE_STEP

# After so many failed streams the rest is done one batch after the other.
TOLERATED_STREAM_FAILURES = 3
# These end the whole run, with what it has: no other stream would fare better.
ENDS_THE_RUN = {error.__name__ for error in (BudgetExhausted, ProviderUnavailable, NotFound)}

Stream = workflow.ChildWorkflowHandle[Any, None]


class Rounds:
    """The rounds of one segment. `label_as` makes a labeller for what the run has to do itself."""

    def __init__(self, job: Job, books: Books, label_as: Callable[[Phase, int], BatchLabeller]) -> None:
        self._job, self._books, self._label_as = job, books, label_as
        self._streams: dict[int, Stream] = {}

    async def in_streams(self) -> None:
        """Run rounds until all is labelled, the segment is full, or streams are not to be had; no stream stays open."""
        rounds = rounds_per_segment(self._job.input.streams, workflow.info().get_current_history_length())
        for number in range(self._job.input.streams if rounds else 0):
            self._streams[number] = await self._start_stream(number)
        for _ in range(rounds):
            tired = await self._run_round()
            over = not self._books.unlabelled or not self._streams or self._books.statistics.degraded
            if over or tired or history_is_long():
                break
        last = self._books.state.next_round
        await asyncio.gather(*(self._go(stream, last, None) for stream in self._streams.values()))
        await self._all_ended()

    async def in_sequence(self) -> None:
        """Label one batch after the other, until all is labelled or the segment is full."""
        labeller = self._label_as(Phase.PARALLEL, 0)
        while self._books.unlabelled and not history_is_long():
            opened = await self._open_round(1)
            [batch] = opened.batches
            report = await labeller.label(opened.number, batch)
            self._books.advance([report], opened.next_ordinal, at_barrier=True)

    async def stop(self) -> None:
        """Cancel the streams, and wait until they have ended."""
        for stream in self._streams.values():
            stream.cancel()
        await self._all_ended()

    async def _all_ended(self) -> None:
        await asyncio.gather(*self._streams.values(), return_exceptions=True)
        self._streams.clear()

    async def _start_stream(self, number: int) -> Stream:
        """A stream lives within this run, so that none is orphaned when the run continues as new."""
        info, state = workflow.info(), self._books.state
        return await workflow.start_child_workflow(
            AutoAnalyzeStream.run,
            StreamInput(job=self._job, candidates=state.plan.candidates, stream=number),
            id=f"{info.workflow_id}/{self._job.job_key[-8:]}/round-{state.next_round}/stream-{number}",
            static_summary=f"stream {number}",
        )

    async def _run_round(self) -> bool:
        """Every living stream takes a batch; the barrier falls when each has reported or failed.

        Returns whether a stream's history has grown long.
        """
        opened = await self._open_round(len(self._streams))
        batches = dict(zip(self._streams, opened.batches, strict=False))
        self._books.round_opened(batches)
        await asyncio.gather(
            *(self._go(self._streams[number], opened.number, batch) for number, batch in batches.items())
        )
        await workflow.wait_condition(
            lambda: all(number in self._books.reports or self._streams[number].done() for number in batches)
        )
        for number in [number for number in batches if number not in self._books.reports]:
            self._stream_failed(self._streams.pop(number))
        for number, batch in batches.items():
            report = self._books.reports.get(number)
            if report is None or report.ending is Ending.UNAFFORDABLE:
                self._books.reports[number] = await self._redo(number, opened.number, batch)
        reports = [*self._books.reports.values()]
        self._books.advance(reports, opened.next_ordinal, at_barrier=True)
        return any(report.tired for report in reports)

    async def _open_round(self, streams: int) -> Round:
        state = self._books.state
        opened = await workflow.execute_activity_method(
            Activities.open_round,
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

    async def _go(self, stream: Stream, round_number: int, batch: Batch | None) -> None:
        """Call a stream. One that is gone cannot be called; the barrier notices that."""
        try:
            await stream.signal(AutoAnalyzeStream.go, GoSignal(round=round_number, batch=batch))
        except ApplicationError:
            workflow.logger.warning("a stream is gone")

    def _stream_failed(self, stream: Stream) -> None:
        """One stream's failure does not stop the others; repeated failure ends the parallel work, and says so."""
        error = stream.exception()
        cause = error.__cause__ if error else None
        if isinstance(cause, ApplicationError) and cause.type in ENDS_THE_RUN:
            raise cause
        statistics = self._books.statistics
        failures = statistics.stream_failures + 1
        degraded = failures >= TOLERATED_STREAM_FAILURES or statistics.degraded
        self._books.count(stream_failures=failures, degraded=degraded)
        self._books.warn(f"a stream failed: {cause or error}" + ("; going on in sequence" if degraded else ""))

    async def _redo(self, number: int, round_number: int, batch: Batch) -> BatchReport:
        """A batch that its stream did not end, under its own request ids: what is paid for is found again.

        The other streams have ended theirs: money that is still missing now is held by nobody.
        """
        labeller = self._label_as(Phase.PARALLEL, number)
        try:
            return await labeller.label(round_number, batch)
        except ApplicationError as error:
            if error.type in ENDS_THE_RUN:
                raise
            return await labeller.give_up()
