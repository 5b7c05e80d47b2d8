"""Receivers and sinks on real sockets and PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest

from activities.token_sink import Sinks
from parley.domain.streaming import StreamTarget, TextDelta, TokenSink
from parley.settings import Settings
from parley.storage.database import Database
from parley.streams.hub import StreamHub, StreamReader
from parley.streams.receiver import SocketReceiver
from tests.parts import TEST_TIMEOUT_SECONDS, quick_settings

ACME = "acme"


def word(text: str) -> TextDelta:
    return TextDelta(text=text)


def words(count: int, name: str = "w") -> list[str]:
    return [f"{name}{number} " for number in range(count)]


async def read(reader: StreamReader, count: int) -> list[str]:
    """The texts of the next deltas."""
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        return [(await anext(reader)).text for _ in range(count)]


@dataclass(eq=False)
class Gateway:
    """What a gateway's process has: a hub and a receiver. `broken`: the numbers of the attempts reported as broken."""

    hub: StreamHub
    receiver: SocketReceiver
    address: str
    broken: list[tuple[str, int]] = field(default_factory=list)


class Streams:
    """The parts of a test, closed at its end. Each `sinks` is another worker process."""

    def __init__(self, database: Database, settings: Settings, parts: AsyncExitStack) -> None:
        self.database, self.settings, self._parts = database, settings, parts
        self.stream_id = f"generate/acme/{uuid4().hex}"

    @property
    def key(self) -> tuple[str, str]:
        return ACME, self.stream_id

    async def gateway(self, **changes: Any) -> Gateway:
        settings, hub = self.settings.model_copy(update=changes), StreamHub()
        broken: list[tuple[str, int]] = []

        async def report(workspace_id: str, stream_id: str, attempt: int) -> None:
            assert workspace_id == ACME
            broken.append((stream_id, attempt))

        receiver = SocketReceiver(hub, settings, report)
        self._parts.push_async_callback(receiver.close)
        return Gateway(hub, receiver, await receiver.address(), broken)

    def sinks(self, database: Database | None = None) -> Sinks:
        made = Sinks(database or self.database, self.settings)
        self._parts.push_async_callback(made.close)
        return made

    def sink(self, address: str, sinks: Sinks | None = None, **target: Any) -> TokenSink:
        """A sink of the test's stream, in a worker process of its own unless `sinks` is given."""
        return (sinks or self.sinks())(*self.key, StreamTarget(address=address, **target))


@pytest.fixture
async def streams(database: Database, database_url: str) -> AsyncIterator[Streams]:
    async with AsyncExitStack() as parts:
        yield Streams(database, quick_settings(database_url, "http://127.0.0.1:9"), parts)
