"""The schedules of the housekeeping jobs. Times are UTC."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleCalendarSpec,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleRange,
    ScheduleSpec,
)
from temporalio.service import RPCError, RPCStatusCode

from parley.domain.housekeeping import ALERT_ON_COSTS, DELIVER_EVENTS, PURGE, REFILL_ENERGY, SWEEP
from parley.domain.queues import WORKFLOWS

MINUTELY = ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(minutes=1))])
AT_MIDNIGHT = ScheduleSpec(calendars=[ScheduleCalendarSpec()])
MONDAYS_AT_FIVE_PAST = ScheduleSpec(
    calendars=[ScheduleCalendarSpec(minute=[ScheduleRange(5)], day_of_week=[ScheduleRange(1)])]
)


@dataclass(frozen=True)
class Timetable:
    """When a job runs. `catchup_window`: how old a start may be that was missed in an outage and is caught up."""

    workflow: str
    spec: ScheduleSpec
    catchup_window: timedelta


TIMETABLES: Mapping[str, Timetable] = {
    "parley-sweep": Timetable(SWEEP, MINUTELY, timedelta(minutes=1)),
    "parley-events": Timetable(DELIVER_EVENTS, MINUTELY, timedelta(minutes=1)),
    "parley-refill": Timetable(REFILL_ENERGY, AT_MIDNIGHT, timedelta(days=1)),
    "parley-purge": Timetable(PURGE, AT_MIDNIGHT, timedelta(days=1)),
    "parley-alert": Timetable(ALERT_ON_COSTS, MONDAYS_AT_FIVE_PAST, timedelta(weeks=5)),
}


async def ensure_scheduled(client: Client, *, with_events: bool) -> None:
    """Create missing schedules; existing ones keep what an operator has changed. Every worker calls it at its start.

    `with_events`: whether a webhook is configured. Without one the schedule of the deliveries is removed.
    """
    for schedule_id, timetable in TIMETABLES.items():
        if timetable.workflow == DELIVER_EVENTS and not with_events:
            await _remove(client, schedule_id)
        else:
            await _create(client, schedule_id, timetable)


async def _create(client: Client, schedule_id: str, timetable: Timetable) -> None:
    minutely = timetable.spec is MINUTELY
    schedule = Schedule(
        action=ScheduleActionStartWorkflow(timetable.workflow, id=schedule_id, task_queue=WORKFLOWS),
        spec=timetable.spec,
        policy=SchedulePolicy(
            # Every missed day or week is caught up; after a missed minute the next run suffices.
            overlap=ScheduleOverlapPolicy.SKIP if minutely else ScheduleOverlapPolicy.BUFFER_ALL,
            catchup_window=timetable.catchup_window,
        ),
    )
    try:
        await client.create_schedule(schedule_id, schedule)
    except ScheduleAlreadyRunningError:
        return


async def _remove(client: Client, schedule_id: str) -> None:
    try:
        await client.get_schedule_handle(schedule_id).delete()
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
