"""`AutoAnalyzeStream`: one of the parallel streams, for the length of a segment."""

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
        BatchReport,
        Ending,
        GoSignal,
        Phase,
        StreamInput,
        StreamParked,
    )
    from parley.domain.errors import BudgetExhausted, InvalidInput, ParleyError
    from workflows.auto_analyze.batches import BatchLabeller
    from workflows.fallback import raise_if_cancelled

WAITING_CHARACTERS = 200


@workflow.defn(name=STREAM_WORKFLOW, failure_exception_types=[ParleyError, ValidationError])
class AutoAnalyzeStream:
    """Label the batch of each round that the parent calls, report, and wait at the barrier for the next."""

    def __init__(self) -> None:
        self._called: list[GoSignal] = []
        self._telling: asyncio.Task[None] | None = None

    @workflow.signal
    def go(self, call: GoSignal) -> None:
        self._called.append(call)

    @workflow.run
    async def run(self, stream: StreamInput | None = None) -> None:
        """Work until told to stop; what a batch took is reported also where it ends before its time.

        Raises:
            InvalidInput: the workflow was started without input.
        """
        if stream is None:
            raise InvalidInput("AutoAnalyzeStream needs a StreamInput", where="input")
        parent = workflow.info().parent
        if parent is None:
            raise InvalidInput("AutoAnalyzeStream is a child of AutoAnalyze", where="parent")
        self._stream = stream.stream
        self._parent = workflow.get_external_workflow_handle(parent.workflow_id, run_id=parent.run_id)
        self._labeller = BatchLabeller(stream.job, stream.candidates, Phase.PARALLEL, stream.stream, self._parked)
        while (call := await self._next()).batch is not None:
            report = await self._label(call.round, call.batch)
            workflow.set_current_details(f"round {call.round}: {report.labelled} labelled")
            await self._tell(report)

    async def _label(self, round_number: int, batch: Batch) -> BatchReport:
        """The batch as far as it can be done now. Money that other calls hold may be there after the barrier."""
        try:
            return await self._labeller.label(round_number, batch)
        except (FailureError, ParleyError, asyncio.CancelledError) as error:
            so_far = self._labeller.report
            if isinstance(error, ApplicationError) and error.type == BudgetExhausted.__name__:
                return so_far.model_copy(update={"ending": Ending.UNAFFORDABLE})
            await self._tell(so_far.model_copy(update={"ending": Ending.STOPPED}))
            raise

    async def _tell(self, report: BatchReport) -> None:
        """Report to the parent, after what it was told before."""
        if self._telling is not None:
            await self._telling
            self._telling = None
        tired = workflow.info().is_continue_as_new_suggested()
        await self._parent.signal("round_done", report.model_copy(update={"tired": tired}))

    async def _next(self) -> GoSignal:
        raise_if_cancelled()
        await workflow.wait_condition(lambda: bool(self._called))
        return self._called.pop(0)

    def _parked(self, tried: str, pause: timedelta) -> None:
        """Once a batch the parent is told: a long outage must not fill its history."""
        waiting = f"waiting for a provider to come back: {tried}"[:WAITING_CHARACTERS]
        workflow.set_current_details(f"{visibility.plain(waiting)} (next try in {pause.total_seconds():.0f} s)")
        if self._telling is None:
            told = StreamParked(stream=self._stream, waiting=waiting)
            self._telling = asyncio.create_task(self._parent.signal("stream_parked", told))
