"""The parts of a transcript's JSON, each with its place for the error that names it."""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, Self, cast

from parley.domain.errors import InvalidInput
from parley.domain.hearing import TURN_PAUSE_SECONDS, Passage, TranscriptWord
from parley.domain.session import MAX_SESSION_SECONDS
from parley.domain.speaking import written

# The names that services give a word's text.
WORD_NAMES = ("punctuated_word", "text", "word", "value")
MILLISECONDS = 0.001


class Fields:
    """An object of the JSON. `place`: where it is; `where`: in which file."""

    def __init__(self, given: dict[str, Any], where: str, place: str = "") -> None:
        self._given, self._where, self._place = given, where, place

    def problem(self, name: str, problem: str) -> InvalidInput:
        """The error for a part."""
        return InvalidInput(problem, where=self._where, field=self._at(name))

    def list_of(self, name: str) -> Iterator[Self]:
        """The objects of a list; none where it is missing.

        Raises:
            InvalidInput: it is not a list of objects.
        """
        given = self._given.get(name)
        if given is None:
            return
        if not isinstance(given, list):
            raise self.problem(name, "must be a list")
        for number, one in enumerate(cast("list[Any]", given)):
            yield self._inner(one, f"{name}.{number}")

    def inner(self, name: str) -> Self:
        """The object under a name; an empty one where it is missing.

        Raises:
            InvalidInput: it is not an object.
        """
        given = self._given.get(name)
        return self._inner({} if given is None else given, name)

    def has(self, name: str) -> bool:
        """Whether there is something under a name."""
        return self._given.get(name) is not None

    def text(self, *names: str) -> str:
        """The first of these names that has text or a number; empty where none has.

        Raises:
            InvalidInput: it is something else.
        """
        for name in names:
            given = self._given.get(name)
            if given is None:
                continue
            if isinstance(given, bool) or not isinstance(given, str | int):
                raise self.problem(name, "must be text")
            if text := str(given).strip():
                return text
        return ""

    def seconds(self, name: str, *, unit: float = 1.0) -> float | None:
        """A time in seconds; None where it is missing. `unit`: the seconds of one unit of the format.

        Raises:
            InvalidInput: it is not a number, or not within the length that a session can have.
        """
        given = self._given.get(name)
        if given is None:
            return None
        try:
            seconds = float(given) * unit if not isinstance(given, bool) else math.nan
        except (TypeError, ValueError, OverflowError):
            seconds = math.nan
        if math.isnan(seconds):
            raise self.problem(name, "must be a number")
        if not 0 <= seconds <= MAX_SESSION_SECONDS:
            hint = " (milliseconds?)" if unit > MILLISECONDS and 0 < seconds / 1000 <= MAX_SESSION_SECONDS else ""
            raise self.problem(name, f"{given} is not a time within {MAX_SESSION_SECONDS / 3600:g} hours{hint}")
        return seconds

    def needed_seconds(self, name: str, *, unit: float = 1.0) -> float:
        """As `seconds`, but it must be there."""
        seconds = self.seconds(name, unit=unit)
        if seconds is None:
            raise self.problem(name, "is missing: a time in the recording")
        return seconds

    def word(self, start: str = "start", end: str = "end", *, unit: float = 1.0) -> TranscriptWord:
        """The object as a word, whose times may be missing."""
        return TranscriptWord(
            text=self.text(*WORD_NAMES), start=self.seconds(start, unit=unit), end=self.seconds(end, unit=unit)
        )

    def _inner(self, given: Any, name: str) -> Self:
        if not isinstance(given, dict):
            raise self.problem(name, "must be an object")
        return type(self)(cast("dict[str, Any]", given), self._where, self._at(name))

    def _at(self, name: str) -> str:
        return f"{self._place}.{name}" if self._place else name


def label(speaker: str) -> str:
    """A speaker's label; a number or a letter alone says what it is."""
    return f"speaker {speaker}" if speaker.isdigit() or len(speaker) == 1 else speaker


def grouped(words: Sequence[tuple[str, TranscriptWord]]) -> list[Passage]:
    """Passages of words with their speakers' labels: each ends where another speaker begins, and at a pause."""
    passages = [
        spoken(part, speaker)
        for speaker, group in groupby(words, key=lambda one: one[0])
        for part in _between_pauses([word for _, word in group])
    ]
    return [passage for passage in passages if passage is not None]


def by_time(passages: Iterable[Passage]) -> tuple[Passage, ...]:
    """Passages of several channels in the order in which they begin."""
    return tuple(sorted(passages, key=lambda passage: passage.start))


def _between_pauses(words: Sequence[TranscriptWord]) -> list[list[TranscriptWord]]:
    parts: list[list[TranscriptWord]] = [[]]
    ended: float | None = None
    for word in words:
        if ended is not None and word.start is not None and word.start - ended >= TURN_PAUSE_SECONDS:
            parts.append([])
        parts[-1].append(word)
        ended = word.end if word.end is not None else word.start if word.start is not None else ended
    return parts


def spoken(words: Sequence[TranscriptWord], speaker: str) -> Passage | None:
    """Words of one speaker as a passage; None where no word has a time."""
    said = [word for word in words if word.text]
    times = [time for word in said for time in (word.start, word.end) if time is not None]
    if not times:
        return None
    text = written(word.text for word in said)
    return Passage(speaker=speaker, start=min(times), end=max(times), text=text, words=tuple(said))
