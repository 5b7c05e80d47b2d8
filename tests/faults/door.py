"""The simulator behind a door of the test's own: faults by prompt instead of by turn, and replies that are held back.

A prompt that says `[cut for alice]` meets that fault with the first call that carries it, `[cut always for alice]` with
each. The first call with `[cut for alice, held]` is answered when the door lets it through.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from simulator.config import Config
from simulator.faults import FAULT_HEADER
from simulator.server import Server
from tests.parts import SimulatorAdmin

MARK = re.compile(rb"\[(\w+)( always)? for ([\w-]+)(, held)?\]")
COMPLETIONS = "/openai/v1/chat/completions"
Send = Callable[[Any], Awaitable[None]]
# What is listed in answer to any question; None: what was asked for.
Listing = Callable[[], Awaitable[bytes | None]]
NOTHING = b"metadata[parley_attempt_id]=nobody"
EVERYTHING = b"limit=100"


async def truthful() -> None:
    return None


class Door:
    """`listing`: awaited before stored completions are listed, and tells which. `listings` counts them."""

    def __init__(self, simulator: Any) -> None:
        self._simulator = simulator
        self._met: set[bytes] = set()
        self._open = asyncio.Event()
        self.held = 0
        self.listing: Listing = truthful
        self.listings = 0

    def let_through(self) -> None:
        self._open.set()

    async def __call__(self, scope: Any, receive: Any, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/admin"):
            await self._simulator(scope, receive, send)
        elif scope["method"] == "GET":
            await self._list(scope, receive, send)
        else:
            await self._call(scope, receive, send)

    async def _list(self, scope: Any, receive: Any, send: Send) -> None:
        if scope["path"] == COMPLETIONS:
            self.listings += 1
            query = await self.listing()
            scope = scope if query is None else {**scope, "query_string": query}
        await self._simulator(scope, receive, send)

    async def _call(self, scope: Any, receive: Any, send: Send) -> None:
        body = b""
        more = True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        whole = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Any:
            return whole.pop() if whole else await receive()

        fault, is_held = self._meets(body)
        if fault:
            scope = {**scope, "headers": [*scope["headers"], (FAULT_HEADER.encode(), fault)]}
        await self._simulator(scope, again, self._held(send) if is_held else send)

    def _meets(self, body: bytes) -> tuple[bytes, bool]:
        found = MARK.search(body)
        if found is None:
            return b"", False
        fault, always, name, held = found.groups()
        is_first = name not in self._met
        self._met.add(name)
        return (fault if (is_first or always) and fault != b"ok" else b""), is_first and held is not None

    def _held(self, send: Send) -> Send:
        async def held(message: Any) -> None:
            if not self._open.is_set() and message["type"] == "http.response.start":
                self.held += 1
            await self._open.wait()
            await send(message)

        return held


class SimulatorBehindADoor(SimulatorAdmin):
    def __init__(self, url: str, door: Door) -> None:
        super().__init__(url)
        self.door = door


@asynccontextmanager
async def behind_a_door() -> AsyncIterator[SimulatorBehindADoor]:
    server = Server(Config())
    door = Door(server.config.app)
    server.config.app = door
    running = asyncio.create_task(server.run_until_stopped())
    await server.ready.wait()
    admin = SimulatorBehindADoor(server.url, door)
    try:
        yield admin
    finally:
        door.let_through()
        await admin.close()
        server.should_exit = True
        await running
