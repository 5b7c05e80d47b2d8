"""A turn that is sent at one gateway process and read at another, from a worker that streams over sockets."""

import asyncio
from contextlib import AsyncExitStack

import httpx
from temporalio.client import Client as TemporalClient

from activities.token_sink import Sinks
from parley import Client
from parley.settings import Settings
from parley.storage.database import Database
from parley.testing import SimulatorAdmin
from starter.embedded import Addresses
from tests.gateway.parts import gateway_process, read_events
from tests.gateway.test_conversations import STREAM, TALK, events_of
from tests.parts import TEST_TIMEOUT_SECONDS, running_workers

TURN = {**TALK, "messages": "How does the export work, and who may start it?", "turn_id": "one"}


async def test_a_turn_is_read_at_another_gateway_process(
    simulator: SimulatorAdmin,
    stack: Addresses,
    temporal: TemporalClient,
    database: Database,
    database_url: str,
    settings: Settings,
    client: Client,
):
    """While it is made, and after its end: from any place on."""
    secret = (await client.gateway_keys.create("tests", requests_per_minute=100_000)).secret
    options = {"headers": {"authorization": f"Bearer {secret}"}, "timeout": TEST_TIMEOUT_SECONDS}
    await simulator.post("latency", seconds=0, tokens_per_second=40)
    sinks = Sinks(database, settings)
    async with AsyncExitStack() as running:
        running.push_async_callback(sinks.close)
        await running.enter_async_context(running_workers(temporal, database, settings, sinks=sinks))
        starting = (running.enter_async_context(gateway_process(stack, database_url)) for _ in range(2))
        one, other = [
            await running.enter_async_context(httpx.AsyncClient(base_url=address, **options))
            for address in await asyncio.gather(*starting)
        ]
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            async with one.stream("POST", STREAM, json=TURN) as stream:
                events = read_events(stream)
                start, first = await anext(events), await anext(events)
                path = f"{STREAM}/{start['data']['id'].replace('/', '%2F')}"
                followed = await events_of(other, "GET", path)
                seen = [start, first, *[event async for event in events]]
        resumed = await events_of(other, "POST", STREAM, json=TURN, headers={"last-event-id": seen[3]["id"]})
    assert len(seen) > 6
    assert followed == seen
    assert resumed == [start, *seen[4:]]
    assert len(await simulator.billed()) == 1
