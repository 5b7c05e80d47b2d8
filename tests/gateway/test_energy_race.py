"""Eighty streams at once against energy for twenty, in both modes, over HTTP."""

import asyncio
from collections import Counter

import httpx
import pytest

from parley import Client
from parley.settings import Settings
from parley.testing import SimulatorAdmin
from tests.gateway.parts import Running, read_events

STREAMS, SERVED = 80, 20


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"starting_energy": SERVED})


async def outcome(http: httpx.AsyncClient, number: int) -> int | str:
    """The refusal's status, or the last event of the stream."""
    body = {"messages": f"Question {number}", "user_id": "ann", "cache": "off"}
    async with http.stream("POST", "/api/chat/stream", json=body) as stream:
        if stream.status_code != httpx.codes.OK:
            return stream.status_code
        [*_, end] = [event async for event in read_events(stream)]
    return "answered" if end["data"]["success"] else end["data"]["refusal"]["code"]


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("mode", ["durable", "inline"])
async def test_exactly_as_many_streams_are_served_as_the_energy_is_for(
    mode: str, gateway: Running, client: Client, simulator: SimulatorAdmin
):
    key = await client.gateway_keys.create("tests", requests_per_minute=10_000, concurrent_streams=STREAMS)
    async with gateway.http(key.secret, headers={"x-parley-mode": mode}) as http:
        outcomes = Counter(await asyncio.gather(*(outcome(http, number) for number in range(STREAMS))))
    assert outcomes == {"answered": SERVED, "insufficient_energy": STREAMS - SERVED}
    assert len(await simulator.billed()) == SERVED
    balance = await client.energy("ann")
    assert (balance.charged, balance.reserved, balance.available) == (SERVED, 0, 0)
    assert await client.audit() == []
