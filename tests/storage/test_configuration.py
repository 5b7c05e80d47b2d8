"""Sections are stored for a workspace or a user and read in one statement, and every change gives a new version."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession

from parley.storage import configuration, energy
from parley.storage.configuration import WORKSPACE, Glance, Stored
from parley.storage.database import Database
from parley.storage.driver import fetch
from tests.storage.ledger_fixture import USER, LedgerFixture
from tests.storage.ledger_fixture import WORKSPACE as ACME

OTHER_USER, OTHER_WORKSPACE = "bob", "globex"
Work = Callable[[AsyncSession], Awaitable[Any]]


async def save(database: Database, section: str, *, owner: str = WORKSPACE, workspace: str = ACME, **payload: Any):
    async with database.transaction() as tx:
        await configuration.save(tx, workspace, section, payload, owner=owner)


async def load(database: Database, user: str = USER, workspace: str = ACME) -> Stored:
    async with database.transaction() as tx:
        return await configuration.load(tx, workspace, user)


async def look(database: Database, user: str = USER) -> Glance:
    async with database.transaction() as tx:
        return await fetch(tx, configuration.look(ACME, user))


async def test_a_user_has_the_workspaces_sections_and_its_own(database: Database):
    await save(database, "company", name="Acme")
    await save(database, "company", name="Globex", workspace=OTHER_WORKSPACE)
    await save(database, "ai_settings", owner=USER, tone="dry")
    await save(database, "ai_settings", owner=OTHER_USER, tone="warm")
    await save(database, "ai_settings", owner=USER, tone="loud", workspace=OTHER_WORKSPACE)
    assert (await load(database)).sections == {
        "company": {"name": "Acme"},
        "ai_settings": {"tone": "dry"},
        "profile": {},
    }
    assert (await load(database, "unknown")).sections == {"company": {"name": "Acme"}, "profile": {}}


async def test_the_profile_is_the_energy_account(books: LedgerFixture):
    async with books.database.transaction() as tx:
        await energy.set_tier(tx, ACME, USER, "pro")
    await books.granted()
    profile = {"tier": "pro", "energy": 90}
    assert (await load(books.database)).sections == {"profile": profile}
    assert (await look(books.database)).profile == profile
    assert (await look(books.database, OTHER_USER)).profile == {}


async def test_a_profile_cannot_be_stored_as_a_section(database: Database):
    await save(database, "profile", tier="business", energy=9999)
    assert (await load(database)).sections["profile"] == {}


async def test_a_section_counts_only_where_it_belongs(database: Database):
    await save(database, "credentials", owner=USER, openai={"env": "THEIR_API_KEY"})
    await save(database, "ai_settings", tone="loud")
    assert (await load(database)).sections == {"profile": {}}


async def test_loading_takes_one_statement(database: Database):
    await save(database, "company", name="Acme")
    statements: list[str] = []
    event.listen(
        database.engine.sync_engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2])
    )
    async with database.transaction() as tx:
        await configuration.load(tx, ACME, USER)
    assert len(statements) == 1


CHANGES: dict[str, Work] = {
    "a new section": lambda tx: configuration.save(tx, ACME, "products", {}, owner=WORKSPACE),
    "another value": lambda tx: configuration.save(tx, ACME, "company", {"name": "B"}, owner=WORKSPACE),
    "the same value": lambda tx: configuration.save(tx, ACME, "company", {"name": "A"}, owner=WORKSPACE),
    "the user's own": lambda tx: configuration.save(tx, ACME, "ai_settings", {}, owner=USER),
    "one gone": lambda tx: configuration.remove(tx, ACME, "company", owner=WORKSPACE),
    "a refresh": lambda tx: configuration.refresh(tx, ACME, USER),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_every_change_gives_a_new_version(database: Database, change: Work):
    await save(database, "company", name="A")
    before = await look(database)
    assert before.version == (await look(database)).version == (await load(database)).version
    async with database.transaction() as tx:
        assert await change(tx) is not False
    after = await look(database)
    assert after.version != before.version
    assert after.version == (await load(database)).version


async def test_what_others_change_gives_no_new_version(database: Database):
    await save(database, "company", name="A")
    before = await look(database)
    await save(database, "ai_settings", owner=OTHER_USER, tone="dry")
    await save(database, "company", name="B", workspace=OTHER_WORKSPACE)
    async with database.transaction() as tx:
        assert await configuration.refresh(tx, OTHER_WORKSPACE, USER) == 1
    assert await look(database) == before


async def test_a_change_that_is_committed_after_a_later_one_is_noticed(database: Database):
    await save(database, "company", name="A")
    await save(database, "products")
    async with database.transaction() as slow:
        await configuration.save(slow, ACME, "company", {"name": "B"}, owner=WORKSPACE)
        await save(database, "products", items=[])
        before = await look(database)
    assert (await look(database)).version != before.version


async def test_a_removed_section_is_reported_as_removed_once(database: Database):
    await save(database, "company", name="A")
    async with database.transaction() as tx:
        assert await configuration.remove(tx, ACME, "company", owner=WORKSPACE) is True
        assert await configuration.remove(tx, ACME, "company", owner=WORKSPACE) is False
    assert await load(database) == Stored((), {"profile": {}})
