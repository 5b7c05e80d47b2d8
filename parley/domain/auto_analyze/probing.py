"""Probe sessions: a few sessions of a run that are labelled a second time, to see how often two streams agree.

A probe is asked in the place of another round than its own, together with other sessions, and with the labels that
were known to that round. Its second labels are not a result: they are compared with the first ones.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

SHARE, LEAST, MOST = 0.01, 5, 50
# Where the least would be more than this share of the sessions, there are none: probes never cost much.
MOST_SHARE = 0.05
# The sessions that one request has at most.
AT_ONCE = 10
# A session with more tokens is not asked again: it would cost as much as many others.
LONGEST_PROBE_TOKENS = 4000
# Some of the drawn sessions cannot be probes: they have no text, or no reply labelled them.
DRAWN_FOR_EACH = 2


class ProbeBatch(NamedTuple):
    """Sessions, by ordinal, that are asked together in the place of a round."""

    round: int
    ordinals: tuple[int, ...]


def probe_count(wanted: int | None, sessions: int) -> int:
    """How many sessions are asked again. `wanted`: None for 1% of the sessions, within bounds; 0 for none."""
    if wanted is not None:
        return min(wanted, sessions)
    if sessions * MOST_SHARE < LEAST:
        return 0
    return min(max(int(sessions * SHARE), LEAST), MOST)


def drawn(sessions: int, count: int, seed: int) -> list[int]:
    """Ordinals in a seeded order, from which the probes are taken: up to twice as many as are wanted."""
    most = min(count * DRAWN_FOR_EACH, sessions)
    found: dict[int, None] = {}
    turn = 0
    while len(found) < most:
        found[_drawn(f"{seed}/probe/{turn}", sessions)] = None
        turn += 1
    return [*found]


def probe_batches(own_rounds: Mapping[int, int], count: int, size: int, rounds: int, seed: int) -> list[ProbeBatch]:
    """The batches of the probes. Where there are several rounds, no probe is in its own.

    Args:
        own_rounds: the round of each session that may be a probe, by ordinal, in the order in which they were drawn.
        count: how many are wanted.
        size: of a batch, at most.
        rounds: of the streams.
        seed: selects the rounds.
    """
    left = [*own_rounds][:count]
    made: list[ProbeBatch] = []
    while left:
        number = 1 + _drawn(f"{seed}/round/{len(made)}", max(rounds, 1))
        fitting = [one for one in left if rounds <= 1 or own_rounds[one] != number][:size]
        if not fitting:  # all that are left are of this round: the one beside it
            number = number % rounds + 1
            fitting = left[:size]
        made.append(ProbeBatch(number, tuple(sorted(fitting))))
        taken = set(fitting)
        left = [one for one in left if one not in taken]
    return made


def _drawn(key: str, count: int) -> int:
    """A number below `count`: the same on every machine."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) % count


class Pair(NamedTuple):
    """The labels of a session and of its probe: as they were given, and after merging."""

    first: str
    probe: str
    merged: str
    merged_probe: str


def share_alike(pairs: Sequence[tuple[str, str]]) -> float | None:
    """The share of pairs whose labels are equal; None without pairs."""
    return round(sum(one == other for one, other in pairs) / len(pairs), 4) if pairs else None
