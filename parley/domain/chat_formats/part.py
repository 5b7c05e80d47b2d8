"""A part of an export's JSON, with its place for the error that names it."""

import math
from datetime import UTC, datetime
from typing import Any, cast

from parley.domain.model import UNSTORABLE
from parley.domain.transcripts.fields import Fields

# Seconds since 1970 up to the year 5138; what is more is milliseconds, and then microseconds.
MOST_SECONDS, MOST_MILLISECONDS = 1e11, 1e14


class Part(Fields):
    """An object of an export: its text, its times and its parts, each refused by its place."""

    def text(self, *names: str) -> str:
        """As `Fields.text`; text that cannot be stored is refused."""
        for name in names:
            text = super().text(name)
            if found := UNSTORABLE.search(text):
                raise self.problem(name, f"contains {found.group()!a}, which cannot be stored: remove it")
            if text:
                return text
        return ""

    def needed_text(self, *names: str) -> str:
        """As `text`, but it must be there.

        Raises:
            InvalidInput: none of the names has text.
        """
        text = self.text(*names)
        if not text:
            raise self.problem(names[0], "is missing: the export must have it")
        return text

    def flag(self, name: str) -> bool | None:
        """True or false; None where it is missing or something else."""
        given = self._given.get(name)
        return given if isinstance(given, bool) else None

    def is_list(self, name: str) -> bool:
        """Whether there is a list under a name."""
        return isinstance(self._given.get(name), list)

    def same_place(self, given: dict[str, Any]) -> "Part":
        """An object that is written as text within this one: its errors name this place."""
        return Part(given, self._where, self._place)

    def raw(self, name: str) -> Any:
        """What is under a name, unchecked."""
        return self._given.get(name)

    def texts(self, name: str) -> list[str]:
        """The texts of a list of texts; none where it is missing."""
        given = self._given.get(name)
        return [one for one in cast("list[Any]", given) if isinstance(one, str)] if isinstance(given, list) else []

    def when(self, *names: str) -> datetime | None:
        """The first of these names that has a time: ISO 8601, or a number since 1970. None where none has.

        A time without a zone is UTC.

        Raises:
            InvalidInput: it is something else.
        """
        for name in names:
            given = self._given.get(name)
            if given is not None and given != "":
                time = _time(given)
                if time is None:
                    raise self.problem(name, "is not a time: use ISO 8601, or seconds since 1970")
                return time
        return None


def _time(given: Any) -> datetime | None:
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        return None
    try:
        return _since_1970(float(given))
    except OverflowError:
        return None
    except ValueError:
        return _from_text(str(given))


def _since_1970(number: float) -> datetime | None:
    if not math.isfinite(number):
        return None
    if abs(number) > MOST_SECONDS:
        number /= 1000 if abs(number) <= MOST_MILLISECONDS else 1_000_000
    try:
        return datetime.fromtimestamp(number, UTC)
    except (OverflowError, OSError, ValueError):
        return None


def _from_text(text: str) -> datetime | None:
    plain = text.strip().removesuffix(" UTC").replace("  ", " ")
    try:
        time = datetime.fromisoformat(_microseconds(plain))
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _microseconds(text: str) -> str:
    """A time with at most six digits of a second; Google writes nine."""
    head, dot, tail = text.partition(".")
    digits = len(tail) - len(tail.lstrip("0123456789"))
    return f"{head}{dot}{tail[: min(digits, 6)]}{tail[digits:]}" if dot else text
