"""JSON schemas that replies must follow, in the form that the vendors' strict modes require."""

import json
from collections.abc import Mapping
from typing import Any, TypeGuard

from parley.domain.errors import InvalidInput

ROOT = "response_schema"
# What every vendor accepts as it is.
CARRIED = ("type", "enum", "const", "title", "description")
BUILT = ("properties", "required", "additionalProperties", "items", "$defs", "definitions")
# What does not restrict a reply.
ANNOTATIONS = ("$schema", "$id", "$comment", "default", "examples", "deprecated", "readOnly", "writeOnly")
NULL = {"type": "null"}
TYPES = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}


def strict_object(properties: dict[str, Any]) -> dict[str, Any]:
    """An object schema as the vendors' strict modes require it: every property is required, and no other is allowed."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def is_object(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def is_array(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def strict_form(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A caller's schema in the form that every vendor accepts.

    Objects are closed. A property that may be missing is required, and may be null instead: `json_check` removes such
    a null. What vendors do not accept, such as `minimum`, is sent in a description: the reply is checked
    against the caller's own schema.

    Raises:
        InvalidInput: a part has no such form; the error names the place.
    """
    if schema.get("type") != "object":
        raise InvalidInput("must be an object: put the value under a property of one", field=f"{ROOT}/type")
    return _strict(schema, ROOT)


def _strict(node: Any, place: str) -> dict[str, Any]:
    if not is_object(node):
        raise InvalidInput("must be a schema with a type: vendors accept no other", field=place)
    node = _without_single_all_of(node)
    if "$ref" in node:
        # Vendors accept nothing beside a reference but the definitions.
        return {"$ref": node["$ref"], **_definitions(node, place)}
    types = _types(node)
    strict = {"type": types[0] if len(types) == 1 else types} if types else {}
    strict |= {name: node[name] for name in CARRIED if name in node} | _content(node, types, place)
    handled = {*CARRIED, *BUILT, *ANNOTATIONS, *(strict.keys() - {"anyOf"}), *_choice(node, types)}
    notes = "; ".join(f"{name}: {json.dumps(value)}" for name, value in node.items() if name not in handled)
    if notes:
        strict["description"] = f"{node['description']} ({notes})" if node.get("description") else notes
    strict |= _definitions(node, place)
    # In the order of the caller, which models follow.
    return {name: strict[name] for name in (*node, *strict) if name in strict}


def _without_single_all_of(node: dict[str, Any]) -> dict[str, Any]:
    """Some generators write a reference or a type with other keywords beside it as an `allOf` of one."""
    own = {name: value for name, value in node.items() if name != "allOf"}
    match node.get("allOf"):
        case [{**only}] if own.keys().isdisjoint(only):
            return own | only
        case _:
            return node


def _content(node: Mapping[str, Any], types: list[str], place: str) -> dict[str, Any]:
    """The keywords that hold other schemas."""
    if "object" in types:
        return _closed(node, place)
    if "array" in types:
        return {"items": _strict(node.get("items"), f"{place}/items")}
    if types:
        return {}
    for name in _choice(node, types):
        return {"anyOf": [_strict(one, f"{place}/{name}/{number}") for number, one in enumerate(node[name])]}
    raise InvalidInput("must have a type: vendors accept no value of any type", field=place)


def _choice(node: Mapping[str, Any], types: list[str]) -> list[str]:
    """The keyword that says what a value without a type may be."""
    return [name for name in ("anyOf", "oneOf") if node.get(name) and not types][:1]


def _types(node: Mapping[str, Any]) -> list[str]:
    """The types that a schema names, or those of the values that it lists; empty where it says nothing."""
    named = node.get("type", "object" if "properties" in node else [])
    if named:
        return [named] if isinstance(named, str) else named
    values = [*node.get("enum", ()), *([node["const"]] if "const" in node else [])]
    return list(dict.fromkeys(TYPES[type(value)] for value in values))


def _closed(node: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The object's properties, and no others."""
    if not node.get("properties"):
        raise InvalidInput("must name its properties: vendors accept no object with free names", field=place)
    for name in ("additionalProperties", "patternProperties"):
        if node.get(name) and is_object(node[name]):
            raise InvalidInput("is not accepted by vendors: name each property", field=f"{place}/{name}")
    required = node.get("required", ())
    unknown = [name for name in required if name not in node["properties"]]
    if unknown:
        raise InvalidInput(f"names {unknown[0]!r}, which is not under properties", field=f"{place}/required")
    strict = {name: _strict(child, f"{place}/properties/{name}") for name, child in node["properties"].items()}
    closed = strict_object({name: child if name in required else _or_null(child) for name, child in strict.items()})
    return {name: value for name, value in closed.items() if name != "type"}


def _or_null(strict: dict[str, Any]) -> dict[str, Any]:
    """The same, or null. The description stays outside, where it describes the property."""
    types = strict.get("type")
    if NULL in strict.get("anyOf", ()) or types == "null" or (is_array(types) and "null" in types):
        return strict
    if "anyOf" in strict:
        return {**strict, "anyOf": [*strict["anyOf"], NULL]}
    inner = {name: value for name, value in strict.items() if name != "description"}
    described = {"description": strict["description"]} if "description" in strict else {}
    return {"anyOf": [inner, NULL], **described}


def _definitions(node: Mapping[str, Any], place: str) -> dict[str, Any]:
    return {
        name: {key: _strict(child, f"{place}/{name}/{key}") for key, child in node[name].items()}
        for name in ("$defs", "definitions")
        if name in node
    }
