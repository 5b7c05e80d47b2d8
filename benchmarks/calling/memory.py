"""The memory that many short phone calls leave behind, one after another on several lines."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import count
from random import Random  # noqa: TID251 - a benchmark draws its load
from statistics import linear_regression
from typing import Any

from sqlalchemy import text

from benchmarks.calling.callers import NUMBER, Callers, callers_of, script
from benchmarks.options import Figures, Options
from benchmarks.stack import MEBIBYTE, Bench, running, say
from parley import Client
from simulator.twilio.summary import summarize
from starter.embedded.services import Simulator

MINUTES = 60.0
# So many phone calls at once, at a multiple of the usual speed of speech.
LINES, SPEED = 10, 4.0
TENTHS = 10
LIMITS = {"workspace_concurrent": None, "caller_concurrent": None, "caller_minutes": None}
SIZE = text("SELECT pg_database_size(current_database())")


async def over_time(options: Options) -> tuple[Figures, dict[str, int]]:
    """Short phone calls without a pause, for an hour: the memory of each part at each tenth of the time."""
    minutes = options.minutes or MINUTES
    async with running(gateway="gateway", PARLEY_STARTING_ENERGY="1000000") as bench:
        client = await bench.client("calling")
        await client.phone.set_number(NUMBER, {"limits": LIMITS})
        await bench.latency(seconds=0.1)
        await callers_of(bench).hold([script(Random(0), 1)], Random(0))  # a warm-up
        counts, marks = await _hold(bench, minutes * 60)
        size = await _size(client)
    figures: Figures = {
        f"PSS over {minutes:g} minutes of phone calls, MiB": _course([pss for pss, _ in marks]),
        f"RSS over {minutes:g} minutes of phone calls, MiB": _course([rss for _, rss in marks]),
        "slope of PSS after the first tenth, MiB an hour": _slopes([pss for pss, _ in marks], minutes),
        "the load": {**counts, "tables and indexes at the end, MiB": size},
    }
    return figures, {"phone calls with an error": counts["phone calls with an error"]}


Memory = Mapping[str, float]


async def _hold(bench: Bench, seconds: float) -> tuple[Counter[str], list[tuple[Memory, Memory]]]:
    """Hold phone calls for so long; returns how many, and the memory at the beginning and after each tenth."""
    clock = asyncio.get_running_loop()
    begins, counts, numbers = clock.time(), Counter[str](), count(1)
    callers = callers_of(bench, SPEED)
    lines = [
        asyncio.create_task(_line(callers, Random(line), begins + seconds, numbers, counts)) for line in range(LINES)
    ]
    marks = [_memory(bench)]
    for tenth in range(1, TENTHS + 1):
        await asyncio.sleep(begins + seconds * tenth / TENTHS - clock.time())
        marks.append(_memory(bench))
        say(f"{tenth} tenths, {counts['phone calls']} phone calls: {_shown(marks[-1][0])}")
    await asyncio.gather(*lines)
    return counts, marks


async def _line(callers: Callers, rng: Random, until: float, numbers: "count[int]", counts: Counter[str]) -> None:
    while asyncio.get_running_loop().time() < until:
        held = await callers.hold([script(rng, 1)], rng, first=next(numbers))
        summary = summarize([one.log for one in held])
        counts.update({"phone calls": 1, "turns": summary.turns, "phone calls with an error": summary.failed})


def _memory(bench: Bench) -> tuple[Memory, Memory]:
    return bench.memory("pss"), bench.memory("rss")


def _course(marks: Sequence[Memory]) -> dict[str, Any]:
    """The memory of each part at the beginning and after each tenth."""
    return {part: " ".join(f"{mark[part]:.0f}" for mark in marks) for part in marks[0] if part != Simulator.name}


def _slopes(marks: Sequence[Memory], minutes: float) -> dict[str, float]:
    """How fast the memory of each part grows. In the first tenth, caches fill."""
    hours = [minutes / 60 * tenth / TENTHS for tenth in range(1, len(marks))]
    grown = {part: [mark[part] for mark in marks[1:]] for part in marks[0] if part != Simulator.name}
    return {part: linear_regression(hours, values).slope for part, values in grown.items()}


def _shown(memory: Memory) -> str:
    return ", ".join(f"{part} {value:.0f}" for part, value in memory.items())


async def _size(client: Client) -> float:
    async with client.database.reads() as tx:
        return (await tx.execute(SIZE)).scalar_one() / MEBIBYTE
