"""The time that `Generate` adds to a request with the SDK alone, the throughput of one worker, and where time goes.

The simulator takes 200 ms for each request; the rest is overhead. The kinds alternate in rounds; the first round is a
warm-up and not counted. The lower bound is a workflow with one empty activity, local or regular.
"""

import time
from collections.abc import Mapping
from uuid import uuid4

import openai

from benchmarks.gateway.question import MAX_TOKENS, MESSAGES, MODEL, QUESTION
from benchmarks.options import Figures, Options
from benchmarks.stack import Bench, running, say
from benchmarks.steps import steps_of
from benchmarks.timing import Kind, Taken, alternate, percentiles, run_all
from benchmarks.traced_worker import QUEUE, OneActivity, OneLocalActivity
from parley import Client
from parley.domain.generate.contract import workflow_id

LATENCY_SECONDS = 0.2
REQUESTS = 20
CONCURRENCY = (1, 20)
SUSTAINED = 64
SUSTAINED_ROUNDS = 50


async def measure(options: Options) -> Figures:
    figures: Figures = {}
    async with running("benchmarks.traced_worker", PARLEY_STARTING_ENERGY="1000000") as bench:
        await bench.latency(seconds=LATENCY_SECONDS)
        client = await bench.client(f"bench-{uuid4().hex[:8]}")
        kinds = _kinds(client, bench)
        for together in CONCURRENCY:
            taken = await alternate(kinds, (options.requests or REQUESTS) * together, together)
            say(f"{together} at a time: done")
            figures[f"{together} at a time"] = _added(taken)
            if together == 1:
                ids = {workflow_id(client.workspace_id, one.key): one for one in taken["Generate"]}
                spans = {job: (one.began, one.ended) for job, one in ids.items()}
                figures["one Generate, medians"] = await steps_of(client.temporal, spans, bench.spans)
        sustained = await _sustained(bench, kinds, (options.requests or REQUESTS) * SUSTAINED_ROUNDS)
        figures[f"{SUSTAINED} at a time, continuously"] = sustained
    return figures


def _kinds(client: Client, bench: Bench) -> dict[str, Kind]:
    """The request with the SDK, with `Generate`, and the two lower bounds."""
    sdk = openai.AsyncOpenAI(api_key="none", base_url=f"{bench.addresses.simulator_url}/openai/v1", max_retries=0)

    async def alone(_: str) -> object:
        return await sdk.chat.completions.create(model=MODEL, messages=MESSAGES, max_completion_tokens=MAX_TOKENS)

    async def generate(key: str) -> object:
        user = f"user-{int(key[-2:], 16) % 20}"
        done = await client.generate(QUESTION, user_id=user, key=key, cache="off", max_tokens=MAX_TOKENS)
        assert done.success and done.meta.model == MODEL, done
        return done

    async def local(key: str) -> object:
        return await client.temporal.execute_workflow(OneLocalActivity.run, id=key, task_queue=QUEUE)

    async def regular(key: str) -> object:
        return await client.temporal.execute_workflow(OneActivity.run, id=key, task_queue=QUEUE)

    return {"SDK alone": alone, "Generate": generate, "one local activity": local, "one activity": regular}


def _added(taken: Mapping[str, list[Taken]]) -> dict[str, float]:
    """Percentiles of each kind, and what `Generate` adds to the SDK's."""
    figures: dict[str, float] = {}
    for name, ones in taken.items():
        figures |= {f"{name}, {share}, ms": value for share, value in percentiles(ones).items()}
    alone, generate = percentiles(taken["SDK alone"]), percentiles(taken["Generate"])
    return (
        {"generations": float(len(taken["Generate"]))}
        | figures
        | {f"added by Generate, {share}, ms": generate[share] - alone[share] for share in alone}
    )


async def _sustained(bench: Bench, kinds: Mapping[str, Kind], requests: int) -> dict[str, float]:
    """Enough callers to saturate one worker: generations per second, and each part's CPU per generation."""
    before, ours, began = bench.cpu(), time.process_time(), time.monotonic()
    taken = await run_all(kinds["Generate"], requests, SUSTAINED)
    seconds, ours, after = time.monotonic() - began, time.process_time() - ours, bench.cpu()
    figures = {
        "generations": float(requests),
        "generations per second": requests / seconds,
        "p50, ms": percentiles(taken)["p50"],
    }
    spent = {name: (after[name] - before[name]) * 1000 / requests for name in after}
    figures |= {f"CPU of {name}, ms per generation": value for name, value in spent.items()}
    return figures | {"CPU of the callers, ms per generation": ours * 1000 / requests}
