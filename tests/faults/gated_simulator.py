"""The simulator behind ASGI middleware that selects faults by prompt and holds replies until a test releases them.

`[cut for alice]` in a prompt sets that fault for the first request that contains it, `[cut always for alice]` for every
request. With `[cut for alice, held]` the reply to the first request is held until `release`.
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
# The query to use in place of that of a listing request; None: the query of the request.
Listing = Callable[[], Awaitable[bytes | None]]
NOTHING = b"metadata[parley_attempt_id]=none"
EVERYTHING = b"limit=100"


async def unchanged() -> None:
    return None


class FaultMiddleware:
    """`listing` is awaited before completions are listed and returns the query; `listings` counts the requests."""

    def __init__(self, simulator: Any) -> None:
        self._simulator = simulator
        self._seen: set[bytes] = set()
        self._open = asyncio.Event()
        self.held = 0
        self.listing: Listing = unchanged
        self.listings = 0

    def release(self) -> None:
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

        fault, is_held = self._fault_of(body)
        if fault:
            scope = {**scope, "headers": [*scope["headers"], (FAULT_HEADER.encode(), fault)]}
        await self._simulator(scope, again, self._held(send) if is_held else send)

    def _fault_of(self, body: bytes) -> tuple[bytes, bool]:
        found = MARK.search(body)
        if found is None:
            return b"", False
        fault, always, name, held = found.groups()
        is_first = name not in self._seen
        self._seen.add(name)
        return (fault if (is_first or always) and fault != b"ok" else b""), is_first and held is not None

    def _held(self, send: Send) -> Send:
        async def held(message: Any) -> None:
            if not self._open.is_set() and message["type"] == "http.response.start":
                self.held += 1
            await self._open.wait()
            await send(message)

        return held


class GatedSimulator(SimulatorAdmin):
    def __init__(self, url: str, middleware: FaultMiddleware) -> None:
        super().__init__(url)
        self.middleware = middleware


@asynccontextmanager
async def gated_simulator() -> AsyncIterator[GatedSimulator]:
    server = Server(Config())
    middleware = FaultMiddleware(server.config.app)
    server.config.app = middleware
    running = asyncio.create_task(server.run_until_stopped())
    await server.ready.wait()
    admin = GatedSimulator(server.url, middleware)
    try:
        yield admin
    finally:
        middleware.release()
        await admin.close()
        server.should_exit = True
        await running
