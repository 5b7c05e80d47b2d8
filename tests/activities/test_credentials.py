"""Requests of a workspace with a key use that key only."""

from typing import Any

import pytest

from activities.credentials import WorkspaceKeys
from parley.domain.configuration import Reference
from parley.domain.errors import AuthenticationFailed, ProviderNotConfigured
from parley.domain.requests import Provider
from parley.settings import Settings
from parley.storage import configuration
from parley.storage.configuration import WORKSPACE as SHARED
from parley.storage.database import Database
from tests.activities.asking import OPENAI, make
from tests.activities.conftest import Opener
from tests.parts import SimulatorAdmin, candidates_of
from tests.storage.ledger_fixture import WORKSPACE, LedgerFixture

VARIABLE = "ACME_OPENAI_API_KEY"


async def refer(database: Database, section: dict[str, Any], workspace: str = WORKSPACE) -> None:
    async with database.transaction() as tx:
        await configuration.save(tx, workspace, "credentials", section, owner=SHARED)


async def test_a_workspaces_own_key_is_sent(
    open_calls: Opener,
    settings: Settings,
    books: LedgerFixture,
    simulator: SimulatorAdmin,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The simulator accepts every key except `invalid`, which shows which key was sent."""
    await refer(books.database, {"openai": {"env": VARIABLE}})
    fleet = settings.model_copy(update={"openai_base_url": f"{simulator.url}/openai/v1"})
    paid_calls = open_calls(books.database, fleet)
    monkeypatch.setenv(VARIABLE, "invalid")
    with pytest.raises(AuthenticationFailed):
        await make(paid_calls, OPENAI)
    monkeypatch.setenv(VARIABLE, "our-own-key")
    settled = await make(paid_calls, OPENAI, step="again")
    assert not settled.simulated
    assert await books.disagreements() == []


async def test_a_missing_key_is_not_replaced_by_the_fleets(
    open_calls: Opener, settings: Settings, books: LedgerFixture, simulator: SimulatorAdmin
) -> None:
    await refer(books.database, {"openai": {"env": VARIABLE}})
    paid_calls = open_calls(books.database, settings)
    with pytest.raises(ProviderNotConfigured, match=VARIABLE):
        await make(paid_calls, OPENAI)
    candidates = candidates_of(books.database, settings)
    [option] = await candidates.options(WORKSPACE, (Provider.OPENAI,))
    assert not option.configured
    [theirs] = await candidates.options("globex", (Provider.OPENAI,))
    assert theirs.configured
    assert await simulator.requests() == []
    assert await books.attempts() == []


async def test_a_reference_is_cached_and_then_read_again(database: Database) -> None:
    keys = WorkspaceKeys(database)
    assert await keys.of(WORKSPACE, Provider.OPENAI) is None
    await refer(database, {"openai": {"env": VARIABLE}})
    assert await keys.of(WORKSPACE, Provider.OPENAI) is None
    assert await WorkspaceKeys(database, seconds=0).of(WORKSPACE, Provider.OPENAI) == Reference(env=VARIABLE)
    assert await WorkspaceKeys(database).of("globex", Provider.OPENAI) is None
