"""Requests with expired leases, of all workspaces."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from parley.storage.database import NOW
from parley.storage.tables import PaidRequest


@dataclass(frozen=True)
class StaleRequest:
    """A request with an expired lease. `expired`: its reservation has expired as well."""

    workspace_id: str
    request_id: str
    workflow_id: str
    job_key: str
    lease_until: datetime
    expired: bool


async def stale_requests(tx: AsyncSession, *, limit: int, after: StaleRequest | None = None) -> list[StaleRequest]:
    """Requests whose lease has expired, the oldest first. `after`: the last one of the previous page."""
    columns = (col(PaidRequest.lease_until), col(PaidRequest.workspace_id), col(PaidRequest.request_id))
    query = (
        select(
            *columns,
            col(PaidRequest.workflow_id),
            col(PaidRequest.job_key),
            (col(PaidRequest.expires_at) <= NOW).label("expired"),
        )
        .where(col(PaidRequest.owner_attempt_id).is_not(None), col(PaidRequest.lease_until) <= NOW)
        .order_by(*columns)
        .limit(limit)
    )
    if after:
        query = query.where(tuple_(*columns) > tuple_(after.lease_until, after.workspace_id, after.request_id))
    return [StaleRequest(**row) for row in (await tx.execute(query)).mappings()]
