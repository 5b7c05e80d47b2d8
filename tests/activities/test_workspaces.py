"""Requests of a workspace use its own keys only, and are masked as it says."""

from dataclasses import replace
from typing import Any

import pytest

from activities.workspaces import Workspaces
from parley.domain.configuration import Reference
from parley.domain.errors import AuthenticationFailed, ProviderNotConfigured
from parley.domain.requests import ChatReply, ChatRequest, Message, Provider
from parley.settings import Settings
from parley.storage import configuration
from parley.storage.configuration import WORKSPACE as SHARED
from parley.storage.database import Database
from tests.activities.asking import ANTHROPIC, OPENAI, make
from tests.activities.conftest import Opener
from tests.activities.proxy import DatabaseProxy
from tests.parts import SimulatorAdmin, candidates_of
from tests.storage.ledger_fixture import WORKSPACE, LedgerFixture

VARIABLE = "ACME_OPENAI_API_KEY"


async def store(database: Database, section: str, content: dict[str, Any]) -> None:
    async with database.transaction() as tx:
        await configuration.save(tx, WORKSPACE, section, content, owner=SHARED)


async def refer(database: Database, credentials: dict[str, Any]) -> None:
    await store(database, "credentials", credentials)


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


async def test_terms_are_cached_and_then_read_again(database: Database) -> None:
    workspaces = Workspaces(database)
    assert (await workspaces.terms_of(WORKSPACE)).key_of(Provider.OPENAI) is None
    await refer(database, {"openai": {"env": VARIABLE}})
    assert (await workspaces.terms_of(WORKSPACE)).key_of(Provider.OPENAI) is None
    again = await Workspaces(database, seconds=0).terms_of(WORKSPACE)
    assert again.key_of(Provider.OPENAI) == Reference(env=VARIABLE)
    assert (await Workspaces(database).terms_of("globex")).key_of(Provider.OPENAI) is None


async def test_without_the_database_the_last_known_terms_are_used(database: Database, proxy: DatabaseProxy) -> None:
    await refer(database, {"openai": {"env": VARIABLE}})
    workspaces = Workspaces(proxy.database, seconds=0)
    with pytest.raises(ProviderNotConfigured, match="cannot be read"):
        workspaces.remembered(WORKSPACE, Provider.OPENAI)
    await workspaces.terms_of(WORKSPACE)
    proxy.cut()
    assert workspaces.remembered(WORKSPACE, Provider.OPENAI).key_of(Provider.OPENAI) == Reference(env=VARIABLE)


SAYING = ChatRequest(messages=(Message(role="user", content="ada@example.com, ada@example.com"),), max_tokens=200)


async def test_a_provider_sees_no_masked_text(open_calls: Opener, settings: Settings, books: LedgerFixture) -> None:
    """The simulator mentions the words that it was sent."""
    asked = replace(ANTHROPIC, request=SAYING)
    before = await make(open_calls(books.database, settings), asked)
    await store(books.database, "privacy", {"mask": ["email"]})
    worker = open_calls(books.database, settings)
    after = await make(worker, asked, step="masked")
    texts = [settled.reply.text for settled in (before, after) if isinstance(settled.reply, ChatReply)]
    assert ["example" in one for one in texts] == [True, False]
    assert "email" in texts[1]
    # What is masked does not change which request it is: the first one is not paid again.
    assert (await make(worker, asked)).attempt_id == before.attempt_id
    assert await books.disagreements() == []


async def test_a_provider_that_runs_in_the_worker_has_no_key_to_refer_to(database: Database) -> None:
    assert (await Workspaces(database).terms_of(WORKSPACE)).key_of(Provider.WHISPER) is None
    await refer(database, {"openai": {"env": VARIABLE}})
    assert (await Workspaces(database).terms_of(WORKSPACE)).key_of(Provider.WHISPER) is None
