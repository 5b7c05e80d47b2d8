"""How two sides of a session take turns: talk-time ratio, interruptions, response latency, longest monologue.

Pure rules over the stretches of time in which each side speaks (`parley.domain.speaking`): each side's are in order of
time and do not overlap each other. The terms are those of Heldner and Edlund (2010), "Pauses, gaps and overlaps in
conversations".
"""

from collections.abc import Sequence
from statistics import median

from parley.domain.model import Model
from parley.domain.speaking import Stretch, during, seconds_of

# Who starts as the other is about to end takes a turn, and who starts together with the other does not interrupt.
INTERRUPTION_SECONDS = 0.5
# What is shorter and inside the other's speech is a sign of listening: "mm-hm", "right".
LISTENING_SECONDS = 1.0
# A longer silence ends a monologue.
MONOLOGUE_SILENCE_SECONDS = 3.0


class Interruptions(Model):
    """How often each side starts inside the other's speech and takes the turn.

    by_user, by_others: stretches of more than `LISTENING_SECONDS` that start `INTERRUPTION_SECONDS` or more after a
    stretch of the other side began, and as long before it ends.
    overlap_seconds: how long both sides speak at once, interruption or not.
    """

    by_user: int
    by_others: int
    overlap_seconds: float


def talk_time_ratio(own: Sequence[Stretch], others: Sequence[Stretch]) -> float | None:
    """The user's speaking time over that of both sides, from 0 to 1. None: no one speaks."""
    both = seconds_of(own) + seconds_of(others)
    return round(seconds_of(own) / both, 3) if both else None


def interruptions(own: Sequence[Stretch], others: Sequence[Stretch]) -> Interruptions:
    """Count the interruptions of both sides."""
    overlap = sum(min(one.end, other.end) - max(one.start, other.start) for one in own for other in during(one, others))
    return Interruptions(
        by_user=_interrupting(own, others), by_others=_interrupting(others, own), overlap_seconds=round(overlap, 3)
    )


def _interrupting(speakers: Sequence[Stretch], interrupted: Sequence[Stretch]) -> int:
    return sum(
        one.end - one.start > LISTENING_SECONDS
        and any(_is_inside(one.start, other) for other in during(one, interrupted))
        for one in speakers
    )


def _is_inside(start: float, other: Stretch) -> bool:
    return start - other.start >= INTERRUPTION_SECONDS and other.end - start >= INTERRUPTION_SECONDS


def response_latency(own: Sequence[Stretch], others: Sequence[Stretch]) -> float | None:
    """The median time from the end of another's speech to the start of the user's next, in seconds.

    A start inside another's speech does not count. None: the user never responds.
    """
    sides = sorted([*((stretch, True) for stretch in own), *((stretch, False) for stretch in others)])
    latencies: list[float] = []
    ended: float | None = None  # when the others' speech before this stretch ended; None: the user spoke last
    for stretch, is_own in sides:
        if not is_own:
            ended = stretch.end
        elif ended is not None:
            latencies += [stretch.start - ended] if stretch.start >= ended else []
            ended = None
    return round(median(latencies), 3) if latencies else None


def longest_monologue(own: Sequence[Stretch], others: Sequence[Stretch]) -> float:
    """The longest time that the user speaks without another's speech or a long silence in between, in seconds.

    It does not depend on how a transcript cuts a speech into pieces. 0: the user does not speak.
    """
    longest, began, ended = 0.0, 0.0, None
    for stretch in own:
        goes_on = (
            ended is not None
            and stretch.start - ended <= MONOLOGUE_SILENCE_SECONDS
            and not during(Stretch(ended, stretch.start), others)
        )
        began = began if goes_on else stretch.start
        ended = stretch.end
        longest = max(longest, ended - began)
    return round(longest, 1)
