"""A worker caches configurations, and still sees every change with its next request."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import event, text

from activities import configuration as worker_configuration
from activities.configuration import Configurations, Loaded
from parley.domain.configuration import Configuration
from parley.storage import configuration
from parley.storage.configuration import WORKSPACE
from parley.storage.database import Database
from tests.storage.ledger_fixture import USER, LedgerFixture
from tests.storage.ledger_fixture import WORKSPACE as ACME

GLOBEX = "globex"


@pytest.fixture
def configurations() -> Configurations:
    return Configurations()


@pytest.fixture
def statements(database: Database) -> Iterator[list[str]]:
    """The statements that the database gets."""
    found: list[str] = []

    def note(*given: Any) -> None:
        found.append(given[2])

    event.listen(database.engine.sync_engine, "before_cursor_execute", note)
    yield found
    event.remove(database.engine.sync_engine, "before_cursor_execute", note)


def loads(statements: list[str]) -> int:
    """How many of the statements load sections."""
    return sum("payload" in one and one.lstrip().startswith("SELECT") for one in statements)


async def get(configurations: Configurations, database: Database, *, user: str = USER, workspace: str = ACME) -> Loaded:
    async with database.transaction() as tx:
        return await configurations.get(tx, workspace, user)


async def save(database: Database, section: str, *, owner: str = WORKSPACE, workspace: str = ACME, **payload: Any):
    async with database.transaction() as tx:
        await configuration.save(tx, workspace, section, payload, owner=owner)


async def change_behind(database: Database, name: str) -> None:
    """Write to the table without Parley."""
    async with database.transaction() as tx:
        statement = text("UPDATE configuration SET payload = jsonb_build_object('name', CAST(:name AS text))")
        await tx.execute(statement, {"name": name})


async def test_a_cached_configuration_is_not_loaded_again(
    configurations: Configurations, database: Database, statements: list[str]
):
    await save(database, "company", name="Acme")
    first = await get(configurations, database)
    assert loads(statements) == 1
    statements.clear()
    assert await get(configurations, database) == first
    assert loads(statements) == 0
    assert first.configuration.company.name == "Acme"


async def test_every_worker_sees_a_change_with_its_next_request(database: Database):
    workers = [Configurations(), Configurations()]
    await save(database, "company", name="Acme")
    for worker in workers:
        await get(worker, database)
    await save(database, "company", name="Acme Lifts")
    assert [(await get(worker, database)).configuration.company.name for worker in workers] == ["Acme Lifts"] * 2
    async with database.transaction() as tx:
        await configuration.remove(tx, ACME, "company", owner=WORKSPACE)
    assert [(await get(worker, database)).configuration for worker in workers] == [Configuration()] * 2


async def test_a_refresh_reaches_every_worker_with_its_next_request(database: Database):
    workers = [Configurations(), Configurations()]
    await save(database, "company", name="Acme")
    for worker in workers:
        await get(worker, database)
    await change_behind(database, "Acme Lifts")
    assert [(await get(worker, database)).configuration.company.name for worker in workers] == ["Acme"] * 2
    async with database.transaction() as tx:
        await configuration.refresh(tx, ACME, USER)
    assert [(await get(worker, database)).configuration.company.name for worker in workers] == ["Acme Lifts"] * 2


async def test_an_entry_expires(database: Database, statements: list[str]):
    forgetful = Configurations(seconds=0)
    await save(database, "company", name="Acme")
    await get(forgetful, database)
    await change_behind(database, "Acme Lifts")
    assert (await get(forgetful, database)).configuration.company.name == "Acme Lifts"
    assert loads(statements) == 2


async def test_the_profile_is_always_current(
    configurations: Configurations, books: LedgerFixture, statements: list[str]
):
    assert (await get(configurations, books.database)).configuration.profile.energy == 100
    await books.granted()
    assert (await get(configurations, books.database)).configuration.profile.energy == 90
    assert loads(statements) == 1


async def test_workspaces_and_users_are_cached_apart(
    configurations: Configurations, database: Database, statements: list[str]
):
    await save(database, "company", name="Acme")
    await save(database, "company", name="Globex", workspace=GLOBEX)
    await save(database, "ai_settings", owner="bob", tone="dry")
    for _ in range(2):
        assert (await get(configurations, database)).configuration.company.name == "Acme"
        assert (await get(configurations, database)).configuration.ai_settings.tone == "friendly"
        assert (await get(configurations, database, workspace=GLOBEX)).configuration.company.name == "Globex"
        assert (await get(configurations, database, user="bob")).configuration.ai_settings.tone == "dry"
    assert loads(statements) == 3


async def test_invalid_fields_are_warned_about_every_time(configurations: Configurations, database: Database):
    await save(database, "company", industry=5)
    first, second = await get(configurations, database), await get(configurations, database)
    assert first.warnings == second.warnings
    assert first.warnings[0].startswith("company.industry: ")


async def test_concurrent_requests_load_once(configurations: Configurations, database: Database, statements: list[str]):
    await asyncio.gather(*(get(configurations, database) for _ in range(20)))
    assert loads(statements) == 1


async def test_a_full_cache_drops_the_entry_that_was_not_used_for_longest(
    configurations: Configurations, database: Database, statements: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(worker_configuration, "CACHE_SIZE", 2)
    for user in ("ann", "bob", "ann", "cid"):
        await get(configurations, database, user=user)
    assert loads(statements) == 3
    await get(configurations, database, user="ann")
    assert loads(statements) == 3
    await get(configurations, database, user="bob")
    assert loads(statements) == 4
