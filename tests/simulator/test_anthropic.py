"""The simulator with Anthropic's SDK."""

import json
from typing import Any

import anthropic
import pytest

from simulator.server import Server
from simulator.wire import count_tokens
from tests.simulator.material import LABELS_PROMPT, LABELS_SCHEMA, closed

MESSAGES: Any = [{"role": "user", "content": LABELS_PROMPT}]
LABELS: Any = {"format": {"type": "json_schema", "schema": LABELS_SCHEMA}}
ASK: Any = {"model": "claude-sonnet", "max_tokens": 500, "messages": MESSAGES}


async def test_message_matches_the_schema(anthropic_client, admin):
    raw = await anthropic_client.messages.with_raw_response.create(
        **ASK,
        system="Label them.",
        output_config=LABELS,
        extra_headers={"X-Parley-Attempt-Id": "attempt-1"},
    )
    message = await raw.parse()
    reply = json.loads(message.content[0].text)
    assert [item["session_id"] for item in reply["sessions"]] == ["s-1", "s-2", "s-3"]
    assert message.model == "simulator/claude-sonnet"
    assert message.stop_reason == "end_turn"
    text = f"Label them.\n{LABELS_PROMPT}"
    assert message.usage.input_tokens == count_tokens(text) + count_tokens(json.dumps(LABELS_SCHEMA))
    assert message.usage.cache_read_input_tokens == 0
    request = await admin.only_request(attempt_id="attempt-1", billed=True)
    assert request["output_tokens"] == message.usage.output_tokens
    assert raw.headers["request-id"] == request["request_id"]
    assert raw.headers["x-simulator"] == "1"


async def test_stream_carries_the_same_message(anthropic_client):
    whole = await anthropic_client.messages.create(**ASK, output_config=LABELS)
    async with anthropic_client.messages.stream(**ASK, output_config=LABELS) as stream:
        pieces = [piece async for piece in stream.text_stream]
        final = await stream.get_final_message()
    assert "".join(pieces) == whole.content[0].text
    assert len(pieces) > 3
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert final.usage.input_tokens == whole.usage.input_tokens


async def test_forced_tool_is_called_with_the_schema_filled(anthropic_client):
    tool: Any = {"name": "label", "description": "Label sessions.", "input_schema": LABELS_SCHEMA}
    forced: Any = {"tools": [tool], "tool_choice": {"type": "tool", "name": "label"}}
    message = await anthropic_client.messages.create(**ASK, **forced)
    assert message.stop_reason == "tool_use"
    assert message.content[0].name == "label"
    assert len(message.content[0].input["sessions"]) == 3
    async with anthropic_client.messages.stream(**ASK, **forced) as stream:
        streamed = await stream.get_final_message()
    assert streamed.content[0].input == message.content[0].input


async def test_token_limit_truncates_the_reply(anthropic_client):
    message = await anthropic_client.messages.create(**ASK | {"max_tokens": 3})
    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 3


@pytest.mark.parametrize(
    ("node", "complaint"),
    [
        ({"type": "integer", "minimum": 1}, "property 'minimum' is not supported"),
        ({"type": "string", "maxLength": 9}, "property 'maxLength' is not supported"),
        ({"type": "array", "items": {"type": "string"}, "minItems": 2}, "'minItems' values other than"),
        ({"type": "object", "properties": {}}, "'additionalProperties' must be"),
    ],
)
async def test_schemas_that_anthropic_refuses_are_refused(anthropic_client, node, complaint):
    output_config: Any = {"format": {"type": "json_schema", "schema": closed({"value": node})}}
    with pytest.raises(anthropic.BadRequestError, match=complaint):
        await anthropic_client.messages.create(**ASK, output_config=output_config)


async def test_a_property_may_have_the_name_of_a_bound(anthropic_client):
    output_config: Any = {"format": {"type": "json_schema", "schema": closed({"maximum": {"type": "integer"}})}}
    message = await anthropic_client.messages.create(**ASK, output_config=output_config)
    assert 1 <= json.loads(message.content[0].text)["maximum"] <= 100


async def test_a_prompt_over_the_context_window_is_refused(anthropic_client):
    long: Any = [{"role": "user", "content": "word " * 110_000}]
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long: 137500 tokens > 128000 maximum"):
        await anthropic_client.messages.create(**ASK | {"messages": long})


async def test_missing_keys_headers_and_fields_are_refused(server: Server, admin):
    async with anthropic.AsyncAnthropic(base_url=f"{server.url}/anthropic", api_key="invalid", max_retries=0) as bad:
        with pytest.raises(anthropic.AuthenticationError) as refused:
            await bad.messages.create(**ASK)
    assert refused.value.type == "authentication_error"
    no_key = await admin.http.post("/anthropic/v1/messages", json=ASK)
    assert no_key.status_code == 401
    no_version = await admin.http.post("/anthropic/v1/messages", json=ASK, headers={"x-api-key": "any"})
    assert no_version.status_code == 400
    headers = {"x-api-key": "any", "anthropic-version": "2023-06-01"}
    no_limit = await admin.http.post(
        "/anthropic/v1/messages", json={"model": "m", "messages": MESSAGES}, headers=headers
    )
    assert no_limit.json()["error"] == {
        "type": "invalid_request_error",
        "message": "max_tokens: Field required",
    }
    system: Any = {"role": "system", "content": "x"}
    in_messages = await admin.http.post("/anthropic/v1/messages", json=ASK | {"messages": [system]}, headers=headers)
    assert in_messages.status_code == 400


async def test_unknown_routes_get_the_vendors_404(anthropic_client):
    with pytest.raises(anthropic.NotFoundError) as refused:
        await anthropic_client.messages.count_tokens(model="m", messages=MESSAGES)
    assert refused.value.type == "not_found_error"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "messages: text content blocks must be non-empty"),
        ([{"type": "text", "text": ""}], "messages: text content blocks must be non-empty"),
        (" \n", "messages: text content blocks must contain non-whitespace text"),
    ],
)
async def test_blank_turns_are_refused(anthropic_client, content, complaint):
    turns: Any = [*MESSAGES, {"role": "assistant", "content": content}, {"role": "user", "content": "Hello?"}]
    with pytest.raises(anthropic.BadRequestError, match=complaint):
        await anthropic_client.messages.create(**ASK | {"messages": turns})


async def test_a_last_turn_of_the_assistant_has_no_blank_at_its_end(anthropic_client):
    turns: Any = [*MESSAGES, {"role": "assistant", "content": "It is "}]
    with pytest.raises(anthropic.BadRequestError, match="cannot end with trailing whitespace"):
        await anthropic_client.messages.create(**ASK | {"messages": turns})


async def test_an_unknown_parameter_is_refused(anthropic_client):
    with pytest.raises(anthropic.BadRequestError, match="mood: Extra inputs are not permitted"):
        await anthropic_client.messages.create(**ASK, extra_body={"mood": "good"})
