"""kill -9 of a gateway with streams of two workspaces: every reader gets every token once, at the other gateway."""

import asyncio
import re
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from starter.embedded import Addresses
from tests.faults.scene import Scene, exited, scene
from tests.gateway.parts import read_events
from tests.parts import ROOT, TEST_TIMEOUT_SECONDS

STREAMS, TOKENS_PER_SECOND = 50, 8
WORKSPACES = ("acme", "globex")


async def start_gateway(place: Scene, name: str) -> tuple[asyncio.subprocess.Process, str]:
    """A gateway process on any free port, and its address."""
    path = place.directory / f"{name}.log"
    with path.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "parley", "gateway"),
            cwd=ROOT,
            env={**place.environment, "PARLEY_GATEWAY_PORT": "0"},
            stdout=log,
            stderr=log,
        )
    place.processes.append(process)
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        while not (found := re.search(r"listening on (\S+)", path.read_text())):
            assert process.returncode is None, path.read_text()
            await asyncio.sleep(0.05)
    return process, found[1]


class Reader:
    """One reader of one answer, who comes back to another gateway after the last event that it got."""

    def __init__(self, secret: str, number: int) -> None:
        self._headers = {"authorization": f"Bearer {secret}", "idempotency-key": f"turn-{number}"}
        self._body = {"messages": f"Question {number}: what does the export contain?", "user_id": f"user-{number}"}
        self.text, self.last, self.result = "", "", dict[str, Any]()
        self.has_begun = asyncio.Event()

    async def read(self, http: httpx.AsyncClient, url: str) -> None:
        """Read until the end. Raises httpx.TransportError if the gateway dies."""
        headers = self._headers | ({"last-event-id": self.last} if self.last else {})
        async with http.stream("POST", f"{url}/api/chat/stream", json=self._body, headers=headers) as stream:
            assert stream.status_code == 200, await stream.aread()
            async for event in read_events(stream):
                self._take(event)

    def _take(self, event: dict[str, Any]) -> None:
        assert event["event"] != "error", event
        if event["event"] == "delta":
            self.text += event["data"]["text"]
            self.last = event["id"]
            self.has_begun.set()
        elif event["event"] == "end":
            self.result = event["data"]


async def until_killed(reader: Reader, http: httpx.AsyncClient, url: str) -> None:
    with pytest.raises(httpx.TransportError):
        await reader.read(http, url)


async def test_every_reader_gets_every_token_once(stack: Addresses, template: str, tmp_path: Path):
    async with scene(stack, template, tmp_path) as place, httpx.AsyncClient(timeout=TEST_TIMEOUT_SECONDS) as http:
        clients = [place.in_workspace(name) for name in WORKSPACES]
        keys = [await one.gateway_keys.create("tests", requests_per_minute=10_000) for one in clients]
        await place.simulator.post("latency", seconds=0, tokens_per_second=TOKENS_PER_SECOND)
        (doomed, first), (_, second), _ = await asyncio.gather(
            start_gateway(place, "doomed"), start_gateway(place, "other"), place.start_worker()
        )
        await place.simulator.gate(closed=True, provider="openai")
        readers = [Reader(keys[number % len(keys)].secret, number) for number in range(STREAMS)]
        reading = [asyncio.create_task(until_killed(reader, http, first)) for reader in readers]
        await place.simulator.requests(at_least=STREAMS)
        await place.simulator.gate(closed=False, provider="openai")
        await asyncio.gather(*(reader.has_begun.wait() for reader in readers))
        doomed.send_signal(signal.SIGKILL)
        await exited(doomed, signal.SIGKILL)
        await asyncio.gather(*reading)
        assert not any(reader.result for reader in readers)
        await asyncio.gather(*(reader.read(http, second) for reader in readers))

        assert [reader.text for reader in readers] == [reader.result["content"] for reader in readers]
        assert {reader.result["meta"]["attempts"] for reader in readers} == {1}
        assert len(await place.simulator.billed()) == STREAMS
        for number in range(STREAMS):
            balance = await clients[number % len(clients)].energy(f"user-{number}")
            assert (balance.charged, balance.reserved) == (1, 0)
        assert [await client.audit() for client in clients] == [[], []]
