"""`AutoAnalyzeStream`: one of the parallel streams of a segment."""

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ApplicationError, FailureError

with workflow.unsafe.imports_passed_through():
    from pydantic import ValidationError

    from parley import visibility
    from parley.domain.auto_analyze.contract import (
        STREAM_WORKFLOW,
        Batch,
        BatchAssignment,
        BatchReport,
        BatchStatus,
        Phase,
        StreamInput,
        StreamWaiting,
    )
    from parley.domain.errors import BudgetExhausted, InvalidInput, ParleyError
    from workflows.auto_analyze.batches import BatchLabeller
    from workflows.fallback import raise_if_cancelled

WAITING_CHARACTERS = 200


@workflow.defn(name=STREAM_WORKFLOW, failure_exception_types=[ParleyError, ValidationError])
class AutoAnalyzeStream:
    """Label the batch that the parent assigns in each round, report it, and wait for the next assignment."""

    def __init__(self) -> None:
        self._assignments: list[BatchAssignment] = []
        self._notice: asyncio.Task[None] | None = None

    @workflow.signal
    def assign_batch(self, assignment: BatchAssignment) -> None:
        self._assignments.append(assignment)

    @workflow.run
    async def run(self, stream: StreamInput | None = None) -> None:
        """Work until an assignment without a batch. A batch that ends early is reported too, since it was paid for.

        Raises:
            InvalidInput: the workflow was started without input.
        """
        if stream is None:
            raise InvalidInput("AutoAnalyzeStream needs a StreamInput", where="input")
        parent = workflow.info().parent
        if parent is None:
            raise InvalidInput("AutoAnalyzeStream is a child workflow: start AutoAnalyze", where="parent")
        self._stream = stream.stream
        self._parent = workflow.get_external_workflow_handle(parent.workflow_id, run_id=parent.run_id)
        self._labeller = BatchLabeller(stream.job, stream.candidates, Phase.PARALLEL, stream.stream, self._on_wait)
        while (assignment := await self._next_assignment()).batch is not None:
            report = await self._label(assignment.round, assignment.batch)
            workflow.set_current_details(f"round {assignment.round}: {report.labelled} labelled")
            await self._send_report(report)

    async def _label(self, round_number: int, batch: Batch) -> BatchReport:
        """Label the batch. Where concurrent requests have reserved the rest of the budget, the parent finishes it."""
        try:
            return await self._labeller.label(round_number, batch)
        except (FailureError, ParleyError, asyncio.CancelledError) as error:
            so_far = self._labeller.report
            if isinstance(error, ApplicationError) and error.type == BudgetExhausted.__name__:
                return so_far.model_copy(update={"status": BatchStatus.OVER_BUDGET})
            await self._send_report(so_far.model_copy(update={"status": BatchStatus.STOPPED}))
            raise

    async def _send_report(self, report: BatchReport) -> None:
        """Report to the parent, after the notice that is still on its way."""
        if self._notice is not None:
            await self._notice
            self._notice = None
        is_long = workflow.info().is_continue_as_new_suggested()
        report = report.model_copy(update={"history_is_long": is_long})
        sending = asyncio.create_task(self._parent.signal("round_done", report))
        try:
            await asyncio.shield(sending)
        except asyncio.CancelledError:
            # The batch is paid for. A cancellation that comes now must not drop its report.
            await sending
            raise

    async def _next_assignment(self) -> BatchAssignment:
        raise_if_cancelled()
        await workflow.wait_condition(lambda: bool(self._assignments))
        return self._assignments.pop(0)

    def _on_wait(self, problems: str, pause: timedelta) -> None:
        """Notify the parent once per batch, so that a long outage does not fill its history."""
        waiting = f"waiting for a provider to become available: {problems}"[:WAITING_CHARACTERS]
        workflow.set_current_details(f"{visibility.plain(waiting)} (next try in {pause.total_seconds():.0f} s)")
        if self._notice is None:
            notice = StreamWaiting(stream=self._stream, waiting=waiting)
            self._notice = asyncio.create_task(self._parent.signal("stream_waiting", notice))
