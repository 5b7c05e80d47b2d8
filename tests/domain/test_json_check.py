"""Which schemas are accepted, and that the check of a reply is bounded whatever the schema is."""

import json
import math
import random  # noqa: TID251 - a seeded generator of schemas
from typing import Any

import pytest

from parley.domain.errors import InvalidInput
from parley.domain.json_check import MAX_SCHEMA_BYTES, MAX_SCHEMA_DEPTH, MAX_SCHEMA_NODES, check_schema, checked


def holding(value: Any, **more: Any) -> dict[str, Any]:
    """An object with one property of that schema."""
    return {"type": "object", "properties": {"a": value}, "required": ["a"], **more}


TEXT = {"type": "string"}
TAKES_TOO_LONG = "the schema takes too long to check on this reply"


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = TEXT
    for _ in range(depth):
        schema = holding(schema)
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        holding(TEXT),
        holding(TEXT, **{"$schema": "http://json-schema.org/draft-07/schema#", "definitions": {"b": TEXT}}),
        holding(TEXT, **{"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://example.com/a"}),
        holding({"$ref": "#/$defs/b c"}, **{"$defs": {"b c": TEXT}}),
        holding({"$ref": "#/$defs/b%20c"}, **{"$defs": {"b c": TEXT}}),
        holding({"anyOf": [{"type": "null"}, {"$ref": "#"}]}),
        holding({"type": "string", "pattern": r"^\d{4}-\d\d$"}),
        holding({"type": "number", "minimum": -1e30, "multipleOf": 0.01}),
        {"type": "object", "properties": {"$schema": TEXT, "unevaluatedProperties": TEXT, "pattern": TEXT}},
    ],
    ids=range(9),
)
def test_a_valid_schema_passes(schema: dict[str, Any]):
    check_schema(schema)
    json.dumps(checked({"a": "2026-01"}, schema))


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "text"}, "response_schema/type: 'text'"),
        (holding(TEXT, properties=[]), "response_schema/properties: []"),
        ({"$schema": ["x"]}, "response_schema/$schema: ['x'] is not a known dialect"),
        ({"$schema": "https://example.com/dialect"}, "response_schema/$schema: 'https://example.com/dialect'"),
        (holding({"$schema": "http://json-schema.org/draft-07/schema#"}), "response_schema/properties/a/$schema: "),
        (holding({"$id": "b"}), "response_schema/properties/a/$id: "),
        (holding({"pattern": "("}), "response_schema/properties/a/pattern: '('"),
        (holding({"pattern": "(?=b)c"}), "response_schema/properties/a/pattern: '(?=b)c'"),
        (holding({"pattern": r"(b)\1"}), "response_schema/properties/a/pattern: "),
        (holding({"pattern": "((a{1000}){1000}){1000}"}), "response_schema/properties/a/pattern: "),
        (holding({"patternProperties": {"(?!b)": TEXT}}), "response_schema/properties/a/patternProperties: '(?!b)'"),
        (holding({"multipleOf": int("9" * 400)}), "response_schema/properties/a/multipleOf: is a number that is too"),
        (holding({"multipleOf": 5e-324}), "response_schema/properties/a/multipleOf: is a number that is too small"),
        (holding({"maximum": math.inf}), "response_schema/properties/a/maximum: is a number that is too large"),
        (holding({"enum": [math.nan]}), "response_schema/properties/a/enum/0: is a number that is too large"),
        (holding({"enum": [{1, 2}]}), "response_schema/properties/a/enum/0: is a set, not a JSON value"),
        (holding({1: 2}), "response_schema/properties/a: has the name 1"),
        (holding({"title": "a\0"}), "response_schema/properties/a/title: contains a character that cannot be stored"),
        (holding({"\ud800": "a"}), "response_schema/properties/a: has the name '\\ud800', which cannot be stored"),
        (holding({"$ref": "http://127.0.0.1/a.json"}), "response_schema/properties/a/$ref: 'http://127.0.0.1/a.json'"),
        (holding({"$ref": "#/$defs/b"}), "response_schema/properties/a/$ref: '#/$defs/b' is not a schema"),
        (holding({"$ref": "#/type"}), "response_schema/properties/a/$ref: '#/type' is not a schema"),
        (holding(TEXT, **{"$ref": "#"}), "response_schema: refers to itself without end"),
        (holding(TEXT, **{"not": {"allOf": [{"$ref": "#"}]}}), "response_schema: refers to itself without end"),
        (
            holding({"$ref": "#/$defs/b"}, **{"$defs": {"b": {"$ref": "#/$defs/b"}}}),
            "response_schema: refers to itself",
        ),
        (holding(TEXT, unevaluatedProperties=False), "response_schema/unevaluatedProperties: is not accepted"),
        (holding({"$dynamicRef": "#a"}), "response_schema/properties/a/$dynamicRef: is not accepted"),
        (holding({"enum": ["b" * MAX_SCHEMA_BYTES]}), "response_schema: has 100,"),
        (holding({"enum": [*range(MAX_SCHEMA_NODES)]}), "response_schema: has more than 2,000 values"),
        (nested(MAX_SCHEMA_DEPTH), "response_schema: is nested more than 50 deep"),
        (nested(5_000), "response_schema: is nested more than 50 deep"),
    ],
    ids=range(31),
)
def test_an_invalid_schema_is_refused_with_its_place(schema: dict[str, Any], words: str):
    with pytest.raises(InvalidInput) as caught:
        check_schema(schema)
    assert str(caught.value).startswith(words)
    assert len(str(caught.value)) <= 400


NAMES = (
    *("type", "properties", "required", "items", "anyOf", "oneOf", "allOf", "not", "if", "then", "else", "$ref", "$id"),
    *("$schema", "$defs", "definitions", "enum", "const", "pattern", "patternProperties", "additionalProperties"),
    *(
        "multipleOf",
        "minimum",
        "minItems",
        "uniqueItems",
        "dependentSchemas",
        "dependencies",
        "propertyNames",
        "format",
    ),
    *(
        "contains",
        "prefixItems",
        "$anchor",
        "$dynamicRef",
        "unevaluatedItems",
        "description",
        "title",
        "a",
        "\ud800",
        "",
    ),
)
SCALARS = (
    *("object", "array", "string", "number", "null", "#", "#/$defs/a", "#/properties/a", "(", "(a+)+$", "a", "\0", ""),
    *("http://json-schema.org/draft-07/schema#", None, True, False, 0, -1, 2, 0.5, 1e308, 10**400, math.nan, {1}, b"a"),
)


def random_json(source: random.Random, depth: int) -> Any:
    kind = source.random()
    if depth and kind < 0.6:
        names = source.choices(NAMES, k=source.randrange(5))
        return {name: random_json(source, depth - 1) for name in names}
    if depth and kind < 0.75:
        return [random_json(source, depth - 1) for _ in range(source.randrange(4))]
    return source.choice(SCALARS)


WHOLE = holding(
    {
        "anyOf": [
            {"type": "array", "items": {"$ref": "#/$defs/b"}, "uniqueItems": True, "minItems": 1},
            {"type": "integer", "minimum": 1, "multipleOf": 3},
            {"type": ["string", "null"], "pattern": "^(a+)+$", "not": {"const": "b"}},
            {"$ref": "#"},
        ]
    },
    **{"$defs": {"b": {"type": "object", "properties": {"c": {"enum": [1, "d"]}}, "dependentRequired": {"c": ["a"]}}}},
)


def changed(value: Any, source: random.Random) -> Any:
    """The value with random JSON in the place of some of its parts."""
    if source.random() < 0.03:
        return random_json(source, 3)
    if isinstance(value, dict):
        names: dict[str, Any] = value
        more = {source.choice(NAMES): random_json(source, 2)} if source.random() < 0.05 else {}
        return {name: changed(inner, source) for name, inner in names.items()} | more
    return [changed(inner, source) for inner in value] if isinstance(value, list) else value


def test_only_invalid_input_comes_out_of_any_schema():
    source, accepted = random.Random(10), 0
    for _ in range(1_000):
        schema = changed(WHOLE, source)
        schema = schema if isinstance(schema, dict) else {"a": schema}
        try:
            check_schema(schema)
        except InvalidInput as error:
            assert str(error).startswith("response_schema")
            continue
        accepted += 1
        for value in ({"a": 1}, {"a": None}, {"a": ["a" * 30]}, {"a": {"a": 10**299}}, {"b": 0.1}):
            checked(value, schema)
    assert 100 < accepted < 900


def branching(levels: int) -> dict[str, Any]:
    """A schema in which each level refers to the next one twice."""
    links = {f"l{n}": {"allOf": [{"$ref": f"#/$defs/l{n + 1}"}] * 2} for n in range(levels)}
    return {"$ref": "#/$defs/l0", "$defs": {**links, f"l{levels}": {"type": "object"}}}


DEEP: Any = "end"
for _ in range(60):
    DEEP = {"a": DEEP}
TWICE = {"properties": {"a": {"$ref": "#/$defs/b"}}}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (branching(30), {}),
        ({"$ref": "#/$defs/b", "$defs": {"b": {"anyOf": [TWICE, TWICE], "required": ["x"]}}}, DEEP),
        ({"type": "array", "items": {"enum": [*range(1_900)]}}, [4_001] * 1_000),
        ({"type": "array", "allOf": [{"type": "string"}] * 1_000}, ["long text"] * 50_000),
        ({"type": "array", "items": {"pattern": r"(\pL|\pN){0,20}x$"}}, ["ab" * 10_000] * 20),
    ],
    ids=["references", "recursion", "enum", "messages", "pattern"],
)
def test_a_check_that_would_take_long_is_given_up(schema: dict[str, Any], value: Any):
    assert checked(value, schema) == (None, TAKES_TOO_LONG)


def test_no_pattern_backtracks():
    text = "a" * 100_000 + "!"
    assert checked(text, {"pattern": "^(a+)+$"})[1].startswith("the reply: 'aaa")
    assert checked({text: 1}, {"patternProperties": {"^(a+)+$": False}}) == ({text: 1}, "")
    closed = {"patternProperties": {"^(a+)+$": {}}, "additionalProperties": False}
    assert "were unexpected" in checked({"!": 1, "?": 2}, closed)[1]
    assert checked({"aa": 1}, closed) == ({"aa": 1}, "")
    assert checked({"b": 1}, {"additionalProperties": {"type": "string"}})[1] == "b: 1 is not of type 'string'"


def test_a_large_array_of_objects_is_unique_or_not():
    items = [{"n": n} for n in range(10_000)]
    assert checked(items, {"uniqueItems": True})[1] == ""
    assert checked([*items, {"n": 1.0}], {"uniqueItems": True})[1] == "the reply: has items that are not unique"
    assert checked([1, True, "1", [1], [True]], {"uniqueItems": True})[1] == ""


def test_an_error_of_the_check_itself_is_a_problem_of_the_reply():
    assert checked(0.5, {"multipleOf": int("9" * 400)})[1].startswith("the schema cannot be checked: ")
    assert checked({}, {"$ref": "#"}) == (None, "the schema refers to itself without end")
    assert checked({}, {"$schema": ["x"]})[1].startswith("the schema cannot be checked: ")
