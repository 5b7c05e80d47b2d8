"""What the clock's jobs leave for a workspace, its events and alerts; and the refill, run now."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from temporalio.client import WorkflowFailureError
from temporalio.service import RPCError

from parley.client.jobs import failure_of
from parley.domain.errors import Unreachable
from parley.domain.housekeeping import REFILL_ENERGY, RefillInput, RefillReport
from parley.domain.model import Model
from parley.domain.queues import WORKFLOWS
from parley.storage import alerts, outbox
from parley.storage.tables import OutboxEvent

if TYPE_CHECKING:
    from parley.client.client import Client


class EventReport(Model):
    """An event and how its delivery stands. `given_up` ones are tried no more; `problem`: why the last try failed."""

    id: int
    kind: str
    state: Literal["delivered", "waiting", "given_up"]
    tries: int
    problem: str
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
    """Reached as `client.housekeeping`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def events(self, *, undelivered: bool = False, limit: int = 50) -> list[EventReport]:
        """The workspace's events, the newest first; only those that have not arrived, if asked."""
        async with self._client.database.transaction() as tx:
            rows = await outbox.events(tx, self._client.workspace_id, undelivered=undelivered, limit=limit)
        return [_event(row) for row in rows]

    async def retry_event(self, event_id: int) -> None:
        """Have an event that has not arrived delivered anew, from its first try on.

        Raises:
            NotFound: this workspace has no such event.
        """
        async with self._client.database.transaction() as tx:
            await outbox.retry(tx, self._client.workspace_id, event_id)

    async def alerts(self) -> list[CostAlertReport]:
        """The weeks in which the workspace spent more than the threshold, the newest first."""
        async with self._client.database.transaction() as tx:
            rows = await alerts.alerts(tx, self._client.workspace_id)
        return [CostAlertReport.model_validate(row, from_attributes=True, extra="ignore") for row in rows]

    async def refill_energy(self) -> RefillReport:
        """Top every workspace's users up now, rather than at midnight. A user is given a day's refill once.

        Raises:
            JobFailed: it ended without a result.
            Unreachable: Temporal does not answer.
        """
        try:
            return await self._client.temporal.execute_workflow(
                REFILL_ENERGY,
                RefillInput(day=datetime.now(UTC).date()),
                id=f"parley-refill/{uuid4().hex}",
                task_queue=WORKFLOWS,
                result_type=RefillReport,
            )
        except WorkflowFailureError as error:
            raise failure_of(error) from error
        except RPCError as error:
            raise Unreachable(f"Temporal does not answer: {error.message}") from error


def _event(row: OutboxEvent) -> EventReport:
    state = "delivered" if row.delivered_at else "waiting" if row.next_at else "given_up"
    return EventReport(state=state, **row.model_dump(exclude={"workspace_id", "key"}))
