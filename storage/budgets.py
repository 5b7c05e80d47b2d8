"""Dollar envelopes. A cap bounds what is reserved, confirmed and uncertain together, under any concurrency."""

from decimal import Decimal

from sqlalchemy import or_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from domain.errors import BudgetExhausted, NotFound
from storage.database import changed_one
from storage.tables import Budget


def job_scope(job_key: str) -> str:
    """A job spends from an envelope of its own, so that jobs do not queue on one row."""
    return f"job:{job_key}"


async def open_envelope(tx: AsyncSession, workspace_id: str, scope: str, cap_usd: Decimal | None) -> None:
    """Create the envelope once; a later call leaves it as it is."""
    row = Budget(workspace_id=workspace_id, scope=scope, cap_usd=cap_usd).model_dump()
    await tx.execute(insert(Budget).values(**row).on_conflict_do_nothing())


async def reserve(tx: AsyncSession, workspace_id: str, scope: str, usd: Decimal) -> None:
    """Set dollars aside. The condition is in the UPDATE itself, so that no race can overdraw.

    Raises:
        BudgetExhausted: the envelope is missing, or what is left does not cover `usd`.
    """
    taken = Budget.reserved_usd + Budget.confirmed_usd + Budget.uncertain_usd
    within_cap = (
        update(Budget)
        .where(
            col(Budget.workspace_id) == workspace_id,
            col(Budget.scope) == scope,
            or_(col(Budget.cap_usd).is_(None), col(Budget.cap_usd) >= taken + usd),
        )
        .values(reserved_usd=Budget.reserved_usd + usd)
    )
    if not await changed_one(tx, within_cap):
        raise BudgetExhausted(f"{scope}: less than ${usd} is left, which this call may cost")


async def move(
    tx: AsyncSession,
    workspace_id: str,
    scope: str,
    *,
    reserved: Decimal = Decimal(0),
    confirmed: Decimal = Decimal(0),
    uncertain: Decimal = Decimal(0),
) -> None:
    """Add the (signed) amounts to the envelope's three accounts.

    Raises:
        NotFound: there is no such envelope, and dollars must not vanish.
    """
    amounts = (
        update(Budget)
        .where(col(Budget.workspace_id) == workspace_id, col(Budget.scope) == scope)
        .values(
            reserved_usd=Budget.reserved_usd + reserved,
            confirmed_usd=Budget.confirmed_usd + confirmed,
            uncertain_usd=Budget.uncertain_usd + uncertain,
        )
    )
    if not await changed_one(tx, amounts):
        raise NotFound(f"workspace {workspace_id!r} has no envelope {scope!r}")
