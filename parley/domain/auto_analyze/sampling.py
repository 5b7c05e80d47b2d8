"""The discovery sample: sessions that are diverse in length, containment and time."""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple

from parley.domain.auto_analyze.contract import DiscoveryTerms
from parley.domain.chat import Containment

LENGTH_BANDS, TIME_BANDS = 3, 4
# Discovery ends early when at most one in twenty of the next sessions brings a new label of a kind.
SATURATED = 0.95
CONTAINMENTS = tuple(Containment)
Group = tuple[int, int, int]


class SessionFacts(NamedTuple):
    """The facts that the order depends on. `position`: the session's place in its file."""

    position: int
    session_id: str
    tokens: int
    containment: Containment
    started_at: datetime | None
    transcript_hash: bytes | None = None


def sample_size(sessions: int, terms: DiscoveryTerms) -> int:
    """The target share within the bounds, and never more than all sessions."""
    target = math.ceil(sessions * terms.target_percentage / 100)
    return min(max(target, terms.min_sessions), terms.max_sessions, sessions)


def least_sample(sessions: int, terms: DiscoveryTerms) -> int:
    """From how many sessions on the discovery may end early: the least share within the same bounds."""
    least = terms.model_copy(update={"target_percentage": min(terms.least_percentage, terms.target_percentage)})
    return sample_size(sessions, least)


def coverage(labels: Sequence[str | None], given: Collection[str] = ()) -> float:
    """The probability that the next session brings no new label, by Good and Turing: 1 - n1 / n.

    `labels`: of each session that was asked, its label of one kind, or None if it has none of that kind. n counts all
    of these sessions, n1 those whose label no other one has and was not `given` before. Good, I. J. (1953), "The
    population frequencies of species and the estimation of population parameters", Biometrika 40.
    """
    counted = Counter(label for label in labels if label is not None)
    singles = sum(count == 1 and label not in given for label, count in counted.items())
    return 1 - singles / len(labels) if labels else 1.0


class ProcessingOrder(NamedTuple):
    """Positions in the order in which sessions are processed: the sample, the rest of the file, and the copies.

    `copies`: by position, the position of the first session with the same transcript.
    """

    sample: list[int]
    positions: list[int]
    copies: dict[int, int]


def processing_order(facts: Sequence[SessionFacts], terms: DiscoveryTerms | None, seed: int) -> ProcessingOrder:
    """The order in which the sessions of a run are processed; the same for the same sessions, terms and seed.

    `terms`: None for a run without discovery.
    """
    originals: dict[bytes, int] = {}
    copies: dict[int, int] = {}
    for session in facts:
        if session.transcript_hash is None:
            continue
        original = originals.setdefault(session.transcript_hash, session.position)
        if original != session.position:
            copies[session.position] = original
    single = [session for session in facts if session.position not in copies]
    sample = discovery_sample(single, terms, seed) if terms else []
    chosen = set(sample)
    rest = [session.position for session in single if session.position not in chosen]
    return ProcessingOrder(sample, [*sample, *rest, *copies], copies)


def discovery_sample(sessions: Sequence[SessionFacts], terms: DiscoveryTerms, seed: int) -> list[int]:
    """Positions of the sample, in the order in which to process them.

    Sessions are divided into groups by length (thirds), containment and time (quarters). The sample takes one
    session of each group per round, in a seeded order within the group, so that a rare group is represented early.
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
    """An order in which neighbours differ in all three, so that a sample smaller than the groups is diverse too."""
    length, containment, time = group
    return (containment - length) % len(CONTAINMENTS), (time - length) % TIME_BANDS, length


def _bands(values: Sequence[float], count: int) -> list[int]:
    """The number of the band of each value, out of `count` equally filled bands. Equal values share a band."""
    ranked = sorted(values)
    edges = [ranked[len(ranked) * band // count] for band in range(1, count)] if ranked else []
    return [sum(value >= edge for edge in edges) for value in values]


def _order(seed: int, session_id: str) -> str:
    return hashlib.sha256(f"{seed}:{session_id}".encode()).hexdigest()
