"""`AutoAnalyzeStream`: one of the parallel streams of a segment."""

import asyncio
from datetime import timedelta
from typing import NoReturn

from temporalio import workflow
from temporalio.exceptions import ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from pydantic import ValidationError

    from activities.auto_analyze.runs import RunActivities
    from parley import visibility
    from parley.domain.auto_analyze.contract import STREAM_WORKFLOW, Phase
    from parley.domain.auto_analyze.steps import (
        Batch,
        BatchReport,
        EndStream,
        StreamEnd,
        StreamInput,
        StreamReport,
        StreamWaiting,
        TakeBatches,
    )
    from parley.domain.errors import InvalidInput, ParleyError
    from workflows.auto_analyze.batches import BatchLabeller
    from workflows.auto_analyze.run_state import refused_in_a_row
    from workflows.fallback import is_over_budget, raise_if_cancelled
    from workflows.operating import history_is_long
    from workflows.policies import LOCAL_STEP

WAITING_CHARACTERS = 200
# A step waits some seconds for another stream. After that the stream pauses: for a tenth of the time so far, so that an
# outage of hours does not fill its history.
SHORTEST_PAUSE, LONGEST_PAUSE, PAUSES = timedelta(seconds=1), timedelta(minutes=1), 10


class AskedToEnd(Exception):
    """The run asked the stream to end while it waited for another one."""


@workflow.defn(name=STREAM_WORKFLOW, failure_exception_types=[ParleyError, ValidationError])
class AutoAnalyzeStream:
    """Label one batch after the other, each with the labels of all streams up to an earlier round.

    A stream takes the next batch in the order of all, whichever round it belongs to: what a request contains depends on
    the round of its batch, and not on the stream. Streams meet in the database, which knows the rounds that are
    complete, and do not signal each other.
    """

    def __init__(self) -> None:
        self._is_ending = False
        self._notices: set[asyncio.Task[None]] = set()
        self._has_noted_wait = False

    @workflow.run
    async def run(self, stream: StreamInput | None = None) -> StreamReport:
        """Work until no batch is left, or the run asks to end. A request in flight is finished if it is cancelled.

        Raises:
            InvalidInput: the workflow was started without input.
            ApplicationError: a batch failed; its type is the name of the `ParleyError`. `failed_stream` reads it.
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
        await asyncio.gather(*self._notices)
        return StreamReport(stream=stream.stream, end=end, counted=self._counted, refused_in_a_row=self._refused)

    @workflow.signal
    def end(self, request: EndStream) -> None:
        """The run asks the stream to end after the batch at hand."""
        workflow.set_current_details(f"ends: {request.reason}")
        self._is_ending = True

    async def _work(self) -> StreamEnd:
        try:
            batch = await self._take_batch()
            while batch is not None and not self._is_ending:
                await self._label(batch)
                batch = self._labeller.next_batch
                if history_is_long():
                    await self._continue_as_new()
                raise_if_cancelled()
        except AskedToEnd:
            return StreamEnd.DONE
        except ApplicationError as error:
            self._counted = self._counted.plus(self._labeller.report)
            if not is_over_budget(error):
                raise _with_counters(error, self._counted) from error
            # Where concurrent requests have reserved the rest of the budget, the run labels the batch after them.
            return StreamEnd.OVER_BUDGET
        except BaseException as error:
            if not is_cancelled_exception(error):
                raise
            self._counted = self._counted.plus(self._labeller.report)
            return StreamEnd.CANCELLED
        return StreamEnd.DONE

    async def _take_batch(self) -> Batch | None:
        """Take the first batch, or the one that the stream held before. The others are taken with the labels of it."""
        raise_if_cancelled()
        taken = await workflow.execute_local_activity_method(
            RunActivities.take_batches,
            TakeBatches(job=self._stream.job, stream=self._stream.stream, most=1),
            summary="the next batch",
            **LOCAL_STEP,
        )
        raise_if_cancelled()
        return taken.batches[0] if taken.batches else None

    async def _label(self, batch: Batch) -> None:
        report = await self._labeller.label(batch)
        # What ends the stream from here on counts the batch at hand: this one is counted.
        self._counted, self._labeller.report = self._counted.plus(report), BatchReport()
        self._has_noted_wait = False
        self._refused = refused_in_a_row(self._refused, [report])

    async def _wait_for_stream(self, behind: int, waited: timedelta) -> None:
        """Pause, since another stream takes long to complete its round.

        Raises:
            AskedToEnd: the run asks the stream to end.
        """
        if history_is_long():
            await self._continue_as_new()
        pause = min(max(waited / PAUSES, SHORTEST_PAUSE), LONGEST_PAUSE)
        workflow.set_current_details(f"waits for stream {behind}" if behind else "waits for a batch that is not taken")
        try:
            await workflow.wait_condition(lambda: self._is_ending, timeout=pause)
        except TimeoutError:
            return
        raise AskedToEnd

    async def _continue_as_new(self) -> NoReturn:
        await asyncio.gather(*self._notices)
        workflow.continue_as_new(
            self._stream.model_copy(update={"so_far": self._counted, "refused_in_a_row": self._refused})
        )

    def _on_wait(self, problems: str, pause: timedelta) -> None:
        """Notify the parent once per batch, so that a long outage does not fill its history."""
        waiting = f"waiting for a provider to become available: {problems}"[:WAITING_CHARACTERS]
        workflow.set_current_details(f"{visibility.plain(waiting)} (next try in {pause.total_seconds():.0f} s)")
        if not self._has_noted_wait:
            self._has_noted_wait = True
            self._notify(StreamWaiting(stream=self._stream.stream, waiting=waiting))

    def _notify(self, notice: StreamWaiting) -> None:
        """Signal the parent while the work goes on. A parent that has ended cannot take a signal, and needs none."""

        async def send() -> None:
            try:
                await self._parent.signal("stream_waiting", notice)
            except ApplicationError as error:
                workflow.logger.info("a signal was not delivered: %s", error)

        task = asyncio.create_task(send())
        self._notices.add(task)
        task.add_done_callback(self._notices.discard)


def _with_counters(error: ApplicationError, counted: BatchReport) -> ApplicationError:
    """The error with what its stream has counted, as the last of its details."""
    return ApplicationError(error.message, *error.details, counted, type=error.type, non_retryable=True)


def failed_stream(cause: BaseException | None) -> tuple[ApplicationError | None, BatchReport]:
    """Why a stream failed, and what it had counted. None if no step failed, for example since it was terminated."""
    if not isinstance(cause, ApplicationError):
        return None, BatchReport()
    *details, counted = cause.details or (BatchReport(),)
    error = ApplicationError(cause.message, *details, type=cause.type, non_retryable=True)
    return error, BatchReport.model_validate(counted)
