"""Streams between processes: every reader gets every delta once and in order, whatever is cut, killed or repeated."""

import asyncio
import os
import signal
import sys
from typing import Any

import pytest

from parley.domain.requests import ChatReply, Finish, Usage
from parley.domain.streaming import ToolCallDelta
from parley.storage import streams as stored_streams
from parley.streams import receiver as receiver_module
from parley.streams.hub import StreamHub
from parley.streams.resuming import poll, resume
from tests.activities.proxy import DatabaseProxy, Proxy
from tests.parts import ROOT, TEST_TIMEOUT_SECONDS, until
from tests.streams.conftest import ACME, Gateway, Streams, read, word, words

REPLY = ChatReply(text="the answer", finish=Finish.STOP, usage=Usage(), model="m")


async def is_stored(streams: Streams, count: int) -> bool:
    async with streams.database.reads() as tx:
        stored = await stored_streams.load(tx, *streams.key, after=0)
    return stored is not None and len(stored.deltas) == count


class TestDelivery:
    async def test_a_reader_in_another_process_gets_every_delta(self, streams: Streams) -> None:
        gateway = await streams.gateway()
        reader, sink = gateway.hub.read(*streams.key), streams.sink(gateway.address)
        assert (await sink.open()).deltas == ()
        call = ToolCallDelta(index=0, id="call-1", name="look", arguments='{"é": "\\u00e9"}')
        for text in words(1500):  # more than one frame holds
            sink.send(word(text))
        sink.send(call)
        assert await read(reader, 1500) == words(1500)
        assert await anext(reader) == call
        await sink.complete(REPLY)
        await sink.close()
        assert await is_stored(streams, 1501)
        assert gateway.broken == []

    async def test_close_waits_until_the_receiver_has_all(self, streams: Streams) -> None:
        gateway = await streams.gateway()
        sink = streams.sink(gateway.address)
        await sink.open()
        for text in words(700):
            sink.send(word(text))
        await sink.close()
        assert gateway.hub.position(*streams.key) == (1, 700)

    async def test_streams_share_a_connection(self, streams: Streams) -> None:
        gateway, sinks = await streams.gateway(), streams.sinks()
        async with Proxy(gateway.address) as proxy:
            opened = []
            for number in range(20):
                streams.stream_id = f"stream-{number}"
                reader, sink = gateway.hub.read(*streams.key), streams.sink(proxy.url, sinks)
                await sink.open()
                sink.send(word(f"only {number}"))
                opened.append((reader, sink))
            for number, (reader, sink) in enumerate(opened):
                assert await read(reader, 1) == [f"only {number}"]
                await sink.close()
            assert proxy.accepted == 1

    async def test_a_stream_without_readers_ends(self, streams: Streams) -> None:
        gateway = await streams.gateway()
        sink = streams.sink(gateway.address)
        await sink.open()
        sink.send(word("one"))
        await sink.close()
        assert await read(gateway.hub.read(*streams.key), 1) == ["one"]


class TestConnections:
    async def test_what_a_cut_lost_is_sent_again(self, streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(receiver_module, "RECONNECT_SECONDS", TEST_TIMEOUT_SECONDS)
        gateway = await streams.gateway()
        async with Proxy(gateway.address) as proxy:
            reader, sink = gateway.hub.read(*streams.key), streams.sink(proxy.url)
            await sink.open()
            for number in range(3):
                for text in words(50, f"{number}-"):
                    sink.send(word(text))
                assert (await read(reader, 20))[0] == f"{number}-0 "
                proxy.cut()
                proxy.restore()
                assert (await read(reader, 30))[-1] == f"{number}-49 "
            await sink.close()
            assert gateway.broken == []

    async def test_a_stream_begins_before_its_receiver_is_reached(self, streams: Streams) -> None:
        gateway = await streams.gateway()
        async with Proxy(gateway.address) as proxy:
            proxy.cut()
            reader, sink = gateway.hub.read(*streams.key), streams.sink(proxy.url)
            await sink.open()
            sink.send(word("early "))
            await proxy.refused.wait()
            proxy.restore()
            assert await read(reader, 1) == ["early "]
            await sink.close()

    async def test_a_receiver_that_is_silent_delays_nothing(
        self, streams: Streams, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("activities.token_sink.DELIVER_SECONDS", 0.05)
        gateway = await streams.gateway()
        async with Proxy(gateway.address) as proxy:
            sink = streams.sink(proxy.url)
            await sink.open()
            sink.send(word("first"))
            await read(gateway.hub.read(*streams.key), 1)
            proxy.fall_silent()
            for text in words(2000, "x" * 1000):  # more than the sockets buffer
                sink.send(word(text))
            await sink.complete(REPLY)
            await sink.close()
        assert await is_stored(streams, 2001)

    async def test_streams_go_on_while_the_database_is_down(self, streams: Streams, database_url: str) -> None:
        gateway = await streams.gateway()
        async with DatabaseProxy(database_url) as proxy:
            reader, sink = gateway.hub.read(*streams.key), streams.sink(gateway.address, streams.sinks(proxy.database))
            await sink.open()
            proxy.cut()
            sink.send(word("one "))
            await sink.complete(REPLY)
            sink.send(word("two "))
            assert await read(reader, 2) == ["one ", "two "]
            proxy.restore()
            await sink.close()
        assert await is_stored(streams, 2)

    async def test_a_connection_without_streams_is_closed(
        self, streams: Streams, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("parley.streams.sender.IDLE_SECONDS", 0.01)
        gateway, sinks = await streams.gateway(), streams.sinks()
        async with Proxy(gateway.address) as proxy:
            for number in range(2):
                streams.stream_id = f"stream-{number}"
                sink = streams.sink(proxy.url, sinks)
                await sink.open()
                sink.send(word("said"))
                await sink.close()
                await until(lambda: not gateway.receiver.connections)
            assert proxy.accepted == 2
        assert gateway.broken == []


class TestAttempts:
    async def test_an_older_attempt_reaches_no_reader(self, streams: Streams) -> None:
        gateway = await streams.gateway()
        reader, old, new = gateway.hub.read(*streams.key), streams.sink(gateway.address), streams.sink(gateway.address)
        await old.open()
        old.send(word("one "))
        assert await read(reader, 1) == ["one "]
        delivered = await new.open()
        assert (delivered.attempt, delivered.text) == (2, "one ")
        old.send(word("late "))
        new.send(word("two "))
        assert await read(reader, 1) == ["two "]
        await old.complete(REPLY)
        await old.close()
        new.send(word("three"))
        await new.close()
        assert await read(reader, 1) == ["three"]
        assert gateway.hub.position(*streams.key) == (2, 3)
        assert await is_stored(streams, 3)
        assert (await streams.sink(gateway.address).open()).reply is None

    async def test_an_attempt_learns_what_only_the_database_has(self, streams: Streams) -> None:
        first, second = await streams.gateway(), await streams.gateway()
        sink = streams.sink(first.address)
        await sink.open()
        await sink.record_claim("job/ask-1", "5f3e")
        sink.send(word("one "))
        await sink.complete(REPLY)
        await sink.close()
        await first.receiver.close()
        reader = second.hub.read(*streams.key)
        new = streams.sink(second.address)
        delivered = await new.open()
        assert (delivered.text, delivered.paid_request_id, delivered.reply) == ("one ", "job/ask-1", REPLY)
        new.send(word("two"))
        assert await read(reader, 2) == ["one ", "two"]

    async def test_an_attempt_of_a_stream_that_is_only_stored_goes_on(self, streams: Streams) -> None:
        """No process can be asked what its readers have."""
        dead = streams.sink("")
        await dead.open()
        dead.send(word("one "))
        await until(lambda: is_stored(streams, 1))
        new = streams.sink("")
        delivered = await new.open()
        assert (delivered.attempt, delivered.text) == (2, "one ")
        new.send(word("two"))
        await new.close()
        assert await is_stored(streams, 2)

    async def test_a_receiver_with_other_deltas_gets_no_more(
        self, streams: Streams, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It was cut off when the attempt began, with deltas that only its readers have."""
        monkeypatch.setattr("activities.token_sink.STORE_SECONDS", 60)
        gateway = await streams.gateway()
        async with Proxy(gateway.address) as proxy:
            old = streams.sink(proxy.url)
            await old.open()
            old.send(word("only here "))
            await read(gateway.hub.read(*streams.key), 1)
            proxy.cut()
            new = streams.sink(proxy.url)
            assert (await new.open()).deltas == ()
            new.send(word("another "))
            new.send(word("text"))
            proxy.restore()
            await until(lambda: gateway.hub.position(*streams.key)[0] == 2)
            await new.close()
        assert gateway.hub.position(*streams.key) == (2, 1)

    async def test_a_receiver_whose_connection_was_lost_while_it_was_asked_is_asked_again(
        self, streams: Streams, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A connection may be dead for a while before its worker knows. The next one answers at once."""
        monkeypatch.setattr("activities.token_sink.STORE_SECONDS", 60)
        monkeypatch.setattr("activities.token_sink.ASK_SECONDS", TEST_TIMEOUT_SECONDS)
        gateway, sinks = await streams.gateway(), streams.sinks()
        async with Proxy(gateway.address) as proxy:
            reader, old = gateway.hub.read(*streams.key), streams.sink(proxy.url, sinks)
            await old.open()
            old.send(word("only here "))
            await read(reader, 1)
            proxy.fall_silent()
            new = streams.sink(proxy.url, sinks)
            opening = asyncio.create_task(new.open())
            await proxy.withheld.wait()
            proxy.cut()
            proxy.restore()
            assert (await opening).text == "only here "
            new.send(word("and on"))
            assert await read(reader, 1) == ["and on"]
            await new.close()

    async def test_an_attempt_that_is_cancelled_as_it_opens_leaves_no_connection(
        self, streams: Streams, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("activities.token_sink.ASK_SECONDS", TEST_TIMEOUT_SECONDS)
        monkeypatch.setattr("parley.streams.sender.IDLE_SECONDS", 0.01)
        gateway, sinks = await streams.gateway(), streams.sinks()
        async with Proxy(gateway.address) as proxy:
            old = streams.sink(proxy.url)
            await old.open()
            await old.close()
            proxy.cut()
            opening = asyncio.create_task(streams.sink(proxy.url, sinks).open())
            await proxy.refused.wait()
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            proxy.restore()
            await until(lambda: not sinks._senders._connections)  # pyright: ignore[reportPrivateUsage]

    async def test_a_broken_attempt_that_connects_again_goes_on(
        self, streams: Streams, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(receiver_module, "RECONNECT_SECONDS", 0)
        gateway = await streams.gateway()
        async with Proxy(gateway.address) as proxy:
            reader, sink = gateway.hub.read(*streams.key), streams.sink(proxy.url)
            await sink.open()
            sink.send(word("one "))
            await read(reader, 1)
            proxy.cut()
            await until(lambda: gateway.broken == [(streams.stream_id, 1)])
            sink.send(word("two "))
            proxy.restore()
            assert await read(reader, 1) == ["two "]
            await sink.close()


class TestKilledWorkers:
    async def test_a_killed_worker_is_reported_and_the_next_attempt_has_all_that_readers_saw(
        self, streams: Streams
    ) -> None:
        gateway = await streams.gateway()
        reader = gateway.hub.read(*streams.key)
        process = await running_worker(streams, gateway)
        await say(process, words(30))
        assert await read(reader, 30) == words(30)
        os.kill(process.pid, signal.SIGKILL)
        await until(lambda: gateway.broken)
        assert gateway.broken == [(streams.stream_id, 1)]
        new = streams.sink(gateway.address)
        delivered = await new.open()
        assert delivered.text == "".join(words(30))
        assert (delivered.attempt, delivered.paid_request_id, delivered.starts_at) == (2, "job/ask-1", 0)
        new.send(word("the end"))
        assert await read(reader, 1) == ["the end"]
        await new.close()
        await process.wait()
        assert gateway.broken == [(streams.stream_id, 1)]

    async def test_an_end_in_order_is_not_reported(self, streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(receiver_module, "RECONNECT_SECONDS", 0)
        gateway, sinks = await streams.gateway(), streams.sinks()
        sink = streams.sink(gateway.address, sinks)
        await sink.open()
        sink.send(word("one"))
        await sink.close()
        await sinks.close()
        await until(lambda: not gateway.receiver.connections)
        await asyncio.sleep(0)  # a report would run now
        assert gateway.broken == []


async def running_worker(streams: Streams, gateway: Gateway) -> asyncio.subprocess.Process:
    url = streams.settings.database_url
    assert url is not None
    arguments = (url.get_secret_value(), gateway.address, *streams.key)
    pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
    module = ("-m", "tests.streams.worker_process")
    process = await asyncio.create_subprocess_exec(sys.executable, *module, *arguments, cwd=ROOT, **pipes)
    assert process.stdout is not None
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        assert await process.stdout.readline() == b"0\n"
    return process


async def say(process: asyncio.subprocess.Process, texts: list[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("".join(f"{text}\n" for text in texts).encode())
    await process.stdin.drain()


class TestTakeover:
    async def test_another_process_takes_over_the_readers_of_one_that_ended(self, streams: Streams) -> None:
        first, second = await streams.gateway(), await streams.gateway()
        sink = streams.sink(first.address)
        await sink.open()
        for text in words(10):
            sink.send(word(text))
        assert await read(first.hub.read(*streams.key), 10) == words(10)
        await until(lambda: is_stored(streams, 10))
        await first.receiver.close()
        reader = second.hub.read(*streams.key, offset=4)
        assert not await resume(streams.database, second.hub, *streams.key, address=second.address)
        sink.send(word("new"))
        assert await read(reader, 7) == [*words(10)[4:], "new"]
        await sink.complete(REPLY)
        await sink.close()
        assert second.hub.position(*streams.key) == (1, 11)
        assert second.broken == []

    async def test_two_processes_read_one_stream(self, streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("activities.token_sink.STORE_SECONDS", 0.01)
        first, second = await streams.gateway(), await streams.gateway()
        readers = [gateway.hub.read(*streams.key) for gateway in (first, second)]
        sink = streams.sink(first.address)
        await sink.open()
        sink.send(word("one "))
        await resume(streams.database, second.hub, *streams.key, address=second.address)
        sink.send(word("two "))
        assert [await read(reader, 2) for reader in readers] == [["one ", "two "]] * 2
        new = streams.sink(first.address)
        assert (await new.open()).text == "one two "
        new.send(word("three"))
        assert [await read(reader, 1) for reader in readers] == [["three"]] * 2
        await new.close()

    async def test_a_reader_whose_process_is_not_reached_polls(self, streams: Streams) -> None:
        gateway, alone = await streams.gateway(), await streams.gateway()
        reader = alone.hub.read(*streams.key)
        assert not await resume(streams.database, alone.hub, *streams.key)
        sink = streams.sink(gateway.address)
        await sink.open()
        sink.send(word("one "))
        await until(lambda: is_stored(streams, 1))
        assert not await resume(streams.database, alone.hub, *streams.key)
        assert await read(reader, 1) == ["one "]
        sink.send(word("two"))
        await sink.complete(REPLY)
        await sink.close()
        assert await resume(streams.database, alone.hub, *streams.key)
        assert await read(reader, 1) == ["two"]

    async def test_a_stream_without_a_receiver_is_polled(
        self, streams: Streams, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("parley.streams.resuming.POLL_SECONDS", 0.01)
        hub = StreamHub()
        reader, polling = hub.read(*streams.key), asyncio.create_task(poll(streams.database, hub, *streams.key))
        sink = streams.sink("")
        await sink.open()
        sink.send(word("one "))
        assert await read(reader, 1) == ["one "]
        sink.send(word("two"))
        await sink.complete(REPLY)
        await sink.close()
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            await polling
        assert await read(reader, 1) == ["two"]

    async def test_a_hub_that_resumes_knows_the_newest_attempt(self, streams: Streams) -> None:
        gateway, other = await streams.gateway(), await streams.gateway()
        for _ in range(2):
            await streams.sink(gateway.address).open()
        await resume(streams.database, other.hub, *streams.key)
        assert other.hub.feed(*streams.key, 1, 0, word("old")) is None


class TestCancellation:
    async def test_the_request_is_cancelled_when_the_last_reader_leaves(self, streams: Streams) -> None:
        gateway = await streams.gateway()
        readers = [gateway.hub.read(*streams.key) for _ in range(2)]
        sink = streams.sink(gateway.address, on_disconnect="cancel")
        await sink.open()
        sink.send(word("one"))
        await read(readers[0], 1)
        waiting = asyncio.create_task(sink.cancelled())
        readers[0].close()
        await read(readers[1], 1)
        assert not waiting.done()
        readers[1].close()
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            await waiting
        await sink.close()

    async def test_the_answer_is_finished_without_readers(self, streams: Streams) -> None:
        gateway = await streams.gateway()
        reader = gateway.hub.read(*streams.key)
        sink = streams.sink(gateway.address)
        await sink.open()
        waiting = asyncio.create_task(sink.cancelled())
        sink.send(word("one"))
        await read(reader, 1)
        reader.close()
        sink.send(word("two"))
        await sink.close()
        assert gateway.hub.position(*streams.key) == (1, 2)
        assert not waiting.done()
        waiting.cancel()


async def test_a_stream_of_another_workspace_is_another_stream(streams: Streams) -> None:
    gateway, sinks = await streams.gateway(), streams.sinks()
    theirs = gateway.hub.read("globex", streams.stream_id)
    sink = streams.sink(gateway.address, sinks)
    await sink.open()
    sink.send(word("ours"))
    assert await read(gateway.hub.read(ACME, streams.stream_id), 1) == ["ours"]
    await resume(streams.database, gateway.hub, "globex", streams.stream_id)
    theirs.end()
    assert [delta async for delta in theirs] == []
    await sink.close()


async def test_no_task_of_an_attempt_is_left_once_its_process_closes(streams: Streams) -> None:
    gateway, sinks = await streams.gateway(), streams.sinks()
    await streams.sink(gateway.address, sinks).open()

    def tasks() -> list[Any]:
        return [task for task in asyncio.all_tasks() if "StoredSink" in repr(task.get_coro())]

    assert len(tasks()) == 1
    await sinks.close()
    await until(lambda: not tasks())
