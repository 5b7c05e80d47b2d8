"""Energy per user: grant, check, reserve, release, charge. Each movement is an entry; a balance never overdraws."""

from typing import Any

from sqlalchemy import text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from parley.domain.errors import InsufficientEnergy, NotFound
from parley.storage.database import NOW
from parley.storage.driver import defer
from parley.storage.tables import EnergyAccount, EnergyEntry

# The sign of each movement's change to `reserved` and `charged`.
MOVEMENTS = {"reserve": (1, 0), "release": (-1, 0), "charge": (-1, 1)}
# Changes nothing if the available energy does not cover the movement. A charge and a release take none of it.
MOVE = """
    WITH moved AS (
        UPDATE energy_accounts
        SET reserved = reserved + CAST(:reserved AS integer), charged = charged + CAST(:charged AS integer)
        WHERE workspace_id = :workspace AND user_id = :user
          AND granted - charged - reserved >= CAST(:reserved AS integer) + CAST(:charged AS integer)
        RETURNING workspace_id, user_id),
    entered AS (
        INSERT INTO energy_entries (workspace_id, user_id, kind, amount, request_id, created_at)
        SELECT workspace_id, user_id, :kind, CAST(:amount AS integer), :request, clock_timestamp() FROM moved
        RETURNING 1)"""
# Divides by zero if nothing is moved: see `driver.defer`.
MOVE_OR_FAIL = text(f"{MOVE} SELECT 1 / count(*) FROM entered")  # noqa: S608 - constants
MOVE_IF_POSSIBLE = text(f"{MOVE} SELECT count(*) FROM entered")  # noqa: S608 - constants


def available(account: EnergyAccount) -> int:
    return account.granted - account.charged - account.reserved


async def account(tx: AsyncSession, workspace_id: str, user_id: str) -> EnergyAccount | None:
    return await tx.get(EnergyAccount, (workspace_id, user_id))


async def open_account(tx: AsyncSession, workspace_id: str, user_id: str, *, starting_energy: int) -> EnergyAccount:
    """The user's account, created with the starting grant if it does not exist."""
    await grant(tx, workspace_id, user_id, starting_energy, key="starting grant")
    found = await tx.get(EnergyAccount, (workspace_id, user_id), populate_existing=True)
    assert found is not None  # noqa: S101 - grant has just created it
    return found


async def grant(tx: AsyncSession, workspace_id: str, user_id: str, amount: int, *, key: str) -> bool:
    """Give energy once per `key`. Returns whether this call gave it."""
    account_row = insert(EnergyAccount).values(workspace_id=workspace_id, user_id=user_id, tier="free")
    await tx.execute(account_row.values(granted=0, charged=0, charged_earlier=0, reserved=0).on_conflict_do_nothing())
    entry = EnergyEntry(
        workspace_id=workspace_id, user_id=user_id, kind="grant", amount=amount, grant_key=key
    ).model_dump(exclude={"id", "created_at"})
    given = await tx.execute(
        insert(EnergyEntry).values(**entry, created_at=NOW).on_conflict_do_nothing().returning(col(EnergyEntry.id))
    )
    if given.first() is None:
        return False
    await tx.execute(
        update(EnergyAccount)
        .where(col(EnergyAccount.workspace_id) == workspace_id, col(EnergyAccount.user_id) == user_id)
        .values(granted=EnergyAccount.granted + amount)
    )
    return True


async def set_tier(tx: AsyncSession, workspace_id: str, user_id: str, tier: str) -> None:
    await tx.execute(
        update(EnergyAccount)
        .where(col(EnergyAccount.workspace_id) == workspace_id, col(EnergyAccount.user_id) == user_id)
        .values(tier=tier)
    )


async def reserve(tx: AsyncSession, workspace_id: str, user_id: str, amount: int, request_id: str) -> None:
    """Reserve `amount` with the transaction's next statement. The statement itself checks, so no race can overdraw.

    Raises:
        InsufficientEnergy: from the next statement or the commit: less than `amount` is available.
    """
    if amount:
        short = InsufficientEnergy(f"user {user_id!r} has less than the {amount} energy that this action needs")
        values = _movement(workspace_id, user_id, "reserve", amount, request_id)
        await defer(tx, MOVE_OR_FAIL, values, otherwise=short)


async def release(tx: AsyncSession, workspace_id: str, user_id: str, amount: int, request_id: str) -> None:
    """Release a reservation with the transaction's next statement.

    Raises:
        NotFound: from the next statement or the commit: there is no such account.
    """
    await _move_reserved(tx, workspace_id, user_id, "release", amount, request_id)


async def charge(tx: AsyncSession, workspace_id: str, user_id: str, amount: int, request_id: str) -> None:
    """Turn a reservation of `amount` into a charge with the transaction's next statement.

    Raises:
        NotFound: from the next statement or the commit: there is no such account.
    """
    await _move_reserved(tx, workspace_id, user_id, "charge", amount, request_id)


async def reserve_if_possible(tx: AsyncSession, workspace_id: str, user_id: str, amount: int, request_id: str) -> int:
    """Reserve for a reply whose reservation was released. Returns `amount`, or 0 if the account is short."""
    values = _movement(workspace_id, user_id, "reserve", amount, request_id)
    return amount * (await tx.execute(MOVE_IF_POSSIBLE, values)).scalar_one()


async def _move_reserved(
    tx: AsyncSession, workspace_id: str, user_id: str, kind: str, amount: int, request_id: str
) -> None:
    """Move reserved energy. An existing account always covers it."""
    missing = NotFound(f"user {user_id!r} has no energy account in workspace {workspace_id!r}")
    values = _movement(workspace_id, user_id, kind, amount, request_id)
    await defer(tx, MOVE_OR_FAIL, values, otherwise=missing)


def _movement(workspace_id: str, user_id: str, kind: str, amount: int, request_id: str) -> dict[str, Any]:
    reserved, charged = MOVEMENTS[kind]
    return {
        "workspace": workspace_id,
        "user": user_id,
        "kind": kind,
        "amount": amount,
        "reserved": reserved * amount,
        "charged": charged * amount,
        "request": request_id,
    }
