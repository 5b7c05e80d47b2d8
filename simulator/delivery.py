"""Sends a computed reply: at a given pace, completely, in part or not at all."""

import asyncio
import time
from collections.abc import Awaitable, Sequence
from types import TracebackType
from typing import Any, Self

from starlette.types import Receive, Send

from simulator.wire import Body

Headers = Sequence[tuple[str, str]]


class Connection:
    """The connection of one request. It ends when the client disconnects or the simulator stops."""

    def __init__(self, receive: Receive, send: Send, closing: asyncio.Event) -> None:
        self._receive, self._send, self._closing = receive, send, closing
        self.sent_at: list[float] = []
        """When each part of the body was sent, as Unix time in seconds."""
        self._ends: list[asyncio.Task[Any]] = []

    async def __aenter__(self) -> Self:
        self._ends = [asyncio.create_task(self._disconnected()), asyncio.create_task(self._closing.wait())]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._ends:
            task.cancel()

    async def wait(self, awaited: Awaitable[object]) -> bool:
        """Wait for something. Returns False if the connection ended first."""
        task = asyncio.ensure_future(awaited)
        try:
            await asyncio.wait([task, *self._ends], return_when=asyncio.FIRST_COMPLETED)
            return task.done() and not self.ended
        finally:
            task.cancel()

    async def pause(self, seconds: float | None) -> bool:
        """Wait for some seconds. Returns False if the connection ended first."""
        return not self.ended if not seconds else await self.wait(asyncio.sleep(seconds))

    async def stay_silent(self, seconds: float | None) -> None:
        """Send nothing for some seconds, or until the client disconnects (None)."""
        await (self.pause(seconds) if seconds else self.wait(asyncio.Event().wait()))

    @property
    def ended(self) -> bool:
        return any(task.done() for task in self._ends)

    async def start(self, status: int, content_type: str, headers: Headers, length: int | None) -> None:
        """Send the status and the headers. `length` is the number of bytes of the body, None for a stream."""
        named = [("content-type", content_type), *headers]
        if length is not None:
            named.append(("content-length", str(length)))
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in named]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def send(self, part: bytes) -> None:
        await self._send({"type": "http.response.body", "body": part, "more_body": True})
        self.sent_at.append(time.time())

    def first_token_at(self, body: Body) -> float | None:
        """When the first token of a stream was sent, after it was."""
        return self.sent_at[body.tokens[0]] if body.tokens else None

    async def finish(self, part: bytes) -> None:
        await self._send({"type": "http.response.body", "body": part, "more_body": False})

    async def _disconnected(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


async def send_all_but_last(connection: Connection, body: Body, headers: Headers, seconds: float) -> bool:
    """Send all parts but the last, spread over `seconds`. Returns False if the connection ended first."""
    length = None
    if not body.stream:
        length = sum(map(len, body.parts))
        if not await connection.pause(seconds):
            return False
    await connection.start(200, body.content_type, headers, length)
    for part in body.parts[:-1]:
        if not await connection.pause(seconds / len(body.parts)):
            return False
        await connection.send(part)
    return True


async def send_part(connection: Connection, body: Body, headers: Headers, share: float = 0.5) -> None:
    """Send half of the reply, or that share of a stream's tokens.

    The server closes the connection when the application returns without the rest.
    """
    if body.stream:
        await connection.start(200, body.content_type, headers, None)
        for part in body.until(share):
            await connection.send(part)
        return
    whole = b"".join(body.parts)
    await connection.start(200, body.content_type, headers, len(whole))
    await connection.send(whole[: len(whole) // 2])


async def close_early(connection: Connection, headers: Headers) -> None:
    """Close the connection after the headers, as a crashed server does."""
    await connection.start(200, "application/json", headers, 1)
