"""The ledger of paid calls: claim, renew, settle, fail. Each is one transaction.

Locks are always taken in this order, so that transactions never wait in a circle: the call's row, the provider's
breaker, the job's envelope, the user's energy, the workspace's caps, and last, as it is the one that all of a
workspace's calls share, the day.

Energy is reserved per request (the user pays for a result, once); dollars are reserved per attempt (each try can cost
us). So a lost or duplicate attempt is dollars that we spent and energy that nobody is charged.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from pydantic import TypeAdapter
from sqlalchemy import ColumnElement, and_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from domain.calls import Model, Provider, Reply, Usage
from domain.errors import Billed, IdempotencyConflict, NotFound
from domain.pricing import Rates
from storage import breaker, budgets, energy
from storage.breaker import NOW, BreakerTerms
from storage.database import changed_one, storable
from storage.tables import Call, CallAttempt, EnergyAccount, JournaledReply, OutboxEvent, UsageLog, utc_now

REPLY: TypeAdapter[Reply] = TypeAdapter(Reply)
ERROR_CHARACTERS = 500
WITHDRAWN = "Withdrawn"


class CallIdentity(Model):
    """Who asks for what, on whose account. `energy` is what a result will be charged."""

    workspace_id: str
    request_id: str
    job_key: str
    user_id: str
    prospect_id: str | None = None
    action: str
    fingerprint: str
    energy: int
    workflow_id: str


class Offer(Model):
    """One way to serve a request, with the most that it can cost."""

    provider: Provider
    model: str
    simulated: bool
    bound_usd: Decimal
    rates: Rates


@dataclass(frozen=True)
class Terms:
    lease_seconds: float
    reservation_seconds: float
    breaker: BreakerTerms


@dataclass(frozen=True)
class Granted:
    """The lease is ours: make the call under this id.

    `unanswered`: earlier attempts at the same provider, the latest first, that it may have answered unheard.
    """

    attempt_id: UUID
    unanswered: tuple[UUID, ...] = ()


@dataclass(frozen=True)
class Held:
    """Another attempt holds the lease; its reply may arrive within `wait_seconds`."""

    wait_seconds: float


@dataclass(frozen=True)
class Settled:
    """The request has its one reply, from the attempt that won it."""

    reply: Reply
    attempt_id: UUID
    provider: Provider
    model: str
    simulated: bool
    cost_usd: Decimal
    energy_charged: int
    energy_left: int | None


# What is written in the transaction that settles a request, if this reply is the one that wins it.
AlsoSettle = Callable[[AsyncSession, Settled], Awaitable[None]]


@dataclass(frozen=True)
class DayMove:
    """What an attempt's end changes on the day on which it was made."""

    day: datetime
    changes: dict[str, Decimal]


async def claim(
    tx: AsyncSession, who: CallIdentity, offer: Offer, terms: Terms, attempt_id: UUID
) -> Settled | Held | Granted:
    """Take the request's lease and reserve its upper bound, or learn that this is not needed or not possible.

    `attempt_id` is minted by the caller, so that a claim can be repeated when it is unknown whether it arrived.
    One that was ended meanwhile is `Held` for no time at all: claim again under a new id.

    Raises:
        IdempotencyConflict: the id was used for another request.
        BreakerOpen, BudgetExhausted, InsufficientEnergy: nothing was reserved; the transaction must roll back.
    """
    call, is_new = await _lock_or_create(tx, who, terms)
    if call.fingerprint != who.fingerprint:
        raise IdempotencyConflict(f"{who.request_id} was already used for a different request")
    if call.settled_attempt_id:
        return await _settled(tx, call)
    earlier = [] if is_new else await _attempts(tx, call)
    if call.owner_attempt_id == attempt_id:
        await _take_lease(tx, call, attempt_id, terms)
        return Granted(attempt_id, _unanswered(earlier, offer))
    remaining = await _lease_left(tx, call)
    if remaining > 0 or attempt_id in [one.id for one in earlier]:
        return Held(remaining)
    generation = await breaker.pass_through(tx, offer.provider, terms.breaker)
    lost = await _end_owner_as_lost(tx, call)
    # Whoever claims again, the first claim's account and envelope pay: they are where everything is booked.
    await budgets.reserve(tx, call.workspace_id, budgets.job_scope(call.job_key), offer.bound_usd)
    if call.energy_reserved == 0:
        await energy.reserve(tx, call.workspace_id, call.user_id, call.energy_price, call.request_id)
    attempt = _open_attempt(tx, call, attempt_id, offer, generation, number=len(earlier) + 1)
    await _take_lease(tx, call, attempt_id, terms)
    if lost:
        await budgets.lock_caps(tx, call.workspace_id)
        await _on_its_day(tx, call, lost)
    await budgets.reserve_day(tx, call.workspace_id, attempt.started_at, offer.bound_usd)
    return Granted(attempt_id, _unanswered(earlier, offer))


async def journaled(tx: AsyncSession, who: CallIdentity) -> Settled | None:
    """The reply of a request that was settled before, if it was."""
    call = await tx.get(Call, (who.workspace_id, who.request_id))
    known = call is not None and call.settled_attempt_id is not None and call.fingerprint == who.fingerprint
    return await _settled(tx, call) if call and known else None


async def renew(tx: AsyncSession, workspace_id: str, attempt_id: UUID, lease_seconds: float) -> bool:
    """Extend the lease. False when the request has gone to another attempt; the call may finish all the same."""
    as_owner = (
        update(Call)
        .where(col(Call.workspace_id) == workspace_id, col(Call.owner_attempt_id) == attempt_id)
        .values(lease_until=NOW + timedelta(seconds=lease_seconds))
    )
    return await changed_one(tx, as_owner)


async def settle(  # noqa: PLR0913 - a reply, what it cost, and what goes with it
    tx: AsyncSession,
    workspace_id: str,
    attempt_id: UUID,
    reply: Reply,
    cost_usd: Decimal,
    rates: Rates,
    *,
    also: AlsoSettle | None = None,
    instead_of: UUID | None = None,
) -> Settled:
    """Write down a whole reply. The first one wins the request, and `also` with it; a later one is charged 0.

    `instead_of`: the request's open attempt, where the reply was recovered before its call was made. It is withdrawn.
    Safe to repeat when it is unknown whether the commit arrived.
    """
    call, attempt = await _lock(tx, workspace_id, attempt_id)
    spared = await _open_attempt_of(tx, call, instead_of)
    if attempt.state in ("settled", "duplicate"):
        if spared:
            await _on_their_days(tx, call, [await _withdraw(tx, call, spared)])
        return await _settled(tx, call)
    won = call.settled_attempt_id is None
    await breaker.succeeded(tx, Provider(attempt.provider), attempt.breaker_generation)
    moves = [await _withdraw(tx, call, spared)] if spared else []
    moves.append(await _rebook(tx, call, attempt, confirmed=cost_usd))
    charged = await _charge_once(tx, call) if won else 0
    _end(attempt, "settled" if won else "duplicate", Billed.YES, cost_usd)
    attempt.rates = rates.model_dump(mode="json")
    if won:
        call.state, call.settled_attempt_id = "settled", attempt_id
        payload = storable(reply.model_dump(mode="json"))
        tx.add(JournaledReply(attempt_id=attempt_id, workspace_id=workspace_id, payload=payload))
        tx.add(_completed_event(call, attempt, reply, charged))
    # A lost attempt may win while a later one is still out: that one stays the owner until it ends.
    if call.owner_attempt_id == attempt_id:
        call.owner_attempt_id, call.lease_until = None, None
    # What is above goes to the database in one piece, with this statement.
    await _log_usage(tx, call, attempt, confirmed=True, usage=reply.usage, answered_by=reply.model, charged=charged)
    settled = await _settled(tx, call)
    if won and also:
        await also(tx, settled)
    await _on_their_days(tx, call, moves)
    return settled


@dataclass(frozen=True)
class Failure:
    """Why an attempt gave no reply, and what it may have cost. `usage` and `rates` where the provider still counted."""

    error_type: str
    detail: str
    billed: Billed
    trips_breaker: bool
    cost_usd: Decimal | None = None
    usage: Usage = field(default_factory=Usage)
    rates: Rates | None = None


async def fail(tx: AsyncSession, workspace_id: str, attempt_id: UUID, failure: Failure, terms: Terms) -> None:
    """End an attempt that brought no reply; free what it held. Safe to repeat."""
    call, attempt = await _lock(tx, workspace_id, attempt_id)
    if attempt.state not in ("open", "lost"):
        return
    await _tell_breaker(tx, attempt, failure, terms)
    attempt.error_type, attempt.error = failure.error_type, storable(failure.detail[:ERROR_CHARACTERS])
    was_lost = attempt.state == "lost"
    cost = Decimal(0) if failure.billed is Billed.NO else failure.cost_usd
    now = {"uncertain": attempt.estimated_usd} if cost is None else {"confirmed": cost}
    on_its_day = await _rebook(tx, call, attempt, **now)
    if failure.rates:
        attempt.rates = failure.rates.model_dump(mode="json")
    _end(attempt, "failed", failure.billed, cost)
    if was_lost or failure.billed is not Billed.NO:
        await _log_usage(tx, call, attempt, confirmed=cost is not None, usage=failure.usage)
    tx.add(_failed_event(call, attempt))
    if call.owner_attempt_id == attempt_id:
        await _let_go(tx, call)
    await _on_its_day(tx, call, on_its_day)


async def end_stale(tx: AsyncSession, workspace_id: str, request_id: str) -> bool:
    """Sweep one request whose owner is gone: its attempt is lost, its energy is the user's again.

    Returns whether there was anything to end. A reply that still comes is settled as usual.

    Raises:
        NotFound: the workspace has no such request.
    """
    call = await _lock_call(tx, workspace_id, request_id)
    if call.owner_attempt_id is None or await _lease_left(tx, call) > 0:
        return False
    lost = await _end_owner_as_lost(tx, call)
    await _let_go(tx, call)
    await _on_its_day(tx, call, lost)
    return True


async def _lock_or_create(tx: AsyncSession, who: CallIdentity, terms: Terms) -> tuple[Call, bool]:
    """The request's row, locked, and whether it is new: nobody else sees that before the transaction ends."""
    fresh = Call(
        **who.model_dump(exclude={"energy"}),
        energy_price=who.energy,
        expires_at=utc_now() + timedelta(seconds=terms.reservation_seconds),
    )
    created = await tx.execute(insert(Call).values(**fresh.model_dump()).on_conflict_do_nothing().returning(Call))
    if call := created.scalar():
        return call, True
    return await _lock_call(tx, who.workspace_id, who.request_id), False


async def _lock_call(tx: AsyncSession, workspace_id: str, request_id: str) -> Call:
    query = select(Call).where(col(Call.workspace_id) == workspace_id, col(Call.request_id) == request_id)
    call = (await tx.execute(query.with_for_update())).scalar()
    if call is None:
        raise NotFound(f"no request {request_id!r} in workspace {workspace_id!r}")
    return call


async def _lock(tx: AsyncSession, workspace_id: str, attempt_id: UUID) -> tuple[Call, CallAttempt]:
    """The attempt with its call, locked by the call's row: an attempt is only changed under it."""
    request_id = (
        select(col(CallAttempt.request_id))
        .where(col(CallAttempt.workspace_id) == workspace_id, col(CallAttempt.id) == attempt_id)
        .scalar_subquery()
    )
    query = select(Call).where(col(Call.workspace_id) == workspace_id, col(Call.request_id) == request_id)
    call = (await tx.execute(query.with_for_update())).scalar()
    if call is None:
        raise NotFound(f"no attempt {attempt_id} in workspace {workspace_id!r}")
    attempt = await tx.get(CallAttempt, attempt_id, populate_existing=True)
    assert attempt is not None  # noqa: S101 - attempts are never deleted
    return call, attempt


async def _lease_left(tx: AsyncSession, call: Call) -> float:
    """Seconds left of the lease by the database's clock; 0 when nobody holds it."""
    if call.owner_attempt_id is None or call.lease_until is None:
        return 0.0
    now: datetime = (await tx.execute(select(NOW))).scalar_one()
    return max((call.lease_until - now).total_seconds(), 0.0)


async def _attempts(tx: AsyncSession, call: Call) -> list[CallAttempt]:
    """The request's attempts so far, the latest first."""
    query = select(CallAttempt).where(
        col(CallAttempt.workspace_id) == call.workspace_id, col(CallAttempt.request_id) == call.request_id
    )
    return list((await tx.execute(query.order_by(col(CallAttempt.number).desc()))).scalars())


def _unanswered(attempts: Sequence[CallAttempt], offer: Offer) -> tuple[UUID, ...]:
    """Those that ended at the offer's provider, and that it may have answered unheard."""
    return tuple(
        one.id
        for one in attempts
        if (one.provider, one.billed) == (offer.provider.value, Billed.UNKNOWN.value) and one.state != "open"
    )


def _open_attempt(
    tx: AsyncSession, call: Call, attempt_id: UUID, offer: Offer, generation: int, *, number: int
) -> CallAttempt:
    attempt = CallAttempt(
        id=attempt_id,
        workspace_id=call.workspace_id,
        request_id=call.request_id,
        number=number,
        provider=offer.provider.value,
        model=offer.model,
        simulated=offer.simulated,
        estimated_usd=offer.bound_usd,
        rates=offer.rates.model_dump(mode="json"),
        breaker_generation=generation,
    )
    tx.add(attempt)
    return attempt


async def _take_lease(tx: AsyncSession, call: Call, attempt_id: UUID, terms: Terms) -> None:
    """Make the attempt the owner. Whoever is has the request's energy reserved."""
    as_owner = (
        update(Call)
        .where(col(Call.workspace_id) == call.workspace_id, col(Call.request_id) == call.request_id)
        .values(
            owner_attempt_id=attempt_id,
            energy_reserved=call.energy_price,
            lease_until=NOW + timedelta(seconds=terms.lease_seconds),
            expires_at=NOW + timedelta(seconds=terms.reservation_seconds),
        )
    )
    await tx.execute(as_owner.execution_options(synchronize_session=False))


async def _end_owner_as_lost(tx: AsyncSession, call: Call) -> DayMove | None:
    """The owner fell silent. What it spent is unknown until its reply turns up, so the bound stands for it."""
    if call.owner_attempt_id is None:
        return None
    attempt = await tx.get(CallAttempt, call.owner_attempt_id, populate_existing=True)
    assert attempt is not None  # noqa: S101 - attempts are never deleted
    on_its_day = await _rebook(tx, call, attempt, uncertain=attempt.estimated_usd)
    _end(attempt, "lost", Billed.UNKNOWN, None)
    await _log_usage(tx, call, attempt, confirmed=False, usage=Usage())
    return on_its_day


async def _open_attempt_of(tx: AsyncSession, call: Call, attempt_id: UUID | None) -> CallAttempt | None:
    """The attempt, if it is this request's and has not ended."""
    attempt = await tx.get(CallAttempt, attempt_id, populate_existing=True) if attempt_id else None
    if attempt is None or (attempt.workspace_id, attempt.request_id) != (call.workspace_id, call.request_id):
        return None
    return attempt if attempt.state == "open" else None


async def _withdraw(tx: AsyncSession, call: Call, attempt: CallAttempt) -> DayMove:
    """End an attempt whose call is not made, as an earlier one's reply was recovered. It has cost nothing."""
    await breaker.not_counted(tx, Provider(attempt.provider), attempt.breaker_generation)
    on_its_day = await _rebook(tx, call, attempt, confirmed=Decimal(0))
    attempt.error_type, attempt.error = WITHDRAWN, "an earlier attempt's reply was recovered"
    _end(attempt, "failed", Billed.NO, Decimal(0))
    if call.owner_attempt_id == attempt.id:
        call.owner_attempt_id, call.lease_until = None, None
    return on_its_day


async def _rebook(tx: AsyncSession, call: Call, attempt: CallAttempt, **now: Decimal) -> DayMove:
    """Move the attempt's dollars in the envelope from where they stand to `confirmed` or `uncertain`.

    Returns the same for the attempt's day, which is for the end of the transaction.
    """
    changes = {name: -usd for name, usd in _booked(attempt).items()}
    for name, usd in now.items():
        changes[name] = changes.get(name, Decimal(0)) + usd
    await budgets.move(tx, call.workspace_id, budgets.job_scope(call.job_key), **changes)
    return DayMove(attempt.started_at, changes)


async def _on_its_day(tx: AsyncSession, call: Call, move: DayMove | None) -> None:
    if move:
        await budgets.move(tx, call.workspace_id, budgets.day_scope(move.day), **move.changes)


async def _on_their_days(tx: AsyncSession, call: Call, moves: Sequence[DayMove]) -> None:
    """The same for several attempts: whoever locks two days begins with the earlier."""
    for move in sorted(moves, key=lambda one: one.day):
        await _on_its_day(tx, call, move)


def _booked(attempt: CallAttempt) -> dict[str, Decimal]:
    """Where the attempt's dollars stand: reserved while it is open, then its cost, or its bound if that is unknown."""
    if attempt.state == "open":
        return {"reserved": attempt.estimated_usd}
    if attempt.cost_usd is None:
        return {"uncertain": attempt.estimated_usd}
    return {"confirmed": attempt.cost_usd}


async def _charge_once(tx: AsyncSession, call: Call) -> int:
    """Charge the user for the reply that won; returns the energy charged."""
    who = (call.workspace_id, call.user_id)
    if call.energy_reserved == 0 and call.energy_price:
        call.energy_reserved = await energy.reserve_if_possible(tx, *who, call.energy_price, call.request_id)
    charged = call.energy_reserved
    if charged:
        await energy.charge(tx, *who, charged, call.request_id)
    call.energy_reserved = 0
    return charged


async def _let_go(tx: AsyncSession, call: Call) -> None:
    """Give the lease up and the energy back: the next attempt reserves anew."""
    call.owner_attempt_id, call.lease_until = None, None
    if call.energy_reserved:
        await energy.release(tx, call.workspace_id, call.user_id, call.energy_reserved, call.request_id)
        call.energy_reserved = 0


def _end(attempt: CallAttempt, state: str, billed: Billed, cost_usd: Decimal | None) -> None:
    attempt.state, attempt.billed, attempt.cost_usd, attempt.ended_at = (
        state,
        billed.value,
        cost_usd,
        utc_now(),
    )


async def _tell_breaker(tx: AsyncSession, attempt: CallAttempt, failure: Failure, terms: Terms) -> None:
    provider = Provider(attempt.provider)
    if failure.trips_breaker:
        await breaker.failed(tx, provider, attempt.breaker_generation, terms.breaker)
    else:
        await breaker.not_counted(tx, provider, attempt.breaker_generation)


async def _log_usage(
    tx: AsyncSession,
    call: Call,
    attempt: CallAttempt,
    *,
    confirmed: bool,
    usage: Usage,
    answered_by: str = "",
    charged: int = 0,
) -> None:
    """Write the attempt's row, or turn the estimate of a lost attempt into what it really cost."""
    cost = attempt.cost_usd if confirmed else attempt.estimated_usd
    row = UsageLog(
        user_id=call.user_id,
        workspace_id=call.workspace_id,
        prospect_id=call.prospect_id,
        action=call.action,
        provider=attempt.provider,
        model=attempt.model,
        answered_by=storable(answered_by),
        simulated=attempt.simulated,
        tokens_prompt=usage.input_tokens,
        tokens_cached=usage.cached_input_tokens,
        tokens_cache_written=usage.cache_write_tokens,
        tokens_completion=usage.output_tokens,
        tokens_total=usage.total_tokens,
        audio_seconds=Decimal(str(usage.audio_seconds)),
        cost_usd=cost or Decimal(0),
        confirmed=confirmed,
        outcome=attempt.state,
        energy_charged=charged,
        rates=attempt.rates,
        job_key=call.job_key,
        request_id=call.request_id,
        attempt_id=attempt.id,
    ).model_dump()
    keep = {"id", "created_at", "attempt_id"}
    changes = {name: value for name, value in row.items() if name not in keep}
    await tx.execute(insert(UsageLog).values(**row).on_conflict_do_update(index_elements=["attempt_id"], set_=changes))


async def _settled(tx: AsyncSession, call: Call) -> Settled:
    """The journaled reply of a settled call, with who gave it and what the user paid for it."""
    query = (
        select(CallAttempt, col(JournaledReply.payload), col(UsageLog.energy_charged), EnergyAccount)
        .join(JournaledReply, col(JournaledReply.attempt_id) == CallAttempt.id)
        .join(UsageLog, col(UsageLog.attempt_id) == CallAttempt.id)
        .outerjoin(EnergyAccount, and_(*_account_of(call)))
        .where(col(CallAttempt.workspace_id) == call.workspace_id, col(CallAttempt.id) == call.settled_attempt_id)
    )
    attempt, payload, charged, account = (await tx.execute(query)).one()
    return Settled(
        reply=REPLY.validate_python(payload),
        attempt_id=attempt.id,
        provider=Provider(attempt.provider),
        model=attempt.model,
        simulated=attempt.simulated,
        cost_usd=attempt.cost_usd or Decimal(0),
        energy_charged=charged,
        energy_left=energy.available(account) if account else None,
    )


def _account_of(call: Call) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return col(EnergyAccount.workspace_id) == call.workspace_id, col(EnergyAccount.user_id) == call.user_id


def _completed_event(call: Call, attempt: CallAttempt, reply: Reply, charged: int) -> OutboxEvent:
    return _event(
        call,
        attempt,
        "ai_generation_completed",
        {
            "tokens_total": reply.usage.total_tokens,
            "cost_usd": str(attempt.cost_usd),
            "energy_charged": charged,
        },
    )


def _failed_event(call: Call, attempt: CallAttempt) -> OutboxEvent:
    return _event(call, attempt, "ai_generation_failed", {"error": attempt.error_type, "billed": attempt.billed})


def _event(call: Call, attempt: CallAttempt, kind: str, details: dict[str, object]) -> OutboxEvent:
    payload = {
        "request_id": call.request_id,
        "attempt_id": str(attempt.id),
        "user_id": call.user_id,
        "action": call.action,
        "provider": attempt.provider,
        "model": attempt.model,
        "simulated": attempt.simulated,
        **details,
    }
    return OutboxEvent(workspace_id=call.workspace_id, kind=kind, payload=payload)
