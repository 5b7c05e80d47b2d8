"""Dollar envelopes. A cap bounds what is reserved, confirmed and uncertain together, under any concurrency.

Each job has one envelope. Every attempt also counts on its workspace's day (UTC, the day on which it started). The caps
of a workspace bound its day, its ISO week and its month, which are sums over days.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import String, delete, literal, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from parley.domain.budgets import CapView, Period
from parley.domain.errors import BudgetExhausted, NotFound
from parley.domain.model import Model
from parley.storage.database import NOW
from parley.storage.driver import Query, defer, fetch
from parley.storage.rows import add
from parley.storage.tables import USD, Budget, SpendingCap

# Statements that every paid call needs are built once: building one takes as long as running it. Those that are
# deferred divide by zero where they change no row: see `driver.defer`.
RESERVE = text("""
    WITH changed AS (
        UPDATE budgets SET reserved_usd = reserved_usd + :usd
        WHERE workspace_id = :workspace AND scope = :scope
          AND (cap_usd IS NULL OR cap_usd >= reserved_usd + confirmed_usd + uncertain_usd + :usd)
        RETURNING 1)
    SELECT 1 / count(*) FROM changed""")
OPEN_AND_RESERVE = text("""
    WITH changed AS (
        INSERT INTO budgets (workspace_id, scope, cap_usd, reserved_usd, confirmed_usd, uncertain_usd)
        SELECT :workspace, :scope, CAST(:cap AS numeric), CAST(:usd AS numeric), 0, 0
        WHERE CAST(:cap AS numeric) IS NULL OR CAST(:cap AS numeric) >= CAST(:usd AS numeric)
        ON CONFLICT (workspace_id, scope) DO UPDATE SET reserved_usd = budgets.reserved_usd + excluded.reserved_usd
        WHERE budgets.cap_usd IS NULL OR budgets.cap_usd >=
              budgets.reserved_usd + budgets.confirmed_usd + budgets.uncertain_usd + excluded.reserved_usd
        RETURNING 1)
    SELECT 1 / count(*) FROM changed""")
MOVE = text("""
    WITH changed AS (
        UPDATE budgets SET reserved_usd = reserved_usd + :reserved, confirmed_usd = confirmed_usd + :confirmed,
                           uncertain_usd = uncertain_usd + :uncertain
        WHERE workspace_id = :workspace AND scope = :scope
        RETURNING 1)
    SELECT 1 / count(*) FROM changed""")
# A shared lock: claims do not wait for each other, and the set of caps does not change before they commit. It has
# its own statement, because a statement sees only what was committed when it began.
HOLD_CAPS = text("SELECT pg_advisory_xact_lock_shared(hashtextextended('caps:' || :workspace, 0))")
CHANGE_CAPS = text("SELECT pg_advisory_xact_lock(hashtextextended('caps:' || :workspace, 0))")
LOCK_CAPS = text("SELECT period FROM spending_caps WHERE workspace_id = :workspace ORDER BY period FOR UPDATE")
RESERVE_DAY = text("""
    INSERT INTO budgets (workspace_id, scope, reserved_usd, confirmed_usd, uncertain_usd)
    VALUES (:workspace, :scope, :usd, 0, 0)
    ON CONFLICT (workspace_id, scope) DO UPDATE SET reserved_usd = budgets.reserved_usd + excluded.reserved_usd""")
# Scopes of days sort as the days do. Periods have the names that date_trunc and interval know.
CAPS = text("""
    WITH periods AS MATERIALIZED (
        SELECT period, cap_usd, date_trunc(period, moment) AS begins,
               date_trunc(period, moment) + CAST('1 ' || period AS interval) AS ends
        FROM spending_caps, (SELECT coalesce(CAST(:moment AS timestamptz), now()) AT TIME ZONE 'UTC' AS moment) AS today
        WHERE workspace_id = :workspace)
    SELECT p.period, p.cap_usd, coalesce(sum(b.reserved_usd), 0) AS reserved_usd,
           coalesce(sum(b.confirmed_usd), 0) AS confirmed_usd, coalesce(sum(b.uncertain_usd), 0) AS uncertain_usd
    FROM periods p LEFT JOIN budgets b
      ON b.workspace_id = :workspace AND b.scope >= to_char(p.begins, '"day:"YYYY-MM-DD')
                                     AND b.scope < to_char(p.ends, '"day:"YYYY-MM-DD')
    GROUP BY p.period, p.cap_usd""").columns(
    period=String, cap_usd=USD, reserved_usd=USD, confirmed_usd=USD, uncertain_usd=USD
)


class Envelope(Model):
    """The budget of a job in USD; None means no limit."""

    cap_usd: Decimal | None


def job_scope(job_key: str) -> str:
    """Each job has a separate envelope, so that jobs do not wait for one row's lock."""
    return f"job:{job_key}"


def day_scope(moment: datetime) -> str:
    return f"day:{moment.astimezone(UTC).date()}"


async def open_envelope(tx: AsyncSession, workspace_id: str, scope: str, cap_usd: Decimal | None) -> None:
    """Create the envelope if it does not exist."""
    await add(tx, Budget(workspace_id=workspace_id, scope=scope, cap_usd=cap_usd))


async def change_envelope(tx: AsyncSession, workspace_id: str, scope: str, cap_usd: Decimal) -> bool:
    """Set the cap of an envelope, in USD. Returns False if it is missing, or more than that is spent and reserved."""
    used = col(Budget.reserved_usd) + col(Budget.confirmed_usd) + col(Budget.uncertain_usd)
    ours = (col(Budget.workspace_id) == workspace_id, col(Budget.scope) == scope)
    found = await tx.execute(update(Budget).where(*ours, used <= cap_usd).values(cap_usd=cap_usd).returning(literal(1)))
    return found.first() is not None


async def reserve(tx: AsyncSession, workspace_id: str, scope: str, usd: Decimal, opens: Envelope | None = None) -> None:
    """Reserve dollars with the transaction's next statement. The statement itself checks, so no race can overdraw.

    `opens`: the envelope to create if there is none. An existing one's cap is unchanged and bounds `usd`.

    Raises:
        BudgetExhausted: from the next statement or the commit: the envelope is missing, or does not cover `usd`.
    """
    statement, cap = (OPEN_AND_RESERVE, {"cap": opens.cap_usd}) if opens else (RESERVE, {})
    exhausted = BudgetExhausted(f"less than ${usd} of the job's budget is left, which is what this request may cost")
    await defer(tx, statement, {"workspace": workspace_id, "scope": scope, "usd": usd, **cap}, otherwise=exhausted)


async def lock_caps(tx: AsyncSession, workspace_id: str) -> bool:
    """Lock a workspace's caps until the transaction ends; returns whether it has any.

    To avoid deadlocks, call this once, before any day changes: see docs/paid-call.md.
    """
    await defer(tx, HOLD_CAPS, {"workspace": workspace_id})
    return await fetch(tx, Query(LOCK_CAPS, {"workspace": workspace_id}, bool))


async def lock(tx: AsyncSession, workspace_id: str, scope: str) -> bool:
    """Lock an envelope until the transaction ends, so that no other one changes it. Returns whether it exists."""
    ours = (col(Budget.workspace_id) == workspace_id, col(Budget.scope) == scope)
    return (await tx.execute(select(col(Budget.scope)).where(*ours).with_for_update())).first() is not None


async def reserve_day(tx: AsyncSession, workspace_id: str, moment: datetime, usd: Decimal, *, is_capped: bool) -> None:
    """Count dollars on the day of `moment`, within the workspace's caps.

    The caps are locked while they are compared, so that claims of two days cannot overdraw a week between them.
    A workspace without caps only counts. Call it last: the day's row is shared by all of a workspace's requests.
    `is_capped`: what `lock_caps` returned.

    Raises:
        BudgetExhausted: a cap does not cover `usd`; the transaction must roll back.
    """
    await defer(tx, RESERVE_DAY, {"workspace": workspace_id, "scope": day_scope(moment), "usd": usd})
    for cap in await fetch(tx, caps(workspace_id, moment)) if is_capped else ():
        if cap.left_usd < 0:
            left = max(cap.left_usd + usd, Decimal(0))
            raise BudgetExhausted(
                f"${left} of the {cap.period.value}'s ${cap.cap_usd} is left, and this request may cost ${usd}"
            )


async def move(
    tx: AsyncSession,
    workspace_id: str,
    scope: str,
    *,
    reserved: Decimal = Decimal(0),
    confirmed: Decimal = Decimal(0),
    uncertain: Decimal = Decimal(0),
) -> None:
    """Add the (signed) amounts to the envelope's three accounts, with the transaction's next statement.

    Raises:
        NotFound: from the next statement or the commit: there is no such envelope, and the move would be lost.
    """
    amounts = {"reserved": reserved, "confirmed": confirmed, "uncertain": uncertain}
    missing = NotFound(f"workspace {workspace_id!r} has no envelope {scope!r}")
    await defer(tx, MOVE, {"workspace": workspace_id, "scope": scope, **amounts}, otherwise=missing)


async def set_cap(tx: AsyncSession, workspace_id: str, period: Period, cap_usd: Decimal | None) -> None:
    """Limit what a workspace may spend in each period, in USD; None removes the limit. Waits for claims under way."""
    await tx.execute(CHANGE_CAPS, {"workspace": workspace_id})
    if cap_usd is None:
        ours = col(SpendingCap.workspace_id) == workspace_id
        await tx.execute(delete(SpendingCap).where(ours, col(SpendingCap.period) == period.value))
        return
    changes = {"cap_usd": cap_usd, "updated_at": NOW}
    upsert = insert(SpendingCap).values(workspace_id=workspace_id, period=period.value, **changes)
    await tx.execute(upsert.on_conflict_do_update(index_elements=["workspace_id", "period"], set_=changes))


def caps(workspace_id: str, moment: datetime | None = None) -> Query[list[CapView]]:
    """The workspace's caps with the amounts of a day, its week and its month, the shortest period first.

    `moment`: in which day; default: now, by the database's clock.
    """

    def read(rows: Sequence[Any]) -> list[CapView]:
        found = {Period(row.period): row._asdict() for row in rows}
        return [CapView(**{**found[period], "period": period}) for period in Period if period in found]

    return Query(CAPS, {"workspace": workspace_id, "moment": moment}, read)
