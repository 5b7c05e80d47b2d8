"""The attempts of a job, for its page: when each began and ended, what it cost, and why it failed."""

from typing import Any

from sqlalchemy import and_, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from parley.storage.tables import Attempt, PaidRequest, UsageLog

REQUEST_OF_ATTEMPT = and_(
    col(PaidRequest.workspace_id) == Attempt.workspace_id, col(PaidRequest.request_id) == Attempt.request_id
)
USAGE_OF_ATTEMPT = and_(col(UsageLog.workspace_id) == Attempt.workspace_id, col(UsageLog.attempt_id) == col(Attempt.id))


async def of_job(tx: AsyncSession, workspace_id: str, job_key: str, *, limit: int) -> list[dict[str, Any]]:
    """The latest attempts of a job, the newest first. `total`: how many it has."""
    query = (
        select(
            col(Attempt.id).label("attempt_id"),
            *(
                col(getattr(Attempt, name))
                for name in ("request_id", "number", "provider", "model", "simulated", "state")
            ),
            *(col(getattr(Attempt, name)) for name in ("upper_bound_usd", "joint_id", "started_at", "ended_at")),
            func.coalesce(Attempt.error_type, "").label("error"),
            func.coalesce(Attempt.error, "").label("message"),
            *(col(getattr(UsageLog, name)) for name in ("cost_usd", "confirmed", "answered_by", "energy_charged")),
            *(col(getattr(UsageLog, name)) for name in ("tokens_prompt", "tokens_completion")),
            func.count().over().label("total"),
        )
        .join(PaidRequest, REQUEST_OF_ATTEMPT)
        .outerjoin(UsageLog, USAGE_OF_ATTEMPT)
        .where(col(PaidRequest.workspace_id) == workspace_id, col(PaidRequest.job_key) == job_key)
        .order_by(col(Attempt.started_at).desc(), col(Attempt.number).desc())
        .limit(limit)
    )
    return [dict(row) for row in (await tx.execute(query)).mappings()]
