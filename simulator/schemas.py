"""Reads JSON schemas: references, types, bounds and names of fields. Also finds a schema in a system prompt."""

import json
import re
from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

ID_NAME = re.compile(r"(^|_)(id|key)$")
BOUND_IN_WORDS = re.compile(r"\b(minimum|maximum|minItems|maxItems|maxLength):\s*(-?\d+(?:\.\d+)?)")
RANGE_IN_WORDS = re.compile(r"(-?\d+) to (-?\d+)")
OBJECT_IN_WORDS = re.compile(r"\bJSON object alone\b")
ANY_OBJECT: dict[str, Any] = {"type": "object", "properties": {"reply": {"type": "string"}}}
OBJECT_START = re.compile(r"^(?=\{)", re.MULTILINE)


def resolve(root: Schema, schema: Schema) -> Schema:
    """Follow references, merge `allOf`, and take the first alternative that is not null."""
    if "$ref" in schema:
        return resolve(root, _at(root, schema["$ref"]))
    if schema.get("allOf"):
        merged = {key: value for key, value in schema.items() if key != "allOf"}
        for part in schema["allOf"]:
            merged |= resolve(root, part)
        return merged
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        return resolve(root, next((option for option in options if option.get("type") != "null"), options[0]))
    return schema


def kind(schema: Schema) -> str:
    """Return the JSON type of a value to fill in: the first that is not null."""
    types = schema.get("type")
    if isinstance(types, list):
        types = next((name for name in types if name != "null"), "null")
    if types:
        return str(types)
    return "object" if "properties" in schema else "array" if "items" in schema else "string"


def nullable(schema: Schema) -> bool:
    options = schema.get("anyOf") or schema.get("oneOf") or ()
    types = schema.get("type")
    return any(option.get("type") == "null" for option in options) or (isinstance(types, list) and "null" in types)


def bound(schema: Schema, name: str, default: float | None) -> float | None:
    """Return a bound from its keyword, or from the description, where clients of Anthropic have to write it."""
    if name in schema:
        return schema[name]
    description = str(schema.get("description", ""))
    in_words = dict(BOUND_IN_WORDS.findall(description))
    found = RANGE_IN_WORDS.search(description)
    if found:
        in_words = {"minimum": found[1], "maximum": found[2], **in_words}
    return float(in_words[name]) if name in in_words else default


def field_names(root: Schema) -> frozenset[str]:
    """Return the names of the reply's own fields."""
    return frozenset(resolve(root, root).get("properties", {}))


def item_field_names(root: Schema, name: str) -> frozenset[str]:
    """Return the names in the items of the reply's list `name`; none if the reply has no such list."""
    listed = resolve(root, resolve(root, root).get("properties", {}).get(name, {}))
    if kind(listed) != "array":
        return frozenset()
    return frozenset(resolve(root, listed.get("items", {})).get("properties", {}))


def items_field(root: Schema) -> str | None:
    """Return the name of the reply's first list of objects."""
    for name, property_schema in resolve(root, root).get("properties", {}).items():
        schema = resolve(root, property_schema)
        if kind(schema) == "array" and kind(resolve(root, schema.get("items", {}))) == "object":
            return name
    return None


def all_property_names(root: Schema) -> set[str]:
    """Return the names of the properties of the reply and of its definitions, at any depth."""
    found: set[str] = set()
    waiting: list[Any] = [root]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Mapping):
            found |= set(node.get("properties", {}))
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)
    return found


def schema_in_text(system: str) -> dict[str, Any] | None:
    """Return the last JSON schema in a system prompt that starts at the beginning of a line.

    Clients write the schema into the prompt for models that do not support structured outputs, or ask for an object.
    """
    for start in reversed([found.end() for found in OBJECT_START.finditer(system)]):
        try:
            schema, _ = json.JSONDecoder().raw_decode(system, start)
        except (ValueError, RecursionError):
            continue
        if "type" in schema and "properties" in schema:
            return schema
    return ANY_OBJECT if OBJECT_IN_WORDS.search(system) else None


def _at(root: Schema, reference: str) -> Schema:
    node: Any = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        node = node[step] if step else node
    return node
