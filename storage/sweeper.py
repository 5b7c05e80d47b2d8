"""Requests whose owner fell silent. The one query over all workspaces: housekeeping belongs to none."""

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from storage.breaker import NOW
from storage.tables import Call


@dataclass(frozen=True)
class StaleCall:
    """A request with an expired lease. `expired`: its reservation has outlived its time as well."""

    workspace_id: str
    request_id: str
    workflow_id: str
    job_key: str
    expired: bool


async def stale_calls(tx: AsyncSession, *, limit: int) -> list[StaleCall]:
    """The oldest requests whose lease ran out."""
    query = (
        select(Call, col(Call.expires_at) <= NOW)
        .where(col(Call.owner_attempt_id).is_not(None), col(Call.lease_until) <= NOW)
        .order_by(col(Call.lease_until))
        .limit(limit)
    )
    return [
        StaleCall(call.workspace_id, call.request_id, call.workflow_id, call.job_key, expired)
        for call, expired in (await tx.execute(query)).all()
    ]
