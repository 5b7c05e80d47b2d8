"""What the simulator's log and the ledger say of a run's calls: which phase each served, and how long it took."""

import heapq
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

# A call of a round, by the ordinals of the sessions that it asked for.
ROUND = re.compile(r"round-(\d+)/sessions-(\d+)-")


@dataclass(frozen=True)
class Call:
    """One answered call. `step` is its logical step, `received` and `ended` are the simulator's clock.

    `stream`: the one whose sessions it asked for.
    """

    step: str
    received: float
    ended: float
    stream: int | None = None

    @property
    def seconds(self) -> float:
        return self.ended - self.received


@dataclass(frozen=True)
class Phases:
    """A run's calls: discovery and conflicts as they came, rounds as the seconds that each stream needed."""

    discovery: tuple[Call, ...]
    parallel: tuple[Call, ...]
    conflicts: tuple[Call, ...]

    @classmethod
    def of(cls, calls: Iterable[Call], discovery_sessions: int) -> "Phases":
        """Discovery is the first rounds, one session each."""
        split: tuple[list[Call], list[Call], list[Call]] = ([], [], [])
        for call in sorted(calls, key=lambda call: call.received):
            found = ROUND.match(call.step)
            split[2 if found is None else int(found[1]) >= discovery_sessions].append(call)
        assert split[0] and split[1], "no call of the discovery, or of a round: are steps named otherwise?"
        return cls(*map(tuple, split))

    @staticmethod
    def first_session(step: str) -> int | None:
        """The ordinal of the first session that a call of a round asked for."""
        found = ROUND.match(step)
        return int(found[2]) if found else None

    @property
    def rounds(self) -> list[list[float]]:
        """By round, the seconds of each stream's calls: those of one stream come one after the other."""
        spent: defaultdict[int, defaultdict[int, float]] = defaultdict(lambda: defaultdict(float))
        for call in self.parallel:
            found = ROUND.match(call.step)
            assert found
            spent[int(found[1])][call.stream or 0] += call.seconds
        return [[*spent[number].values()] for number in sorted(spent)]

    @property
    def with_barrier(self) -> float:
        """Seconds of phase 2 if nothing but the replies took time: a round is as long as its slowest stream."""
        return sum(map(max, self.rounds))

    def without_barrier(self, streams: int) -> float:
        """The same calls in the same order, each taken by the stream that is free first."""
        return greedy(list(chain(*self.rounds)), streams)

    @property
    def critical_path(self) -> float:
        """Seconds of the whole run if nothing but the replies took time."""
        return sum(call.seconds for call in (*self.discovery, *self.conflicts)) + self.with_barrier

    @property
    def parallel_wall(self) -> float:
        """Seconds from the last reply of discovery to the first call of conflict resolution, or to the last reply."""
        began = max(call.ended for call in self.discovery)
        over = min((call.received for call in self.conflicts), default=max(call.ended for call in self.parallel))
        return over - began


def greedy(seconds: Sequence[float], streams: int) -> float:
    """How long it takes when each task goes to whoever is free first.

    >>> greedy([3, 1, 1, 1], streams=2)
    3.0
    """
    free = [0.0] * streams
    for task in seconds:
        heapq.heapreplace(free, free[0] + task)
    return max(free)
