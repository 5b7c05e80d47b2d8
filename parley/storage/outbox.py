"""The outbox: events to deliver at least once. The ledger writes them in the transactions that they report.

`next_at` is the time of the next attempt; while a worker delivers the event, the end of that worker's lease; NULL once
the event is delivered or abandoned.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import null, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from parley.domain.errors import NotFound
from parley.domain.events import Event
from parley.storage.database import NOW, changed, changed_one
from parley.storage.retention import move_mark
from parley.storage.tables import OutboxEvent

PURGED = "events"
PURGE = """
    DELETE FROM outbox WHERE id = ANY(ARRAY(
        SELECT id FROM outbox WHERE created_at < :before {condition}
        ORDER BY created_at LIMIT :limit FOR UPDATE SKIP LOCKED))"""
PURGE_ALL, PURGE_ENDED = text(PURGE.format(condition="")), text(PURGE.format(condition="AND next_at IS NULL"))


async def claim_due(tx: AsyncSession, *, limit: int, hold_seconds: float) -> list[Event]:
    """Lease due events, the earliest first. No other worker receives them for `hold_seconds`.

    Covers all workspaces. The attempt is counted before it is made, so that an event that crashes its worker is
    abandoned as well.
    """
    due = (
        select(col(OutboxEvent.id))
        .where(col(OutboxEvent.next_at) <= NOW)
        .order_by(col(OutboxEvent.next_at), col(OutboxEvent.id))
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("due")  # a plain subquery may run more than once, and hold more than `limit`
    )
    claim = (
        update(OutboxEvent)
        .where(col(OutboxEvent.id).in_(select(due.c.id)))
        .values(tries=OutboxEvent.tries + 1, next_at=NOW + timedelta(seconds=hold_seconds))
        .returning(OutboxEvent)
    )
    rows = (await tx.execute(claim)).scalars().all()
    return [Event.model_validate(row, from_attributes=True, extra="ignore") for row in sorted(rows, key=_place)]


async def delivered(tx: AsyncSession, event: Event) -> None:
    """Mark the event as delivered."""
    await tx.execute(
        update(OutboxEvent).where(col(OutboxEvent.id) == event.id).values(delivered_at=NOW, next_at=null(), problem="")
    )


async def put_off(tx: AsyncSession, event: Event, wait: timedelta | None, problem: str) -> None:
    """Schedule the next attempt after `wait`, or abandon the event if `wait` is None. A later attempt's result wins."""
    await tx.execute(
        update(OutboxEvent)
        .where(
            col(OutboxEvent.id) == event.id,
            col(OutboxEvent.tries) == event.tries,
            col(OutboxEvent.delivered_at).is_(None),
        )
        .values(next_at=null() if wait is None else NOW + wait, problem=problem)
    )


async def events(
    tx: AsyncSession, workspace_id: str, *, undelivered: bool = False, limit: int = 50
) -> Sequence[OutboxEvent]:
    """A workspace's events, the newest first."""
    query = select(OutboxEvent).where(col(OutboxEvent.workspace_id) == workspace_id)
    if undelivered:
        query = query.where(col(OutboxEvent.delivered_at).is_(None))
    return (await tx.execute(query.order_by(col(OutboxEvent.id).desc()).limit(limit))).scalars().all()


async def retry(tx: AsyncSession, workspace_id: str, event_id: int) -> None:
    """Schedule an event for delivery now and reset its attempts.

    Raises:
        NotFound: the workspace has no such undelivered event.
    """
    waiting = (
        update(OutboxEvent)
        .where(
            col(OutboxEvent.workspace_id) == workspace_id,
            col(OutboxEvent.id) == event_id,
            col(OutboxEvent.delivered_at).is_(None),
        )
        .values(tries=0, next_at=NOW)
    )
    if not await changed_one(tx, waiting):
        raise NotFound(f"workspace {workspace_id!r} has no undelivered event {event_id}")


async def write_once(tx: AsyncSession, event: OutboxEvent) -> None:
    """Write an event, unless one with its key is there."""
    await tx.execute(insert(OutboxEvent).values(**event.model_dump(exclude={"id"})).on_conflict_do_nothing())


async def mark_purged(tx: AsyncSession, before: datetime) -> None:
    """Record that events of before this time may be missing."""
    await move_mark(tx, PURGED, before)


async def purge(tx: AsyncSession, before: datetime, *, waiting: bool, limit: int) -> int:
    """Delete the oldest events that were written before this time, of any workspace.

    `waiting`: also those that are not delivered and not abandoned. Returns how many; fewer than `limit`: all.
    """
    return await changed(tx, PURGE_ALL if waiting else PURGE_ENDED, {"before": before, "limit": limit})


def _place(row: OutboxEvent) -> int:
    return row.id or 0
