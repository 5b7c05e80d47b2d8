"""Alerts on a week's spending."""

from collections.abc import Sequence
from decimal import Decimal

from sqlalchemy import func, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from parley.domain.housekeeping import Week
from parley.storage.database import NOW
from parley.storage.tables import CostAlert, OutboxEvent, UsageLog
from parley.storage.usage import UNCERTAIN_USD

EVENT = "cost_alert"


async def raise_alerts(tx: AsyncSession, week: Week, threshold_usd: Decimal) -> Sequence[CostAlert]:
    """Store an alert and an event, once, for each workspace that spent more than the threshold in a week.

    Covers all workspaces, as housekeeping does. Returns the new alerts.
    """
    spent = func.sum(UsageLog.cost_usd)
    uncertain = func.sum(UNCERTAIN_USD)
    spenders = (
        select(col(UsageLog.workspace_id), literal(week.name), literal(threshold_usd), spent, uncertain, NOW)
        .where(col(UsageLog.created_at) >= week.begins, col(UsageLog.created_at) < week.ends)
        .group_by(col(UsageLog.workspace_id))
        .having(spent > threshold_usd)
        .order_by(col(UsageLog.workspace_id))
    )
    columns = ["workspace_id", "period", "threshold_usd", "spent_usd", "uncertain_usd", "created_at"]
    statement = insert(CostAlert).from_select(columns, spenders).on_conflict_do_nothing().returning(CostAlert)
    alerts = (await tx.execute(statement)).scalars().all()
    tx.add_all([_event(alert, week) for alert in alerts])
    return alerts


async def alerts(tx: AsyncSession, workspace_id: str, *, limit: int = 52) -> Sequence[CostAlert]:
    """A workspace's alerts, the newest first."""
    query = select(CostAlert).where(col(CostAlert.workspace_id) == workspace_id)
    return (await tx.execute(query.order_by(col(CostAlert.period).desc()).limit(limit))).scalars().all()


def _event(alert: CostAlert, week: Week) -> OutboxEvent:
    payload = {
        "period": alert.period,
        "begins": week.begins.isoformat(),
        "ends": week.ends.isoformat(),
        "spent_usd": str(alert.spent_usd),
        "uncertain_usd": str(alert.uncertain_usd),
        "threshold_usd": str(alert.threshold_usd),
    }
    return OutboxEvent(workspace_id=alert.workspace_id, kind=EVENT, key=f"{EVENT}:{alert.period}", payload=payload)
