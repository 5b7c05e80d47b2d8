"""After phase 3, with `review`: the merges wait for a person, who may change them before they are applied.

The label map is in the database, and is changed there. The workflow learns of its approval only.
"""

from contextlib import suppress
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.auto_analyze.label_maps import LabelMapActivities
    from parley.domain.auto_analyze.contract import Job
    from parley.domain.auto_analyze.steps import ApproveLabels, ApproveStep, ProposeMerges
    from workflows.auto_analyze.run_state import RunState
    from workflows.policies import BULK_STEP, LOCAL_STEP


class Review:
    """Proposes the merges of a run, and waits until they are approved."""

    def __init__(self, job: Job, state: RunState) -> None:
        self._job, self._state = job, state
        self._approving = 0

    async def wait(self) -> None:
        """Wait until the merges are approved, the run is to finish, or the time is over."""
        proposed = await workflow.execute_activity_method(
            LabelMapActivities.propose, ProposeMerges(job=self._job), summary="merges to review", **BULK_STEP
        )
        if not proposed.merges:
            return
        limit = timedelta(seconds=self._job.input.review_limit_seconds)
        self._state.begin_review(proposed.merges, workflow.now() + limit)
        with suppress(TimeoutError):
            await workflow.wait_condition(lambda: bool(self._state.reviewed) or self._state.finishing, timeout=limit)
        await workflow.wait_condition(lambda: not self._approving)
        self._state.end_review()

    async def approve(self, given: ApproveLabels) -> None:
        """Record the approval, if the labels still have this version.

        Raises:
            LabelsChanged: they have another one.
        """
        self._approving += 1
        try:
            await workflow.execute_local_activity_method(
                LabelMapActivities.approve,
                ApproveStep(job=self._job, given=given),
                summary=f"version {given.version} of the labels",
                **LOCAL_STEP,
            )
            self._state.approve()
        except ActivityError as error:
            raise error.cause or error from None
        finally:
            self._approving -= 1
