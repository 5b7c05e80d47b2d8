"""`AutoAnalyzeStream`: one of the parallel streams of a segment."""

import asyncio
from collections import deque
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any, NoReturn

from temporalio import workflow
from temporalio.exceptions import ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from pydantic import ValidationError

    from activities.auto_analyze.runs import RunActivities
    from parley import visibility
    from parley.domain.auto_analyze.contract import (
        STREAM_WORKFLOW,
        Batch,
        EndStream,
        Phase,
        StreamEnd,
        StreamInput,
        StreamReport,
        StreamRound,
        StreamWaiting,
        TakeBatches,
    )
    from parley.domain.errors import BudgetExhausted, InvalidInput, ParleyError
    from workflows.auto_analyze.batches import BatchLabeller
    from workflows.auto_analyze.run_state import history_is_long, refused_in_a_row
    from workflows.fallback import raise_if_cancelled
    from workflows.policies import STORAGE_STEP

WAITING_CHARACTERS = 200
# One step takes so many batches, within 2 KB.
TAKEN_AT_ONCE = 24
# After this time a stream looks again whether the labels are there that it waits for: its signal may be lost when the
# other stream is replaced.
LOOK_AGAIN = timedelta(seconds=10)


class AskedToEnd(Exception):
    """The run asked the stream to end while it waited for another one."""


@workflow.defn(name=STREAM_WORKFLOW, failure_exception_types=[ParleyError, ValidationError])
class AutoAnalyzeStream:
    """Label one batch after the other, each with the labels of all streams up to an earlier round.

    The database knows which rounds are complete. A stream that is too far ahead signals the stream that is behind,
    which signals back after that round.
    """

    def __init__(self) -> None:
        self._is_ending = False
        self._completed_round = 0
        self._waiting: list[StreamRound] = []
        self._catch_ups = 0
        self._signals: set[asyncio.Task[None]] = set()
        self._has_noted_wait = False
        self._taken: deque[Batch] = deque()

    @workflow.run
    async def run(self, stream: StreamInput | None = None) -> StreamReport:
        """Work until no batch is left, or the run asks to end. A request in flight is finished if it is cancelled.

        Raises:
            InvalidInput: the workflow was started without input.
            ApplicationError: a batch failed; its type is the name of the `ParleyError`.
        """
        if stream is None:
            raise InvalidInput("AutoAnalyzeStream needs a StreamInput", where="input")
        parent = workflow.info().parent
        if parent is None:
            raise InvalidInput("AutoAnalyzeStream is a child workflow: start AutoAnalyze", where="parent")
        self._stream, self._counted, self._refused = stream, stream.so_far, stream.refused_in_a_row
        self._parent = workflow.get_external_workflow_handle(parent.workflow_id, run_id=parent.run_id)
        self._labeller = BatchLabeller(
            stream.job, stream.candidates, Phase.PARALLEL, self._on_wait, self._wait_for_stream
        )
        end = await self._work()
        await self._release_waiting()
        return StreamReport(stream=stream.stream, end=end, counted=self._counted, refused_in_a_row=self._refused)

    @workflow.signal
    def end(self, request: EndStream) -> None:
        """The run asks the stream to end after the batch at hand."""
        workflow.set_current_details(f"ends: {request.reason}")
        self._is_ending = True

    @workflow.signal
    def wait_for_round(self, waiting: StreamRound) -> None:
        """Another stream waits until this one has completed a round."""
        self._waiting.append(waiting)
        self._answer_waiting()

    @workflow.signal
    def catch_up(self, _completed: StreamRound) -> None:
        """The stream that this one waits for has completed the round."""
        self._catch_ups += 1

    async def _work(self) -> StreamEnd:
        try:
            while not self._is_ending and (batch := await self._next_batch()) is not None:
                await self._label(batch)
                if history_is_long():
                    await self._continue_as_new()
        except AskedToEnd:
            return StreamEnd.DONE
        except ApplicationError as error:
            if error.type != BudgetExhausted.__name__:
                raise
            # Where concurrent requests have reserved the rest of the budget, the run labels the batch after them.
            self._counted = self._counted.plus(self._labeller.report)
            return StreamEnd.OVER_BUDGET
        except BaseException as error:
            if not is_cancelled_exception(error):
                raise
            self._counted = self._counted.plus(self._labeller.report)
            return StreamEnd.CANCELLED
        return StreamEnd.DONE

    async def _next_batch(self) -> Batch | None:
        raise_if_cancelled()
        if not self._taken:
            job = self._stream.job
            most = 1 if job.input.max_staleness is None else TAKEN_AT_ONCE
            taken = await workflow.execute_activity_method(
                RunActivities.take_batches,
                TakeBatches(job=job, stream=self._stream.stream, most=most),
                summary="the next batches",
                **STORAGE_STEP,
            )
            raise_if_cancelled()
            self._taken += taken.batches
        return self._taken.popleft() if self._taken else None

    async def _label(self, batch: Batch) -> None:
        report = await self._labeller.label(batch)
        self._counted = self._counted.plus(report)
        self._completed_round, self._has_noted_wait = batch.round, False
        self._answer_waiting()
        self._refused = refused_in_a_row(self._refused, [report])

    async def _wait_for_stream(self, behind: int, batch: Batch) -> None:
        """Wait until the stream that is behind may have caught up.

        Raises:
            AskedToEnd: the run asks the stream to end.
        """
        if self._is_ending:
            raise AskedToEnd
        before = self._catch_ups
        staleness = self._stream.job.input.max_staleness or 0
        waiting = StreamRound(stream=self._stream.stream, round=batch.round - 1 - staleness)
        self._send(self._sibling(behind).signal(AutoAnalyzeStream.wait_for_round, waiting))
        try:
            await workflow.wait_condition(lambda: self._catch_ups > before or self._is_ending, timeout=LOOK_AGAIN)
        except TimeoutError:
            workflow.logger.info("stream %s has not answered within %s", behind, LOOK_AGAIN)

    def _answer_waiting(self) -> None:
        """Signal the streams that wait for a round that is complete."""
        ready = [one for one in self._waiting if one.round <= self._completed_round]
        self._waiting = [one for one in self._waiting if one not in ready]
        for one in ready:
            self._signal_back(one)

    async def _release_waiting(self) -> None:
        """Let all streams look again that wait for this one: it will not signal any more."""
        while self._waiting or self._signals:
            released, self._waiting = self._waiting, []
            for one in released:
                self._signal_back(one)
            await asyncio.gather(*self._signals)

    def _signal_back(self, waiting: StreamRound) -> None:
        completed = StreamRound(stream=self._stream.stream, round=self._completed_round)
        self._send(self._sibling(waiting.stream).signal(AutoAnalyzeStream.catch_up, completed))

    def _sibling(self, number: int) -> workflow.ExternalWorkflowHandle[Any]:
        own = workflow.info().workflow_id.rpartition("-")[0]
        return workflow.get_external_workflow_handle(f"{own}-{number}")

    def _send(self, signal: Awaitable[None]) -> None:
        """Send a signal while the work goes on. A workflow that has ended cannot take one, and needs none."""

        async def send() -> None:
            try:
                await signal
            except ApplicationError as error:
                workflow.logger.info("a signal was not delivered: %s", error)

        task = asyncio.create_task(send())
        self._signals.add(task)
        task.add_done_callback(self._signals.discard)

    async def _continue_as_new(self) -> NoReturn:
        await self._release_waiting()
        workflow.continue_as_new(
            self._stream.model_copy(update={"so_far": self._counted, "refused_in_a_row": self._refused})
        )

    def _on_wait(self, problems: str, pause: timedelta) -> None:
        """Notify the parent once per batch, so that a long outage does not fill its history."""
        waiting = f"waiting for a provider to become available: {problems}"[:WAITING_CHARACTERS]
        workflow.set_current_details(f"{visibility.plain(waiting)} (next try in {pause.total_seconds():.0f} s)")
        if not self._has_noted_wait:
            self._has_noted_wait = True
            notice = StreamWaiting(stream=self._stream.stream, waiting=waiting)
            self._send(self._parent.signal("stream_waiting", notice))
