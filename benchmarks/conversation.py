"""A conversation of 2,000 turns: the bytes of history, the tokens and the time of a turn, early and late.

Every turn is sent under its id, and every hundredth once more. The figure `must be zero` has the turns that were
answered or charged more or less than once.
"""

import asyncio
from statistics import mean, median

from temporalio.client import WorkflowExecution

from benchmarks.options import MUST_BE_ZERO, Figures, Options
from benchmarks.stack import running, say
from parley import CachePolicy, Client, TurnResult
from parley.domain.conversation.contract import workflow_id

TURNS, AGAIN_EVERY = 2000, 100
USER = "ann"
TEXT = "Turn {}: what does the export to CSV contain, and who may start it at the end of the month?"


async def measure(options: Options) -> Figures:
    async with running() as bench:
        return await _figures(await bench.client("benchmark"), options.requests or TURNS)


async def _figures(client: Client, turns: int) -> Figures:
    talk = client.conversation("long", user_id=USER)
    await client.grant_energy(USER, turns, key="benchmark")
    clock, seconds, results, differing = asyncio.get_running_loop(), list[float](), list[TurnResult](), 0
    for number in range(turns):
        before = clock.time()
        results.append(await talk.say(TEXT.format(number), turn_id=str(number), cache=CachePolicy.OFF))
        seconds.append(clock.time() - before)
        if number % AGAIN_EVERY == 0:
            differing += await talk.say(TEXT.format(number), turn_id=str(number), cache=CachePolicy.OFF) != results[-1]
            say(f"{number} turns")
    sizes = await _bytes_of_runs(client)
    tokens = [result.meta.usage.input_tokens for result in results]
    part = max(turns // 10, 1)
    energy, cost = await client.energy(USER), await talk.cost()
    return {
        f"{turns} turns": {
            "runs of the workflow": len(sizes),
            "bytes of history a turn, first full run": sizes[0],
            "bytes of history a turn, last full run": sizes[-1],
            "input tokens, mean of the first tenth": mean(tokens[:part]),
            "input tokens, mean of the last tenth": mean(tokens[-part:]),
            "milliseconds, median of the first tenth": 1000 * median(seconds[:part]),
            "milliseconds, median of the last tenth": 1000 * median(seconds[-part:]),
            "dollars of answers": float(cost.answers_usd),
            "dollars of upkeep": float(cost.upkeep_usd),
        },
        MUST_BE_ZERO: {
            "turns without an answer": sum(not result.success for result in results),
            "turns out of order": sum(result.number != at for at, result in enumerate(results, 1)),
            "turns that differ when they are sent again": differing,
            "charges more or less than turns": energy.charged - turns,
            "findings of the audit": len(await client.audit()),
        },
    }


async def _bytes_of_runs(client: Client) -> list[float]:
    """The bytes of history a turn of each full run, in order."""
    job_id = workflow_id(client.workspace_id, "long")
    found = [one async for one in client.temporal.list_workflows(f"WorkflowId = '{job_id}'")]
    ordered = sorted(found, key=lambda one: one.start_time)
    return [await _bytes_a_turn(client, one) for one in ordered[:-1] or ordered]


async def _bytes_a_turn(client: Client, run: WorkflowExecution) -> float:
    history = await client.temporal.get_workflow_handle(run.id, run_id=run.run_id).fetch_history()
    ended = sum(event.HasField("workflow_execution_update_completed_event_attributes") for event in history.events)
    return sum(event.ByteSize() for event in history.events) / max(ended, 1)
