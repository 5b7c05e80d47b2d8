"""Scheduled jobs for all workspaces: sweep, deliver events, refill energy, alert on costs, purge."""

from datetime import datetime

from temporalio import workflow
from temporalio.common import SearchAttributeKey

with workflow.unsafe.imports_passed_through():
    from activities.alert import AlertActivities
    from activities.events import EventActivities
    from activities.purge import PurgeActivities
    from activities.refill import RefillActivities
    from activities.sweep import SweepActivities
    from parley.domain.errors import ParleyError
    from parley.domain.housekeeping import (
        ALERT_ON_COSTS,
        DELIVER_EVENTS,
        PURGE,
        REFILL_ENERGY,
        SWEEP,
        AlertInput,
        AlertReport,
        DeliverInput,
        DeliverReport,
        PurgeInput,
        PurgeReport,
        RefillInput,
        RefillReport,
        SweepInput,
        SweepReport,
        week_before,
    )
    from workflows.policies import BULK_STEP, STORAGE_STEP

SCHEDULED_AT = SearchAttributeKey.for_datetime("TemporalScheduledStartTime")


def due_at() -> datetime:
    """The time for which this run was scheduled. A run that is caught up after an outage is about that time."""
    return workflow.info().typed_search_attributes.get(SCHEDULED_AT) or workflow.now()


@workflow.defn(name=SWEEP, failure_exception_types=[ParleyError])
class Sweep:
    """End the paid requests of dead owners, because a terminated workflow runs no code."""

    @workflow.run
    async def run(self, job: SweepInput | None = None) -> SweepReport:
        return await workflow.execute_activity_method(
            SweepActivities.sweep,
            job or SweepInput(),
            summary="end stale attempts, release reservations",
            **STORAGE_STEP,
        )


@workflow.defn(name=DELIVER_EVENTS, failure_exception_types=[ParleyError])
class DeliverEvents:
    """Deliver events for most of a minute. A run per poll would cost the server six times as much."""

    @workflow.run
    async def run(self, job: DeliverInput | None = None) -> DeliverReport:
        return await workflow.execute_activity_method(
            EventActivities.deliver,
            job or DeliverInput(),
            summary="events to the webhook",
            **STORAGE_STEP,
        )


@workflow.defn(name=REFILL_ENERGY, failure_exception_types=[ParleyError])
class RefillEnergy:
    """Top users up to the daily energy of their tier."""

    @workflow.run
    async def run(self, job: RefillInput | None = None) -> RefillReport:
        return await workflow.execute_activity_method(
            RefillActivities.refill,
            job or RefillInput(day=due_at().date()),
            summary="top users up to their tier's daily energy",
            **BULK_STEP,
        )


@workflow.defn(name=ALERT_ON_COSTS, failure_exception_types=[ParleyError])
class AlertOnCosts:
    """Compare the spending of the past week with the threshold."""

    @workflow.run
    async def run(self, job: AlertInput | None = None) -> AlertReport:
        return await workflow.execute_activity_method(
            AlertActivities.alert,
            job or AlertInput(week=week_before(due_at())),
            summary="alert on the past week's spending",
            **BULK_STEP,
        )


@workflow.defn(name=PURGE, failure_exception_types=[ParleyError])
class Purge:
    """Delete answers that expired long ago, and prompts that no running workflow can need."""

    @workflow.run
    async def run(self, job: PurgeInput | None = None) -> PurgeReport:
        return await workflow.execute_activity_method(
            PurgeActivities.purge,
            job or PurgeInput(at=due_at()),
            summary="delete expired answers and stored prompts",
            **BULK_STEP,
        )


HOUSEKEEPING = (Sweep, DeliverEvents, RefillEnergy, AlertOnCosts, Purge)
