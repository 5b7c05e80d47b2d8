"""The time that `Generate` adds to a request with the SDK alone, as a workflow and inline; throughput; where time goes.

The simulator takes 200 ms for each request; the rest is overhead. The operations run in alternating rounds; the first
round is a warm-up and not counted. The lower bound is a workflow with one empty activity, local or regular. The inline
mode runs in the callers' process.
"""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from uuid import uuid4

import openai
from pydantic import SecretStr

from benchmarks.gateway.prompt import MAX_TOKENS, MESSAGES, MODEL, PROMPT
from benchmarks.options import Figures, Options
from benchmarks.stack import Bench, running, say
from benchmarks.steps import steps_of
from benchmarks.timing import Operation, Timing, alternate, percentiles, run_all
from benchmarks.traced_worker import QUEUE, OneActivity, OneLocalActivity
from gateway.inline import InlineGenerate
from parley import Client
from parley.client.generate import generate_input
from parley.domain.generate.contract import CachePolicy, workflow_id
from parley.settings import Settings
from parley.storage.database import Database

LATENCY_SECONDS = 0.2
REQUESTS = 20
CONCURRENCIES = (1, 5, 20)
SUSTAINED_CONCURRENCY = 64
SUSTAINED_ROUNDS = 50
STARTING_ENERGY = 1_000_000
MODES = ("Generate", "Generate inline")


async def measure(options: Options) -> Figures:
    figures: Figures = {}
    energy = str(STARTING_ENERGY)
    async with running("benchmarks.traced_worker", PARLEY_STARTING_ENERGY=energy) as bench, _inline(bench) as inline:
        await bench.latency(seconds=LATENCY_SECONDS)
        client = await bench.client(f"bench-{uuid4().hex[:8]}")
        operations = _operations(client, bench, inline)
        for concurrency in CONCURRENCIES:
            timings = await alternate(operations, (options.requests or REQUESTS) * concurrency, concurrency)
            say(f"{concurrency} at a time: done")
            figures[f"{concurrency} at a time"] = _added(timings)
            if concurrency == 1:
                times = {
                    workflow_id(client.workspace_id, run.key): (run.began, run.ended) for run in timings["Generate"]
                }
                figures["one Generate, medians"] = await steps_of(client.temporal, times, bench.spans)
        for mode in MODES:
            sustained = await _sustained(bench, operations[mode], (options.requests or REQUESTS) * SUSTAINED_ROUNDS)
            figures[f"{mode}, {SUSTAINED_CONCURRENCY} at a time, continuously"] = sustained
    return figures


@asynccontextmanager
async def _inline(bench: Bench) -> AsyncIterator[InlineGenerate]:
    database = Database(SecretStr(bench.addresses.database_url))
    settings = Settings(simulator_url=bench.addresses.simulator_url, starting_energy=STARTING_ENERGY)
    inline = InlineGenerate(database, settings)
    yield inline
    await inline.close()
    await database.close()


def _operations(client: Client, bench: Bench, inline: InlineGenerate) -> dict[str, Operation]:
    """The request with the SDK, with `Generate` in both modes, and the two lower bounds."""
    sdk = openai.AsyncOpenAI(api_key="none", base_url=f"{bench.addresses.simulator_url}/openai/v1", max_retries=0)

    async def alone(_: str) -> object:
        return await sdk.chat.completions.create(model=MODEL, messages=MESSAGES, max_completion_tokens=MAX_TOKENS)

    async def generate(key: str) -> object:
        user = _user(key)
        done = await client.generate(PROMPT, user_id=user, key=key, cache=CachePolicy.OFF, max_tokens=MAX_TOKENS)
        assert done.success and done.meta.model == MODEL, done
        return done

    async def generate_inline(key: str) -> object:
        terms = {"user_id": _user(key), "cache": CachePolicy.OFF, "max_tokens": MAX_TOKENS}
        done = await inline.run(generate_input(client.workspace_id, PROMPT, **terms), key)
        assert done.success and done.meta.model == MODEL, done
        return done

    async def local(key: str) -> object:
        return await client.temporal.execute_workflow(OneLocalActivity.run, id=key, task_queue=QUEUE)

    async def regular(key: str) -> object:
        return await client.temporal.execute_workflow(OneActivity.run, id=key, task_queue=QUEUE)

    return {
        "SDK alone": alone,
        "Generate": generate,
        "Generate inline": generate_inline,
        "one local activity": local,
        "one activity": regular,
    }


def _user(key: str) -> str:
    return f"user-{int(key[-2:], 16) % 20}"


def _added(timings: Mapping[str, list[Timing]]) -> dict[str, float]:
    """Percentiles of each operation, and what each mode of `Generate` adds to those of the SDK alone."""
    figures: dict[str, float] = {}
    for name, runs in timings.items():
        figures |= {f"{name}, {percentile}, ms": value for percentile, value in percentiles(runs).items()}
    alone = percentiles(timings["SDK alone"])
    for mode in MODES:
        added = percentiles(timings[mode])
        figures |= {f"added by {mode}, {percentile}, ms": added[percentile] - alone[percentile] for percentile in alone}
    return {"generations": float(len(timings["Generate"]))} | figures


async def _sustained(bench: Bench, operation: Operation, requests: int) -> dict[str, float]:
    """The generations per second of one saturated process, and the CPU time of each part per generation."""
    cpu_before, callers_before, began = bench.cpu(), time.process_time(), time.monotonic()
    timings = await run_all(operation, requests, SUSTAINED_CONCURRENCY)
    seconds, callers_seconds = time.monotonic() - began, time.process_time() - callers_before
    figures = {
        "generations": float(requests),
        "generations per second": requests / seconds,
        "p50, ms": percentiles(timings)["p50"],
    }
    spent = {name: (after - cpu_before[name]) * 1000 / requests for name, after in bench.cpu().items()}
    figures |= {f"CPU of {name}, ms per generation": value for name, value in spent.items()}
    return figures | {"CPU of the callers, ms per generation": callers_seconds * 1000 / requests}
