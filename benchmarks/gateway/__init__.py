"""The same request through the SDK alone, a script that inserts one row per reply, LiteLLM and Parley.

Measures the added time and the throughput. Then each system is killed with `kill -9` in the middle of 100 requests and
restarted, and its stored rows are compared with the requests that the simulator has billed.

LiteLLM is not a dependency. It is skipped unless BENCH_GATEWAY_PYTHON names the Python of an environment that has it.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import LiteralString
from uuid import uuid4

import openai
import psycopg

from benchmarks.gateway import processes
from benchmarks.gateway.plain import TABLE, Script
from benchmarks.gateway.processes import MASTER_KEY, PYTHON, ManagedProcess
from benchmarks.gateway.prompt import MAX_TOKENS, MESSAGES, MODEL, PROMPT
from benchmarks.options import Figures, Options
from benchmarks.stack import Bench, running, say
from benchmarks.timing import Operation, Timing, alternate, percentiles, run_all
from parley import Client
from parley.domain.generate.contract import CachePolicy

LATENCY_SECONDS = 0.2
REQUESTS = 10
CONCURRENCIES = (1, 20)
KILLED_REQUESTS = 100
KILLED_CONCURRENCY = 20
ROW_TIMEOUT_SECONDS = 15
GATEWAY_TABLE = "CREATE TABLE gateway_usage (id text, cost_usd numeric(18, 9))"
SKIPPED = f"{PYTHON} is not set (see benchmarks/README.md)"
ALONE = "SDK alone"

Crash = Callable[[], Awaitable[dict[str, float | str]]]


async def measure(options: Options) -> Figures:
    async with running(worker=None, PARLEY_STARTING_ENERGY="1000000") as bench, AsyncExitStack() as cleanup:
        await bench.latency(seconds=LATENCY_SECONDS)
        database = await psycopg.AsyncConnection.connect(bench.addresses.database_url, autocommit=True)
        await cleanup.enter_async_context(database)
        await database.execute(TABLE)
        await database.execute(GATEWAY_TABLE)
        systems = Systems(bench, database, await bench.client(f"bench-{uuid4().hex[:8]}"))
        cleanup.callback(systems.end)
        operations = await systems.start()
        figures: Figures = {} if systems.gateway else {"LiteLLM": {"skipped": SKIPPED}}
        for concurrency in CONCURRENCIES:
            timings = await alternate(operations, (options.requests or REQUESTS) * concurrency, concurrency)
            figures[f"{concurrency} at a time"] = _comparison(timings, concurrency)
            say(f"{concurrency} at a time: done")
        for name, crash in systems.crashes().items():
            figures[f"{name}: kill -9 in the middle of {KILLED_REQUESTS} requests"] = await crash()
            say(f"{name}: killed and restarted")
    return figures


class Systems:
    """The systems that send the same request. All but the SDK alone have a process to kill."""

    def __init__(self, bench: Bench, database: psycopg.AsyncConnection, client: Client) -> None:
        self._bench, self._database, self._client = bench, database, client
        self._worker = processes.worker(bench)
        self.gateway: ManagedProcess | None = None
        self._gateway_sdk: openai.AsyncOpenAI | None = None

    async def start(self) -> dict[str, Operation]:
        sdk = _sdk(f"{self._bench.addresses.simulator_url}/openai/v1", "none")
        await self._worker.start()
        script = Script(sdk, self._database)
        operations: dict[str, Operation] = {
            ALONE: lambda _: _ask(sdk),
            "one row": script.answer,
            "Parley": self._generate,
        }
        if python := os.environ.get(PYTHON):
            self.gateway, address = processes.litellm(self._bench, python)
            await self.gateway.start()
            gateway_sdk = self._gateway_sdk = _sdk(f"{address}/v1", MASTER_KEY)
            operations["LiteLLM"] = lambda _: _ask(gateway_sdk)
        return operations

    def end(self) -> None:
        for process in (self._worker, self.gateway):
            if process:
                process.kill()

    def crashes(self) -> dict[str, Crash]:
        crashes: dict[str, Crash] = {"one row": self._kill_script, "Parley": self._kill_worker}
        return crashes | ({"LiteLLM": self._kill_gateway} if self.gateway else {})

    async def _generate(self, key: str) -> object:
        result = await self._client.generate(
            PROMPT, user_id="user", key=key, cache=CachePolicy.OFF, max_tokens=MAX_TOKENS
        )
        assert result.success and result.meta.model == MODEL, result
        return result

    async def _kill_script(self) -> dict[str, float | str]:
        """The restarted script sends the requests that have no row."""
        await self._database.execute("TRUNCATE plain_usage")
        script = processes.plain(self._bench, KILLED_REQUESTS, KILLED_CONCURRENCY)
        before = await self._billed()
        await script.start()
        await self._kill_at_half(script, before)
        await script.start()
        await script.wait()
        return await self._compare_rows("SELECT count(*), 0 FROM plain_usage", before)

    async def _kill_worker(self) -> dict[str, float | str]:
        self._client = await self._bench.client(f"bench-{uuid4().hex[:8]}")
        rows = "SELECT count(*), count(*) FILTER (WHERE NOT confirmed) FROM ai_usage_logs WHERE workspace_id = %s"
        return await self._kill_and_restart(self._worker, self._generate, rows, self._client.workspace_id)

    async def _kill_gateway(self) -> dict[str, float | str]:
        """The callers retry until they have an answer, as Parley does."""
        assert self.gateway and self._gateway_sdk
        sdk = self._gateway_sdk

        async def until_answered(_: str) -> object:
            while True:
                try:
                    return await _ask(sdk)
                except openai.APIError:
                    await asyncio.sleep(0.5)

        await self._database.execute("TRUNCATE gateway_usage")
        return await self._kill_and_restart(self.gateway, until_answered, "SELECT count(*), 0 FROM gateway_usage")

    async def _kill_and_restart(
        self, process: ManagedProcess, operation: Operation, rows: LiteralString, *arguments: str
    ) -> dict[str, float | str]:
        before = await self._billed()
        load = asyncio.create_task(run_all(operation, KILLED_REQUESTS, KILLED_CONCURRENCY))
        await self._kill_at_half(process, before)
        await process.start()
        await load
        return await self._compare_rows(rows, before, *arguments)

    async def _kill_at_half(self, process: ManagedProcess, before: int) -> None:
        while await self._billed() < before + KILLED_REQUESTS // 2:  # noqa: ASYNC110 - another process counts
            await asyncio.sleep(0.02)
        process.kill()

    async def _compare_rows(self, rows: LiteralString, before: int, *arguments: str) -> dict[str, float | str]:
        """Compare the rows with the requests billed since `before`. A row may be stored up to 15 s after its answer."""
        billed = await self._billed() - before
        deadline = time.monotonic() + ROW_TIMEOUT_SECONDS
        while True:
            row = await (await self._database.execute(rows, arguments)).fetchone()
            assert row
            stored, uncertain = row
            if stored >= billed or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.5)
        return {
            "requests": KILLED_REQUESTS,
            "billed by the simulator": billed,
            "rows stored": stored,
            "of them uncertain": uncertain,
            "billed without a row": max(billed - stored, 0),
        }

    async def _billed(self) -> int:
        return len(await self._bench.billed())


def _sdk(address: str, key: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key=key, base_url=address, max_retries=0)


async def _ask(sdk: openai.AsyncOpenAI) -> object:
    return await sdk.chat.completions.create(model=MODEL, messages=MESSAGES, max_completion_tokens=MAX_TOKENS)


def _comparison(timings: dict[str, list[Timing]], concurrency: int) -> dict[str, float | str]:
    alone = percentiles(timings[ALONE])
    figures: dict[str, float | str] = {}
    for name, runs in timings.items():
        times = percentiles(runs)
        figures[f"{name}, p50, ms"] = times["p50"]
        if name != ALONE:
            figures |= {
                f"{name}, added at {percentile}, ms": times[percentile] - alone[percentile] for percentile in times
            }
        mean_seconds = sum(run.ms for run in runs) / len(runs) / 1000
        # Little's law: the requests in progress are the throughput times the mean duration.
        figures[f"{name}, requests per second"] = concurrency / mean_seconds
    return figures
