"""Stored summaries: which one is found, from which providers, and when they are purged."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from parley.domain.errors import NotFound
from parley.domain.generate.condensing import KEEP, StoredSummary, prefix_hashes
from parley.domain.generate.contract import SummaryReference
from parley.domain.requests import Message, Provider
from parley.storage import summaries
from parley.storage.database import Database
from parley.storage.tables import ConversationSummary, utc_now
from tests.storage.ledger_fixture import LedgerFixture, reply

SIMULATED = [(Provider.ANTHROPIC, True), (Provider.OPENAI, True)]
TALK = tuple(Message(role=("user", "assistant")[turn % 2], content=f"turn {turn}") for turn in range(40))


@pytest.fixture
async def books(database: Database) -> LedgerFixture:
    return await LedgerFixture(database).open()


async def store(books: LedgerFixture, talk: tuple[Message, ...], text: str = "in short", **terms: Any) -> UUID:
    """Condense the earlier part of a conversation, and store its summary."""
    attempt = await books.granted(f"{text} of {len(talk)}", **terms)
    await books.settle(attempt, reply(text))
    hashes = prefix_hashes(talk)
    async with books.database.transaction() as tx:
        await summaries.store(tx, books.workspace, hashes[-1], len(hashes), attempt)
    return attempt


async def find(books: LedgerFixture, talk: tuple[Message, ...], given_by: Any = SIMULATED) -> StoredSummary | None:
    async with books.database.transaction() as tx:
        return await summaries.find(tx, books.workspace, prefix_hashes(talk), given_by)


async def test_the_summary_of_the_longest_beginning_is_found(books: LedgerFixture):
    await store(books, TALK[:20])
    attempt = await store(books, TALK[:24], "in short, and on")
    await store(books, (*TALK[:26], *TALK))
    stored = SummaryReference(attempt_id=attempt, messages=24 - KEEP)
    assert await find(books, TALK) == StoredSummary(reference=stored, text="in short, and on")


async def test_a_summary_is_loaded_by_its_attempt(books: LedgerFixture):
    await store(books, TALK)
    found = await find(books, TALK)
    assert found
    async with books.database.transaction() as tx:
        assert await summaries.load(tx, books.workspace, found.reference) == found


async def test_a_conversation_with_other_words_has_no_summary(books: LedgerFixture):
    await store(books, TALK[:20])
    assert await find(books, (Message(role="user", content="Turn 0"), *TALK[1:])) is None
    assert await find(books, TALK[:19]) is None


async def test_a_simulated_summary_is_not_used_with_a_key(books: LedgerFixture):
    await store(books, TALK[:24])
    await store(books, TALK[:20], provider=Provider.OPENAI)
    found = await find(books, TALK, [(Provider.ANTHROPIC, False), (Provider.OPENAI, True)])
    assert found and found.reference.messages == 20 - KEEP
    assert await find(books, TALK, [(Provider.ANTHROPIC, False), (Provider.OPENAI, False)]) is None


async def test_a_new_summary_replaces_it(books: LedgerFixture):
    await store(books, TALK, "first")
    await store(books, TALK, "second")
    found = await find(books, TALK)
    assert found and found.text == "second"
    assert len(await books.all(ConversationSummary)) == 1


async def test_the_same_words_in_another_workspace_are_another_conversation(books: LedgerFixture):
    await store(books, TALK)
    other = await LedgerFixture(books.database, "globex").open()
    assert await find(other, TALK) is None
    found = await find(books, TALK)
    assert found
    async with books.database.transaction() as tx:
        with pytest.raises(NotFound):
            await summaries.load(tx, "globex", found.reference)


async def test_a_conversation_may_have_more_messages_than_a_statement_has_parameters(books: LedgerFixture):
    await store(books, TALK)
    assert await find(books, (*TALK, *[Message(role="user", content="on and on")] * 40_000))


async def test_old_summaries_are_deleted_in_batches(books: LedgerFixture):
    for turns in range(20, 25):
        await store(books, TALK[:turns])
    async with books.database.transaction() as tx:
        assert await summaries.purge(tx, utc_now() - timedelta(hours=1), limit=10) == 0
        assert await summaries.purge(tx, utc_now() + timedelta(hours=1), limit=3) == 3
        assert await summaries.purge(tx, utc_now() + timedelta(hours=1), limit=3) == 2
    assert await find(books, TALK) is None
