"""Checks replies against callers' JSON schemas, in bounded time whatever the schema is.

Patterns run on RE2, which takes linear time. A schema is limited in size, depth and numbers, and each keyword that is
evaluated counts as a step of a limited number: references can multiply the work beyond any limit on the size.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, cast
from urllib.parse import unquote

import re2  # pyright: ignore[reportMissingTypeStubs]
from jsonschema import (  # pyright: ignore[reportMissingTypeStubs]
    Draft6Validator,
    Draft7Validator,
    Draft201909Validator,
    Draft202012Validator,
    FormatChecker,
)
from jsonschema.exceptions import (  # pyright: ignore[reportMissingTypeStubs]
    ValidationError,
    best_match,  # pyright: ignore[reportUnknownVariableType]
)
from jsonschema.validators import extend  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
from referencing.exceptions import Unresolvable
from referencing.jsonschema import EMPTY_REGISTRY

from parley.domain.errors import InvalidInput
from parley.domain.json_schema import ROOT, is_array, is_object, strict_form
from parley.domain.model import UNSTORABLE
from parley.domain.requests import Tool
from parley.domain.text import one_line

PROBLEM_CHARACTERS = 200
MAX_SCHEMA_BYTES = 100_000
MAX_SCHEMA_DEPTH = 50
# A schema of that size is checked in half a second.
MAX_SCHEMA_NODES = 2_000
# Beyond it, the arithmetic of floating-point numbers overflows.
MAX_NUMBER = 1e300
MIN_DIVISOR = 1e-300
# About a second of work, and several times what the largest reply needs.
MAX_STEPS = 100_000
# A program that is larger than RE2 compiles within this memory is refused.
PATTERN_BYTES = 1 << 20
CHARACTERS_PER_STEP = 1000
VALUES_PER_STEP = 10
# The library evaluates them with patterns of Python's `re`, or from another root.
REFUSED = {
    "unevaluatedProperties": "is not accepted: use additionalProperties",
    "unevaluatedItems": "is not accepted: use items",
    "$dynamicRef": "is not accepted: use $ref",
    "$recursiveRef": "is not accepted: use $ref",
}
# Below the root they would change the dialect, and with it the keywords, or the base of references.
AT_ROOT_ALONE = ("$schema", "$id")
# The keywords whose schemas judge the same value: a reference to itself through them alone never ends.
IN_PLACE = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "dependencies")


@lru_cache(maxsize=1000)
def _pattern(pattern: str) -> Any:
    """The compiled pattern.

    Raises:
        ValueError: RE2 does not compile it.
    """
    engine = cast("Any", re2)
    options = engine.Options()
    options.log_errors, options.max_mem = False, PATTERN_BYTES
    try:
        return engine.compile(pattern, options)
    except engine.error as error:
        raise ValueError(error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)) from None


def check_schema(schema: dict[str, Any]) -> None:
    """Refuse an invalid response schema before anything is paid.

    Raises:
        InvalidInput: naming the place in the schema.
    """
    _check(schema, strict=True)


def check_tools(tools: Iterable[Tool]) -> None:
    """Refuse tools whose parameters are not a JSON schema of an object, or have no strict form and need one.

    Raises:
        InvalidInput: naming the place in the schema.
    """
    for number, tool in enumerate(tools):
        place = f"tools.{number}.parameters"
        if tool.parameters.get("type") != "object":
            raise InvalidInput("must be of type object: put the arguments under its properties", field=f"{place}/type")
        try:
            _check(tool.parameters, strict=tool.strict and bool(tool.parameters.get("properties")))
        except InvalidInput as error:
            raise InvalidInput(error.problem, field=error.field.replace(ROOT, place, 1)) from None


def _check(schema: dict[str, Any], *, strict: bool) -> None:
    try:
        _check_limits(schema)
        _check_rules(json.dumps(schema), strict)
    except InvalidInput:
        raise
    except Exception as error:  # noqa: BLE001 - the library's error for a schema that no check above expects
        raise InvalidInput(_line(f"is not a JSON schema: {error or type(error).__name__}"), field=ROOT) from None


def checked(value: Any, schema: dict[str, Any]) -> tuple[Any, str]:
    """A value that follows the schema and "", or None and one line that says what is wrong.

    The value is the reply's without nulls in the place of properties that may be missing: see `strict_form`.
    """
    _steps.set(_Steps())
    try:
        validator = BOUNDED[_dialect(schema)](schema, registry=EMPTY_REGISTRY)
        problem = _problem(value, validator)
        if not problem:
            return value, ""
        without = _without_nulls(value, schema, validator)
        return (without, "") if without != value and not _problem(without, validator) else (None, problem)
    except Unresolvable as missing:
        problem = f"the schema refers to {missing.ref!r}, which it does not hold"
    except RecursionError:
        problem = "the schema refers to itself without end"
    except _TooLong:
        problem = "the schema takes too long to check on this reply"
    except Exception as error:  # noqa: BLE001 - a reply that is paid for is never lost
        problem = f"the schema cannot be checked: {error or type(error).__name__}"
    return None, _line(problem)


def _problem(value: Any, validator: Any) -> str:
    """The most relevant violation, with its place; empty if there is none."""
    error = _best(validator.iter_errors(value))
    place = ".".join(map(str, error.absolute_path)) or "the reply" if error else ""
    return _line(f"{place}: {error.message}") if error else ""


# What makes a schema acceptable.


@lru_cache(maxsize=100)
def _check_rules(text: str, strict: bool) -> None:
    """Check a schema within the limits, as JSON: most callers use few schemas again and again.

    strict: it must have a form that vendors' strict modes accept.
    """
    schema = json.loads(text)
    dialect = DIALECTS[_dialect(schema)]
    error = _best(dialect(dialect.META_SCHEMA, format_checker=FormatChecker(())).iter_errors(schema))
    if error is not None:
        place = "/".join([ROOT, *map(str, error.absolute_path)])
        raise InvalidInput(_line(error.message), field=place)
    _check_references(schema)
    if strict:
        _check_references(strict_form(schema))


def _check_limits(schema: Mapping[str, Any]) -> None:
    for count, (value, place) in enumerate(_nodes(schema, ROOT, MAX_SCHEMA_DEPTH), start=1):
        if count > MAX_SCHEMA_NODES:
            raise InvalidInput(f"has more than {MAX_SCHEMA_NODES:,} values: make it smaller", field=ROOT)
        _check_value(value, place)
    size = len(json.dumps(schema, ensure_ascii=False).encode())
    if size > MAX_SCHEMA_BYTES:
        raise InvalidInput(f"has {size:,} bytes, more than {MAX_SCHEMA_BYTES:,}: make it smaller", field=ROOT)


def _nodes(value: Any, place: str, depth: int) -> Iterator[tuple[Any, str]]:
    if depth == 0:
        raise InvalidInput(f"is nested more than {MAX_SCHEMA_DEPTH} deep", field=ROOT)
    yield value, place
    if is_object(value):
        for name, inner in cast("dict[Any, Any]", value).items():
            if not isinstance(name, str) or UNSTORABLE.search(name):
                raise InvalidInput(f"has the name {name!a}, which cannot be stored", field=place)
            yield from _nodes(inner, f"{place}/{one_line(name, PROBLEM_CHARACTERS)}", depth - 1)
    elif is_array(value):
        for number, inner in enumerate(value):
            yield from _nodes(inner, f"{place}/{number}", depth - 1)


def _check_value(value: Any, place: str) -> None:
    """A value as JSON has it, and the keywords of a schema that are not accepted."""
    if isinstance(value, str):
        if UNSTORABLE.search(value):
            raise InvalidInput("contains a character that cannot be stored: remove it", field=place)
    elif isinstance(value, (int, float)):
        if not abs(value) <= MAX_NUMBER:  # false for NaN, too
            raise InvalidInput("is a number that is too large", field=place)
    elif is_object(value):
        _check_keywords(value, place)
    elif value is not None and not is_array(value):
        raise InvalidInput(f"is a {type(value).__name__}, not a JSON value", field=place)


def _check_keywords(node: dict[str, Any], place: str) -> None:
    for name, problem in REFUSED.items():
        # A property may have the name of a keyword; its value is a schema, not a text.
        if name in node and not place.endswith("/properties"):
            raise InvalidInput(problem, field=f"{place}/{name}")
    for name in AT_ROOT_ALONE:
        if place != ROOT and isinstance(node.get(name), str):
            raise InvalidInput("is accepted at the root alone: remove it", field=f"{place}/{name}")
    divisor = node.get("multipleOf")
    if isinstance(divisor, (int, float)) and 0 < divisor < MIN_DIVISOR:
        raise InvalidInput("is a number that is too small", field=f"{place}/multipleOf")
    if isinstance(node.get("pattern"), str):
        _check_pattern(node["pattern"], f"{place}/pattern")
    named = node.get("patternProperties")
    for pattern in named if is_object(named) else ():
        _check_pattern(pattern, f"{place}/patternProperties")


def _check_pattern(pattern: str, place: str) -> None:
    try:
        _pattern(pattern)
    except ValueError as error:
        problem = (
            f"{pattern!r} is not a regular expression of RE2, which has no look-around or references back: {error}"
        )
        raise InvalidInput(_line(problem), field=place) from None


def _dialect(schema: Mapping[str, Any]) -> str:
    """The name of the schema's dialect in `DIALECTS`."""
    name = schema.get("$schema", NEWEST)
    if not isinstance(name, str) or name.rstrip("#") not in DIALECTS:
        known = ", ".join(DIALECTS)
        problem = f"{_shown(name)} is not a known dialect: leave it out, or use one of {known}"
        raise InvalidInput(problem, field=f"{ROOT}/$schema")
    return name.rstrip("#")


def _shown(value: Any) -> str:
    return one_line(repr(value), 60)


def _check_references(schema: dict[str, Any]) -> None:
    """Refuse references that lead nowhere, and those that judge the same value again and again."""
    targets: dict[str, Any] = {"#": schema}
    for node, place in _nodes(schema, ROOT, 3 * MAX_SCHEMA_DEPTH):
        reference = node.get("$ref") if is_object(node) else None
        if isinstance(reference, str):
            targets[reference] = _target(schema, reference, f"{place}/$ref")
    below = {reference: set(_in_place(target)) for reference, target in targets.items()}
    ended: set[str] = set()
    for _ in range(MAX_SCHEMA_DEPTH):
        ended |= {reference for reference, inner in below.items() if inner <= ended}
    if endless := sorted(below.keys() - ended):
        raise InvalidInput(f"refers to itself without end through {_shown(endless[0])}", field=ROOT)


def _target(schema: Any, reference: str, place: str) -> dict[str, Any] | bool:
    """The schema that a reference names: a JSON pointer from the root."""
    if reference != "#" and not reference.startswith("#/"):
        raise InvalidInput(f"{_shown(reference)} must be a place in this schema, for example #/$defs/NAME", field=place)
    found: Any = schema
    for part in unquote(reference).split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if is_array(found):
            found = found[int(name)] if name.isascii() and name.isdecimal() and int(name) < len(found) else None
        else:
            found = found.get(name) if is_object(found) else None
    if not is_object(found) and not isinstance(found, bool):
        raise InvalidInput(f"{_shown(reference)} is not a schema that this one holds", field=place)
    return found


def _in_place(node: Any) -> Iterator[str]:
    """The references that are followed for the same value."""
    if not is_object(node):
        return
    if isinstance(node.get("$ref"), str):
        yield node["$ref"]
    for name in IN_PLACE:
        inner = node.get(name)
        children = inner if is_array(inner) else [inner]
        if name.startswith("depend") and is_object(inner):
            children = [*inner.values()]
        for child in children:
            yield from _in_place(child)


# The check of a reply.


class _TooLong(Exception):
    """The steps are used up."""


class _Steps:
    """What is left of the steps of one check."""

    def __init__(self) -> None:
        self._left = MAX_STEPS

    def take(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise _TooLong

    def found(self, pattern: str, text: str) -> bool:
        compiled = _pattern(pattern)
        self.take(1 + len(text) * compiled.programsize // CHARACTERS_PER_STEP)
        return compiled.search(text) is not None


# The steps of the check that runs: the library gives its keywords no place for them.
_steps: ContextVar[_Steps] = ContextVar("steps")

Keyword = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]


def _counted(keyword: Keyword) -> Keyword:
    """The keyword, which takes steps for its value and for its errors, whose messages show the whole instance."""

    def counted(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        steps = _steps.get()
        steps.take(1 + (len(value) // VALUES_PER_STEP if is_array(value) or is_object(value) else 0))
        for error in keyword(validator, value, instance, schema) or ():
            steps.take(len(error.message) // CHARACTERS_PER_STEP)
            yield error

    return counted


def _pattern_keyword(validator: Any, value: str, instance: Any, _schema: Any) -> Iterator[ValidationError]:
    if validator.is_type(instance, "string") and not _steps.get().found(value, instance):
        yield ValidationError(f"{instance!r} does not match {value!r}")


def _pattern_properties(
    validator: Any, value: dict[str, Any], instance: Any, _schema: Any
) -> Iterator[ValidationError]:
    if validator.is_type(instance, "object"):
        for name, judging in value.items():
            for key, inner in instance.items():
                if _steps.get().found(name, key):
                    yield from validator.descend(inner, judging, path=key, schema_path=name)


def _additional_properties(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not validator.is_type(instance, "object"):
        return
    patterns = schema.get("patternProperties", {})
    unnamed = [key for key in instance if key not in schema.get("properties", {})]
    extras = [key for key in unnamed if not any(_steps.get().found(name, key) for name in patterns)]
    if value is False and extras:
        names, verb = ", ".join(map(repr, extras)), "was" if len(extras) == 1 else "were"
        yield ValidationError(f"Additional properties are not allowed ({names} {verb} unexpected)")
    elif validator.is_type(value, "object"):
        for key in extras:
            yield from validator.descend(instance[key], value, path=key)


def _unique_items(validator: Any, value: bool, instance: Any, _schema: Any) -> Iterator[ValidationError]:
    if value and validator.is_type(instance, "array") and len({*map(_frozen, instance)}) < len(instance):
        yield ValidationError("has items that are not unique")


def _refused(_validator: Any, _value: Any, _instance: Any, _schema: Any) -> Iterator[ValidationError]:
    raise ValueError("it has a keyword that is not accepted")


def _frozen(value: Any) -> Any:
    """A hashable form: two JSON values are equal if their forms are. `true` is not 1."""
    if is_object(value):
        return frozenset((key, _frozen(inner)) for key, inner in value.items())
    if is_array(value):
        return tuple(map(_frozen, value))
    return ("boolean", value) if isinstance(value, bool) else value


def _without_nulls(value: Any, node: Any, validator: Any) -> Any:
    """The value without a null where a property may be missing but not null. `validator`: that of the whole schema."""
    _steps.get().take(1)
    if not is_object(node):
        return value
    if isinstance(node.get("$ref"), str):
        return _without_nulls(value, _target(validator.schema, node["$ref"], ROOT), validator)
    for child in (*node.get("allOf", ()), *node.get("anyOf", ()), *node.get("oneOf", ())):
        value = _without_nulls(value, child, validator)
    if is_array(value) and is_object(node.get("items")):
        return [_without_nulls(one, node["items"], validator) for one in value]
    if not is_object(value) or not is_object(node.get("properties")):
        return value
    properties = node["properties"]
    optional = properties.keys() - {*node.get("required", ())}
    return {
        name: _without_nulls(inner, properties.get(name), validator)
        for name, inner in value.items()
        if inner is not None or name not in optional or validator.evolve(schema=properties[name]).is_valid(None)
    }


def _best(errors: Iterator[ValidationError]) -> Any:
    return cast("Any", best_match)(errors)


def _line(problem: str) -> str:
    return one_line(problem, PROBLEM_CHARACTERS)


OWN_KEYWORDS: dict[str, Keyword] = {
    "pattern": _pattern_keyword,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "uniqueItems": _unique_items,
    **dict.fromkeys(REFUSED, _refused),
}
DIALECTS: dict[str, Any] = {
    str(dialect.META_SCHEMA["$schema"]).rstrip("#"): dialect
    for dialect in cast("list[Any]", [Draft6Validator, Draft7Validator, Draft201909Validator, Draft202012Validator])
}
*_, NEWEST = DIALECTS
BOUNDED: dict[str, Any] = {
    name: cast("Any", extend)(
        dialect, {key: _counted(keyword) for key, keyword in {**dialect.VALIDATORS, **OWN_KEYWORDS}.items()}
    )
    for name, dialect in DIALECTS.items()
}
