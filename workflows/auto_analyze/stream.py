"""`AutoAnalyzeStream`: one of the parallel streams, for the length of a segment."""

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from pydantic import ValidationError

    from domain.auto_analyze.contract import STREAM_WORKFLOW, BatchReport, GoSignal, Phase, StreamInput
    from domain.errors import InvalidInput, ParleyError
    from workflows import visibility
    from workflows.auto_analyze.batches import BatchLabeller


@workflow.defn(name=STREAM_WORKFLOW, failure_exception_types=[ParleyError, ValidationError])
class AutoAnalyzeStream:
    """Label the batch of each round that the parent calls, report, and wait at the barrier for the next."""

    def __init__(self) -> None:
        self._called: list[GoSignal] = []

    @workflow.signal
    def go(self, call: GoSignal) -> None:
        self._called.append(call)

    @workflow.run
    async def run(self, stream: StreamInput | None = None) -> None:
        """Work until told to stop.

        Raises:
            InvalidInput: the workflow was started without input.
        """
        if stream is None:
            raise InvalidInput("AutoAnalyzeStream needs a StreamInput", where="input")
        parent = workflow.info().parent
        if parent is None:
            raise InvalidInput("AutoAnalyzeStream is a child of AutoAnalyze", where="parent")
        back = workflow.get_external_workflow_handle(parent.workflow_id, run_id=parent.run_id)
        labeller = BatchLabeller(stream.job, stream.candidates, Phase.PARALLEL, stream.stream, self._parked)
        while (call := await self._next()).batch is not None:
            report: BatchReport = await labeller.label(call.round, call.batch)
            workflow.set_current_details(f"round {call.round}: {report.labelled} labelled")
            await back.signal("round_done", report)

    async def _next(self) -> GoSignal:
        await workflow.wait_condition(lambda: bool(self._called))
        return self._called.pop(0)

    def _parked(self, tried: str, pause: timedelta) -> None:
        workflow.set_current_details(
            f"waiting {pause.total_seconds():.0f} s for a provider to come back: {visibility.plain(tried)}"
        )
