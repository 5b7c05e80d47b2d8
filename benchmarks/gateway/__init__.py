"""The same request through the SDK alone, a script that inserts one row per reply, LiteLLM and Parley.

Measures the added time, the throughput, and the difference between the stored rows and the requests that the simulator
has billed after `kill -9` in the middle of 100 requests. LiteLLM is not a dependency: it is left out unless
BENCH_GATEWAY_PYTHON names the Python of an environment that has it.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from uuid import uuid4

import openai
import psycopg

from benchmarks.gateway import served
from benchmarks.gateway.plain import TABLE, Script
from benchmarks.gateway.question import MAX_TOKENS, MESSAGES, MODEL, QUESTION
from benchmarks.gateway.served import MASTER_KEY, PYTHON, Served
from benchmarks.options import Figures, Options
from benchmarks.stack import Bench, running, say
from benchmarks.timing import Kind, Taken, alternate, percentiles, run_all
from parley import Client

LATENCY_SECONDS = 0.2
REQUESTS = 10
TOGETHER = (1, 20)
KILLED_REQUESTS = 100
KILLED_CONCURRENCY = 20
GATEWAY_TABLE = "CREATE TABLE gateway_books (id text, cost_usd numeric(18, 9))"
SKIPPED = f"left out: {PYTHON} names no Python that has litellm; benchmarks/README.md says how to install it"
ALONE = "SDK alone"

Crash = Callable[[], Awaitable[dict[str, float | str]]]


async def measure(options: Options) -> Figures:
    async with running(worker=None, PARLEY_STARTING_ENERGY="1000000") as bench, AsyncExitStack() as cleanup:
        await bench.latency(seconds=LATENCY_SECONDS)
        database = await psycopg.AsyncConnection.connect(bench.addresses.database_url, autocommit=True)
        await cleanup.enter_async_context(database)
        await database.execute(TABLE)
        await database.execute(GATEWAY_TABLE)
        ways = Ways(bench, database, await bench.client(f"bench-{uuid4().hex[:8]}"))
        cleanup.callback(ways.end)
        kinds = await ways.start()
        figures: Figures = {} if ways.gateway else {"LiteLLM": {SKIPPED: ""}}
        for together in TOGETHER:
            taken = await alternate(kinds, (options.requests or REQUESTS) * together, together)
            figures[f"{together} at a time"] = _compared(taken, together)
            say(f"{together} at a time: done")
        for name, crash in ways.crashes().items():
            figures[f"{name}: kill -9 in the middle of {KILLED_REQUESTS} requests"] = await crash()
            say(f"{name}: killed and started again")
    return figures


class Ways:
    """Each way to send the request, and to kill its process."""

    def __init__(self, bench: Bench, database: psycopg.AsyncConnection, client: Client) -> None:
        self._bench, self._database, self._client = bench, database, client
        self._worker = served.worker(bench)
        self.gateway: Served | None = None
        self._gateway_sdk: openai.AsyncOpenAI | None = None

    async def start(self) -> dict[str, Kind]:
        sdk = _sdk(f"{self._bench.addresses.simulator_url}/openai/v1", "none")
        await self._worker.start()
        script = Script(sdk, self._database)
        kinds: dict[str, Kind] = {ALONE: lambda _: _ask(sdk), "one row": script.answer, "Parley": self._generate}
        if python := os.environ.get(PYTHON):
            self.gateway, address = served.litellm(self._bench, python)
            await self.gateway.start()
            gateway_sdk = self._gateway_sdk = _sdk(f"{address}/v1", MASTER_KEY)
            kinds["LiteLLM"] = lambda _: _ask(gateway_sdk)
        return kinds

    def end(self) -> None:
        for one in (self._worker, self.gateway):
            if one:
                one.kill()

    def crashes(self) -> dict[str, Crash]:
        own: dict[str, Crash] = {"one row": self._script_killed, "Parley": self._worker_killed}
        return own | ({"LiteLLM": self._gateway_killed} if self.gateway else {})

    async def _generate(self, key: str) -> object:
        done = await self._client.generate(QUESTION, user_id="user", key=key, cache="off", max_tokens=MAX_TOKENS)
        assert done.success and done.meta.model == MODEL, done
        return done

    async def _script_killed(self) -> dict[str, float | str]:
        """After the restart the script sends the requests that have no row."""
        await self._database.execute("TRUNCATE plain_books")
        script = served.plain(self._bench, KILLED_REQUESTS, KILLED_CONCURRENCY)
        before = await self._billed()
        await script.start()
        await self._kill_at_half(script, before)
        await script.start()
        await script.done()
        return await self._books("SELECT count(*), 0 FROM plain_books", before)

    async def _worker_killed(self) -> dict[str, float | str]:
        self._client = await self._bench.client(f"bench-{uuid4().hex[:8]}")
        rows = "SELECT count(*), count(*) FILTER (WHERE NOT confirmed) FROM ai_usage_logs WHERE workspace_id = %s"
        return await self._killed(self._worker, self._generate, rows, self._client.workspace_id)

    async def _gateway_killed(self) -> dict[str, float | str]:
        """The caller retries until there is an answer, as Parley does."""
        assert self.gateway and self._gateway_sdk
        sdk = self._gateway_sdk

        async def until_answered(_: str) -> object:
            while True:
                try:
                    return await _ask(sdk)
                except openai.APIError:
                    await asyncio.sleep(0.5)

        await self._database.execute("TRUNCATE gateway_books")
        return await self._killed(self.gateway, until_answered, "SELECT count(*), 0 FROM gateway_books")

    async def _killed(self, one: Served, kind: Kind, rows: str, *arguments: str) -> dict[str, float | str]:
        before = await self._billed()
        calling = asyncio.create_task(run_all(kind, KILLED_REQUESTS, KILLED_CONCURRENCY))
        await self._kill_at_half(one, before)
        await one.start()
        await calling
        return await self._books(rows, before, *arguments)

    async def _kill_at_half(self, one: Served, before: int) -> None:
        while await self._billed() < before + KILLED_REQUESTS // 2:  # noqa: ASYNC110 - another process counts
            await asyncio.sleep(0.02)
        one.kill()

    async def _books(self, rows: str, before: int, *arguments: str) -> dict[str, float | str]:
        """Compare the stored rows with the billed requests; rows that are written after the answer have 15 s."""
        billed = await self._billed() - before
        deadline = time.monotonic() + 15
        while True:
            row = await (await self._database.execute(rows, arguments)).fetchone()
            assert row
            found, uncertain = row
            if found >= billed or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.5)
        return {
            "answered": KILLED_REQUESTS,
            "billed by the simulator": billed,
            "rows stored": found,
            "of them uncertain": uncertain,
            "billed without a row": max(billed - found, 0),
        }

    async def _billed(self) -> int:
        return len(await self._bench.billed())


def _sdk(address: str, key: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key=key, base_url=address, max_retries=0)


async def _ask(sdk: openai.AsyncOpenAI) -> object:
    return await sdk.chat.completions.create(model=MODEL, messages=MESSAGES, max_completion_tokens=MAX_TOKENS)


def _compared(taken: dict[str, list[Taken]], together: int) -> dict[str, float | str]:
    alone = percentiles(taken[ALONE])
    figures: dict[str, float | str] = {}
    for name, ones in taken.items():
        own = percentiles(ones)
        added = {f"{name}, added at {share}, ms": own[share] - alone[share] for share in own if name != ALONE}
        mean = sum(one.ms for one in ones) / len(ones) / 1000
        figures |= {f"{name}, p50, ms": own["p50"], **added, f"{name}, requests per second": together / mean}
    return figures
