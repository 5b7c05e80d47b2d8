"""Cost reports, from the usage rows and from the totals of those that are purged."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import ColumnElement, Select, case, extract, func, select, union_all
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from parley.domain.costs import CostLine, Costs
from parley.domain.pricing import BATCH
from parley.domain.requests import Provider
from parley.storage.tables import Attempt, UsageLog, UsageTotal

# The cost of a usage row as one of the two, 0 as the other.
CONFIRMED_USD = case((col(UsageLog.confirmed), UsageLog.cost_usd), else_=0)
UNCERTAIN_USD = case((col(UsageLog.confirmed), 0), else_=UsageLog.cost_usd)
# A model's speed is that of so many replies.
REPLIES_OF_A_SPEED = 200
KINDS = ("provider", "model", "action", "simulated")
SUMS = ("attempts", "tokens_total", "audio_seconds", "confirmed_usd", "uncertain_usd", "energy_charged")


async def total_usd(tx: AsyncSession, workspace_id: str, job_key: str) -> Decimal:
    """What a job's attempts have cost in USD, uncertain cost included."""
    of_job = (col(UsageLog.workspace_id) == workspace_id, col(UsageLog.job_key) == job_key)
    return (await tx.execute(select(func.sum(UsageLog.cost_usd)).where(*of_job))).scalar() or Decimal(0)


def word_of_step() -> ColumnElement[str]:
    """The first word of a request's step, which names the phase of a job: `{job_key}/{word}-…`."""
    return func.split_part(func.split_part(UsageLog.request_id, "/", 2), "-", 1)


async def tokens_by_step(tx: AsyncSession, workspace_id: str, job_key: str) -> dict[str, int]:
    """The tokens of a job by the first word of its requests' steps: `{job_key}/{word}-…`."""
    word = word_of_step()
    query = (
        select(word, func.sum(UsageLog.tokens_total))
        .where(col(UsageLog.workspace_id) == workspace_id, col(UsageLog.job_key) == job_key)
        .group_by(word)
    )
    return {name: int(tokens) for name, tokens in (await tx.execute(query)).all()}


async def seconds_per_token(tx: AsyncSession, workspace_id: str, provider: Provider, model: str) -> float | None:
    """The median time of a model's last replies, in seconds per token of the reply. None: none is on record."""
    seconds = extract("epoch", col(Attempt.ended_at) - col(Attempt.started_at))
    last = (
        select((seconds / col(UsageLog.tokens_completion)).label("each"))
        .join(Attempt, col(Attempt.id) == col(UsageLog.attempt_id))
        .where(
            col(UsageLog.workspace_id) == workspace_id,
            col(UsageLog.provider) == provider.value,
            col(UsageLog.model) == model,
            col(UsageLog.outcome) == "settled",
            col(UsageLog.tokens_completion) > 0,
            col(Attempt.rates)["price_class"].astext != BATCH,  # it has waited for hours
        )
        .order_by(col(UsageLog.created_at).desc())
        .limit(REPLIES_OF_A_SPEED)
        .subquery()
    )
    median = (await tx.execute(select(func.percentile_cont(0.5).within_group(last.c.each)))).scalar()
    return None if median is None else float(median)


async def costs(
    tx: AsyncSession,
    workspace_id: str,
    *,
    job_key: str | None = None,
    user_id: str | None = None,
    since: datetime | None = None,
) -> Costs:
    """A workspace's spending by provider, model and action, optionally of one job, one user, or since a time.

    Purged rows are in the sums unless they are of one job or one user; a purged day of `since` counts whole.
    """
    logged = _logged().where(col(UsageLog.workspace_id) == workspace_id)
    totals = _totals().where(col(UsageTotal.workspace_id) == workspace_id)
    if job_key is not None:
        logged = logged.where(col(UsageLog.job_key) == job_key)
    if user_id is not None:
        logged = logged.where(col(UsageLog.user_id) == user_id)
    if since is not None:
        logged = logged.where(col(UsageLog.created_at) >= since)
        totals = totals.where(col(UsageTotal.day) >= since.astimezone(UTC).date())
    spent = (union_all(logged, totals) if job_key is None and user_id is None else logged).subquery()
    kinds = [spent.c[name] for name in KINDS]
    sums = [func.sum(spent.c[name]).label(name) for name in SUMS]
    rows = (await tx.execute(select(*kinds, *sums).group_by(*kinds).order_by(*kinds))).mappings().all()
    return Costs(lines=tuple(CostLine(**row) for row in rows))


def _logged() -> Select[*tuple[Any, ...]]:
    """One row per kind of usage row."""
    kinds = [col(getattr(UsageLog, name)) for name in KINDS]
    return select(
        *kinds,
        func.count().label("attempts"),
        func.sum(UsageLog.tokens_total).label("tokens_total"),
        func.sum(UsageLog.audio_seconds).label("audio_seconds"),
        func.sum(CONFIRMED_USD).label("confirmed_usd"),
        func.sum(UNCERTAIN_USD).label("uncertain_usd"),
        func.sum(UsageLog.energy_charged).label("energy_charged"),
    ).group_by(*kinds)


def _totals() -> Select[*tuple[Any, ...]]:
    """What is purged, in the same columns."""
    return select(*(col(getattr(UsageTotal, name)) for name in (*KINDS, *SUMS)))
