"""Energy per user: grant, check, reserve, release, charge. Each movement is an entry; a balance never overdraws."""

from sqlalchemy import update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from domain.errors import InsufficientEnergy, NotFound
from storage.database import changed_one
from storage.tables import EnergyAccount, EnergyEntry


def available(account: EnergyAccount) -> int:
    return account.granted - account.charged - account.reserved


async def account(tx: AsyncSession, workspace_id: str, user_id: str) -> EnergyAccount | None:
    return await tx.get(EnergyAccount, (workspace_id, user_id))


async def open_account(tx: AsyncSession, workspace_id: str, user_id: str, *, starting_energy: int) -> EnergyAccount:
    """The user's account, created with the starting grant on first sight."""
    await grant(tx, workspace_id, user_id, starting_energy, key="starting grant")
    found = await tx.get(EnergyAccount, (workspace_id, user_id), populate_existing=True)
    assert found is not None  # noqa: S101 - grant has just created it
    return found


async def grant(tx: AsyncSession, workspace_id: str, user_id: str, amount: int, *, key: str) -> bool:
    """Give energy once per `key`. Returns whether this call gave it."""
    account_row = insert(EnergyAccount).values(workspace_id=workspace_id, user_id=user_id, tier="free")
    await tx.execute(account_row.values(granted=0, charged=0, reserved=0).on_conflict_do_nothing())
    entry = EnergyEntry(
        workspace_id=workspace_id, user_id=user_id, kind="grant", amount=amount, grant_key=key
    ).model_dump(exclude={"id"})
    given = await tx.execute(
        insert(EnergyEntry).values(**entry).on_conflict_do_nothing().returning(col(EnergyEntry.id))
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
    """Set `amount` aside. The condition is in the UPDATE itself, so that no race can overdraw.

    Raises:
        InsufficientEnergy: less than `amount` is available.
    """
    if amount and not await _try_reserve(tx, workspace_id, user_id, amount):
        raise InsufficientEnergy(f"user {user_id!r} has less than the {amount} energy that this action needs")
    await _enter(tx, workspace_id, user_id, "reserve", amount, request_id)


async def release(tx: AsyncSession, workspace_id: str, user_id: str, amount: int, request_id: str) -> None:
    """Give a reservation back.

    Raises:
        NotFound: there is no such account.
    """
    await _move(tx, workspace_id, user_id, reserved=-amount)
    await _enter(tx, workspace_id, user_id, "release", amount, request_id)


async def charge(tx: AsyncSession, workspace_id: str, user_id: str, amount: int, request_id: str) -> None:
    """Turn a reservation of `amount` into a charge.

    Raises:
        NotFound: there is no such account.
    """
    await _move(tx, workspace_id, user_id, reserved=-amount, charged=amount)
    await _enter(tx, workspace_id, user_id, "charge", amount, request_id)


async def reserve_if_possible(tx: AsyncSession, workspace_id: str, user_id: str, amount: int, request_id: str) -> int:
    """Reserve for a reply whose reservation is gone (swept, or late). What does not fit costs us, not the user."""
    if not await _try_reserve(tx, workspace_id, user_id, amount):
        return 0
    await _enter(tx, workspace_id, user_id, "reserve", amount, request_id)
    return amount


async def _try_reserve(tx: AsyncSession, workspace_id: str, user_id: str, amount: int) -> bool:
    within_balance = (
        update(EnergyAccount)
        .where(
            col(EnergyAccount.workspace_id) == workspace_id,
            col(EnergyAccount.user_id) == user_id,
            col(EnergyAccount.granted) - EnergyAccount.charged - EnergyAccount.reserved >= amount,
        )
        .values(reserved=EnergyAccount.reserved + amount)
    )
    return await changed_one(tx, within_balance)


async def _move(tx: AsyncSession, workspace_id: str, user_id: str, *, reserved: int = 0, charged: int = 0) -> None:
    of_the_user = (
        update(EnergyAccount)
        .where(col(EnergyAccount.workspace_id) == workspace_id, col(EnergyAccount.user_id) == user_id)
        .values(reserved=EnergyAccount.reserved + reserved, charged=EnergyAccount.charged + charged)
    )
    if not await changed_one(tx, of_the_user):
        raise NotFound(f"user {user_id!r} has no energy account in workspace {workspace_id!r}")


async def _enter(tx: AsyncSession, workspace_id: str, user_id: str, kind: str, amount: int, request_id: str) -> None:
    if amount:
        tx.add(EnergyEntry(workspace_id=workspace_id, user_id=user_id, kind=kind, amount=amount, request_id=request_id))
