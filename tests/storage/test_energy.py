"""A user's energy: granted once per key, never overdrawn."""

import asyncio

import pytest

from parley.domain.errors import InsufficientEnergy
from parley.storage import energy
from parley.storage.database import Database
from parley.storage.tables import EnergyAccount, EnergyEntry
from tests.storage.ledger_fixture import USER, WORKSPACE, LedgerFixture


async def grant(database: Database, amount: int, key: str) -> bool:
    async with database.transaction() as tx:
        return await energy.grant(tx, WORKSPACE, USER, amount, key=key)


async def open_account(database: Database, starting_energy: int = 100) -> int:
    async with database.transaction() as tx:
        return energy.available(await energy.open_account(tx, WORKSPACE, USER, starting_energy=starting_energy))


async def test_a_grant_is_given_once_per_key(database: Database):
    assert await grant(database, 30, "invoice 1")
    assert not await grant(database, 30, "invoice 1")
    assert await grant(database, 5, "invoice 2")
    assert await open_account(database, starting_energy=0) == 35


async def test_a_grant_is_given_once_under_concurrency(database: Database):
    given = await asyncio.gather(*(grant(database, 30, f"invoice {turn % 2}") for turn in range(40)))
    assert sum(given) == 2
    assert await open_account(database, starting_energy=0) == 60


async def test_an_account_is_opened_once_under_concurrency(database: Database):
    seen = await asyncio.gather(*(open_account(database) for _ in range(40)))
    assert set(seen) == {100}
    books = LedgerFixture(database)
    assert len(await books.all(EnergyAccount)) == len(await books.all(EnergyEntry)) == 1


async def test_opening_an_account_again_grants_nothing(books: LedgerFixture):
    await books.granted()
    assert await open_account(books.database, starting_energy=500) == 90


async def test_the_same_user_in_two_workspaces_has_two_accounts(books: LedgerFixture):
    await LedgerFixture(books.database, "globex").open(energy_granted=7)
    await books.granted()
    async with books.database.transaction() as tx:
        mine = await energy.account(tx, WORKSPACE, USER)
        theirs = await energy.account(tx, "globex", USER)
    assert mine and theirs
    assert (energy.available(mine), energy.available(theirs)) == (90, 7)


async def test_a_tier_is_set_for_one_account(books: LedgerFixture):
    async with books.database.transaction() as tx:
        await energy.set_tier(tx, WORKSPACE, USER, "pro")
    (account,) = await books.all(EnergyAccount)
    assert account.tier == "pro"


async def test_the_last_energy_can_be_reserved_and_no_more(database: Database):
    books = await LedgerFixture(database).open(energy_granted=20)
    await books.granted("one")
    await books.granted("two")
    with pytest.raises(InsufficientEnergy, match="ann"):
        await books.claim("three")
    assert await books.energy() == (0, 20)
