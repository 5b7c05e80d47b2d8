"""Energy per user: grant, check, reserve, release, charge. Each movement is an entry; a balance never overdraws."""

from sqlalchemy import text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from parley.domain.errors import InsufficientEnergy, NotFound
from parley.storage.tables import EnergyAccount, EnergyEntry, utc_now

# What each movement does to what is reserved and charged.
MOVEMENTS = {"reserve": (1, 0), "release": (-1, 0), "charge": (-1, 1)}
# What is available covers what it takes, or nothing is changed: a charge and a release take nothing from it.
MOVE = text("""
    WITH moved AS (
        UPDATE energy_accounts
        SET reserved = reserved + CAST(:reserved AS integer), charged = charged + CAST(:charged AS integer)
        WHERE workspace_id = :workspace AND user_id = :user
          AND granted - charged - reserved >= CAST(:reserved AS integer) + CAST(:charged AS integer)
        RETURNING workspace_id, user_id, granted - charged - reserved AS available)
    INSERT INTO energy_entries (workspace_id, user_id, kind, amount, request_id, created_at)
    SELECT workspace_id, user_id, :kind, :amount, :request, :now FROM moved
    RETURNING (SELECT available FROM moved)""")


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
    if amount and await _move(tx, workspace_id, user_id, "reserve", amount, request_id) is None:
        raise InsufficientEnergy(f"user {user_id!r} has less than the {amount} energy that this action needs")


async def release(tx: AsyncSession, workspace_id: str, user_id: str, amount: int, request_id: str) -> None:
    """Give a reservation back.

    Raises:
        NotFound: there is no such account.
    """
    await _move_reserved(tx, workspace_id, user_id, "release", amount, request_id)


async def charge(tx: AsyncSession, workspace_id: str, user_id: str, amount: int, request_id: str) -> int:
    """Turn a reservation of `amount` into a charge; returns what is still available.

    Raises:
        NotFound: there is no such account.
    """
    return await _move_reserved(tx, workspace_id, user_id, "charge", amount, request_id)


async def reserve_if_possible(tx: AsyncSession, workspace_id: str, user_id: str, amount: int, request_id: str) -> int:
    """Reserve for a reply whose reservation is gone (swept, or late). What does not fit costs us, not the user."""
    return 0 if await _move(tx, workspace_id, user_id, "reserve", amount, request_id) is None else amount


async def _move_reserved(
    tx: AsyncSession, workspace_id: str, user_id: str, kind: str, amount: int, request_id: str
) -> int:
    """Move what was set aside: wherever there is an account, it covers that."""
    left = await _move(tx, workspace_id, user_id, kind, amount, request_id)
    if left is None:
        raise NotFound(f"user {user_id!r} has no energy account in workspace {workspace_id!r}")
    return left


async def _move(
    tx: AsyncSession, workspace_id: str, user_id: str, kind: str, amount: int, request_id: str
) -> int | None:
    """Make one movement, and enter it. What is available then; None without an account that covers it."""
    reserved, charged = MOVEMENTS[kind]
    moved = await tx.execute(
        MOVE,
        {
            "workspace": workspace_id,
            "user": user_id,
            "kind": kind,
            "amount": amount,
            "reserved": reserved * amount,
            "charged": charged * amount,
            "request": request_id,
            "now": utc_now(),
        },
    )
    return moved.scalar()
