"""Reads the JSON in a model's reply: alone, in a code fence, or with prose around it. Every job reads with it."""

import json
import math
from collections.abc import Iterator
from typing import Any

from parley.domain.model import storable

FENCE = "```"
# Temporal's payloads and the database accept deeper values; no schema needs them.
MAX_DEPTH = 100
# Longer integers overflow the floating-point arithmetic of a schema check.
MAX_DIGITS = 300


def read_reply_json(text: str) -> Any:
    """The one JSON value in a reply, with U+FFFD in place of characters that PostgreSQL cannot store.

    Prose may be around an object or an array. Several values, or one that is cut, are not read: which one is meant
    would be a guess.

    Raises:
        ValueError: the text has no JSON value, or several.
    """
    problem: Exception | None = None
    for candidate in _candidates(text):
        try:
            return read_written_json(candidate)
        except ValueError as error:
            problem = problem or error
    raise ValueError(str(problem)) from None


def read_written_json(text: str) -> Any:
    """The JSON value that a model wrote and nothing else, with U+FFFD in place of characters that cannot be stored.

    It can be written as JSON again, for any reader.

    Raises:
        ValueError: it is not JSON, is nested too deeply, or has a number that not every reader of JSON takes.
    """
    try:
        value = json.loads(text, parse_float=_finite, parse_int=_short, parse_constant=_finite)
        return storable(value, max_depth=MAX_DEPTH)
    except RecursionError as error:
        raise ValueError(str(error)) from None


def _candidates(text: str) -> Iterator[str]:
    """The whole text, the content of its only fence, and its part from the first bracket to the last one."""
    text = text.strip("\ufeff \t\r\n")
    yield text
    lines = text.split("\n")
    fences = [number for number, line in enumerate(lines) if line.lstrip().startswith(FENCE)]
    if len(fences) == 2:  # one opens, one closes
        yield "\n".join(lines[fences[0] + 1 : fences[1]])
    starts = [place for bracket in "{[" if (place := text.find(bracket)) >= 0]
    if starts:
        yield text[min(starts) : max(map(text.rfind, "}]")) + 1]


def _finite(number: str) -> float:
    """Refuse NaN, Infinity and 1e999: Python's parser accepts them, JSON and the database do not."""
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number[:20]} is not a number")
    return value


def _short(number: str) -> int:
    if len(number) > MAX_DIGITS:
        raise ValueError(f"a number has {len(number)} digits")
    return int(number)
