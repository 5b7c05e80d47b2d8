"""The vendors' rules for JSON schemas.

The simulator refuses what they refuse, so that a schema it accepts works at the vendor.

OpenAI (strict): the root is an object, every schema has a type, every object must be closed
(`additionalProperties: false`) and require all of its properties, and some keywords are not permitted. See
https://platform.openai.com/docs/guides/structured-outputs#supported-schemas.
Anthropic: every object must be closed; bounds on numbers and lengths are not supported; `minItems` must be 0 or 1.
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
OPENAI_NOT_PERMITTED = ("oneOf", "allOf", "not", "if", "dependentRequired", "dependentSchemas", "patternProperties")
OPENAI_TYPED = {"type", "anyOf", "$ref", "enum", "const", "properties"}
# Prefixes of the models that do not support structured outputs.
OPENAI_WITHOUT_SCHEMAS = ("gpt-3.5-", "gpt-4-")
ANTHROPIC_WITHOUT_SCHEMAS = (
    "claude-3-",
    "claude-sonnet-4-0",
    "claude-sonnet-4-2025",
    "claude-opus-4-0",
    "claude-opus-4-2025",
)


def openai_supports_schemas(model: str) -> bool:
    return not f"{model}-".startswith(OPENAI_WITHOUT_SCHEMAS)


def anthropic_supports_schemas(model: str) -> bool:
    return not model.startswith(ANTHROPIC_WITHOUT_SCHEMAS)


def openai_problem(schema: Mapping[str, Any]) -> str | None:
    """Return OpenAI's message for the first rule that the schema breaks."""
    if schema.get("type") != "object":
        return f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{schema.get('type')}\"'."
    for place, node in _nodes(schema):
        problem = _openai_object_problem(node) if _is_object(node) else _openai_problem(node)
        if problem:
            return f"In context={place!r}, {problem}"
    return None


def anthropic_problem(schema: Mapping[str, Any]) -> str | None:
    """Return Anthropic's message for the first rule that the schema breaks."""
    for _, node in _nodes(schema):
        if _is_object(node) and node.get("additionalProperties") is not False:
            return "For 'object' type, 'additionalProperties' must be explicitly set to false"
        for name in ANTHROPIC_UNSUPPORTED:
            if name in node:
                return f"For '{node.get('type')}' type, property '{name}' is not supported"
        if node.get("minItems", 0) not in (0, 1):
            return "For 'array' type, 'minItems' values other than 0 or 1 are not supported"
    return None


def _openai_problem(node: Mapping[str, Any]) -> str | None:
    for name in OPENAI_NOT_PERMITTED:
        if name in node:
            return f"'{name}' is not permitted."
    if not OPENAI_TYPED & node.keys():
        return "schema must have a 'type' key."
    if node.get("type") == "array" and "items" not in node:
        return "array schema missing items."
    return None


def _openai_object_problem(node: Mapping[str, Any]) -> str | None:
    if problem := _openai_problem(node):
        return problem
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
    """Yield every schema in a schema. A property may have the name of a bound: `{"properties": {"maximum": …}}`."""
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
