"""`ScoreQuality`: grade one answer, within a budget of its own. Nobody waits for it, and nothing depends on it."""

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from pydantic import ValidationError

    from activities.generate.quality import QualityCalls as Calls
    from parley import visibility
    from parley.domain.errors import InvalidInput, ParleyError
    from parley.domain.generate.quality import WORKFLOW, ScoreInput, ScoreResult, ScoreStep, job_key
    from parley.domain.queues import provider_queue
    from workflows.policies import GRADE_STEP


@workflow.defn(name=WORKFLOW, failure_exception_types=[ParleyError, ValidationError])
class ScoreQuality:
    """One try. Over budget, unavailable or malformed: there is no score, and the result says why."""

    @workflow.run
    async def run(self, asked: ScoreInput | None = None) -> ScoreResult:
        """Grade.

        Raises:
            InvalidInput: the workflow was started without input.
        """
        if asked is None:
            raise InvalidInput("ScoreQuality needs a ScoreInput", where="input")
        visibility.record_start(asked.workspace_id, WORKFLOW)
        step = ScoreStep(asked=asked, job_key=job_key(workflow.now().date()), workflow_id=workflow.info().workflow_id)
        try:
            result = await workflow.execute_activity_method(
                Calls.score,
                step,
                task_queue=provider_queue(asked.candidate.provider),
                summary=f"grade with {asked.candidate.provider.value} {asked.candidate.model}"[:200],
                **GRADE_STEP,
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            cause = error.cause
            result = ScoreResult(reason=cause.message if isinstance(cause, ApplicationError) else str(cause))
        visibility.record(visibility.STATUS, "failed" if result.score is None else "completed")
        return result
