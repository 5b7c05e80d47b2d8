"""`Generate`: one LLM answer, within budget, from the first provider that can give it."""

import asyncio

from temporalio import workflow
from temporalio.exceptions import FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from pydantic import ValidationError

    from parley import visibility
    from parley.domain.errors import InvalidInput, ParleyError
    from parley.domain.generate.contract import WORKFLOW, GenerateInput, GenerateResult, Job
    from parley.domain.streaming import StreamBroken
    from workflows.answering import GenerateRun
    from workflows.fallback import DurableEngine
    from workflows.operating import show_waiting
    from workflows.policies import ANSWER_STEP
    from workflows.quality import start_scoring


@workflow.defn(name=WORKFLOW, failure_exception_types=[ParleyError, ValidationError])
class Generate:
    """Decide what to send to which providers, request the answer, record how it ended."""

    def __init__(self) -> None:
        self._engine = DurableEngine(ANSWER_STEP, show_waiting)

    @workflow.signal
    async def stream_broken(self, broken: StreamBroken) -> None:
        """The worker of an attempt of the answer's stream died: the answer goes on at once, by a further attempt."""
        self._engine.stream_broke(broken.attempt)

    @workflow.run
    async def run(self, generate_input: GenerateInput | None = None) -> GenerateResult:
        """Answer. A refusal is a result. Results that were paid for before a cancellation stay stored.

        Raises:
            InvalidInput: the workflow was started without input.
            ApplicationError: typed after the `ParleyError` that stopped it; `ProviderUnavailable` lists what was tried.
        """
        if generate_input is None:
            raise InvalidInput("Generate needs a GenerateInput", where="input")
        visibility.record_owner(generate_input.workspace_id, WORKFLOW)
        job = Job.of(generate_input, workflow.info().workflow_id, workflow.now())
        run = GenerateRun(self._engine, job)
        try:
            result = await run.result()
        except (FailureError, ParleyError, asyncio.CancelledError) as error:
            kind = "cancelled" if is_cancelled_exception(error) else "failed"
            visibility.record_end(kind, cost_usd=run.cost_usd)
            raise
        if run.scoring is not None:
            await start_scoring(run.scoring, generate_input)
        visibility.record_end("completed" if result.success else "refused", cost_usd=result.meta.cost_usd)
        return result
