"""Timed calls: so many at a time, in rounds of each kind in turn."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles
from uuid import uuid4

ROUNDS = 5

# Makes the call that a fresh key names.
Kind = Callable[[str], Awaitable[object]]


@dataclass(frozen=True)
class Taken:
    """One call: its key, and when it began and ended by the wall clock, which Temporal's server reads as well."""

    key: str
    began: float
    ended: float

    @property
    def ms(self) -> float:
        return (self.ended - self.began) * 1000


async def in_turn(kinds: Mapping[str, Kind], calls: int, together: int) -> dict[str, list[Taken]]:
    """Rounds of each kind in turn; the first is for warming up."""
    taken: defaultdict[str, list[Taken]] = defaultdict(list)
    for number in range(ROUNDS + 1):
        for name, kind in kinds.items():
            found = await calls_of(kind, calls, together)
            taken[name] += found if number else []
    return dict(taken)


async def calls_of(kind: Kind, calls: int, together: int) -> list[Taken]:
    """That many calls, so many of them at a time."""
    waiting = iter([uuid4().hex for _ in range(calls)])
    taken: list[Taken] = []

    async def caller() -> None:
        for key in waiting:
            began = time.time()
            await kind(key)
            taken.append(Taken(key, began, time.time()))

    await asyncio.gather(*(caller() for _ in range(together)))
    return taken


def percentiles(taken: list[Taken]) -> dict[str, float]:
    times = [one.ms for one in taken]
    return {"p50": median(times), "p95": quantiles(times, n=20, method="inclusive")[-1]}
