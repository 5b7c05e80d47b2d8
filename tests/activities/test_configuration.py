"""A worker keeps what it has loaded, and still sees every change at once."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import event, text

from activities import configuration as kept
from activities.configuration import Configurations, Loaded
from parley.domain.configuration import Configuration
from parley.storage import configuration
from parley.storage.configuration import WORKSPACE
from parley.storage.database import Database
from tests.storage.books import USER, Books
from tests.storage.books import WORKSPACE as ACME

GLOBEX = "globex"


@pytest.fixture
def configurations() -> Configurations:
    return Configurations()


async def get(configurations: Configurations, database: Database, *, user: str = USER, workspace: str = ACME) -> Loaded:
    async with database.transaction() as tx:
        return await configurations.get(tx, workspace, user)


async def save(database: Database, section: str, *, owner: str = WORKSPACE, workspace: str = ACME, **payload: Any):
    async with database.transaction() as tx:
        await configuration.save(tx, workspace, section, payload, owner=owner)


async def change_behind(database: Database, name: str) -> None:
    """As someone does who writes to the table without Parley."""
    async with database.transaction() as tx:
        statement = text("UPDATE configuration SET payload = jsonb_build_object('name', CAST(:name AS text))")
        await tx.execute(statement, {"name": name})


async def test_what_was_loaded_is_kept_and_costs_one_statement(configurations: Configurations, database: Database):
    await save(database, "company", name="Acme")
    first = await get(configurations, database)
    statements: list[str] = []
    event.listen(database.engine.sync_engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    assert await get(configurations, database) == first
    assert (configurations.loads, len(statements)) == (1, 1)
    assert first.configuration.company.name == "Acme"


async def test_every_worker_sees_a_change_at_once(database: Database):
    workers = [Configurations(), Configurations()]
    await save(database, "company", name="Acme")
    for worker in workers:
        await get(worker, database)
    await save(database, "company", name="Acme Lifts")
    assert [(await get(worker, database)).configuration.company.name for worker in workers] == ["Acme Lifts"] * 2
    async with database.transaction() as tx:
        await configuration.remove(tx, ACME, "company", owner=WORKSPACE)
    assert [(await get(worker, database)).configuration for worker in workers] == [Configuration()] * 2


async def test_a_refresh_reaches_every_worker_at_once(database: Database):
    workers = [Configurations(), Configurations()]
    await save(database, "company", name="Acme")
    for worker in workers:
        await get(worker, database)
    await change_behind(database, "Acme Lifts")
    assert [(await get(worker, database)).configuration.company.name for worker in workers] == ["Acme"] * 2
    async with database.transaction() as tx:
        await configuration.refresh(tx, ACME, USER)
    assert [(await get(worker, database)).configuration.company.name for worker in workers] == ["Acme Lifts"] * 2


async def test_nothing_is_kept_for_longer_than_its_time(database: Database):
    forgetful = Configurations(seconds=0)
    await save(database, "company", name="Acme")
    await get(forgetful, database)
    await change_behind(database, "Acme Lifts")
    assert (await get(forgetful, database)).configuration.company.name == "Acme Lifts"
    assert forgetful.loads == 2


async def test_the_profile_is_always_that_of_now(configurations: Configurations, books: Books):
    assert (await get(configurations, books.database)).configuration.profile.energy == 100
    await books.granted()
    assert (await get(configurations, books.database)).configuration.profile.energy == 90
    assert configurations.loads == 1


async def test_workspaces_and_users_have_their_own(configurations: Configurations, database: Database):
    await save(database, "company", name="Acme")
    await save(database, "company", name="Globex", workspace=GLOBEX)
    await save(database, "ai_settings", owner="bob", tone="dry")
    for _ in range(2):
        assert (await get(configurations, database)).configuration.company.name == "Acme"
        assert (await get(configurations, database)).configuration.ai_settings.tone == "friendly"
        assert (await get(configurations, database, workspace=GLOBEX)).configuration.company.name == "Globex"
        assert (await get(configurations, database, user="bob")).configuration.ai_settings.tone == "dry"
    assert configurations.loads == 3


async def test_what_is_not_valid_is_told_with_every_answer(configurations: Configurations, database: Database):
    await save(database, "company", industry=5)
    first, second = await get(configurations, database), await get(configurations, database)
    assert first.warnings == second.warnings
    assert first.warnings[0].startswith("company.industry: ")


async def test_of_many_calls_at_once_one_loads(configurations: Configurations, database: Database):
    await asyncio.gather(*(get(configurations, database) for _ in range(20)))
    assert configurations.loads == 1


async def test_the_least_used_is_forgotten_when_too_many_are_kept(
    configurations: Configurations, database: Database, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(kept, "MOST_KEPT", 2)
    for user in ("ann", "bob", "ann", "cid"):
        await get(configurations, database, user=user)
    assert configurations.loads == 3
    await get(configurations, database, user="ann")
    assert configurations.loads == 3
    await get(configurations, database, user="bob")
    assert configurations.loads == 4
