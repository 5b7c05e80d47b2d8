"""The refill grants users the energy up to their tier's `daily_energy`, once a day, also under concurrency."""

import asyncio
from collections.abc import Mapping
from functools import partial

import pytest
from sqlalchemy import text

from parley.storage import energy, refill
from parley.storage.tables import EnergyAccount, EnergyEntry
from tests.parts import until
from tests.storage.ledger_fixture import PRICE, USER, LedgerFixture

DAILY = {"free": 20, "pro": 500}
NEVER = "refill:1999-01-01"


async def run(
    books: LedgerFixture, key: str = "refill:2026-11-20", page: int = 100, daily: Mapping[str, int] = DAILY
) -> int:
    """Run the refill for every user. Returns the energy that it granted."""
    last, given = ("", ""), 0
    while last:
        async with books.database.transaction() as tx:
            done = await refill.top_up(tx, daily, key=key, after=last, page=page)
        last, given = done.last, given + sum(done.grants)
    return given


@pytest.fixture
async def books(books: LedgerFixture) -> LedgerFixture:
    """A user of the tier `free` with 5 of 20 left."""
    for step, price in (("one", 60), ("two", 35)):
        await books.settle(await books.granted(step, energy=price))
    return books


async def left(books: LedgerFixture, user: str = USER, workspace: str | None = None) -> int:
    (account,) = await books.all(EnergyAccount, workspace_id=workspace or books.workspace, user_id=user)
    return energy.available(account)


async def grants(books: LedgerFixture) -> list[int]:
    return [entry.amount for entry in await books.all(EnergyEntry, "id", kind="grant")]


async def test_a_user_is_refilled_to_the_tiers_energy_once_a_day(books: LedgerFixture):
    assert await run(books) == 15
    assert await left(books) == 20
    await books.settle(await books.granted("three"))
    assert await run(books) == 0
    assert await left(books) == 20 - PRICE
    assert await run(books, "refill:2026-11-21") == PRICE
    assert await grants(books) == [100, 15, PRICE]


async def test_an_account_with_more_energy_is_unchanged(database):
    books = await LedgerFixture(database).open(energy_granted=21)
    assert await run(books) == 0
    assert (await left(books), await grants(books)) == (21, [21])


async def test_what_is_reserved_is_not_available(books: LedgerFixture):
    await books.granted("open", energy=5)
    assert await run(books) == 20
    assert await left(books) == 20


async def test_each_tier_has_its_own_energy_and_an_unknown_one_none(books: LedgerFixture):
    for user, tier in (("bob", "pro"), ("cy", "gold"), ("di", "gold")):
        await books.open(user=user, energy_granted=0)
        async with books.database.transaction() as tx:
            await energy.set_tier(tx, books.workspace, user, tier)
    await run(books)
    assert [await left(books, user) for user in (USER, "bob", "cy", "di")] == [20, 500, 0, 0]
    async with books.database.transaction() as tx:
        assert await refill.of_other_tiers(tx, DAILY) == {"gold": 2}


async def test_pages_reach_every_user_of_every_workspace(books: LedgerFixture):
    users = [f"user {number:02}" for number in range(25)]
    other = LedgerFixture(books.database, "globex")
    for user in users:
        await books.open(user=user, energy_granted=0)
        await other.open(user=user, energy_granted=3)
    assert await run(books, page=7) == 15 + 25 * 20 + 25 * 17
    assert {await left(books, user) for user in users} == {20}
    assert {await left(books, user, "globex") for user in users} == {20}


async def test_a_refill_that_was_interrupted_is_finished_by_the_next(books: LedgerFixture):
    for user in ("bob", "cy", "di"):
        await books.open(user=user, energy_granted=0)
    async with books.database.transaction() as tx:
        first = await refill.top_up(tx, DAILY, key="refill:2026-11-20", page=2)
    assert sum(first.grants) == 35
    assert await run(books) == 40


async def test_two_concurrent_refills_grant_as_much_as_one(books: LedgerFixture):
    for number in range(30):
        await books.open(user=f"user {number}", energy_granted=0)
    given = await asyncio.gather(*(run(books, page=4) for _ in range(4)))
    assert sum(given) == 15 + 30 * 20


async def test_the_refill_waits_for_a_running_grant_and_counts_it(books: LedgerFixture):
    async with books.database.transaction() as tx:
        await energy.grant(tx, books.workspace, USER, 5, key="an invoice")
        refilling = asyncio.create_task(run(books))
        await until(partial(waits_for_a_lock, books))
    assert await refilling == 10
    assert await left(books) == 20


async def waits_for_a_lock(books: LedgerFixture) -> bool:
    query = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with books.database.transaction() as tx:
        return (await tx.execute(text(query))).first() is not None


async def test_concurrent_spending_is_neither_lost_nor_granted_twice(books: LedgerFixture):
    """The audit after each test sums every movement."""
    await run(books, NEVER)

    async def spend(number: int) -> None:
        await books.settle(await books.granted(f"spent {number}", energy=1))

    await asyncio.gather(*(spend(number) for number in range(10)), *(run(books, page=1) for _ in range(3)))
    (account,) = await books.all(EnergyAccount)
    assert account.charged == 95 + 10
    assert account.granted - account.charged in range(10, 21)
