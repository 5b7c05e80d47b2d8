"""Concurrent callers: no race overdraws, pays twice or deadlocks."""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from decimal import Decimal
from random import Random  # noqa: TID251 - seeded
from typing import Any
from uuid import UUID

import pytest

from parley.domain.errors import Billed, BreakerOpen, BudgetExhausted, InsufficientEnergy
from parley.domain.requests import Provider
from parley.storage.ledger import Granted, Held, Settled
from parley.storage.tables import PaidRequest
from tests.storage.ledger_fixture import BOUND, EXPIRED, NOTHING, PRICE, TERMS, USAGE, LedgerFixture, reply

MANY = 200


async def outcomes(work: list[Coroutine[Any, Any, Any]]) -> Counter[type]:
    done = await asyncio.gather(*work, return_exceptions=True)
    return Counter(type(outcome) for outcome in done)


async def test_energy_for_fifty_grants_exactly_fifty(database):
    books = await LedgerFixture(database).open(energy_granted=50 * PRICE)
    counted = await outcomes([books.claim(f"step {number}") for number in range(MANY)])
    assert counted == {Granted: 50, InsufficientEnergy: 150}
    assert await books.energy() == (0, 50 * PRICE)


async def test_dollars_for_fifty_grant_exactly_fifty(database):
    books = await LedgerFixture(database).open(energy_granted=MANY * PRICE, cap=50 * BOUND + BOUND / 2)
    counted = await outcomes([books.claim(f"step {number}") for number in range(MANY)])
    assert counted == {Granted: 50, BudgetExhausted: 150}
    assert await books.dollars() == (50 * BOUND, NOTHING, NOTHING)


async def test_one_request_is_granted_to_exactly_one(books: LedgerFixture):
    counted = await outcomes([books.claim() for _ in range(MANY)])
    assert counted == {Granted: 1, Held: MANY - 1}
    assert await books.dollars() == (BOUND, NOTHING, NOTHING)
    assert await books.energy() == (0, PRICE)


async def test_one_expired_lease_is_taken_over_by_exactly_one(books: LedgerFixture):
    await books.granted(terms=EXPIRED)
    counted = await outcomes([books.claim() for _ in range(MANY)])
    assert counted == {Granted: 1, Held: MANY - 1}
    assert await books.states() == ["lost", "open"]


async def test_many_replies_to_one_request_have_one_winner(books: LedgerFixture):
    attempts = [await books.granted(terms=EXPIRED) for _ in range(10)]
    settled = await asyncio.gather(*(books.settle(attempt, reply(str(attempt))) for attempt in attempts))
    assert len({answer.attempt_id for answer in settled}) == 1
    assert Counter(await books.states()) == {"settled": 1, "duplicate": 9}
    assert await books.energy() == (PRICE, 0)


class Crowd:
    """Concurrent callers. Each makes a random operation; the seed determines which."""

    def __init__(self, books: LedgerFixture, seed: int) -> None:
        self.books, self.random = books, Random(seed)
        self.attempts: list[UUID] = []

    async def act(self) -> None:
        moves = (self.claim, self.claim, self.settle, self.settle, self.fail, self.sweep, self.renew)
        with suppress(BreakerOpen, BudgetExhausted, InsufficientEnergy):
            await self.random.choice(moves)()

    def step(self) -> tuple[str, str]:
        """A step and a job. There are few, so that the callers often have the same."""
        return f"step {self.random.randrange(6)}", self.random.choice(("job", "other"))

    async def claim(self) -> None:
        step, job = self.step()
        claimed = await self.books.claim(
            step,
            job=job,
            user_id=self.random.choice(("ann", "bob", "cid")),
            terms=self.random.choice((EXPIRED, TERMS)),
            provider=self.random.choice((Provider.ANTHROPIC, Provider.OPENAI)),
        )
        if isinstance(claimed, Granted):
            self.attempts.append(claimed.attempt_id)

    async def settle(self) -> None:
        if self.attempts:
            settled = await self.books.settle(self.random.choice(self.attempts))
            assert isinstance(settled, Settled)

    async def fail(self) -> None:
        if self.attempts:
            billed, counted = self.random.choice(
                ((Billed.NO, {}), (Billed.UNKNOWN, {}), (Billed.YES, {"cost_usd": Decimal("0.003"), "usage": USAGE}))
            )
            attempt_id, trips = self.random.choice(self.attempts), self.random.random() < 0.3
            await self.books.fail(attempt_id, billed, trips_breaker=trips, **counted)

    async def sweep(self) -> None:
        """Sweep a random half of the requests, in random order."""
        requests = await self.books.all(PaidRequest)
        for request in self.random.sample(requests, len(requests) // 2):
            await self.books.sweep(request.request_id.removeprefix(f"{request.job_key}/"), request.job_key)

    async def renew(self) -> None:
        if self.attempts:
            await self.books.renew(self.random.choice(self.attempts), self.random.choice((0, 60)))


@pytest.mark.parametrize("seed", [1, 2])
async def test_many_concurrent_callers_never_deadlock_and_the_audit_is_clean(database, seed: int):
    books = LedgerFixture(database)
    for user, job in (("ann", "job"), ("bob", "other"), ("cid", "job")):
        await books.open(energy_granted=8 * PRICE, cap=30 * BOUND, user=user, job=job)
    crowd = Crowd(books, seed)
    for _ in range(6):
        await asyncio.gather(*(crowd.act() for _ in range(40)))
        assert await books.disagreements() == []
    assert crowd.attempts
