"""Which sessions to discover labels on: a sample that is diverse over length, containment and time."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from parley.domain.auto_analyze.contract import DiscoveryTerms
from parley.domain.chat import Containment

LENGTH_BANDS, TIME_BANDS = 3, 4
CONTAINMENTS = tuple(Containment)
Group = tuple[int, int, int]


class SessionFacts(NamedTuple):
    """What the sample looks at. `position`: the session's place in its file."""

    position: int
    session_id: str
    tokens: int
    containment: Containment
    started_at: datetime | None


def sample_size(sessions: int, terms: DiscoveryTerms) -> int:
    """The target share, within the bounds, and never more than there are."""
    target = math.ceil(sessions * terms.target_percentage / 100)
    return min(max(target, terms.min_sessions), terms.max_sessions, sessions)


def discovery_sample(sessions: Sequence[SessionFacts], terms: DiscoveryTerms, seed: int) -> list[int]:
    """Positions of the sample, in the order in which to process them.

    Sessions are divided by length (thirds), containment and time (quarters); the sample goes round those groups and
    takes one of each in turn, by a seeded order within the group. So a rare group is heard early.
    """
    groups: defaultdict[Group, list[SessionFacts]] = defaultdict(list)
    lengths = _bands([facts.tokens for facts in sessions], LENGTH_BANDS)
    times = _bands(
        [facts.started_at.timestamp() if facts.started_at else facts.position for facts in sessions], TIME_BANDS
    )
    for facts, length, time in zip(sessions, lengths, times, strict=True):
        groups[length, CONTAINMENTS.index(facts.containment), time].append(facts)
    queues = [
        sorted(groups[group], key=lambda facts: _order(seed, facts.session_id))
        for group in sorted(groups, key=_diagonally)
    ]
    size = sample_size(len(sessions), terms)
    picked: list[int] = []
    for turn in range(max(map(len, queues), default=0)):
        picked += [queue[turn].position for queue in queues if turn < len(queue)]
        if len(picked) >= size:
            break
    return picked[:size]


def _diagonally(group: Group) -> Group:
    """Neighbours differ in everything, so that a sample of fewer sessions than groups is diverse as well."""
    length, containment, time = group
    return (containment - length) % len(CONTAINMENTS), (time - length) % TIME_BANDS, length


def _bands(values: Sequence[float], count: int) -> list[int]:
    """Which of `count` equally filled bands each value falls into; equal values share a band."""
    ranked = sorted(values)
    edges = [ranked[len(ranked) * band // count] for band in range(1, count)] if ranked else []
    return [sum(value >= edge for edge in edges) for value in values]


def _order(seed: int, session_id: str) -> str:
    return hashlib.sha256(f"{seed}:{session_id}".encode()).hexdigest()
