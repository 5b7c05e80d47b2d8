"""Gateways as processes, and readers of streamed answers who come back to another gateway after the last event."""

import asyncio
import re
from collections.abc import Sequence
from typing import Any

import httpx

from tests.faults.processes import AnyProcess
from tests.faults.scene import Scene
from tests.gateway.parts import read_events
from tests.parts import TEST_TIMEOUT_SECONDS

SECONDS_BEFORE_RETURN = 0.1


async def start_gateway(place: Scene, name: str, **environment: str) -> tuple[AnyProcess, str]:
    """A gateway process on any free port, and its address."""
    path = place.directory / f"{name}.log"
    process = await place.start("gateway", environment=environment | {"PARLEY_GATEWAY_PORT": "0"}, log=path)
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        while not (found := re.search(r"listening on (\S+)", path.read_text())):
            assert process.returncode is None, path.read_text()
            await asyncio.sleep(0.05)
    return process, found[1]


class Reader:
    """One reader of one answer. `body`: of the request; `key`: its idempotency key.

    text: what was read so far. result: of the end of the stream; empty before.
    """

    def __init__(self, secret: str, key: str, body: dict[str, Any]) -> None:
        self._headers, self._body = {"authorization": f"Bearer {secret}", "idempotency-key": key}, body
        self.text, self.last, self.result = "", "", dict[str, Any]()
        self.has_begun = asyncio.Event()

    async def read(self, http: httpx.AsyncClient, url: str) -> None:
        """Read until the end. Raises httpx.TransportError if the gateway dies."""
        headers = self._headers | ({"last-event-id": self.last} if self.last else {})
        async with http.stream("POST", f"{url}/api/chat/stream", json=self._body, headers=headers) as stream:
            assert stream.status_code == 200, await stream.aread()
            async for event in read_events(stream):
                self._take(event)

    async def read_at_any(self, http: httpx.AsyncClient, urls: Sequence[str], first: int = 0) -> None:
        """Read until the end, at one gateway after the other: begin at `urls[first]`, go on where one dies."""
        number = first
        while not self.result:
            try:
                await self.read(http, urls[number % len(urls)])
            except httpx.TransportError:
                number += 1
                await asyncio.sleep(SECONDS_BEFORE_RETURN)

    def _take(self, event: dict[str, Any]) -> None:
        assert event["event"] != "error", event
        if event["event"] == "delta":
            self.text += event["data"]["text"]
            self.last = event["id"]
            self.has_begun.set()
        elif event["event"] == "end":
            self.result = event["data"]
