"""Requests whose owner fell silent. The one query over all workspaces: housekeeping belongs to none."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from parley.storage.breaker import NOW
from parley.storage.tables import Call


@dataclass(frozen=True)
class StaleCall:
    """A request with an expired lease. `expired`: its reservation has outlived its time as well."""

    workspace_id: str
    request_id: str
    workflow_id: str
    job_key: str
    lease_until: datetime
    expired: bool


async def stale_calls(tx: AsyncSession, *, limit: int, after: StaleCall | None = None) -> list[StaleCall]:
    """Requests whose lease ran out, the oldest first; `after` the last one of an earlier page."""
    columns = (col(Call.lease_until), col(Call.workspace_id), col(Call.request_id))
    query = (
        select(*columns, col(Call.workflow_id), col(Call.job_key), (col(Call.expires_at) <= NOW).label("expired"))
        .where(col(Call.owner_attempt_id).is_not(None), col(Call.lease_until) <= NOW)
        .order_by(*columns)
        .limit(limit)
    )
    if after:
        query = query.where(tuple_(*columns) > tuple_(after.lease_until, after.workspace_id, after.request_id))
    return [StaleCall(**row) for row in (await tx.execute(query)).mappings()]
