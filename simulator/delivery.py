"""How a computed reply travels: at what pace, how far, and whether it arrives at all."""

import asyncio
from collections.abc import Awaitable, Sequence
from types import TracebackType
from typing import Any, Self

from starlette.types import Receive, Send

from simulator.wire import Body

Headers = Sequence[tuple[str, str]]


class Line:
    """One request's connection, which knows when the client leaves or the simulator stops."""

    def __init__(self, receive: Receive, send: Send, closing: asyncio.Event) -> None:
        self._receive, self._send, self._closing = receive, send, closing
        self._ends: list[asyncio.Task[Any]] = []

    async def __aenter__(self) -> Self:
        self._ends = [asyncio.create_task(self._hung_up()), asyncio.create_task(self._closing.wait())]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._ends:
            task.cancel()

    async def wait(self, awaited: Awaitable[object]) -> bool:
        """Wait for something; False if the line ended first."""
        task = asyncio.ensure_future(awaited)
        try:
            await asyncio.wait([task, *self._ends], return_when=asyncio.FIRST_COMPLETED)
            return task.done() and not self.ended
        finally:
            task.cancel()

    async def pause(self, seconds: float | None) -> bool:
        return not self.ended if not seconds else await self.wait(asyncio.sleep(seconds))

    async def silence(self, seconds: float | None) -> None:
        """Say nothing until the client leaves, or for some time."""
        await (self.pause(seconds) if seconds else self.wait(asyncio.Event().wait()))

    @property
    def ended(self) -> bool:
        return any(task.done() for task in self._ends)

    async def start(self, status: int, content_type: str, headers: Headers, length: int | None) -> None:
        named = [("content-type", content_type), *headers]
        if length is not None:
            named.append(("content-length", str(length)))
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in named]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def send(self, part: bytes) -> None:
        await self._send({"type": "http.response.body", "body": part, "more_body": True})

    async def finish(self, part: bytes) -> None:
        await self._send({"type": "http.response.body", "body": part, "more_body": False})

    async def _hung_up(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


async def send_most(line: Line, body: Body, headers: Headers, pace: float) -> bool:
    """All but the last part, spread over `pace` seconds. False if the client left before."""
    step = pace / len(body.parts)
    length = None
    if not body.stream:
        length = sum(map(len, body.parts))
        if not await line.pause(pace):
            return False
    await line.start(200, body.content_type, headers, length)
    for part in body.parts[:-1]:
        if not await line.pause(step):
            return False
        await line.send(part)
    return True


async def send_cut(line: Line, body: Body, headers: Headers) -> None:
    """Half of the reply. The server closes the connection when the application returns without the rest."""
    if body.stream:
        await line.start(200, body.content_type, headers, None)
        for part in body.parts[: max(1, len(body.parts) // 2)]:
            await line.send(part)
        return
    whole = b"".join(body.parts)
    await line.start(200, body.content_type, headers, len(whole))
    await line.send(whole[: len(whole) // 2])


async def abort(line: Line, headers: Headers) -> None:
    """No reply: a connection that closes after the headers, as a crashed server leaves it."""
    await line.start(200, "application/json", headers, 1)
