"""What the vendors refuse of a JSON schema, so that a schema that works here works there.

OpenAI (strict): every object closed and all of its properties required. Anthropic: every object closed, no
bounds on numbers or lengths, `minItems` only 0 or 1.
"""

from collections.abc import Iterator, Mapping
from typing import Any

Place = tuple[str, ...]
ANTHROPIC_UNSUPPORTED = (
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "maxItems",
    "uniqueItems",
)


# Models from before structured outputs, as far as they can still be met.
OPENAI_WITHOUT = ("gpt-3.5-", "gpt-4-")
ANTHROPIC_WITHOUT = ("claude-3-", "claude-sonnet-4-0", "claude-sonnet-4-2025", "claude-opus-4-0", "claude-opus-4-2025")


def openai_refuses(model: str) -> bool:
    return f"{model}-".startswith(OPENAI_WITHOUT)


def anthropic_refuses(model: str) -> bool:
    return model.startswith(ANTHROPIC_WITHOUT)


def openai_problem(schema: Mapping[str, Any]) -> str | None:
    for place, node in _nodes(schema):
        problem = _openai_object_problem(node) if _is_object(node) else None
        if problem:
            return f"In context={place!r}, {problem}"
    return None


def anthropic_problem(schema: Mapping[str, Any]) -> str | None:
    for _, node in _nodes(schema):
        if _is_object(node) and node.get("additionalProperties") is not False:
            return "For 'object' type, 'additionalProperties' must be explicitly set to false"
        for name in ANTHROPIC_UNSUPPORTED:
            if name in node:
                return f"For '{node.get('type')}' type, property '{name}' is not supported"
        if node.get("minItems", 0) not in (0, 1):
            return "For 'array' type, 'minItems' values other than 0 or 1 are not supported"
    return None


def _openai_object_problem(node: Mapping[str, Any]) -> str | None:
    if node.get("additionalProperties") is not False:
        return "'additionalProperties' is required to be supplied and to be false."
    for name in node.get("properties", {}):
        if name not in node.get("required", ()):
            return (
                "'required' is required to be supplied and to be an array including every key in properties. "
                f"Missing '{name}'."
            )
    return None


def _is_object(node: Mapping[str, Any]) -> bool:
    return node.get("type") == "object" or "properties" in node


def _nodes(schema: Mapping[str, Any], place: Place = ()) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """Every schema in a schema. Property names are data, so `{"properties": {"maximum": …}}` is no bound."""
    yield place, schema
    for key, value in schema.items():
        yield from _below(value, key, (*place, key))


def _below(value: Any, key: str, place: Place) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    if key in ("properties", "$defs", "definitions"):
        for name, child in value.items():
            yield from _nodes(child, (*place, name))
    elif key in ("anyOf", "oneOf", "allOf"):
        for number, child in enumerate(value):
            yield from _nodes(child, (*place, str(number)))
    elif key == "items" and isinstance(value, Mapping):
        yield from _nodes(value, place)
