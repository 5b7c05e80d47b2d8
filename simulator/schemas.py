"""Reading JSON schemas: references, kinds and bounds."""

import re
from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

ID_NAME = re.compile(r"(^|_)(id|key)$")
STATED_BOUND = re.compile(r"\b(minimum|maximum|minItems|maxItems|maxLength):\s*(-?\d+(?:\.\d+)?)")

STATED_RANGE = re.compile(r"(-?\d+) to (-?\d+)")


def resolve(root: Schema, schema: Schema) -> Schema:
    """The schema itself: references followed, `allOf` merged, the first alternative that is not null."""
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
    """The JSON type to fill in: the first that is not null."""
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
    """A bound, from its keyword or from the description, where clients of Anthropic's have to put it."""
    if name in schema:
        return schema[name]
    description = str(schema.get("description", ""))
    stated = dict(STATED_BOUND.findall(description))
    plain = STATED_RANGE.search(description)
    if plain:
        stated = {"minimum": plain[1], "maximum": plain[2], **stated}
    return float(stated[name]) if name in stated else default


def items_field(root: Schema) -> str | None:
    """The first property of the reply that is a list of objects."""
    for name, property_schema in resolve(root, root).get("properties", {}).items():
        schema = resolve(root, property_schema)
        if kind(schema) == "array" and kind(resolve(root, schema.get("items", {}))) == "object":
            return name
    return None


def property_names(root: Schema) -> set[str]:
    """Names of the properties of the reply and of its definitions, at any depth."""
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


def _at(root: Schema, reference: str) -> Schema:
    node: Any = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        node = node[step] if step else node
    return node
