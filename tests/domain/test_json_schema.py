"""A caller's schema in the form that vendors accept, and its replies in the caller's own form."""

import json
from decimal import Decimal
from typing import Any

import pytest

from parley.domain.capabilities import without_dropped
from parley.domain.coaching.prompts import coaching_schema
from parley.domain.errors import InvalidInput
from parley.domain.generate.replies import parsed
from parley.domain.json_check import check_schema
from parley.domain.json_schema import strict_form, strict_object
from parley.domain.pricing import ConfiguredRates, upper_bound
from parley.domain.requests import ChatRequest, Message, Provider
from simulator.schema_rules import anthropic_problem, openai_problem
from tests.domain.coaching.material import SALES

TEXT = {"type": "string"}
RATES = ConfiguredRates(elevenlabs_usd_per_hour=Decimal("0.4"), elevenlabs_usd_per_thousand_characters=Decimal("0.10"))
LAX: dict[str, Any] = {
    "type": "object",
    "properties": {
        "topic": TEXT,
        "urgency": {"type": "integer", "minimum": 1, "maximum": 5, "description": "How soon"},
        "tags": {"type": "array", "minItems": 2, "items": {"oneOf": [{"$ref": "#/$defs/tag"}, {"type": "null"}]}},
        "mood": {"type": ["string", "null"], "pattern": "^[a-z]+$"},
        "kind": {"enum": ["a", "b"], "default": "a"},
        "owner": {"allOf": [{"$ref": "#/$defs/tag"}], "description": "Who"},
    },
    "required": ["topic"],
    "$defs": {"tag": {"type": "object", "properties": {"name": TEXT, "note": TEXT}, "required": ["name"]}},
}


def test_a_lax_schema_is_made_strict_for_every_vendor():
    check_schema(LAX)
    strict = strict_form(LAX)
    assert openai_problem(LAX)
    assert (openai_problem(strict), anthropic_problem(strict)) == (None, None)
    assert strict["required"] == list(LAX["properties"])
    properties = strict["properties"]
    assert properties["topic"] == TEXT
    assert properties["urgency"] == {
        "anyOf": [{"type": "integer"}, {"type": "null"}],
        "description": "How soon (minimum: 1; maximum: 5)",
    }
    assert properties["mood"] == {"type": ["string", "null"], "description": 'pattern: "^[a-z]+$"'}
    assert properties["kind"] == {"anyOf": [{"type": "string", "enum": ["a", "b"]}, {"type": "null"}]}
    assert properties["owner"] == {"anyOf": [{"$ref": "#/$defs/tag"}, {"type": "null"}]}


def test_a_strict_schema_stays_as_it_is():
    schema = coaching_schema(SALES)
    assert strict_form(schema) == schema
    assert strict_form(strict_form(LAX)) == strict_form(LAX)


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ({"topic": "rent", "urgency": None, "tags": None}, {"topic": "rent"}),
        ({"topic": "rent", "mood": None}, {"topic": "rent", "mood": None}),
        ({"topic": "rent", "urgency": 5, "mood": None}, {"topic": "rent", "urgency": 5, "mood": None}),
        (
            {"topic": "rent", "kind": None, "tags": [{"name": "a", "note": None}, None]},
            {"topic": "rent", "tags": [{"name": "a"}, None]},
        ),
    ],
)
def test_nulls_that_only_the_strict_form_has_are_removed(reply: dict[str, Any], value: dict[str, Any]):
    assert parsed(json.dumps(reply), LAX) == (value, "")


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        ({"topic": None}, "topic: None is not of type 'string'"),
        ({"topic": "rent", "urgency": 9}, "urgency: 9 is greater than the maximum of 5"),
        ({"topic": "rent", "mood": "Fine"}, "mood: 'Fine' does not match '^[a-z]+$'"),
    ],
)
def test_a_reply_is_checked_against_the_callers_own_schema(reply: dict[str, Any], problem: str):
    assert parsed(json.dumps(reply), LAX) == (None, problem)


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"type": "array", "items": TEXT}, "type"),
        ({"$ref": "#/$defs/a", "$defs": {"a": strict_object({"b": TEXT})}}, "type"),
        ({"type": "object"}, ""),
        (strict_object({"a": True}), "properties/a"),
        (strict_object({"a": {}}), "properties/a"),
        (strict_object({"a": {"type": "array"}}), "properties/a/items"),
        (strict_object({"a": {"anyOf": [TEXT, {"type": "object"}]}}), "properties/a/anyOf/1"),
        (strict_object({"a": TEXT}) | {"additionalProperties": TEXT}, "additionalProperties"),
        (strict_object({"a": TEXT}) | {"patternProperties": {"b": TEXT}}, "patternProperties"),
        (strict_object({"a": TEXT}) | {"required": ["b"]}, "required"),
        (strict_object({"a": TEXT}) | {"$defs": {"b": {}}}, "$defs/b"),
        (strict_object({"a": {"oneOf": [TEXT]}, "b": {"$ref": "#/properties/a/oneOf/0"}}), "properties/b/$ref"),
    ],
)
def test_what_no_vendor_accepts_is_refused_by_its_place(schema: dict[str, Any], place: str):
    with pytest.raises(InvalidInput) as caught:
        check_schema(schema)
    assert caught.value.field == f"response_schema/{place}".rstrip("/")


def test_what_is_sent_is_strict_and_inside_the_upper_bound():
    for provider, model in ((Provider.OPENAI, "gpt-4o"), (Provider.ANTHROPIC, "claude-3-haiku-20240307")):
        asked = ChatRequest(messages=(Message(role="user", content="Hi"),), max_tokens=1, response_schema=LAX)
        plain = asked.model_copy(update={"response_schema": None})
        sent = without_dropped(provider, model, asked)
        text = json.dumps(sent.response_schema or "") + "".join(message.content for message in sent.messages)
        assert json.dumps(strict_form(LAX)) in text
        (bound, rates), (without, _) = (upper_bound(provider, model, one, RATES) for one in (asked, plain))
        assert bound - without >= len(json.dumps(strict_form(LAX))) * rates.input / 1_000_000
