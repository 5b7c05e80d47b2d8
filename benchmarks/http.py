"""The same request over HTTP: to the simulator itself, to Parley's gateway in both modes, and to LiteLLM's proxy.

Streams: the time to the first token, and to the end. Whole answers: requests a second, and the CPU of the gateway's
process for one. Last, the memory of a gateway with 500 readers of a job's events.

LiteLLM is not a dependency. It is skipped unless BENCH_GATEWAY_PYTHON names the Python of an environment that has it.
"""

import asyncio
import os
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import cycle
from statistics import median

import httpx2
import openai
import psutil

from benchmarks.gateway import processes
from benchmarks.gateway.processes import MASTER_KEY, PYTHON, ManagedProcess
from benchmarks.gateway.prompt import MAX_TOKENS, MESSAGES, MODEL
from benchmarks.options import Figures, Options
from benchmarks.stack import Bench, running, say
from parley import Client

ALONE, DURABLE, INLINE, LITELLM = "SDK alone", "durable", "inline", "LiteLLM"
# One gateway process uses one core: a host runs one for each core.
TWO_GATEWAYS = "inline, two gateways"
STREAMS = (1, 5, 20, 50)
ROUNDS = 4
TOKENS_PER_SECOND = 100
REQUESTS, CONCURRENCY = 300, 20
READERS = 500
# While the readers open, the generation that they follow waits for its provider.
HELD_SECONDS = 50
MEBIBYTE = 2**20


async def measure(options: Options) -> Figures:
    async with (
        running(PARLEY_STARTING_ENERGY="1000000") as bench,
        AsyncExitStack() as cleanup,
        _gateway(bench) as (process, address),
        _gateway(bench) as (_, second_address),
    ):
        client = await bench.client("bench")
        made = await client.gateway_keys.create("bench", requests_per_minute=1_000_000, concurrent_streams=10_000)
        systems = await _systems(bench, address, made.secret, cleanup)
        figures: Figures = {}
        await bench.latency(seconds=0, tokens_per_second=TOKENS_PER_SECOND)
        for count in STREAMS:
            figures[f"{count} streams at once"] = await _streams(systems, count)
            say(f"{count} streams: done")
        await bench.latency(seconds=0)
        systems[TWO_GATEWAYS] = Alternating(systems[INLINE], _own(second_address, made.secret, "inline"))
        figures[f"whole answers, {CONCURRENCY} at a time"] = await _throughput(
            systems, options.requests or REQUESTS, process
        )
        figures[f"{READERS} idle readers"] = await _readers(bench, client, address, made.secret, process)
    return figures


class System:
    """What answers: an SDK of it, with the headers of its requests."""

    def __init__(self, address: str, key: str, headers: dict[str, str] | None = None) -> None:
        http = httpx2.AsyncClient(
            limits=httpx2.Limits(max_connections=1000, max_keepalive_connections=1000), timeout=60
        )
        self.sdk = openai.AsyncOpenAI(
            api_key=key, base_url=address, max_retries=0, default_headers=headers, http_client=http
        )

    async def ask(self) -> None:
        await self.sdk.chat.completions.create(model=MODEL, messages=MESSAGES, max_completion_tokens=MAX_TOKENS)

    async def stream(self) -> tuple[float, float]:
        """Milliseconds to the first text, and to the end."""
        began, first = time.perf_counter(), 0.0
        async with await self.sdk.chat.completions.create(
            model=MODEL, messages=MESSAGES, max_completion_tokens=MAX_TOKENS, stream=True
        ) as chunks:
            async for chunk in chunks:
                if not first and chunk.choices and chunk.choices[0].delta.content:
                    first = time.perf_counter()
        assert first
        return 1000 * (first - began), 1000 * (time.perf_counter() - began)


class Alternating(System):
    """Several systems, of which each next request goes to the next one, as a load balancer would send it."""

    def __init__(self, *systems: System) -> None:
        self._next = cycle(systems)

    async def ask(self) -> None:
        await next(self._next).ask()


@asynccontextmanager
async def _gateway(bench: Bench) -> AsyncIterator[tuple[ManagedProcess, str]]:
    process, address = processes.gateway(bench)
    try:
        await process.start()
        yield process, address
    finally:
        process.kill()


async def _systems(bench: Bench, address: str, key: str, cleanup: AsyncExitStack) -> dict[str, System]:
    systems = {ALONE: System(f"{bench.addresses.simulator_url}/openai/v1", "none")}
    systems |= {mode: _own(address, key, mode) for mode in (DURABLE, INLINE)}
    if python := os.environ.get(PYTHON):
        litellm, its_address = processes.litellm(bench, python)
        cleanup.callback(litellm.kill)
        await litellm.start()
        systems[LITELLM] = System(f"{its_address}/v1", MASTER_KEY)
    return systems


def _own(address: str, key: str, mode: str) -> System:
    """A gateway of Parley in one of its modes."""
    return System(f"{address}/v1", key, {"x-parley-mode": mode, "x-parley-cache": "off", "x-parley-user": "bench"})


async def _streams(systems: dict[str, System], count: int) -> dict[str, float | str]:
    """Medians of all streams. The first round is not counted, and the systems alternate."""
    firsts, ends = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    for number in range(ROUNDS + 1):
        for name, system in systems.items():
            times = await asyncio.gather(*(system.stream() for _ in range(count)))
            if number:
                firsts[name] += [first for first, _ in times]
                ends[name] += [end for _, end in times]
    figures: dict[str, float | str] = {f"{ALONE}, first token, ms": median(firsts[ALONE])}
    for name in [name for name in systems if name != ALONE]:
        figures[f"{name}, added to the first token, ms"] = median(firsts[name]) - median(firsts[ALONE])
        figures[f"{name}, added to the end, ms"] = median(ends[name]) - median(ends[ALONE])
    return figures


async def _throughput(systems: dict[str, System], requests: int, process: ManagedProcess) -> dict[str, float | str]:
    figures: dict[str, float | str] = {}
    for name, system in systems.items():
        await _run(system, CONCURRENCY * 2)
        before, began = _cpu(process), time.perf_counter()
        await _run(system, requests)
        seconds = time.perf_counter() - began
        figures[f"{name}, requests a second"] = requests / seconds
        if name in (DURABLE, INLINE):
            figures[f"{name}, CPU of the gateway for a request, ms"] = 1000 * (_cpu(process) - before) / requests
        say(f"{name}: {requests / seconds:.0f} requests a second")
    return figures


async def _run(system: System, requests: int) -> None:
    waiting = iter(range(requests))

    async def caller() -> None:
        for _ in waiting:
            await system.ask()

    await asyncio.gather(*(caller() for _ in range(CONCURRENCY)))


def _cpu(process: ManagedProcess) -> float:
    times = psutil.Process(process.pid).cpu_times()
    return times.user + times.system


async def _readers(bench: Bench, client: Client, url: str, key: str, process: ManagedProcess) -> dict[str, float | str]:
    """The memory that 500 readers of a running generation's events add to the gateway."""
    await bench.latency(seconds=HELD_SECONDS)
    handle = await client.start_generation("Which plan has SSO?", user_id="bench")
    path = f"{url}/api/jobs/{handle.id.replace('/', '%2F')}/events"
    memory = psutil.Process(process.pid).memory_info
    async with AsyncExitStack() as opened:
        limits = httpx2.Limits(max_connections=READERS + 1)
        http = httpx2.AsyncClient(headers={"authorization": f"Bearer {key}"}, limits=limits, timeout=60)
        await opened.enter_async_context(http)
        await opened.enter_async_context(http.stream("GET", path))
        before = memory().rss
        for _ in range(READERS):
            response = await opened.enter_async_context(http.stream("GET", path))
            response.raise_for_status()
        added = (memory().rss - before) / MEBIBYTE
    return {"MiB added": added, "KiB for one": added * 1024 / READERS}
