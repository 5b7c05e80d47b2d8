"""`ScoreQuality`: grade one answer, within a daily budget. No other job waits for it or depends on it."""

import asyncio

from temporalio import workflow
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    FailureError,
    WorkflowAlreadyStartedError,
    is_cancelled_exception,
)

with workflow.unsafe.imports_passed_through():
    from pydantic import ValidationError

    from activities.generate.paid_steps import QualityPaidSteps as PaidSteps
    from parley import visibility
    from parley.domain.errors import InvalidInput, ParleyError
    from parley.domain.generate.contract import GenerateInput
    from parley.domain.generate.quality import WORKFLOW, ScoreInput, ScoreResult, ScoreStep, job_key, workflow_id
    from parley.domain.queues import provider_queue
    from workflows.policies import GRADE_STEP


@workflow.defn(name=WORKFLOW, failure_exception_types=[ParleyError, ValidationError])
class ScoreQuality:
    """One attempt. If it is over budget, fails or is malformed, there is no score, and the result says why."""

    @workflow.run
    async def run(self, score_input: ScoreInput | None = None) -> ScoreResult:
        """Grade.

        Raises:
            InvalidInput: the workflow was started without input.
        """
        if score_input is None:
            raise InvalidInput("ScoreQuality needs a ScoreInput", where="input")
        visibility.record_start(score_input.workspace_id, WORKFLOW)
        grader = score_input.candidate
        step = ScoreStep(
            input=score_input, job_key=job_key(workflow.now().date()), workflow_id=workflow.info().workflow_id
        )
        try:
            result = await workflow.execute_activity_method(
                PaidSteps.score,
                step,
                task_queue=provider_queue(grader.provider),
                summary=f"grade with {grader.provider.value} {grader.model}"[:200],
                **GRADE_STEP,
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            cause = error.cause
            result = ScoreResult(reason=cause.message if isinstance(cause, ApplicationError) else str(cause))
        visibility.record_end("failed" if result.score is None else "completed", cost_usd=result.cost_usd)
        return result


async def start_scoring(scoring: ScoreInput, generate_input: GenerateInput) -> None:
    """Start `ScoreQuality`, without waiting for it. The answer is returned even if it cannot be started."""
    try:
        await workflow.start_child_workflow(
            WORKFLOW,
            scoring,
            id=workflow_id(scoring.workspace_id, scoring.request_id),
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            parent_close_policy=workflow.ParentClosePolicy.ABANDON,
            cancellation_type=workflow.ChildWorkflowCancellationType.ABANDON,
            static_summary=visibility.plain(f"{generate_input.action} for {generate_input.user_id}"[:200]),
        )
    except (WorkflowAlreadyStartedError, FailureError, asyncio.CancelledError) as problem:
        workflow.logger.info("quality is not scored: %s", problem)
