"""`Sweep`: what a dead owner left behind is released, every minute. A terminated workflow runs no code."""

from datetime import timedelta

from temporalio import workflow
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
)

with workflow.unsafe.imports_passed_through():
    from activities.sweep import SweepActivities
    from domain.errors import ParleyError
    from domain.queues import WORKFLOWS
    from domain.sweep import WORKFLOW, SweepInput, SweepReport
    from workflows.policies import STORAGE_STEP

EVERY = timedelta(minutes=1)
SCHEDULE_ID = "parley-sweep"


@workflow.defn(name=WORKFLOW, failure_exception_types=[ParleyError])
class Sweep:
    """One round over stale requests."""

    @workflow.run
    async def run(self, job: SweepInput | None = None) -> SweepReport:
        return await workflow.execute_activity_method(
            SweepActivities.sweep,
            job or SweepInput(),
            summary="end stale attempts, release reservations",
            **STORAGE_STEP,
        )


async def ensure_scheduled(client: Client) -> None:
    """Create the schedule unless it is there; every worker may do so at its start."""
    schedule = Schedule(
        action=ScheduleActionStartWorkflow(WORKFLOW, id=SCHEDULE_ID, task_queue=WORKFLOWS),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=EVERY)]),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP),
    )
    try:
        await client.create_schedule(SCHEDULE_ID, schedule)
    except ScheduleAlreadyRunningError:
        return
