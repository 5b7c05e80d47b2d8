"""kill -9 of a gateway with streams of two workspaces: every reader gets every token once, at the other gateway."""

import asyncio
import signal
from pathlib import Path

import httpx
import pytest

from starter.embedded import Addresses
from tests.faults.gateways import Reader, start_gateway
from tests.faults.scene import exited, scene
from tests.parts import TEST_TIMEOUT_SECONDS

STREAMS, TOKENS_PER_SECOND = 50, 8
WORKSPACES = ("acme", "globex")


def body(number: int) -> dict[str, str]:
    return {"messages": f"Question {number}: what does the export contain?", "user_id": f"user-{number}"}


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
        readers = [Reader(keys[number % len(keys)].secret, f"turn-{number}", body(number)) for number in range(STREAMS)]
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
