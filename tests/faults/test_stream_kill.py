"""kill -9 of a worker in the middle of a streamed answer: no duplicate, no gap, one charge, and no heartbeat timeout.

The worker is a process, and its deltas come over a socket. The receiver notices that the socket closed, and the
workflow starts the step again on a worker of the test's process.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise

import pytest

from activities.parts import Parts
from activities.token_sink import Sinks
from parley import Backend
from parley.client.backend import reporting_broken_streams
from parley.domain.generate.contract import CachePolicy, GenerateResult
from parley.domain.streaming import text_of
from parley.streams.hub import StreamHub
from parley.streams.receiver import SocketReceiver
from starter.embedded import Addresses
from tests.faults.scene import Scene, at_each, exited
from worker import build_workers

USER, QUESTION = "ann", "What does the export to CSV contain, and who may start it?"
# The states of the attempts, and how many requests the provider bills.
POINTS = {
    "first_token": (["lost", "settled"], 2),
    "mid_text": (["lost", "settled"], 2),
    "last_token": (["lost", "settled"], 2),
    "settling": (["settled"], 1),
}


TOKENS_PER_SECOND = 40


@asynccontextmanager
async def workers(place: Scene, *roles: str) -> AsyncIterator[None]:
    """Workers of the test's process, which send their streams over a socket as those of another process do."""
    client = place.client
    sinks = Sinks(client.database, client.settings)
    parts = Parts(client.database, client.settings, sinks=sinks)
    async with AsyncExitStack() as running:
        running.push_async_callback(parts.close)
        running.push_async_callback(sinks.close)
        for worker in build_workers(client.temporal, parts, roles):
            await running.enter_async_context(worker)
        yield


@dataclass
class Outcome:
    seen: str
    delivered: int
    result: GenerateResult
    gap_ms: float
    attempts: list[str]
    billed: int
    charged: tuple[int, int]
    audit: list[object]


async def killed_at(point: str, place: Scene) -> Outcome:
    own = place.client
    receiver = SocketReceiver(StreamHub(), own.settings, reporting_broken_streams(own.temporal))
    client = Backend(own.temporal, own.database, own.settings, receiver).client(own.workspace_id)
    clock, times, seen = asyncio.get_running_loop(), list[float](), []
    async with AsyncExitStack() as running:
        running.push_async_callback(receiver.close)
        await running.enter_async_context(workers(place, "workflows", "storage"))
        await place.simulator.post("latency", seconds=0, tokens_per_second=TOKENS_PER_SECOND)
        await place.simulator.gate(closed=True, provider="openai")
        process = await place.start_worker(f"{point}=kill", roles=("openai",))
        options = {"cache": CachePolicy.OFF, "provider": "openai"}
        async with client.generate_stream(QUESTION, user_id=USER, **options) as stream:
            await place.simulator.requests(at_least=1)
            await running.enter_async_context(workers(place, "openai"))
            await place.simulator.gate(closed=False, provider="openai")
            async for delta in stream:
                seen.append(delta)
                times.append(clock.time())
            await exited(process, signal.SIGKILL)
            result = await stream.result()
    energy = await own.energy(USER)
    return Outcome(
        seen=text_of(seen),
        delivered=len(seen),
        result=result,
        gap_ms=1000 * max((after - before for before, after in pairwise(times)), default=0),
        attempts=await place.attempts(),
        billed=len(await place.simulator.billed()),
        charged=(energy.charged, energy.reserved),
        audit=list(await own.audit()),
    )


@pytest.fixture(scope="module")
async def outcomes(stack: Addresses, template: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    return await at_each(POINTS, killed_at, stack, template, tmp_path_factory)


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_worker_costs_readers_nothing(point: str, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[point]
    print(f"{point}: the longest gap between two deltas was {outcome.gap_ms:.0f} ms")
    assert outcome.result.success
    assert outcome.seen == outcome.result.content
    assert (outcome.attempts, outcome.billed) == POINTS[point]
    assert outcome.charged == (1, 0)
    assert outcome.audit == []
    if point != "first_token":
        assert outcome.delivered > 1
