"""Any order of sends, cuts, repeated frames, and attempts that overtake each other: readers see one text, once."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from activities.token_sink import StoredSink
from parley.domain.streaming import Delta, TextDelta
from parley.storage.database import Database
from parley.streams.resuming import resume
from tests.activities.proxy import Proxy
from tests.parts import quick_settings, until
from tests.streams.conftest import Gateway, Streams, read, word

ACTIONS = ("send", "send", "send", "attempt", "send late", "cut", "restore", "resume", "repeat", "settle")
SCHEDULES = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(1, 40)), max_size=25)


class Run:
    """One schedule: two gateway processes behind proxies, and the attempts of one stream."""

    def __init__(self, streams: Streams, gateways: list[Gateway], proxies: list[Proxy]) -> None:
        self._streams, self._gateways, self._proxies = streams, gateways, proxies
        self._attempts: list[StoredSink] = []
        self._sinks = streams.sinks()
        self._sent = 0

    async def play(self, schedule: list[tuple[str, int]]) -> list[Delta]:
        """Play a schedule, and end the newest attempt. Returns what it sent in all."""
        await self.attempt(0)
        for action, number in schedule:
            step: Callable[[int], Any] = getattr(self, action.replace(" ", "_"))
            await step(number)
        for proxy in self._proxies:
            proxy.restore()
        await self.attempt(0)
        await self.send(3)
        newest = self._attempts[-1]
        for gateway in self._gateways:
            await until(lambda one=gateway: one.hub.position(*self._streams.key)[0] == len(self._attempts))
        await newest.close()
        return newest._outgoing.deltas

    async def attempt(self, _: int) -> None:
        """Begin an attempt that reaches the receivers: what one that it does not reach has may differ."""
        for proxy in self._proxies:
            proxy.restore()
        if self._attempts:
            before = self._attempts[-1]
            await until(lambda: before._is_superseded or all(one.is_up for one in before._channels.values()))
        sink = self._streams.sink(self._proxies[len(self._attempts) % 2].url, self._sinks)
        assert isinstance(sink, StoredSink)
        self._attempts.append(sink)
        opened = await sink.open()
        assert opened.attempt == len(self._attempts)

    async def send(self, count: int) -> None:
        """The newest attempt sends."""
        await self._send(self._attempts[-1], count)

    async def send_late(self, count: int) -> None:
        """An older attempt, which does not know that it is one, sends."""
        await self._send(self._attempts[-2 if len(self._attempts) > 1 else -1], count)

    async def _send(self, sink: StoredSink, count: int) -> None:
        for _ in range(count):
            self._sent += 1
            sink.send(word(f"{self._sent} "))
        await asyncio.sleep(0)

    async def cut(self, number: int) -> None:
        self._proxies[number % 2].cut()

    async def restore(self, number: int) -> None:
        self._proxies[number % 2].restore()

    async def resume(self, number: int) -> None:
        """A reader comes to a gateway that may not have the stream."""
        proxy, gateway = self._proxies[number % 2], self._gateways[number % 2]
        await resume(self._streams.database, gateway.hub, *self._streams.key, address=proxy.url)

    async def repeat(self, number: int) -> None:
        """Frames arrive twice, or are missing: the sender believes that less, or more, arrived."""
        sink = self._attempts[-1]
        for channel in sink._channels.values():
            if channel._next is not None:
                missed = channel._next + (number if number % 2 else -number)
                channel._next = min(max(0, missed), len(sink._outgoing.deltas))
                channel.wake()

    async def settle(self, _: int) -> None:
        await self._attempts[-1]._store()


async def play(url: str, schedule: list[tuple[str, int]]) -> None:
    async with AsyncExitStack() as parts:
        database = Database(SecretStr(url))
        parts.push_async_callback(database.close)
        streams = Streams(database, quick_settings(url, "http://127.0.0.1:9"), parts)
        gateways = [await streams.gateway(), await streams.gateway()]
        proxies = [await parts.enter_async_context(Proxy(gateway.address)) for gateway in gateways]
        readers = [gateway.hub.read(*streams.key) for gateway in gateways]
        seen: list[list[str]] = [[], []]

        async def watch(number: int) -> None:
            async for delta in readers[number]:
                assert isinstance(delta, TextDelta)
                seen[number].append(delta.text)

        watching = [asyncio.create_task(watch(number)) for number in range(2)]
        sent = [delta.text for delta in await Run(streams, gateways, proxies).play(schedule) if delta.kind == "text"]
        for reader in readers:
            reader.end()
        await asyncio.gather(*watching)
        assert len(set(sent)) == len(sent)
        assert seen == [sent, sent]
        late = gateways[0].hub.read(*streams.key, offset=len(sent) // 2)
        assert await read(late, len(sent) - len(sent) // 2) == sent[len(sent) // 2 :]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(schedule=SCHEDULES)
@example(schedule=[("send", 3), ("attempt", 1), ("send late", 2), ("send", 3), ("settle", 1)])
def test_every_reader_sees_every_delta_once_and_in_order(database_url: str, schedule: list[tuple[str, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("activities.token_sink.STORE_SECONDS", 0.02)
        patch.setattr("activities.token_sink.SEARCH_SECONDS", 0.02)
        patch.setattr("activities.token_sink.ASK_SECONDS", 30)
        asyncio.run(play(database_url, schedule))
