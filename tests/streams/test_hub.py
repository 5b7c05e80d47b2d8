"""The hub of a process: fencing, gaps and repetitions, readers at any offset, memory."""

import asyncio

import pytest

from parley.domain.requests import ChatReply, Finish, Usage
from parley.domain.streaming import Delivered, StreamTarget, TextDelta
from parley.streams.hub import MOST_IDLE, StreamHub, StreamReader

STREAM = ("acme", "generate/acme/order-7")
REPLY = ChatReply(text="one two", finish=Finish.STOP, usage=Usage(), model="m")


def text(word: str) -> TextDelta:
    return TextDelta(text=word)


async def rest(reader: StreamReader) -> list[str]:
    reader.end()
    return [delta.text async for delta in reader if isinstance(delta, TextDelta)]


@pytest.fixture
def hub() -> StreamHub:
    return StreamHub()


class TestFeeding:
    async def test_a_repeated_delta_is_dropped_and_a_gap_is_named(self, hub: StreamHub) -> None:
        attempt = hub.open(*STREAM).attempt
        assert hub.feed(*STREAM, attempt, 0, text("one")) == 1
        assert hub.feed(*STREAM, attempt, 0, text("one")) == 1
        assert hub.feed(*STREAM, attempt, 2, text("three")) == 1
        assert hub.feed(*STREAM, attempt, 1, text("two")) == 2
        assert await rest(hub.read(*STREAM)) == ["one", "two"]

    async def test_only_the_newest_attempt_feeds(self, hub: StreamHub) -> None:
        old, new = hub.open(*STREAM), hub.open(*STREAM)
        assert (old.attempt, new.attempt) == (1, 2)
        assert hub.feed(*STREAM, 1, 0, text("old")) is None
        assert hub.feed(*STREAM, 2, 0, text("new")) == 1
        hub.record(*STREAM, Delivered(attempt=1, paid_request_id="old"))
        assert hub.open(*STREAM).paid_request_id == ""
        assert await rest(hub.read(*STREAM)) == ["new"]

    async def test_an_attempt_begins_with_what_is_known_elsewhere(self, hub: StreamHub) -> None:
        stored = Delivered(attempt=3, deltas=(text("one"), text("two")), paid_request_id="ask-1")
        assert hub.open(*STREAM, stored) == stored
        assert hub.feed(*STREAM, 3, 2, text("three")) == 3
        assert await rest(hub.read(*STREAM, offset=1)) == ["two", "three"]

    async def test_what_is_stored_elsewhere_may_be_less_than_was_delivered_here(self, hub: StreamHub) -> None:
        hub.open(*STREAM)
        hub.feed(*STREAM, 1, 0, text("one"))
        hub.feed(*STREAM, 1, 1, text("two"))
        known = hub.open(*STREAM, Delivered(attempt=2, deltas=(text("one"),)))
        assert known.text == "onetwo"


class TestReaders:
    async def test_each_reads_at_its_own_pace_from_its_own_offset(self, hub: StreamHub) -> None:
        early = hub.read(*STREAM)
        waiting = asyncio.create_task(anext(early))
        hub.open(*STREAM)
        hub.feed(*STREAM, 1, 0, text("one"))
        assert await waiting == text("one")
        hub.feed(*STREAM, 1, 1, text("two"))
        late = hub.read(*STREAM, offset=1)
        assert (await rest(late), late.offset) == (["two"], 2)
        assert await rest(early) == ["two"]

    async def test_one_who_waits_ends_with_the_stream(self, hub: StreamHub) -> None:
        reader = hub.read(*STREAM)
        waiting = asyncio.create_task(rest(reader))
        reader.end()
        assert await waiting == []

    async def test_the_last_one_who_leaves_is_noticed(self, hub: StreamHub) -> None:
        sink = hub.sink(*STREAM, StreamTarget(on_disconnect="cancel"))
        await sink.open()
        cancelled = asyncio.create_task(sink.cancelled())
        first, second = hub.read(*STREAM), hub.read(*STREAM)
        first.close()
        first.close()
        await asyncio.sleep(0)
        assert not cancelled.done()
        second.close()
        await cancelled

    async def test_one_who_leaves_a_stream_that_is_to_be_finished_cancels_nothing(self, hub: StreamHub) -> None:
        sink = hub.sink(*STREAM, StreamTarget())
        await sink.open()
        cancelled = asyncio.create_task(sink.cancelled())
        hub.read(*STREAM).close()
        done, _ = await asyncio.wait({cancelled}, timeout=0.01)
        assert not done
        cancelled.cancel()


class TestSink:
    async def test_the_next_attempt_knows_what_the_one_before_sent_and_paid(self, hub: StreamHub) -> None:
        sink = hub.sink(*STREAM, StreamTarget())
        assert await sink.open() == Delivered(attempt=1)
        await sink.claimed("ask-1", "a1")
        sink.send(text("one "))
        sink.send(text("two"))
        await sink.complete(REPLY)
        await sink.close()
        second = hub.sink(*STREAM, StreamTarget())
        known = await second.open()
        assert (known.attempt, known.text, known.starts_at) == (2, "one two", 0)
        assert (known.paid_request_id, known.attempt_id, known.reply) == ("ask-1", "a1", REPLY)
        await second.claimed("ask-1/continue-2", "a2")
        known = await hub.sink(*STREAM, StreamTarget()).open()
        assert (known.starts_at, known.paid_request_id, known.reply) == (2, "ask-1/continue-2", None)


class TestMemory:
    async def test_streams_that_are_not_used_are_forgotten_the_oldest_first(self, hub: StreamHub) -> None:
        in_use = hub.read("acme", "in use")
        for number in range(MOST_IDLE + 1):
            sink = hub.sink("acme", str(number), StreamTarget())
            await sink.open()
            sink.send(text("one"))
            await sink.close()
        assert hub.open("acme", "0").attempt == 1
        assert hub.open("acme", str(MOST_IDLE)).attempt == 2
        hub.open("acme", "in use")
        hub.feed("acme", "in use", 1, 0, text("one"))
        assert await rest(in_use) == ["one"]
