"""The requests of a labelling run, from the simulator's log and the ledger: the phase and duration of each."""

import heapq
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

# The step of a request of the discovery or of a round; it contains the ordinals of the sessions.
ROUND = re.compile(r"(?:discovery|round-(\d+))/sessions-(\d+)-")


@dataclass(frozen=True)
class Request:
    """One answered request, with its step and the stream of its sessions.

    `received`, `ended`: seconds by the simulator's clock.
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
    """The requests of a run, by phase, in order of arrival."""

    discovery: tuple[Request, ...]
    parallel: tuple[Request, ...]
    conflicts: tuple[Request, ...]

    @classmethod
    def of(cls, requests: Iterable[Request]) -> "Phases":
        """Divide the requests into phases."""
        split: tuple[list[Request], list[Request], list[Request]] = ([], [], [])
        for request in sorted(requests, key=lambda request: request.received):
            found = ROUND.match(request.step)
            phase = 2 if found is None else int(found[1] is not None)
            split[phase].append(request)
        assert split[0] and split[1], "no request of discovery or of a round: does ROUND match?"
        return cls(*map(tuple, split))

    @staticmethod
    def first_session(step: str) -> int | None:
        """The ordinal of the first session in a request of a round; None for other steps."""
        found = ROUND.match(step)
        return int(found[2]) if found else None

    @property
    def rounds(self) -> list[list[float]]:
        """By round, the seconds of the requests of each stream, which are sequential."""
        spent: defaultdict[int, defaultdict[int, float]] = defaultdict(lambda: defaultdict(float))
        for request in self.parallel:
            found = ROUND.match(request.step)
            assert found
            spent[int(found[1])][request.stream or 0] += request.seconds
        return [[*spent[number].values()] for number in sorted(spent)]

    @property
    def with_barrier(self) -> float:
        """Seconds of phase 2 if only replies took time: a round is as long as its slowest stream."""
        return sum(map(max, self.rounds))

    def without_barrier(self, streams: int) -> float:
        """Seconds of the same requests in order of arrival, each sent by the first free stream."""
        return greedy([request.seconds for request in self.parallel], streams)

    @property
    def discovery_wall(self) -> float:
        """Seconds from the first request of the discovery to its last reply."""
        return max(request.ended for request in self.discovery) - self.discovery[0].received

    @property
    def mean_gap(self) -> float:
        """The mean seconds from a reply of a stream to its next request, of the faster half: these did not wait."""
        by_stream: defaultdict[int, list[Request]] = defaultdict(list)
        for request in self.parallel:
            by_stream[request.stream or 0].append(request)
        gaps = sorted(after.received - before.ended for sent in by_stream.values() for before, after in pairwise(sent))
        faster = gaps[: -(-len(gaps) // 2)]
        return sum(faster) / len(faster) if faster else 0.0

    @property
    def critical_path(self) -> float:
        """Seconds of the whole run if only replies took time."""
        return self.discovery_wall + sum(request.seconds for request in self.conflicts) + self.with_barrier

    @property
    def parallel_wall(self) -> float:
        """Seconds from the last reply of discovery to the first request of conflict resolution, or the last reply."""
        began = max(request.ended for request in self.discovery)
        phase_ended = min(
            (request.received for request in self.conflicts), default=max(request.ended for request in self.parallel)
        )
        return phase_ended - began


def greedy(seconds: Sequence[float], streams: int) -> float:
    """The total duration if each request goes to the first free stream. `seconds`: the duration of each.

    >>> greedy([3, 1, 1, 1], streams=2)
    3.0
    """
    free_at = [0.0] * streams
    for duration in seconds:
        heapq.heapreplace(free_at, free_at[0] + duration)
    return max(free_at)
