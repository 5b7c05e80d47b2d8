"""A workspace's events and cost alerts; the energy refill and the health check, run on request."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from parley.client.backend import Backend, execute_workflow
from parley.domain.health import WORKFLOW as HEALTH
from parley.domain.health import HealthInput, HealthReport
from parley.domain.housekeeping import REFILL_ENERGY, RefillInput, RefillReport
from parley.domain.model import Model
from parley.storage import alerts, outbox
from parley.storage.tables import OutboxEvent

# Longer than all checks of one `Health` may take.
HEALTH_TIMEOUT = timedelta(seconds=25)


class EventReport(Model):
    """An event and the state of its delivery. A `abandoned` event is not tried again; `problem`: the last error."""

    id: int
    kind: str
    state: Literal["delivered", "waiting", "abandoned"]
    tries: int
    problem: str
    attempt_id: UUID | None
    created_at: datetime
    next_at: datetime | None
    delivered_at: datetime | None
    payload: dict[str, Any]


class CostAlertReport(Model):
    """A week in which the workspace spent more than the threshold. `spent_usd` includes `uncertain_usd`."""

    period: str
    spent_usd: Decimal
    uncertain_usd: Decimal
    threshold_usd: Decimal
    created_at: datetime


class Housekeeping:
    """The events and alerts of one workspace; reached as `client.housekeeping`."""

    def __init__(self, backend: Backend, workspace_id: str) -> None:
        self._backend, self._workspace_id = backend, workspace_id

    async def events(self, *, undelivered: bool = False, limit: int = 50) -> list[EventReport]:
        """The workspace's events, the newest first.

        Args:
            undelivered: only those that are not delivered; default False.
            limit: the most events to return; default 50.
        """
        async with self._backend.database.transaction() as tx:
            rows = await outbox.events(tx, self._workspace_id, undelivered=undelivered, limit=limit)
        return [_event(row) for row in rows]

    async def retry_event(self, event_id: int) -> None:
        """Deliver an event again that is not delivered, starting with its first try.

        Raises:
            NotFound: this workspace has no such event.
        """
        async with self._backend.database.transaction() as tx:
            await outbox.retry(tx, self._workspace_id, event_id)

    async def alerts(self) -> list[CostAlertReport]:
        """The weeks in which the workspace spent more than the threshold, the newest first."""
        async with self._backend.database.transaction() as tx:
            rows = await alerts.alerts(tx, self._workspace_id)
        return [CostAlertReport.model_validate(row, from_attributes=True, extra="ignore") for row in rows]

    async def refill_energy(self) -> RefillReport:
        """Refill the energy of all workspaces' users now instead of at midnight. A user gets one refill a day.

        Raises:
            JobFailed: the workflow ended without a result.
            Unreachable: Temporal does not answer.
        """
        given = RefillInput(day=datetime.now(UTC).date())
        return await execute_workflow(self._backend, REFILL_ENERGY, given, RefillReport, name="parley-refill")


async def check_health(backend: Backend, workspace_id: str) -> HealthReport:
    """Run one `Health`. `Client.health` documents it."""
    given = HealthInput(workspace_id=workspace_id)
    name = f"health/{workspace_id}"
    return await execute_workflow(backend, HEALTH, given, HealthReport, name=name, time_limit=HEALTH_TIMEOUT)


def _event(row: OutboxEvent) -> EventReport:
    state = "delivered" if row.delivered_at else "waiting" if row.next_at else "abandoned"
    return EventReport(state=state, **row.model_dump(exclude={"workspace_id", "key"}))
