"""Recognises what a job asks for: by the shape of the reply that it wants, and the JSON material in the prompt."""

import json
import re
from collections.abc import Mapping
from typing import Any

from simulator.schemas import Schema, kind, resolve
from simulator.wire import Prompt

OBJECT = re.compile(r"^(?=\{)", re.MULTILINE)


def wanted_item(schema: Schema, field: str) -> frozenset[str]:
    """The names in the objects of a list that the reply must hold under `field`; none where it holds no such list."""
    listed = resolve(schema, resolve(schema, schema).get("properties", {}).get(field, {}))
    if kind(listed) != "array":
        return frozenset()
    return frozenset(resolve(schema, listed.get("items", {})).get("properties", {}))


def wanted_fields(schema: Schema) -> frozenset[str]:
    return frozenset(resolve(schema, schema).get("properties", {}))


def worded_schema(system: str) -> dict[str, Any] | None:
    """A schema that a system prompt spells out on lines of its own, the last one."""
    for start in reversed([found.end() for found in OBJECT.finditer(system)]):
        try:
            schema, _ = json.JSONDecoder().raw_decode(system, start)
        except (ValueError, RecursionError):
            continue
        if "type" in schema and "properties" in schema:
            return schema
    return None


def material(prompt: Prompt, *fields: str) -> Mapping[str, Any] | None:
    """The last message of the user's that is a JSON object with these fields."""
    for text in reversed(prompt.said_by("user")):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict) and all(field in found for field in fields):
            return found
    return None
