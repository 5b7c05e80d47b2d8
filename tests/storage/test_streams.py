"""The stored part of a stream: only the newest attempt writes, and readers in any process find all that was stored."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from parley.domain.errors import StreamSuperseded
from parley.domain.streaming import Delta, TextDelta, ToolCallDelta
from parley.storage import streams
from parley.storage.database import Database
from parley.storage.streams import MOST_RECEIVERS, News, Opened, StoredStream
from parley.storage.tables import StoredStream as Row
from parley.storage.tables import StreamChunk, utc_now
from tests.storage.ledger_fixture import LedgerFixture, reply

ACME, GLOBEX, STREAM = "acme", "globex", "generate/acme/key"
HERE, THERE = "ws://127.0.0.1:9001", "ws://127.0.0.1:9002"
CLAIM = ("job/ask-1", "5f3e", 2)


def words(*texts: str) -> tuple[Delta, ...]:
    return tuple(TextDelta(text=text) for text in texts)


class Store:
    """Each operation in a session of its own, as a sink makes them."""

    def __init__(self, database: Database, workspace: str = ACME) -> None:
        self._database, self._of = database, (workspace, STREAM)

    async def open(self, address: str = HERE, scheduled_at: datetime | None = None) -> Opened:
        async with self._database.reads() as tx:
            return await streams.open_attempt(tx, *self._of, address, scheduled_at)

    async def claim(self, attempt: int) -> bool:
        async with self._database.reads() as tx:
            return await streams.record_claim(tx, *self._of, attempt, CLAIM)

    async def store(self, attempt: int, first: int, deltas: Sequence[Delta] = (), **news: Any) -> Sequence[str] | None:
        async with self._database.reads() as tx:
            return await streams.store(tx, *self._of, attempt, News(first, deltas, **news))

    async def load(self, after: int = 0) -> StoredStream | None:
        async with self._database.reads() as tx:
            return await streams.load(tx, *self._of, after=after)

    async def add(self, address: str) -> bool:
        async with self._database.reads() as tx:
            return await streams.add_receiver(tx, *self._of, address)


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database)


async def test_a_further_attempt_learns_what_the_earlier_one_stored(store: Store):
    first = await store.open()
    assert (first.delivered.attempt, first.delivered.deltas, first.receivers) == (1, (), (HERE,))
    await store.store(1, 0, words("one ", "two "))
    assert await store.claim(1)
    call = ToolCallDelta(index=0, id="call", name="look", arguments='{"é": 1}')
    assert await store.store(1, 2, (call,), reply=reply()) == (HERE,)
    second = (await store.open(THERE)).delivered
    assert second.attempt == 2
    assert second.deltas == (*words("one ", "two "), call)
    assert (second.paid_request_id, second.attempt_id, second.starts_at) == CLAIM
    assert second.reply == reply()


async def test_a_claim_forgets_the_reply_to_the_claim_before(store: Store):
    await store.open()
    await store.store(1, 0, reply=reply())
    await store.claim(1)
    assert (await store.open()).delivered.reply is None


async def test_an_older_attempt_writes_nothing(store: Store):
    await store.open()
    await store.store(1, 0, words("one "))
    await store.open()
    assert await store.store(1, 1, words("late"), reply=reply(), ends=True) is None
    assert not await store.claim(1)
    third = (await store.open()).delivered
    assert (third.attempt, third.deltas, third.reply, third.paid_request_id) == (3, words("one "), None, "")


async def test_attempts_that_open_at_once_have_different_numbers(store: Store):
    opened = await asyncio.gather(*(store.open() for _ in range(8)))
    assert sorted(one.delivered.attempt for one in opened) == list(range(1, 9))


async def test_a_chunk_that_is_stored_again_may_have_grown(store: Store):
    await store.open()
    await store.store(1, 0, words("one "))
    await store.store(1, 0, words("one ", "two "))
    assert (await store.open()).delivered.deltas == words("one ", "two ")


async def test_a_reader_loads_what_it_does_not_have(store: Store):
    assert await store.load() is None
    await store.open()
    await store.store(1, 0, words("one ", "two "))
    await store.store(1, 2, words("three"))
    assert await store.load() == StoredStream(1, (HERE,), False, 0, words("one ", "two ", "three"))
    assert await store.load(after=2) == StoredStream(1, (HERE,), False, 2, words("three"))
    assert await store.load(after=3) == StoredStream(1, (HERE,), False, 3, ())


async def test_a_stream_ends_with_an_attempt_that_has_the_reply(store: Store):
    await store.open()
    await store.store(1, 0, words("one "), ends=True)
    stored = await store.load()
    assert stored is not None
    assert not stored.has_ended
    await store.open()
    await store.store(2, 1, reply=reply())
    await store.store(2, 1, ends=True)
    stored = await store.load()
    assert stored is not None
    assert stored.has_ended
    assert not await store.add(THERE)


async def test_an_attempt_learns_of_new_receivers_and_the_oldest_are_dropped(store: Store):
    await store.open()
    assert await store.add(THERE)
    assert not await store.add(THERE)
    assert await store.store(1, 0) == (HERE, THERE)
    later = [f"ws://127.0.0.1:{9100 + number}" for number in range(MOST_RECEIVERS)]
    for address in later:
        await store.add(address)
    assert await store.store(1, 0) == tuple(later)
    assert (await store.open()).receivers == (*later[1:], HERE)


async def test_another_workspace_has_a_stream_of_its_own_under_the_same_id(store: Store, database: Database):
    await store.open()
    await store.store(1, 0, words("ours"))
    other = Store(database, GLOBEX)
    assert await other.load() is None
    assert not await other.add(THERE)
    assert not await other.claim(1)
    assert await other.store(1, 0, words("theirs")) is None
    assert (await other.open()).delivered.deltas == ()
    assert (await store.open()).delivered.deltas == words("ours")


async def test_old_streams_are_deleted_with_their_chunks(books: LedgerFixture):
    hour, day = timedelta(hours=1), timedelta(days=1)
    for workspace in (ACME, GLOBEX):
        one = Store(books.database, workspace)
        await one.open()
        await one.store(1, 0, words("said"), reply=reply(), ends=workspace == ACME)

    async def purge(later: timedelta, *running: str) -> int:
        now = utc_now() + later
        async with books.database.transaction() as tx:
            times = {"ended_before": now - hour, "begun_before": now - day}
            return await streams.purge(tx, **times, running=running, limit=100)

    assert await purge(hour / 2) == 0
    assert await purge(2 * hour) == 1
    assert [(row.workspace_id) for row in (*await books.all(Row), *await books.all(StreamChunk))] == [GLOBEX] * 2
    assert await purge(2 * day, STREAM) == 0
    assert await purge(2 * day) == 1
    assert [*await books.all(Row), *await books.all(StreamChunk)] == []


async def test_a_step_that_was_scheduled_earlier_opens_nothing_after_a_later_one(store: Store):
    earlier, later = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    numbers = [(await store.open(scheduled_at=when)).delivered.attempt for when in (earlier, earlier, later)]
    with pytest.raises(StreamSuperseded):
        await store.open(scheduled_at=earlier)
    numbers += [(await store.open(scheduled_at=when)).delivered.attempt for when in (later, None)]
    assert numbers == [1, 2, 3, 4, 5]
    assert await store.claim(5)
