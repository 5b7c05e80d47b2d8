"""Cost reports, from the usage rows."""

from datetime import datetime
from decimal import Decimal

from sqlalchemy import case, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from parley.domain.costs import CostLine, Costs
from parley.storage.tables import UsageLog

# The cost of a usage row as one of the two, 0 as the other.
CONFIRMED_USD = case((col(UsageLog.confirmed), UsageLog.cost_usd), else_=0)
UNCERTAIN_USD = case((col(UsageLog.confirmed), 0), else_=UsageLog.cost_usd)


async def total_usd(tx: AsyncSession, workspace_id: str, job_key: str) -> Decimal:
    """What a job's attempts have cost in USD, uncertain cost included."""
    of_job = (col(UsageLog.workspace_id) == workspace_id, col(UsageLog.job_key) == job_key)
    return (await tx.execute(select(func.sum(UsageLog.cost_usd)).where(*of_job))).scalar() or Decimal(0)


async def costs(
    tx: AsyncSession,
    workspace_id: str,
    *,
    job_key: str | None = None,
    user_id: str | None = None,
    since: datetime | None = None,
) -> Costs:
    """A workspace's spending by provider, model and action, optionally of one job, one user, or since a time."""
    kinds = [col(field) for field in (UsageLog.provider, UsageLog.model, UsageLog.action, UsageLog.simulated)]
    query = (
        select(
            *kinds,
            func.count().label("attempts"),
            func.sum(UsageLog.tokens_total).label("tokens_total"),
            func.sum(UsageLog.audio_seconds).label("audio_seconds"),
            func.sum(CONFIRMED_USD).label("confirmed_usd"),
            func.sum(UNCERTAIN_USD).label("uncertain_usd"),
            func.sum(UsageLog.energy_charged).label("energy_charged"),
        )
        .where(col(UsageLog.workspace_id) == workspace_id)
        .group_by(*kinds)
        .order_by(*kinds)
    )
    if job_key is not None:
        query = query.where(col(UsageLog.job_key) == job_key)
    if user_id is not None:
        query = query.where(col(UsageLog.user_id) == user_id)
    if since is not None:
        query = query.where(col(UsageLog.created_at) >= since)
    rows = (await tx.execute(query)).mappings().all()
    return Costs(lines=tuple(CostLine(**row) for row in rows))
