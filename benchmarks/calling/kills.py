"""Phone calls while workers and gateways are killed with kill -9, at moments that a seed decides."""

import asyncio
from random import Random  # noqa: TID251 - the moments of the kills are random
from typing import Any

from benchmarks.calling.callers import script
from benchmarks.calling.found import found
from benchmarks.calling.processes import calling
from benchmarks.options import Figures, Options
from benchmarks.stack import say

CALLS, KILLS = 50, 10
# Between two kills, after the killed process has started again.
LEAST_SECONDS, MOST_SECONDS = 2.0, 8.0
# Long enough that callers still talk at the last kill.
TURNS = 16


async def under_kills(options: Options) -> tuple[Figures, dict[str, int]]:
    """50 phone calls under 20 kills of two workers and two gateways, each of which is started again."""
    seed, hits = options.seed or 7, 0
    plan = [*["worker"] * KILLS, *["gateway"] * KILLS]
    Random(seed).shuffle(plan)
    async with calling(seed) as one:

        async def kill(talking: "asyncio.Task[Any]") -> None:
            nonlocal hits
            for number, what in enumerate(plan, start=1):
                await asyncio.sleep(one.random.uniform(LEAST_SECONDS, MOST_SECONDS))
                hits += not talking.done()
                say(f"kill {number} of {len(plan)}: a {what}{' after the last phone call' if talking.done() else ''}")
                await one.replace(what)

        held = await one.talk([script(one.random, TURNS) for _ in range(CALLS)], kill)
        figures, faults = await found(one.place, held)
    return {f"{CALLS} phone calls under {len(plan)} kills": {"kills while callers talked": hits, **figures}}, faults
