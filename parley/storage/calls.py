"""The rows of paid calls and of their attempts: opened, locked and read. What becomes of them is the ledger's.

Rows are handed out as plain values that no session watches; `rows.save` writes them. Statements that every paid call
needs are built once: building one takes as long as running it.
"""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Interval, and_, bindparam, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
from sqlmodel import col

from parley.domain.calls import Provider
from parley.domain.errors import NotFound
from parley.storage import breaker
from parley.storage.breaker import NOW
from parley.storage.rows import table
from parley.storage.tables import Call, CallAttempt, EnergyAccount, JournaledReply, UsageLog

OF_REQUEST = (col(Call.workspace_id) == bindparam("workspace"), col(Call.request_id) == bindparam("request"))
OF_ATTEMPT = (col(CallAttempt.workspace_id) == bindparam("workspace"), col(CallAttempt.id) == bindparam("attempt"))
ATTEMPT = select(CallAttempt).where(*OF_ATTEMPT).execution_options(populate_existing=True)
LOCK = select(Call).where(*OF_REQUEST).with_for_update().execution_options(populate_existing=True)
SAME = aliased(CallAttempt)
REQUEST_OF_ATTEMPT = (
    select(col(SAME.request_id))
    .where(col(SAME.workspace_id) == bindparam("workspace"), col(SAME.id) == bindparam("attempt"))
    .scalar_subquery()
)
# Both rows are locked, though one would do: whoever waited for the one must not read the other as it was before. Each
# is found by itself: joined, a database that has not counted its rows yet compares all of a workspace with each other.
LOCK_WITH_ATTEMPT = (
    select(Call, CallAttempt, breaker.is_troubled(table(CallAttempt).c.provider))
    .where(*OF_ATTEMPT, col(Call.workspace_id) == bindparam("workspace"), col(Call.request_id) == REQUEST_OF_ATTEMPT)
    .where(col(CallAttempt.request_id) == Call.request_id)
    .with_for_update()
    .execution_options(populate_existing=True)
)
OPEN = (
    insert(table(Call))
    .values(
        lease_until=NOW + bindparam("lease", type_=Interval),
        expires_at=NOW + bindparam("reservation", type_=Interval),
    )
    .on_conflict_do_nothing()
    .returning(breaker.CLOSED_GENERATION)
)
ACCOUNT_OF_CALL = and_(col(EnergyAccount.workspace_id) == Call.workspace_id, col(EnergyAccount.user_id) == Call.user_id)
JOURNALED = (
    select(CallAttempt, col(JournaledReply.payload), col(UsageLog.energy_charged), EnergyAccount)
    .select_from(Call)
    .join(CallAttempt, col(CallAttempt.id) == Call.settled_attempt_id)
    .join(JournaledReply, col(JournaledReply.attempt_id) == CallAttempt.id)
    .join(UsageLog, col(UsageLog.attempt_id) == CallAttempt.id)
    .outerjoin(EnergyAccount, ACCOUNT_OF_CALL)
    .where(*OF_REQUEST)
)


async def open_leased(
    tx: AsyncSession, call: Call, provider: Provider, *, lease_seconds: float, reservation_seconds: float
) -> int | None:
    """Write a new call that its owner holds from now on; None where there is one under its id.

    Returns `breaker.CLOSED_GENERATION` of the provider. Nobody else sees the row before the transaction ends.
    """
    row = call.model_dump(exclude={"lease_until", "expires_at"})
    periods = {"lease": timedelta(seconds=lease_seconds), "reservation": timedelta(seconds=reservation_seconds)}
    return (await tx.execute(OPEN, {**row, **periods, "provider": provider.value})).scalar()


async def lock(tx: AsyncSession, workspace_id: str, request_id: str) -> Call:
    """The call's row, locked.

    Raises:
        NotFound: the workspace has no such request.
    """
    call = (await tx.execute(LOCK, {"workspace": workspace_id, "request": request_id})).scalar()
    if call is None:
        raise NotFound(f"no request {request_id!r} in workspace {workspace_id!r}")
    tx.expunge(call)
    return call


async def lock_with_attempt(tx: AsyncSession, workspace_id: str, attempt_id: UUID) -> tuple[Call, CallAttempt, bool]:
    """An attempt with its call, locked, and `breaker.is_troubled`. An attempt is only changed under its call's row.

    Raises:
        NotFound: the workspace has no such attempt.
    """
    found = (await tx.execute(LOCK_WITH_ATTEMPT, {"workspace": workspace_id, "attempt": attempt_id})).first()
    if found is None:
        raise NotFound(f"no attempt {attempt_id} in workspace {workspace_id!r}")
    call, attempt, troubled = found
    tx.expunge(call)
    tx.expunge(attempt)
    return call, attempt, troubled


async def attempt(tx: AsyncSession, workspace_id: str, attempt_id: UUID) -> CallAttempt | None:
    found = (await tx.execute(ATTEMPT, {"workspace": workspace_id, "attempt": attempt_id})).scalar()
    if found:
        tx.expunge(found)
    return found


async def attempts(tx: AsyncSession, call: Call) -> list[CallAttempt]:
    """The call's attempts so far, the latest first."""
    query = select(CallAttempt).where(
        col(CallAttempt.workspace_id) == call.workspace_id, col(CallAttempt.request_id) == call.request_id
    )
    found = list((await tx.execute(query.order_by(col(CallAttempt.number).desc()))).scalars())
    for one in found:
        tx.expunge(one)
    return found


async def journaled(
    tx: AsyncSession, workspace_id: str, request_id: str
) -> tuple[CallAttempt, dict[str, Any], int, EnergyAccount | None]:
    """Of a settled call: the attempt that won, its reply as JSON, the energy charged, and the user's account.

    Raises:
        NotFound: the workspace has no such request, or it is not settled.
    """
    found = (await tx.execute(JOURNALED, {"workspace": workspace_id, "request": request_id})).first()
    if found is None:
        raise NotFound(f"no reply to {request_id!r} in workspace {workspace_id!r}")
    won, payload, charged, account = found
    return won, payload, charged, account


async def lease_left(tx: AsyncSession, call: Call) -> float:
    """Seconds left of the lease by the database's clock; 0 when nobody holds it."""
    if call.owner_attempt_id is None or call.lease_until is None:
        return 0.0
    now: datetime = (await tx.execute(select(NOW))).scalar_one()
    return max((call.lease_until - now).total_seconds(), 0.0)


async def take_lease(
    tx: AsyncSession, call: Call, attempt_id: UUID, *, lease_seconds: float, reservation_seconds: float
) -> None:
    """Make the attempt the owner. Whoever is has the request's energy reserved."""
    as_owner = (
        update(Call)
        .where(col(Call.workspace_id) == call.workspace_id, col(Call.request_id) == call.request_id)
        .values(
            owner_attempt_id=attempt_id,
            energy_reserved=call.energy_price,
            lease_until=NOW + timedelta(seconds=lease_seconds),
            expires_at=NOW + timedelta(seconds=reservation_seconds),
        )
    )
    await tx.execute(as_owner.execution_options(synchronize_session=False))
