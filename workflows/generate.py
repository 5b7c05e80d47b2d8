"""`Generate`: one LLM answer, within budget, from the first provider that can give it."""

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import FailureError, WorkflowAlreadyStartedError

with workflow.unsafe.imports_passed_through():
    from pydantic import ValidationError

    from activities.generate.deciding import GenerateDecisions as Decisions
    from parley import visibility
    from parley.domain.errors import InvalidInput, ParleyError
    from parley.domain.generate.contract import WORKFLOW, GenerateInput, GenerateResult, Job, PrepareOutcome
    from parley.domain.generate.quality import WORKFLOW as SCORE_QUALITY
    from parley.domain.generate.quality import ScoreInput, cheapest
    from parley.domain.generate.quality import workflow_id as scoring_id
    from workflows.answering import Answering, end_step
    from workflows.fallback import DurableEngine
    from workflows.policies import ANSWER_STEP, LOCAL_STEP


@workflow.defn(name=WORKFLOW, failure_exception_types=[ParleyError, ValidationError])
class Generate:
    """Decide what to send to which providers, request the answer, record how it ended."""

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
        self._prepared = PrepareOutcome()
        self._job = Job.of(generate_input, workflow.info().workflow_id, workflow.now())
        try:
            result = await self._generate()
        except (FailureError, ParleyError, asyncio.CancelledError) as error:
            result = await self._end(error)
        visibility.record_end("completed" if result.success else "refused", cost_usd=result.meta.cost_usd)
        return result

    async def _generate(self) -> GenerateResult:
        """Prepare, answer, and start the grading if this answer is sampled."""
        self._prepared = await workflow.execute_local_activity_method(
            Decisions.prepare, self._job, summary="budget, cache, routing", **LOCAL_STEP
        )
        if self._prepared.result is not None:
            return self._prepared.result
        if self._prepared.prompt is not None:
            self._job = self._job.with_prompt(self._prepared.prompt)
        engine = DurableEngine(ANSWER_STEP, _show_waiting)
        result = await Answering(engine, self._job, self._prepared).run()
        if self._prepared.serving.score_quality:
            await self._start_scoring()
        return result

    async def _end(self, error: BaseException) -> GenerateResult:
        """Record how the generation ended. Returns a refusal or a stale answer; else raises the error."""
        step = end_step(self._job, self._prepared, error)
        ended = await workflow.execute_local_activity_method(
            Decisions.end, step, summary="record how it ended", **LOCAL_STEP
        )
        cancelled = step.outcome == "cancelled"
        if ended.result is None or cancelled:
            visibility.record_end("cancelled" if cancelled else "failed", cost_usd=ended.cost_usd)
            raise error
        return ended.result

    async def _start_scoring(self) -> None:
        """Start `ScoreQuality`, without waiting for it. The answer is returned even if it cannot be started."""
        generate_input, request_id = self._job.input, self._job.request_id
        scoring = ScoreInput(
            workspace_id=generate_input.workspace_id,
            user_id=generate_input.user_id,
            prospect_id=generate_input.prospect_id,
            request_id=request_id,
            prompt=generate_input.prompt,
            candidate=cheapest(self._prepared.candidates),
        )
        try:
            await workflow.start_child_workflow(
                SCORE_QUALITY,
                scoring,
                id=scoring_id(generate_input.workspace_id, request_id),
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                cancellation_type=workflow.ChildWorkflowCancellationType.ABANDON,
                static_summary=visibility.plain(f"{generate_input.action} for {generate_input.user_id}"[:200]),
            )
        except (WorkflowAlreadyStartedError, FailureError, asyncio.CancelledError) as problem:
            workflow.logger.info("quality is not scored: %s", problem)


def _show_waiting(reason: str, pause: timedelta) -> None:
    workflow.set_current_details(f"waiting {pause.total_seconds():.0f} s: {visibility.plain(reason)}")
