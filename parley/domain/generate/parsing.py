"""Reads the answer to a request with a response schema: the whole text must be the JSON that was asked for."""

import json
import math
import re
from typing import Any, cast

from jsonschema import Draft202012Validator  # pyright: ignore[reportMissingTypeStubs]
from jsonschema.exceptions import (  # pyright: ignore[reportMissingTypeStubs]
    SchemaError,
    best_match,  # pyright: ignore[reportUnknownVariableType]
)
from jsonschema.validators import validator_for  # pyright: ignore[reportMissingTypeStubs]
from referencing.exceptions import Unresolvable
from referencing.jsonschema import EMPTY_REGISTRY

from parley.domain.errors import InvalidInput
from parley.domain.model import storable

# Some models cannot do without it; anything else around the JSON is not the answer that was asked for.
FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*)\n[ \t]*```", re.DOTALL | re.IGNORECASE)
PROBLEM_CHARACTERS = 200
# Temporal's payloads and the database take more than this, and nobody asks for it.
DEEPEST = 100


def check_schema(schema: dict[str, Any]) -> None:
    """Refuse a response schema that is none, before anything is paid.

    Raises:
        InvalidInput: naming the place in the schema.
    """
    try:
        cast(Any, validator_for(schema, default=Draft202012Validator)).check_schema(schema)
    except SchemaError as error:
        place = "/".join(["response_schema", *map(str, error.absolute_path)])
        raise InvalidInput(_short(error.message), field=place) from None


def parsed(text: str, schema: dict[str, Any]) -> tuple[Any, str]:
    """The value in an answer, or None and what is wrong with it, in one line. No problem: the text is empty."""
    try:
        value = _loaded(text)
    except (ValueError, RecursionError) as error:
        return None, _short(f"the reply is not JSON: {error}")
    problem = _problem(value, schema)
    return (None, problem) if problem else (value, "")


def _loaded(text: str) -> Any:
    fenced = FENCED.fullmatch(text.strip())
    value = json.loads(fenced[1] if fenced else text, parse_float=_finite, parse_constant=_finite)
    return _storable(value)


def _finite(number: str) -> float:
    """Python's parser takes NaN, Infinity and 1e999, which neither JSON nor the database has."""
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number[:20]} is not a number")
    return value


def _storable(value: Any, depth: int = 0) -> Any:
    """JSON escapes can spell characters that no database takes."""
    if depth > DEEPEST:
        raise ValueError("it is nested too deeply")
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, list):
        return [_storable(one, depth + 1) for one in cast(list[Any], value)]
    if isinstance(value, dict):
        return {storable(name): _storable(one, depth + 1) for name, one in cast(dict[str, Any], value).items()}
    return value


def _problem(value: Any, schema: dict[str, Any]) -> str:
    """The most telling violation. A schema is never fetched from elsewhere: the registry is an empty one."""
    kind = cast(Any, validator_for(schema, default=Draft202012Validator))
    try:
        error = cast(Any, best_match(kind(schema, registry=EMPTY_REGISTRY).iter_errors(value)))
    except Unresolvable as missing:
        return _short(f"the schema refers to {missing.ref!r}, which it does not hold")
    except RecursionError:
        return "the schema refers to itself without end"
    if error is None:
        return ""
    place = ".".join(map(str, error.absolute_path)) or "the reply"
    return _short(f"{place}: {error.message}")


def _short(problem: str) -> str:
    line = " ".join(storable(problem).split())
    return line if len(line) <= PROBLEM_CHARACTERS else line[: PROBLEM_CHARACTERS - 1] + "…"
