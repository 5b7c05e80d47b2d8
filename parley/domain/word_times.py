"""Times of words as services and exports give them: missing, stepping back, or stretched over a silence.

A wrong time must not cost the session. The words with wrong times get those that their neighbours leave for them, and
what was changed is said.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

# No person says a word slower than this; services stretch a word over the silence before or after it.
SLOWEST_SECONDS, SLOWEST_SECONDS_PER_CHARACTER = 2.0, 0.4
# What such a word gets.
USUAL_SECONDS, USUAL_SECONDS_PER_CHARACTER = 0.15, 0.07


@dataclass(frozen=True)
class Timed:
    """A word; None for a time that is missing or not usable."""

    text: str
    start: float | None
    end: float | None


@dataclass(frozen=True)
class Placed:
    """A word with its times in seconds."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Mended:
    """Words in order of time, and how many of them had no usable time or lasted too long."""

    words: tuple[Placed, ...]
    untimed: int = 0
    stretched: int = 0


def mended(words: Sequence[Timed], start: float, end: float) -> Mended:
    """Give every word a time within its turn, and no word more time than it can take. `start`, `end`: of the turn."""
    kept = _in_order(words)
    untimed = sum(word.start is None for word in kept)
    placed = _interpolated(kept, start, end)
    cut = tuple(_cut(placed, place) if kept[place].start is not None else placed[place] for place in range(len(placed)))
    stretched = sum(new != old for new, old in zip(cut, placed, strict=True))
    return Mended(cut, untimed, stretched)


def _in_order(words: Sequence[Timed]) -> list[Timed]:
    """The words; those that step back lose their times, so that as many as possible keep theirs."""
    at = [place for place, word in enumerate(words) if word.start is not None]
    kept = {at[place] for place in _longest_rising([words[place].start or 0.0 for place in at])}
    return [
        replace(word, end=word.end if word.end is not None and word.end >= (word.start or 0.0) else None)
        if place in kept
        else Timed(word.text, None, None)
        for place, word in enumerate(words)
    ]


def _longest_rising(values: Sequence[float]) -> list[int]:
    """The places of the longest sequence of values that never falls."""
    tops: list[float] = []
    places: list[int] = []
    before: list[int | None] = []
    for place, value in enumerate(values):
        length = bisect_right(tops, value)
        tops[length:], places[length:] = [value, *tops[length + 1 :]], [place, *places[length + 1 :]]
        before.append(places[length - 1] if length else None)
    rising: list[int] = []
    last = places[-1] if places else None
    while last is not None:
        rising.append(last)
        last = before[last]
    return rising[::-1]


def _interpolated(words: Sequence[Timed], start: float, end: float) -> list[Placed]:
    placed: list[Placed] = []
    run: list[Timed] = []
    at = start
    for word in words:
        if word.start is None:
            run.append(word)
            continue
        earliest = at if placed else max(at, word.start - _slowest(run))
        placed += spread(
            [one.text for one in run], min(earliest, word.start), min(word.start, earliest + _slowest(run))
        )
        run = []
        at = word.end if word.end is not None else word.start + _usual(word.text)
        placed.append(Placed(word.text, word.start, at))
    return placed + spread([one.text for one in run], at, max(min(end, at + _slowest(run)), at))


def spread(texts: Sequence[str], start: float, end: float) -> list[Placed]:
    """Words one after the other between two times, each with time in proportion to its length."""
    seconds = (end - start) / max(sum(map(len, texts)), 1)
    placed: list[Placed] = []
    for text in texts:
        until = start + len(text) * seconds
        placed.append(Placed(text, start, until))
        start = until
    return placed


def _slowest(words: Sequence[Timed]) -> float:
    return sum(max(SLOWEST_SECONDS, SLOWEST_SECONDS_PER_CHARACTER * len(word.text)) for word in words)


def _cut(words: Sequence[Placed], place: int) -> Placed:
    """The word, without the silence in it: at its end, or at its start where the next word is at its end.

    A word that the next one begins in the middle of keeps its start: words stay in order.
    """
    word = words[place]
    if word.end - word.start <= max(SLOWEST_SECONDS, SLOWEST_SECONDS_PER_CHARACTER * len(word.text)):
        return word
    touches_last = place > 0 and word.start - words[place - 1].end < 0.05
    usual = _usual(word.text)
    touches_next = place + 1 < len(words) and word.end - usual <= words[place + 1].start < word.end + 0.05
    if (touches_next and touches_last) or (touches_next and place == 0):
        return replace(word, start=word.end - usual)
    return replace(word, end=word.start + usual)


def _usual(text: str) -> float:
    return USUAL_SECONDS + USUAL_SECONDS_PER_CHARACTER * len(text)
