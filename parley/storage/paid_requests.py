"""The rows of paid requests and of their attempts: opened, locked and read. The ledger decides how they change.

Returned rows are detached from the session; `rows.save` writes them. Statements that every paid request
needs are built once: building one takes as long as running it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import Interval, and_, bindparam, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
from sqlmodel import SQLModel, col

from parley.domain.errors import NotFound
from parley.domain.requests import Provider
from parley.storage import breaker
from parley.storage.database import NOW
from parley.storage.driver import Query, fetch
from parley.storage.rows import place, table
from parley.storage.tables import Attempt, EnergyAccount, JournaledReply, PaidRequest, UsageLog

RowT = TypeVar("RowT", bound=SQLModel)

OF_REQUEST = (
    col(PaidRequest.workspace_id) == bindparam("workspace"),
    col(PaidRequest.request_id) == bindparam("request"),
)
OF_ATTEMPT = (col(Attempt.workspace_id) == bindparam("workspace"), col(Attempt.id) == bindparam("attempt"))
ATTEMPT = select(Attempt).where(*OF_ATTEMPT).execution_options(populate_existing=True)
# The time may be from before the wait for the lock: a lease then seems to last longer than it does, which is safe.
LOCK = select(PaidRequest, NOW).where(*OF_REQUEST).with_for_update().execution_options(populate_existing=True)
SAME = aliased(Attempt)
REQUEST_OF_ATTEMPT = (
    select(col(SAME.request_id))
    .where(col(SAME.workspace_id) == bindparam("workspace"), col(SAME.id) == bindparam("attempt"))
    .scalar_subquery()
)
OF_SAME_USER = and_(
    col(EnergyAccount.workspace_id) == PaidRequest.workspace_id, col(EnergyAccount.user_id) == PaidRequest.user_id
)
ENERGY_LEFT = (
    select(col(EnergyAccount.granted) - col(EnergyAccount.charged) - col(EnergyAccount.reserved))
    .where(OF_SAME_USER)
    .correlate(PaidRequest)
    .scalar_subquery()
)
# Both rows are locked, so that a transaction that waited for one lock does not read an old version of the other row.
# Each is found by its key: with a join and without statistics, PostgreSQL compares all rows of a workspace.
LOCK_WITH_ATTEMPT = (
    select(
        *(column.label(place(row, column.name)) for row in (PaidRequest, Attempt) for column in table(row).columns),
        breaker.is_troubled(table(Attempt).c.provider, table(Attempt).c.workspace_id).label("is_troubled"),
        ENERGY_LEFT.label("energy_left"),
        NOW.label("now"),
    )
    .where(
        *OF_ATTEMPT,
        col(PaidRequest.workspace_id) == bindparam("workspace"),
        col(PaidRequest.request_id) == REQUEST_OF_ATTEMPT,
    )
    .where(col(Attempt.request_id) == PaidRequest.request_id)
    .with_for_update()
)
# The request itself, if one for the same result was booked before it began: see `repeat`.
REPEATED = aliased(PaidRequest)
IS_REPEATED = (
    select(col(REPEATED.result_id))
    .where(col(REPEATED.workspace_id) == bindparam("of_workspace"), col(REPEATED.result_id) == bindparam("of_request"))
    .limit(1)
    .scalar_subquery()
)
# Its times are the database's, and its result depends on other rows.
SET_AT_OPENING = ("created_at", "lease_until", "expires_at", "result_id")
GIVEN_AT_OPENING = [column for column in table(PaidRequest).columns if column.name not in SET_AT_OPENING]
OPEN = (
    insert(table(PaidRequest))
    .values({column.name: bindparam(column.name, type_=column.type) for column in GIVEN_AT_OPENING})
    .values(
        result_id=func.coalesce(bindparam("of_result"), IS_REPEATED),
        created_at=NOW,
        lease_until=NOW + bindparam("lease", type_=Interval),
        expires_at=NOW + bindparam("reservation", type_=Interval),
    )
    .on_conflict_do_nothing()
    .returning(
        *(closed.label(name) for closed, name in zip(breaker.CLOSED_GENERATIONS, breaker.Passes._fields, strict=True)),
        NOW.label("now"),
        col(PaidRequest.result_id),
    )
)
JOURNALED = (
    select(Attempt, col(JournaledReply.payload), col(UsageLog.energy_charged), EnergyAccount)
    .select_from(PaidRequest)
    .join(Attempt, col(Attempt.id) == PaidRequest.settled_attempt_id)
    .join(JournaledReply, col(JournaledReply.attempt_id) == Attempt.id)
    .join(UsageLog, col(UsageLog.attempt_id) == Attempt.id)
    .outerjoin(EnergyAccount, OF_SAME_USER)
    .where(*OF_REQUEST)
)

REPEAT = (
    update(PaidRequest)
    .where(*OF_REQUEST, col(PaidRequest.result_id).is_(None))
    .values(result_id=col(PaidRequest.request_id))
    .execution_options(synchronize_session=False)
)
IS_CHARGED = (
    select(col(UsageLog.attempt_id))
    .join(PaidRequest, col(PaidRequest.settled_attempt_id) == UsageLog.attempt_id)
    .where(
        col(PaidRequest.workspace_id) == bindparam("workspace"),
        or_(col(PaidRequest.request_id) == bindparam("result"), col(PaidRequest.result_id) == bindparam("result")),
        col(UsageLog.energy_charged) > 0,
    )
    .limit(1)
)


async def is_charged(tx: AsyncSession, workspace_id: str, result_id: str) -> bool:
    """Whether the user is charged for one of the requests for a result."""
    return (await tx.execute(IS_CHARGED, {"workspace": workspace_id, "result": result_id})).first() is not None


async def open_leased(
    tx: AsyncSession, request: PaidRequest, provider: Provider, *, lease_seconds: float, reservation_seconds: float
) -> tuple[breaker.Passes, datetime] | None:
    """Insert a new request, leased by its owner. Returns `breaker.CLOSED_GENERATIONS` and the database's time.

    None if the id exists. No other transaction sees the row before this one commits. Its `result_id` is set if another
    request for its result was booked before it.
    """
    row = request.model_dump(exclude={*SET_AT_OPENING})
    row |= {"of_workspace": request.workspace_id, "of_request": request.request_id, "of_result": request.result_id}
    periods = {"lease": timedelta(seconds=lease_seconds), "reservation": timedelta(seconds=reservation_seconds)}
    of_breakers = {"provider": provider.value, "breaker_workspace": request.workspace_id}
    found = await fetch(tx, Query(OPEN, {**row, **periods, **of_breakers}, list))
    if not found:
        return None
    own, fleet, now, request.result_id = found[0]
    return breaker.Passes(own, fleet), now


async def repeat(tx: AsyncSession, workspace_id: str, request_id: str) -> None:
    """Note that another request is made for the same result, without the first one having ended.

    Its settlement then looks whether the other one is charged. It waits for this transaction, and sees what is noted.
    """
    await tx.execute(REPEAT, {"workspace": workspace_id, "request": request_id})


async def lock(tx: AsyncSession, workspace_id: str, request_id: str) -> tuple[PaidRequest, datetime]:
    """The request's row, locked, and the time by the database's clock.

    Raises:
        NotFound: the workspace has no such request.
    """
    found = (await tx.execute(LOCK, {"workspace": workspace_id, "request": request_id})).first()
    if found is None:
        raise NotFound(f"no request {request_id!r} in workspace {workspace_id!r}")
    request, now = found
    tx.expunge(request)
    return request, now


@dataclass(frozen=True)
class Locked:
    """An attempt with its request, both locked. An attempt changes only under its request's lock.

    `is_troubled`: see `breaker.is_troubled`. `energy_left`: what the user has available; None without an account.
    `now`: the time by the database's clock.
    """

    request: PaidRequest
    attempt: Attempt
    is_troubled: bool
    energy_left: int | None
    now: datetime


async def lock_with_attempt(tx: AsyncSession, workspace_id: str, attempt_id: UUID) -> Locked:
    """Lock an attempt and its request.

    Raises:
        NotFound: the workspace has no such attempt.
    """
    found = await fetch(tx, Query(LOCK_WITH_ATTEMPT, {"workspace": workspace_id, "attempt": attempt_id}, _locked))
    if found is None:
        raise NotFound(f"no attempt {attempt_id} in workspace {workspace_id!r}")
    return found


def _locked(rows: Sequence[Any]) -> Locked | None:
    if not rows:
        return None
    values = rows[0]._asdict()
    request, attempt = _row_of(PaidRequest, values), _row_of(Attempt, values)
    return Locked(request, attempt, values["is_troubled"], values["energy_left"], values["now"])


def _row_of(row: type[RowT], values: Mapping[str, Any]) -> RowT:
    return row(**{column.name: values[place(row, column.name)] for column in table(row).columns})


async def attempt(tx: AsyncSession, workspace_id: str, attempt_id: UUID) -> Attempt | None:
    found = (await tx.execute(ATTEMPT, {"workspace": workspace_id, "attempt": attempt_id})).scalar()
    if found:
        tx.expunge(found)
    return found


async def attempts(tx: AsyncSession, request: PaidRequest) -> list[Attempt]:
    """The request's attempts so far, the latest first."""
    query = select(Attempt).where(
        col(Attempt.workspace_id) == request.workspace_id, col(Attempt.request_id) == request.request_id
    )
    found = list((await tx.execute(query.order_by(col(Attempt.number).desc()))).scalars())
    for one in found:
        tx.expunge(one)
    return found


async def usage_log(tx: AsyncSession, attempt: Attempt) -> UsageLog:
    """The usage row of an attempt that was or may have been billed."""
    query = select(UsageLog).where(
        col(UsageLog.workspace_id) == attempt.workspace_id, col(UsageLog.attempt_id) == attempt.id
    )
    row = (await tx.execute(query)).scalar_one()
    tx.expunge(row)
    return row


async def journaled(
    tx: AsyncSession, workspace_id: str, request_id: str
) -> tuple[Attempt, dict[str, Any], int, EnergyAccount | None]:
    """Of a settled request: the attempt that won, its reply as JSON, the energy charged, and the user's account.

    Raises:
        NotFound: the workspace has no such request, or it is not settled.
    """
    found = (await tx.execute(JOURNALED, {"workspace": workspace_id, "request": request_id})).first()
    if found is None:
        raise NotFound(f"no reply to {request_id!r} in workspace {workspace_id!r}")
    won, payload, charged, account = found
    return won, payload, charged, account


def lease_left(request: PaidRequest, now: datetime) -> float:
    """Seconds left of the lease; 0 if no attempt holds it."""
    if request.owner_attempt_id is None or request.lease_until is None:
        return 0.0
    return max((request.lease_until - now).total_seconds(), 0.0)


async def held_seconds(tx: AsyncSession, workspace_id: str, attempt_id: UUID) -> float:
    """How long an attempt still holds its request, in seconds; 0 if it has ended, or its lease has."""
    found = await attempt(tx, workspace_id, attempt_id)
    if found is None or found.state != "open":
        return 0.0
    request, now = await lock(tx, workspace_id, found.request_id)
    return lease_left(request, now) if request.owner_attempt_id == attempt_id else 0.0


async def take_lease(
    tx: AsyncSession, request: PaidRequest, attempt_id: UUID, *, lease_seconds: float, reservation_seconds: float
) -> None:
    """Make the attempt the owner of the request and of its energy reservation."""
    as_owner = (
        update(PaidRequest)
        .where(col(PaidRequest.workspace_id) == request.workspace_id, col(PaidRequest.request_id) == request.request_id)
        .values(
            owner_attempt_id=attempt_id,
            energy_reserved=request.energy_price,
            lease_until=NOW + timedelta(seconds=lease_seconds),
            expires_at=NOW + timedelta(seconds=reservation_seconds),
        )
    )
    await tx.execute(as_owner.execution_options(synchronize_session=False))
