"""Measure the duration of operations with a fixed concurrency, alternating between kinds."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles
from uuid import uuid4

ROUNDS = 5

# Runs one operation; its argument is a new key.
Kind = Callable[[str], Awaitable[object]]


@dataclass(frozen=True)
class Taken:
    """One operation: its key, and its start and end by the wall clock, which is also that of the Temporal server."""

    key: str
    began: float
    ended: float

    @property
    def ms(self) -> float:
        return (self.ended - self.began) * 1000


async def alternate(kinds: Mapping[str, Kind], count: int, concurrency: int) -> dict[str, list[Taken]]:
    """Alternate between the kinds in rounds; the first round is a warm-up and not counted."""
    taken: defaultdict[str, list[Taken]] = defaultdict(list)
    for number in range(ROUNDS + 1):
        for name, kind in kinds.items():
            found = await run_all(kind, count, concurrency)
            taken[name] += found if number else []
    return dict(taken)


async def run_all(kind: Kind, count: int, concurrency: int) -> list[Taken]:
    """Run `count` operations, `concurrency` at a time."""
    waiting = iter([uuid4().hex for _ in range(count)])
    taken: list[Taken] = []

    async def caller() -> None:
        for key in waiting:
            began = time.time()
            await kind(key)
            taken.append(Taken(key, began, time.time()))

    await asyncio.gather(*(caller() for _ in range(concurrency)))
    return taken


def percentiles(taken: list[Taken]) -> dict[str, float]:
    times = [one.ms for one in taken]
    return {"p50": median(times), "p95": quantiles(times, n=20, method="inclusive")[-1]}
