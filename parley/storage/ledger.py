"""The ledger of paid requests: claim, renew, settle, fail. Each is one transaction.

Locks are always taken in this order, so that transactions never deadlock: the request's row, the provider's breakers
(the fleet's first), the job's envelope, the user's energy, what `on_reply` and `on_end` write, the workspace's caps,
and last the day, which all of a workspace's requests share.

Energy is reserved per request (the user pays for a result, once); dollars are reserved per attempt (each try can cost
us). A lost or duplicate attempt therefore costs us dollars, and no user is charged energy for it.
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

from parley.domain.errors import Billed, IdempotencyConflict, NotFound
from parley.domain.model import Model, storable
from parley.domain.pricing import Rates, prompt_cache_saved
from parley.domain.requests import Provider, Reply, Usage
from parley.storage import breaker, budgets, energy, paid_requests
from parley.storage.breaker import BreakerTerms, Passes
from parley.storage.budgets import Envelope
from parley.storage.database import NOW, changed_one
from parley.storage.entries import (
    above_bound_event,
    completed_event,
    confirmed_row,
    failed_event,
    journal_entry,
    usage_row,
)
from parley.storage.paid_requests import Locked
from parley.storage.rows import save
from parley.storage.tables import Attempt, PaidRequest, utc_now

REPLY: TypeAdapter[Reply] = TypeAdapter(Reply)
ERROR_CHARACTERS = 500
WITHDRAWN = "Withdrawn"
# Of an attempt that was sent past the breakers: no generation has this number, so that its outcome does not count.
PASSED_NONE = Passes(own=-1, fleet=None)


class Charge(Model):
    """The account that a paid request is booked on.

    `energy`: what the user is charged for a result. `result_id`: the first of several requests for one result, of
    which one is charged; None: the request is the only one. `envelope`: the job's budget, which the first claim opens;
    None: the envelope exists already.
    """

    workspace_id: str
    user_id: str
    prospect_id: str | None = None
    job_key: str
    workflow_id: str
    request_id: str
    result_id: str | None = None
    action: str
    energy: int
    envelope: Envelope | None = None


class Offer(Model):
    """One way to serve a request, with the most that it can cost. `shares_key`: not with the workspace's own key."""

    provider: Provider
    model: str
    simulated: bool
    shares_key: bool = True
    upper_bound_usd: Decimal
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
class Unanswered:
    """An ended attempt whose reply may have been lost. Its model and its rates price a reply that is recovered."""

    attempt_id: UUID
    model: str
    rates: Rates


@dataclass(frozen=True)
class Granted:
    """The attempt holds the lease: send the provider request under this id.

    `unanswered`: earlier attempts at the same provider, the latest first.
    """

    attempt_id: UUID
    unanswered: tuple[Unanswered, ...] = ()


@dataclass(frozen=True)
class Held:
    """Another attempt holds the lease; its reply may arrive within `wait_seconds`."""

    wait_seconds: float


@dataclass(frozen=True)
class Settled:
    """The request has its one reply, from the attempt that won it.

    `is_only_attempt`: no other attempt came before it, and it was not taken over as lost. `has_followed`: what
    `on_reply` writes is part of the transaction.
    """

    reply: Reply
    attempt_id: UUID
    provider: Provider
    model: str
    simulated: bool
    cost_usd: Decimal
    prompt_cache_saved_usd: Decimal
    energy_charged: int
    energy_left: int | None
    is_only_attempt: bool = field(default=False, compare=False)
    has_followed: bool = field(default=False, compare=False)


# Writes in the transaction that ends an attempt, because the request's cost has changed. It must not judge the
# reply: code that a caller or a provider controls could fail, and the reply would be lost.
OnEnd = Callable[[AsyncSession], Awaitable[None]]
# Writes what follows from the reply that a request gets, in the transaction that journals it.
OnReply = Callable[[AsyncSession, Reply], Awaitable[None]]


@dataclass(frozen=True)
class Claim:
    """A claim of a request's lease. `fingerprint`: hash of the logical request; one id never names two requests.

    The caller creates `attempt_id`, so that it can repeat a claim if it is unknown whether the commit took effect.
    `joint_id`: sent to the provider in its place, where attempts at several requests are sent as one.
    `supersedes`: an attempt at an earlier request for the same result, which is not waited for any more. If it is open,
    it ends as lost, and what it holds of the user's energy is free for this claim.
    """

    charge: Charge
    fingerprint: str
    offer: Offer
    terms: Terms
    attempt_id: UUID
    supersedes: UUID | None = None
    joint_id: UUID | None = None


@dataclass(frozen=True)
class Settlement:
    """A complete reply to an attempt, its cost, and what is written in the same transaction.

    `cost_usd`: None where the provider's counts cannot be used or its price is not exactly known: the upper bound is
    then uncertain cost.
    `withdraws`: the request's open attempt, when the reply was recovered before that attempt called the provider.
    """

    workspace_id: str
    attempt_id: UUID
    reply: Reply
    cost_usd: Decimal | None
    rates: Rates
    withdraws: UUID | None = None
    on_end: OnEnd | None = None
    on_reply: OnReply | None = None


@dataclass(frozen=True)
class DayMove:
    """The changes that an attempt's end makes to the budget row of the day on which it started."""

    day: datetime
    changes: dict[str, Decimal]


async def claim(tx: AsyncSession, request_claim: Claim) -> Settled | Held | Granted:
    """Take the request's lease and reserve its upper bound, unless the request is settled or another attempt holds it.

    If the attempt has ended or its request was purged meanwhile, the result is `Held` for 0 seconds: claim again under
    a new attempt id.

    Raises:
        IdempotencyConflict: the id was used for another request.
        BreakerOpen, BudgetExhausted, InsufficientEnergy: nothing was reserved; the transaction must roll back.
    """
    charge, offer, terms, attempt_id = (
        request_claim.charge,
        request_claim.offer,
        request_claim.terms,
        request_claim.attempt_id,
    )
    # An earlier request is locked before a later one.
    if request_claim.supersedes:
        await paid_requests.lock_with_attempt(tx, charge.workspace_id, request_claim.supersedes)
    opened = await _open_request(tx, request_claim)
    if opened is not None:
        return await _begin(tx, request_claim, *opened)
    try:
        request, now = await paid_requests.lock(tx, charge.workspace_id, charge.request_id)
    except NotFound:  # the purge has deleted it since `_open_request` found it
        return Held(0)
    if request.fingerprint != request_claim.fingerprint:
        raise IdempotencyConflict(f"{charge.request_id} was already used for a different request")
    if request.settled_attempt_id:
        return await _settled(tx, request.workspace_id, request.request_id)
    earlier = await paid_requests.attempts(tx, request)
    if request.owner_attempt_id == attempt_id:
        await paid_requests.take_lease(tx, request, attempt_id, **terms.periods)
        return Granted(attempt_id, _unanswered(earlier, offer))
    remaining = paid_requests.lease_left(request, now)
    if remaining > 0 or attempt_id in [one.id for one in earlier]:
        return Held(remaining)
    passes = await _pass_breakers(tx, request_claim)
    return await _begin(tx, request_claim, request, passes, now, earlier)


async def adopt(tx: AsyncSession, request_claim: Claim, sent_at: datetime) -> None:
    """Record an attempt at a request of its own that was sent without a claim; `settle` or `fail` ends it. Idempotent.

    Its cost is real, so nothing refuses it: where it overdraws a cap or an envelope, no further claim passes that.
    """
    offer, attempt_id, repeats = request_claim.offer, request_claim.attempt_id, _repeats(request_claim.charge)
    if repeats:
        await paid_requests.repeat(tx, request_claim.charge.workspace_id, repeats)
    opened = _new_request(request_claim, request_claim.charge.energy)
    opened.energy_reserved = 0
    inserted = await paid_requests.open_leased(tx, opened, offer.provider, **request_claim.terms.periods)
    if inserted is None:
        return
    scope = budgets.job_scope(opened.job_key)
    await budgets.open_envelope(tx, opened.workspace_id, scope, None)
    await budgets.move(tx, opened.workspace_id, scope, reserved=offer.upper_bound_usd)
    await save(tx, _attempt(opened, attempt_id, offer, PASSED_NONE, sent_at, number=1))
    await budgets.reserve_day(tx, opened.workspace_id, sent_at, offer.upper_bound_usd, is_capped=False)


async def _begin(
    tx: AsyncSession,
    request_claim: Claim,
    request: PaidRequest,
    passes: Passes,
    now: datetime,
    earlier: Sequence[Attempt] = (),
) -> Granted:
    """Reserve the attempt's upper bound and make it the owner of its request."""
    offer, attempt_id = request_claim.offer, request_claim.attempt_id
    expired = next((one for one in earlier if one.id == request.owner_attempt_id), None)
    lost = [await _end_as_lost(tx, request, expired, now)] if expired else []
    lost += await _supersede(tx, request_claim, now)
    # Retries use the account and envelope of the first claim.
    scope = budgets.job_scope(request.job_key)
    await budgets.reserve(tx, request.workspace_id, scope, offer.upper_bound_usd, opens=request_claim.charge.envelope)
    if request.energy_reserved == 0:
        await energy.reserve(tx, request.workspace_id, request.user_id, request.energy_price, request.request_id)
    attempt = _attempt(request, attempt_id, offer, passes, now, number=len(earlier) + 1)
    attempt.joint_id = request_claim.joint_id
    await save(tx, attempt)
    if request.owner_attempt_id != attempt_id:
        await paid_requests.take_lease(tx, request, attempt_id, **request_claim.terms.periods)
    is_capped = await budgets.lock_caps(tx, request.workspace_id)
    await _on_their_days(tx, request, lost)
    await budgets.reserve_day(tx, request.workspace_id, now, offer.upper_bound_usd, is_capped=is_capped)
    return Granted(attempt_id, _unanswered(earlier, offer))


async def _supersede(tx: AsyncSession, request_claim: Claim, now: datetime) -> list[DayMove]:
    """End the attempt that the claim supersedes, if it is open, and release its lease and energy."""
    if request_claim.supersedes is None:
        return []
    locked = await paid_requests.lock_with_attempt(tx, request_claim.charge.workspace_id, request_claim.supersedes)
    earlier, attempt = locked.request, locked.attempt
    if attempt.state != "open":
        return []
    day_move = await _end_as_lost(tx, earlier, attempt, now)
    if earlier.owner_attempt_id == attempt.id:
        await _release(tx, earlier)
        await save(tx, earlier)
    return [day_move]


async def journaled(tx: AsyncSession, workspace_id: str, request_id: str, fingerprint: str) -> Settled | None:
    """The reply of a request that is already settled, else None."""
    request = await tx.get(PaidRequest, (workspace_id, request_id))
    known = request is not None and request.settled_attempt_id is not None and request.fingerprint == fingerprint
    return await _settled(tx, request.workspace_id, request.request_id) if request and known else None


async def settled_by(tx: AsyncSession, workspace_id: str, attempt_id: UUID) -> Settled | None:
    """The reply of the request that an attempt has settled, else None."""
    attempt = await paid_requests.attempt(tx, workspace_id, attempt_id)
    won = attempt is not None and attempt.state == "settled"
    return await _settled(tx, workspace_id, attempt.request_id) if attempt and won else None


async def renew(tx: AsyncSession, workspace_id: str, attempt_id: UUID, lease_seconds: float) -> bool:
    """Extend the lease. False if another attempt owns the request; the provider request may still finish."""
    as_owner = (
        update(PaidRequest)
        .where(col(PaidRequest.workspace_id) == workspace_id, col(PaidRequest.owner_attempt_id) == attempt_id)
        .values(lease_until=NOW + timedelta(seconds=lease_seconds))
    )
    return await changed_one(tx, as_owner)


async def settle(tx: AsyncSession, settlement: Settlement) -> Settled:
    """Journal a complete reply. The first reply wins the request; a later one is recorded at its cost and charged 0.

    Idempotent, so safe to repeat if it is unknown whether the commit took effect.

    Raises:
        NotFound: the workspace has no such attempt.
    """
    [settled] = await settle_jointly(tx, [settlement])
    return settled


async def settle_jointly(tx: AsyncSession, settlements: Sequence[Settlement]) -> list[Settled]:
    """Settle the attempts of a workspace that were sent as one request, all or none. As `settle` for each of them.

    `settlements`: in the order of their request ids, so that two such transactions do not deadlock. Each kind of row is
    locked for all of them before the next kind.
    """
    found = [await paid_requests.lock_with_attempt(tx, one.workspace_id, one.attempt_id) for one in settlements]
    ending = [(one, locked) for one, locked in zip(settlements, found, strict=True) if not _is_over(locked.attempt)]
    for _, locked in ending:
        if locked.is_troubled:
            await breaker.succeeded(tx, *_breakers_of(locked.attempt))
    moves = [
        move
        for one, locked in zip(settlements, found, strict=True)
        for move in await _withdraw_one(tx, locked, one.withdraws)
    ]
    costs = [_known_cost(locked.attempt, one.cost_usd) for one, locked in ending]
    for (_, locked), cost_usd in zip(ending, costs, strict=True):
        moves.append(await _rebook(tx, locked.request, locked.attempt, **_booked(locked.attempt, cost_usd)))
    settled = {
        locked.attempt.id: await _book(tx, one, locked, cost_usd)
        for (one, locked), cost_usd in zip(ending, costs, strict=True)
    }
    for one, _ in ending:
        if one.on_end:
            await one.on_end(tx)
    await _on_their_days(tx, found[0].request, moves)
    return [
        settled.get(locked.attempt.id) or await _settled(tx, locked.request.workspace_id, locked.request.request_id)
        for locked in found
    ]


def _is_over(attempt: Attempt) -> bool:
    return attempt.state in ("settled", "duplicate")


async def _withdraw_one(tx: AsyncSession, locked: Locked, attempt_id: UUID | None) -> list[DayMove]:
    """Withdraw the request's open attempt, if it has this id."""
    request = locked.request
    withdrawn = await _open_attempt_of(tx, request, attempt_id)
    if withdrawn is None:
        return []
    move = await _withdraw(tx, request, withdrawn, locked.now)
    if _is_over(locked.attempt):  # else its settlement saves the request
        await save(tx, request)
    return [move]


async def _book(tx: AsyncSession, settlement: Settlement, locked: Locked, cost_usd: Decimal | None) -> Settled:
    """Journal the reply as the request's own, or record it as a duplicate."""
    request, attempt = locked.request, locked.attempt
    attempt.rates = settlement.rates.model_dump(mode="json")
    # A lost attempt may win while a later one is open: the later one remains the owner until it ends.
    if request.owner_attempt_id == attempt.id:
        request.owner_attempt_id, request.lease_until = None, None
    is_winner = request.settled_attempt_id is None
    book = _book_winner if is_winner else _book_duplicate
    settled = await book(tx, locked, settlement.reply, cost_usd)
    if settlement.on_reply is None or not is_winner:
        return settled
    await settlement.on_reply(tx, settlement.reply)
    return replace(settled, has_followed=True)


async def _book_winner(tx: AsyncSession, locked: Locked, reply: Reply, cost_usd: Decimal | None) -> Settled:
    """Journal the request's one reply, with its event and its charge."""
    request, attempt = locked.request, locked.attempt
    is_only = (attempt.number, attempt.state) == (1, "open")
    charged, left = await _charge_once(tx, request, locked.energy_left, is_only=is_only)
    _end(attempt, "settled", Billed.YES, cost_usd, locked.now)
    request.state, request.settled_attempt_id = "settled", attempt.id
    entry = journal_entry(attempt, reply)
    is_confirmed = cost_usd is not None
    log_row = usage_row(
        request, attempt, confirmed=is_confirmed, usage=reply.usage, answered_by=reply.model, charged=charged
    )
    await save(tx, request, attempt, entry, completed_event(request, attempt, reply, charged), log_row)
    return replace(_as_settled(attempt, entry.payload, charged, left), is_only_attempt=is_only)


async def _book_duplicate(tx: AsyncSession, locked: Locked, reply: Reply, cost_usd: Decimal | None) -> Settled:
    """Record the cost of a later reply without charging the user. Returns the first reply."""
    request, attempt = locked.request, locked.attempt
    _end(attempt, "duplicate", Billed.YES, cost_usd, locked.now)
    is_confirmed = cost_usd is not None
    log_row = usage_row(request, attempt, confirmed=is_confirmed, usage=reply.usage, answered_by=reply.model)
    await save(tx, request, attempt, log_row)
    return await _settled(tx, request.workspace_id, request.request_id)


@dataclass(frozen=True)
class Failure:
    """Why an attempt has no reply, and what it may have cost. `usage`, `rates`: set if the provider reported usage."""

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
    on_end: OnEnd | None = None,
) -> None:
    """End an attempt without a reply, release its reservations and call `on_end`. Idempotent."""
    locked = await paid_requests.lock_with_attempt(tx, workspace_id, attempt_id)
    request, attempt = locked.request, locked.attempt
    if attempt.state not in ("open", "lost"):
        return
    await _report_to_breaker(tx, attempt, failure, terms)
    attempt.error_type, attempt.error = failure.error_type, storable(failure.detail[:ERROR_CHARACTERS])
    was_lost = attempt.state == "lost"
    cost = _known_cost(attempt, Decimal(0) if failure.billed is Billed.NO else failure.cost_usd)
    day_move = await _rebook(tx, request, attempt, **_booked(attempt, cost))
    if failure.rates:
        attempt.rates = failure.rates.model_dump(mode="json")
    _end(attempt, "failed", failure.billed, cost, locked.now)
    if request.owner_attempt_id == attempt_id:
        await _release(tx, request)
    log_row = usage_row(request, attempt, confirmed=cost is not None, usage=failure.usage)
    is_logged = was_lost or failure.billed is not Billed.NO
    await save(tx, request, attempt, failed_event(request, attempt), *([log_row] if is_logged else []))
    if on_end:
        await on_end(tx)
    await _on_its_day(tx, request, day_move)


@dataclass(frozen=True)
class Counted:
    """What a provider's list says of an attempt: its cost and usage, or that it was not billed."""

    cost_usd: Decimal
    usage: Usage
    is_billed: bool


async def confirm(
    tx: AsyncSession,
    workspace_id: str,
    attempt_id: UUID,
    counted: Counted,
    on_confirmed: Callable[[AsyncSession, str], Awaitable[None]],
) -> bool:
    """Replace the uncertain cost of an attempt that has ended, and call `on_confirmed` with its job key.

    Returns whether it did; False if the cost is not uncertain, and nothing was changed.

    Raises:
        NotFound: the workspace has no such attempt.
    """
    locked = await paid_requests.lock_with_attempt(tx, workspace_id, attempt_id)
    request, attempt = locked.request, locked.attempt
    if attempt.state == "open" or attempt.cost_usd is not None:
        return False
    day_move = await _rebook(tx, request, attempt, confirmed=counted.cost_usd)
    attempt.cost_usd = counted.cost_usd
    attempt.billed = (Billed.YES if counted.is_billed else Billed.NO).value
    row = await paid_requests.usage_log(tx, attempt)
    await save(tx, attempt, confirmed_row(row, counted.cost_usd, counted.usage))
    await on_confirmed(tx, request.job_key)
    await _on_its_day(tx, request, day_move)
    return True


async def end_stale(tx: AsyncSession, workspace_id: str, request_id: str) -> bool:
    """End a request whose lease has expired: its attempt becomes lost and the user's energy is released.

    Returns whether an attempt was ended. A reply that arrives later is settled as usual.

    Raises:
        NotFound: the workspace has no such request.
    """
    request, now = await paid_requests.lock(tx, workspace_id, request_id)
    if request.owner_attempt_id is None or paid_requests.lease_left(request, now) > 0:
        return False
    expired = await paid_requests.attempt(tx, workspace_id, request.owner_attempt_id)
    assert expired is not None  # noqa: S101 - attempts are never deleted
    lost = await _end_as_lost(tx, request, expired, now)
    await _release(tx, request)
    await save(tx, request)
    await _on_its_day(tx, request, lost)
    return True


async def _open_request(tx: AsyncSession, request_claim: Claim) -> tuple[PaidRequest, Passes, datetime] | None:
    """Insert the request's row with the attempt as owner. Returns it, what passed the breakers, and the time.

    None if the request has a row already. A failure of a later statement rolls the insert back.
    """
    charge, offer = request_claim.charge, request_claim.offer
    repeats = _repeats(charge)
    is_charged = repeats and charge.energy and await paid_requests.is_charged(tx, charge.workspace_id, repeats)
    opened = _new_request(request_claim, 0 if is_charged else charge.energy)
    inserted = await paid_requests.open_leased(tx, opened, offer.provider, **request_claim.terms.periods)
    if inserted is None:
        return None
    closed, now = inserted
    passes = breaker.passed(closed, shares_key=offer.shares_key) or await _pass_breakers(tx, request_claim)
    opened.energy_reserved = 0
    return opened, passes, now


def _new_request(request_claim: Claim, price: int) -> PaidRequest:
    charge = request_claim.charge
    return PaidRequest(
        **charge.model_dump(exclude={"energy", "envelope", "result_id"}),
        result_id=_repeats(charge),
        fingerprint=request_claim.fingerprint,
        energy_price=price,
        energy_reserved=price,
        owner_attempt_id=request_claim.attempt_id,
        expires_at=utc_now(),
    )


def _repeats(charge: Charge) -> str | None:
    """The first request for the same result; None if this is it."""
    return charge.result_id if charge.result_id != charge.request_id else None


async def _pass_breakers(tx: AsyncSession, request_claim: Claim) -> Passes:
    offer, workspace_id = request_claim.offer, request_claim.charge.workspace_id
    terms = request_claim.terms.breaker
    return await breaker.pass_through(tx, offer.provider, workspace_id, terms, shares_key=offer.shares_key)


def _breakers_of(attempt: Attempt) -> tuple[Provider, str, Passes]:
    passes = Passes(attempt.breaker_generation, attempt.fleet_generation)
    return Provider(attempt.provider), attempt.workspace_id, passes


def _unanswered(attempts: Sequence[Attempt], offer: Offer) -> tuple[Unanswered, ...]:
    """Ended attempts at the offer's provider whose replies may have been lost."""
    return tuple(
        Unanswered(one.id, one.model, Rates.model_validate(one.rates))
        for one in attempts
        if (one.provider, one.billed) == (offer.provider.value, Billed.UNKNOWN.value) and one.state != "open"
    )


def _attempt(
    request: PaidRequest, attempt_id: UUID, offer: Offer, passes: Passes, now: datetime, *, number: int
) -> Attempt:
    return Attempt(
        id=attempt_id,
        workspace_id=request.workspace_id,
        request_id=request.request_id,
        number=number,
        provider=offer.provider.value,
        model=offer.model,
        simulated=offer.simulated,
        upper_bound_usd=offer.upper_bound_usd,
        rates=offer.rates.model_dump(mode="json"),
        breaker_generation=passes.own,
        fleet_generation=passes.fleet,
        started_at=now,
    )


async def _end_as_lost(tx: AsyncSession, request: PaidRequest, attempt: Attempt, now: datetime) -> DayMove:
    """End an owner whose lease expired. Its cost is unknown until its reply arrives, so its upper bound is booked."""
    day_move = await _rebook(tx, request, attempt, uncertain=attempt.upper_bound_usd)
    _end(attempt, "lost", Billed.UNKNOWN, None, now)
    await save(tx, attempt, usage_row(request, attempt, confirmed=False, usage=Usage()))
    return day_move


async def _open_attempt_of(tx: AsyncSession, request: PaidRequest, attempt_id: UUID | None) -> Attempt | None:
    """The attempt if it belongs to this request and is open, else None."""
    attempt = await paid_requests.attempt(tx, request.workspace_id, attempt_id) if attempt_id else None
    is_open = attempt is not None and (attempt.request_id, attempt.state) == (request.request_id, "open")
    return attempt if is_open else None


async def _withdraw(tx: AsyncSession, request: PaidRequest, attempt: Attempt, now: datetime) -> DayMove:
    """End an attempt that never called the provider, because an earlier one's reply was recovered. Its cost is 0."""
    await breaker.not_counted(tx, *_breakers_of(attempt))
    day_move = await _rebook(tx, request, attempt, confirmed=Decimal(0))
    attempt.error_type, attempt.error = WITHDRAWN, "an earlier attempt's reply was recovered"
    _end(attempt, "failed", Billed.NO, Decimal(0), now)
    await save(tx, attempt)
    if request.owner_attempt_id == attempt.id:
        request.owner_attempt_id, request.lease_until = None, None
    return day_move


async def _rebook(tx: AsyncSession, request: PaidRequest, attempt: Attempt, **now: Decimal) -> DayMove:
    """Move the attempt's dollars in the job's envelope from their present account to `confirmed` or `uncertain`.

    A cost above the upper bound is booked as it is, with an event: it may overdraw caps, and then no claim passes them.
    Returns the same move for the attempt's day, to be applied at the end of the transaction.
    """
    confirmed = now.get("confirmed", Decimal(0))
    if confirmed > attempt.upper_bound_usd:
        await save(tx, above_bound_event(request, attempt, confirmed))
    changes = {name: -usd for name, usd in _amounts(attempt).items()}
    for name, usd in now.items():
        changes[name] = changes.get(name, Decimal(0)) + usd
    await budgets.move(tx, request.workspace_id, budgets.job_scope(request.job_key), **changes)
    return DayMove(attempt.started_at, changes)


async def _on_its_day(tx: AsyncSession, request: PaidRequest, move: DayMove | None) -> None:
    if move:
        await budgets.move(tx, request.workspace_id, budgets.day_scope(move.day), **move.changes)


async def _on_their_days(tx: AsyncSession, request: PaidRequest, moves: Sequence[DayMove]) -> None:
    """Apply the moves of several attempts. The earlier day is locked first, to avoid deadlocks."""
    for move in sorted(moves, key=lambda one: one.day):
        await _on_its_day(tx, request, move)


def _amounts(attempt: Attempt) -> dict[str, Decimal]:
    """The account that holds the attempt's dollars."""
    return {"reserved": attempt.upper_bound_usd} if attempt.state == "open" else _booked(attempt, attempt.cost_usd)


def _known_cost(attempt: Attempt, cost_usd: Decimal | None) -> Decimal | None:
    """The cost, or what a provider's list has confirmed where it is not known."""
    return attempt.cost_usd if cost_usd is None else cost_usd


def _booked(attempt: Attempt, cost_usd: Decimal | None) -> dict[str, Decimal]:
    """The account that an ended attempt's dollars move to."""
    return {"uncertain": attempt.upper_bound_usd} if cost_usd is None else {"confirmed": cost_usd}


async def _charge_once(
    tx: AsyncSession, request: PaidRequest, left: int | None, *, is_only: bool
) -> tuple[int, int | None]:
    """Charge the user for the reply that won, unless another request for the same result is charged.

    Returns the energy charged and the energy left. `left`: the energy available before, None without an account.
    `is_only`: no attempt of the request came before.
    """
    user = (request.workspace_id, request.user_id)
    # A repetition is requested only after an attempt of the first request has ended, or is noted in the first request's
    # `result_id`. The job's envelope, which this transaction has changed, makes the settlements of a result wait for
    # each other.
    may_repeat = request.result_id is not None or not is_only
    if may_repeat and request.energy_price and await paid_requests.is_charged(tx, *_result(request)):
        return 0, await _release_energy(tx, request, left)
    if request.energy_reserved == 0 and request.energy_price and left is not None:
        # The reservation was released. If the account does not cover the price, the user pays nothing.
        late = await energy.reserve_if_possible(tx, *user, request.energy_price, request.request_id)
        request.energy_reserved, left = late, left - late
    charged, request.energy_reserved = request.energy_reserved, 0
    if charged:
        await energy.charge(tx, *user, charged, request.request_id)
    return charged, left


async def _release(tx: AsyncSession, request: PaidRequest) -> None:
    """Release the lease and the reserved energy. The next attempt reserves again."""
    request.owner_attempt_id, request.lease_until = None, None
    await _release_energy(tx, request, None)


async def _release_energy(tx: AsyncSession, request: PaidRequest, left: int | None) -> int | None:
    """Release the reserved energy. `left`, returned with it: the energy available before, None without an account."""
    released, request.energy_reserved = request.energy_reserved, 0
    if released:
        await energy.release(tx, request.workspace_id, request.user_id, released, request.request_id)
    return None if left is None else left + released


def _result(request: PaidRequest) -> tuple[str, str]:
    return request.workspace_id, request.result_id or request.request_id


def _end(attempt: Attempt, state: str, billed: Billed, cost_usd: Decimal | None, now: datetime) -> None:
    attempt.state, attempt.billed, attempt.cost_usd, attempt.ended_at = state, billed.value, cost_usd, now


async def _report_to_breaker(tx: AsyncSession, attempt: Attempt, failure: Failure, terms: Terms) -> None:
    if failure.trips_breaker:
        await breaker.failed(tx, *_breakers_of(attempt), terms.breaker)
    else:
        await breaker.not_counted(tx, *_breakers_of(attempt))


async def _settled(tx: AsyncSession, workspace_id: str, request_id: str) -> Settled:
    """The journaled reply of a settled request, with its provider and the energy charged."""
    attempt, payload, charged, account = await paid_requests.journaled(tx, workspace_id, request_id)
    return _as_settled(attempt, payload, charged, energy.available(account) if account else None)


def _as_settled(attempt: Attempt, payload: dict[str, Any], charged: int, energy_left: int | None) -> Settled:
    reply = REPLY.validate_python(payload)
    return Settled(
        reply=reply,
        attempt_id=attempt.id,
        provider=Provider(attempt.provider),
        model=attempt.model,
        simulated=attempt.simulated,
        cost_usd=attempt.cost_usd or Decimal(0),
        prompt_cache_saved_usd=prompt_cache_saved(reply.usage, Rates.model_validate(attempt.rates)),
        energy_charged=charged,
        energy_left=energy_left,
    )
