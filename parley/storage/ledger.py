"""The ledger of paid calls: claim, renew, settle, fail. Each is one transaction.

Locks are always taken in this order, so that transactions never wait in a circle: the call's row, the provider's
breaker, the job's envelope, the user's energy, what `also` and `late` write, the workspace's caps, and last, as it is
the one that all of a workspace's calls share, the day.

Energy is reserved per request (the user pays for a result, once); dollars are reserved per attempt (each try can cost
us). So a lost or duplicate attempt is dollars that we spent and energy that nobody is charged.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from parley.domain.calls import Model, Provider, Reply, Usage
from parley.domain.errors import Billed, IdempotencyConflict
from parley.domain.pricing import Rates
from parley.storage import breaker, budgets, calls, energy
from parley.storage.breaker import NOW, BreakerTerms
from parley.storage.budgets import Envelope
from parley.storage.database import changed_one, storable
from parley.storage.entries import completed_event, failed_event, journal_entry, usage_row
from parley.storage.rows import save
from parley.storage.tables import Call, CallAttempt, utc_now

REPLY: TypeAdapter[Reply] = TypeAdapter(Reply)
ERROR_CHARACTERS = 500
WITHDRAWN = "Withdrawn"


class CallIdentity(Model):
    """Who asks for what, on whose account. `energy` is what a result will be charged.

    `envelope`: the job's, where the first claim opens it; else it must be there.
    """

    workspace_id: str
    request_id: str
    job_key: str
    user_id: str
    prospect_id: str | None = None
    action: str
    fingerprint: str
    energy: int
    workflow_id: str
    envelope: Envelope | None = None


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

    @property
    def periods(self) -> dict[str, float]:
        return {"lease_seconds": self.lease_seconds, "reservation_seconds": self.reservation_seconds}


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
    """The request has its one reply, from the attempt that won it.

    `is_only_attempt`: there was no other before, and none took it for lost.
    """

    reply: Reply
    attempt_id: UUID
    provider: Provider
    model: str
    simulated: bool
    cost_usd: Decimal
    energy_charged: int
    energy_left: int | None
    is_only_attempt: bool = field(default=False, compare=False)


# What is written in the transaction that settles a request, if this reply is the one that wins it.
AlsoSettle = Callable[[AsyncSession, Settled], Awaitable[None]]
# What is written where an attempt ends that does not win it: what the request has cost in all has changed.
AlsoLate = Callable[[AsyncSession], Awaitable[None]]


@dataclass(frozen=True)
class _Claim:
    """Who claims what, on which terms, and the attempt that is to have it."""

    who: CallIdentity
    offer: Offer
    terms: Terms
    attempt_id: UUID


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
    asked = _Claim(who, offer, terms, attempt_id)
    opened = await _open_call(tx, asked)
    if opened is not None:
        return await _begin(tx, asked, *opened)
    call = await calls.lock(tx, who.workspace_id, who.request_id)
    if call.fingerprint != who.fingerprint:
        raise IdempotencyConflict(f"{who.request_id} was already used for a different request")
    if call.settled_attempt_id:
        return await _settled(tx, call.workspace_id, call.request_id)
    earlier = await calls.attempts(tx, call)
    if call.owner_attempt_id == attempt_id:
        await calls.take_lease(tx, call, attempt_id, **terms.periods)
        return Granted(attempt_id, _unanswered(earlier, offer))
    remaining = await calls.lease_left(tx, call)
    if remaining > 0 or attempt_id in [one.id for one in earlier]:
        return Held(remaining)
    generation = await breaker.pass_through(tx, offer.provider, terms.breaker)
    return await _begin(tx, asked, call, generation, earlier)


async def _begin(
    tx: AsyncSession, asked: _Claim, call: Call, generation: int, earlier: Sequence[CallAttempt] = ()
) -> Granted:
    """Reserve what an attempt may cost, and make it the owner of its call. `generation`: the breaker's."""
    offer, attempt_id = asked.offer, asked.attempt_id
    silent = next((one for one in earlier if one.id == call.owner_attempt_id), None)
    lost = await _end_as_lost(tx, call, silent) if silent else None
    # Whoever claims again, the first claim's account and envelope pay: they are where everything is booked.
    scope = budgets.job_scope(call.job_key)
    await budgets.reserve(tx, call.workspace_id, scope, offer.bound_usd, opens=asked.who.envelope)
    if call.energy_reserved == 0:
        await energy.reserve(tx, call.workspace_id, call.user_id, call.energy_price, call.request_id)
    attempt = _attempt(call, attempt_id, offer, generation, number=len(earlier) + 1)
    await save(tx, attempt)
    if call.owner_attempt_id != attempt_id:
        await calls.take_lease(tx, call, attempt_id, **asked.terms.periods)
    if lost:
        await budgets.lock_caps(tx, call.workspace_id)
        await _on_its_day(tx, call, lost)
    await budgets.reserve_day(tx, call.workspace_id, attempt.started_at, offer.bound_usd)
    return Granted(attempt_id, _unanswered(earlier, offer))


async def journaled(tx: AsyncSession, who: CallIdentity) -> Settled | None:
    """The reply of a request that was settled before, if it was."""
    call = await tx.get(Call, (who.workspace_id, who.request_id))
    known = call is not None and call.settled_attempt_id is not None and call.fingerprint == who.fingerprint
    return await _settled(tx, call.workspace_id, call.request_id) if call and known else None


async def settled_by(tx: AsyncSession, workspace_id: str, attempt_id: UUID) -> Settled | None:
    """The reply of the request that an attempt has won, if it has won one."""
    attempt = await calls.attempt(tx, workspace_id, attempt_id)
    won = attempt is not None and attempt.state == "settled"
    return await _settled(tx, workspace_id, attempt.request_id) if attempt and won else None


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
    late: AlsoLate | None = None,
    instead_of: UUID | None = None,
) -> Settled:
    """Write down a whole reply. The first one wins the request, and `also` with it; a later one is charged 0, and
    `late` is written with it.

    `instead_of`: the request's open attempt, where the reply was recovered before its call was made. It is withdrawn.
    Safe to repeat when it is unknown whether the commit arrived.
    """
    call, attempt, troubled = await calls.lock_with_attempt(tx, workspace_id, attempt_id)
    is_over = attempt.state in ("settled", "duplicate")
    if troubled and not is_over:
        await breaker.succeeded(tx, Provider(attempt.provider), attempt.breaker_generation)
    spared = await _open_attempt_of(tx, call, instead_of)
    moves = [await _withdraw(tx, call, spared)] if spared else []
    if is_over:
        if spared:
            await save(tx, call)
        await _on_their_days(tx, call, moves)
        return await _settled(tx, call.workspace_id, call.request_id)
    moves.append(await _rebook(tx, call, attempt, confirmed=cost_usd))
    attempt.rates = rates.model_dump(mode="json")
    # A lost attempt may win while a later one is still out: that one stays the owner until it ends.
    if call.owner_attempt_id == attempt_id:
        call.owner_attempt_id, call.lease_until = None, None
    book = _book_duplicate if call.settled_attempt_id else _book_winner
    settled = await book(tx, call, attempt, reply, cost_usd)
    if settled.attempt_id != attempt_id and late:
        await late(tx)
    if settled.attempt_id == attempt_id and also:
        await also(tx, settled)
    await _on_their_days(tx, call, moves)
    return settled


async def _book_winner(tx: AsyncSession, call: Call, attempt: CallAttempt, reply: Reply, cost_usd: Decimal) -> Settled:
    """The request's one reply: journaled, told and charged."""
    is_only = (attempt.number, attempt.state) == (1, "open")
    charged, left = await _charge_once(tx, call)
    _end(attempt, "settled", Billed.YES, cost_usd)
    call.state, call.settled_attempt_id = "settled", attempt.id
    entry = journal_entry(attempt, reply)
    told = usage_row(call, attempt, confirmed=True, usage=reply.usage, answered_by=reply.model, charged=charged)
    await save(tx, call, attempt, entry, completed_event(call, attempt, reply, charged), told)
    return replace(_settlement(attempt, entry.payload, charged, left), is_only_attempt=is_only)


async def _book_duplicate(
    tx: AsyncSession, call: Call, attempt: CallAttempt, reply: Reply, cost_usd: Decimal
) -> Settled:
    """A second reply: spent, and charged to nobody. The first one is returned."""
    _end(attempt, "duplicate", Billed.YES, cost_usd)
    told = usage_row(call, attempt, confirmed=True, usage=reply.usage, answered_by=reply.model)
    await save(tx, call, attempt, told)
    return await _settled(tx, call.workspace_id, call.request_id)


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


async def fail(
    tx: AsyncSession,
    workspace_id: str,
    attempt_id: UUID,
    failure: Failure,
    terms: Terms,
    *,
    late: AlsoLate | None = None,
) -> None:
    """End an attempt that brought no reply, and write `late` with it; free what it held. Safe to repeat."""
    call, attempt, _ = await calls.lock_with_attempt(tx, workspace_id, attempt_id)
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
    if call.owner_attempt_id == attempt_id:
        await _let_go(tx, call)
    told = usage_row(call, attempt, confirmed=cost is not None, usage=failure.usage)
    is_told = was_lost or failure.billed is not Billed.NO
    await save(tx, call, attempt, failed_event(call, attempt), *([told] if is_told else []))
    if late:
        await late(tx)
    await _on_its_day(tx, call, on_its_day)


async def end_stale(tx: AsyncSession, workspace_id: str, request_id: str) -> bool:
    """Sweep one request whose owner is gone: its attempt is lost, its energy is the user's again.

    Returns whether there was anything to end. A reply that still comes is settled as usual.

    Raises:
        NotFound: the workspace has no such request.
    """
    call = await calls.lock(tx, workspace_id, request_id)
    if call.owner_attempt_id is None or await calls.lease_left(tx, call) > 0:
        return False
    silent = await calls.attempt(tx, workspace_id, call.owner_attempt_id)
    assert silent is not None  # noqa: S101 - attempts are never deleted
    lost = await _end_as_lost(tx, call, silent)
    await _let_go(tx, call)
    await save(tx, call)
    await _on_its_day(tx, call, lost)
    return True


async def _open_call(tx: AsyncSession, asked: _Claim) -> tuple[Call, int] | None:
    """The request's new row, held by the attempt from the start, and the breaker's generation; None where there is one.

    None of it stays if what follows fails.
    """
    who, terms = asked.who, asked.terms
    opened = Call(
        **who.model_dump(exclude={"energy", "envelope"}),
        energy_price=who.energy,
        energy_reserved=who.energy,
        owner_attempt_id=asked.attempt_id,
        expires_at=utc_now(),
    )
    provider = asked.offer.provider
    generation = await calls.open_leased(tx, opened, provider, **terms.periods)
    if generation is None:
        return None
    if generation < 0:
        generation = await breaker.pass_through(tx, provider, terms.breaker)
    opened.energy_reserved = 0
    return opened, generation


def _unanswered(attempts: Sequence[CallAttempt], offer: Offer) -> tuple[UUID, ...]:
    """Those that ended at the offer's provider, and that it may have answered unheard."""
    return tuple(
        one.id
        for one in attempts
        if (one.provider, one.billed) == (offer.provider.value, Billed.UNKNOWN.value) and one.state != "open"
    )


def _attempt(call: Call, attempt_id: UUID, offer: Offer, generation: int, *, number: int) -> CallAttempt:
    return CallAttempt(
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


async def _end_as_lost(tx: AsyncSession, call: Call, attempt: CallAttempt) -> DayMove:
    """The owner fell silent. What it spent is unknown until its reply turns up, so the bound stands for it."""
    on_its_day = await _rebook(tx, call, attempt, uncertain=attempt.estimated_usd)
    _end(attempt, "lost", Billed.UNKNOWN, None)
    await save(tx, attempt, usage_row(call, attempt, confirmed=False, usage=Usage()))
    return on_its_day


async def _open_attempt_of(tx: AsyncSession, call: Call, attempt_id: UUID | None) -> CallAttempt | None:
    """The attempt, if it is this request's and has not ended."""
    attempt = await calls.attempt(tx, call.workspace_id, attempt_id) if attempt_id else None
    is_open = attempt is not None and (attempt.request_id, attempt.state) == (call.request_id, "open")
    return attempt if is_open else None


async def _withdraw(tx: AsyncSession, call: Call, attempt: CallAttempt) -> DayMove:
    """End an attempt whose call is not made, as an earlier one's reply was recovered. It has cost nothing."""
    await breaker.not_counted(tx, Provider(attempt.provider), attempt.breaker_generation)
    on_its_day = await _rebook(tx, call, attempt, confirmed=Decimal(0))
    attempt.error_type, attempt.error = WITHDRAWN, "an earlier attempt's reply was recovered"
    _end(attempt, "failed", Billed.NO, Decimal(0))
    await save(tx, attempt)
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


async def _charge_once(tx: AsyncSession, call: Call) -> tuple[int, int | None]:
    """Charge the user for the reply that won: the energy charged, and what is left where there is an account."""
    who = (call.workspace_id, call.user_id)
    if call.energy_reserved == 0 and call.energy_price:
        call.energy_reserved = await energy.reserve_if_possible(tx, *who, call.energy_price, call.request_id)
    charged, call.energy_reserved = call.energy_reserved, 0
    if charged:
        return charged, await energy.charge(tx, *who, charged, call.request_id)
    account = await energy.account(tx, *who)
    return 0, energy.available(account) if account else None


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


async def _settled(tx: AsyncSession, workspace_id: str, request_id: str) -> Settled:
    """The journaled reply of a settled call, with who gave it and what the user paid for it."""
    attempt, payload, charged, account = await calls.journaled(tx, workspace_id, request_id)
    return _settlement(attempt, payload, charged, energy.available(account) if account else None)


def _settlement(attempt: CallAttempt, payload: dict[str, Any], charged: int, energy_left: int | None) -> Settled:
    return Settled(
        reply=REPLY.validate_python(payload),
        attempt_id=attempt.id,
        provider=Provider(attempt.provider),
        model=attempt.model,
        simulated=attempt.simulated,
        cost_usd=attempt.cost_usd or Decimal(0),
        energy_charged=charged,
        energy_left=energy_left,
    )
