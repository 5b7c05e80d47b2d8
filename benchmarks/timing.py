"""Measure the duration of operations with a fixed concurrency, in alternating rounds."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles
from uuid import uuid4

ROUNDS = 5

# Runs once; its argument is a new key.
Operation = Callable[[str], Awaitable[object]]


@dataclass(frozen=True)
class Timing:
    """One run of an operation: its key, and its start and end by the wall clock, which the Temporal server uses too."""

    key: str
    began: float
    ended: float

    @property
    def ms(self) -> float:
        return (self.ended - self.began) * 1000


async def alternate(operations: Mapping[str, Operation], count: int, concurrency: int) -> dict[str, list[Timing]]:
    """Run every operation `count` times in each round. The first round is a warm-up and not counted."""
    timings: defaultdict[str, list[Timing]] = defaultdict(list)
    for number in range(ROUNDS + 1):
        for name, operation in operations.items():
            round_timings = await run_all(operation, count, concurrency)
            timings[name] += round_timings if number else []
    return dict(timings)


async def run_all(operation: Operation, count: int, concurrency: int) -> list[Timing]:
    """Run the operation `count` times, `concurrency` at a time."""
    waiting = iter([uuid4().hex for _ in range(count)])
    timings: list[Timing] = []

    async def caller() -> None:
        for key in waiting:
            began = time.time()
            await operation(key)
            timings.append(Timing(key, began, time.time()))

    await asyncio.gather(*(caller() for _ in range(concurrency)))
    return timings


def percentiles(timings: list[Timing]) -> dict[str, float]:
    times = [timing.ms for timing in timings]
    return {"p50": median(times), "p95": quantiles(times, n=20, method="inclusive")[-1]}
