"""The simulator with OpenAI's SDK."""

import json
from typing import Any

import httpx2
import openai
import pytest

from simulator.server import Server
from simulator.wire import count_tokens
from tests.simulator.material import LABELS_PROMPT, LABELS_SCHEMA, closed

MESSAGES: Any = [{"role": "user", "content": LABELS_PROMPT}]


def labels_format(schema: dict[str, Any] = LABELS_SCHEMA) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "labels", "schema": schema, "strict": True}}


async def test_completion_matches_the_schema_and_the_prompt(openai_client, admin):
    raw = await openai_client.chat.completions.with_raw_response.create(
        model="gpt-4o-mini",
        messages=MESSAGES,
        response_format=labels_format(),
        extra_headers={"X-Parley-Attempt-Id": "attempt-1"},
    )
    completion = raw.parse()
    reply = json.loads(completion.choices[0].message.content)
    assert [item["session_id"] for item in reply["sessions"]] == ["s-1", "s-2", "s-3"]
    assert "refund" in reply["sessions"][0]["label"]
    assert "login" in reply["sessions"][1]["label"]
    assert "parcel" in reply["sessions"][2]["label"]
    assert completion.model == "simulator/gpt-4o-mini"
    assert completion.choices[0].finish_reason == "stop"
    assert raw.headers["x-simulator"] == "1"

    usage = completion.usage
    assert usage.prompt_tokens == count_tokens(LABELS_PROMPT) + count_tokens(json.dumps(LABELS_SCHEMA))
    assert usage.completion_tokens == count_tokens(completion.choices[0].message.content)
    assert usage.prompt_tokens_details.cached_tokens == 0
    request = await admin.only_request(attempt_id="attempt-1")
    assert request["billed"] is True
    assert (request["provider"], request["model"], request["state"]) == ("openai", "gpt-4o-mini", "answered")
    assert (request["input_tokens"], request["output_tokens"]) == (usage.prompt_tokens, usage.completion_tokens)
    assert raw.headers["x-request-id"] == request["request_id"]


async def test_the_same_prompt_gets_the_same_answer(openai_client):
    async def ask() -> str | None:
        completion = await openai_client.chat.completions.create(model="m", messages=MESSAGES)
        return completion.choices[0].message.content

    assert await ask() == await ask()


async def test_stream_carries_the_same_text_and_usage(openai_client):
    whole = await openai_client.chat.completions.create(model="m", messages=MESSAGES)
    chunks = [
        chunk
        async for chunk in await openai_client.chat.completions.create(
            model="m", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
    ]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert len([chunk for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]) > 3
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_stream_without_include_usage_has_no_usage(openai_client):
    stream = await openai_client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
    assert all([chunk.usage is None async for chunk in stream])


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
async def test_token_limit_truncates_the_reply(openai_client, limit):
    completion = await openai_client.chat.completions.create(model="m", messages=MESSAGES, **{limit: 3})
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.completion_tokens == 3
    assert len(completion.choices[0].message.content) == 12


async def test_local_server_has_the_same_format(local_client, admin):
    completion = await local_client.chat.completions.create(
        model="llama", messages=MESSAGES, response_format=labels_format()
    )
    assert completion.model == "simulator/llama"
    assert len(json.loads(completion.choices[0].message.content)["sessions"]) == 3
    assert (await admin.only_request())["provider"] == "local"


async def test_strict_mode_refuses_what_openai_refuses(openai_client, admin):
    open_schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    with pytest.raises(openai.BadRequestError, match="additionalProperties"):
        await openai_client.chat.completions.create(
            model="m", messages=MESSAGES, response_format=labels_format(open_schema)
        )
    optional = open_schema | {"additionalProperties": False, "required": []}
    with pytest.raises(openai.BadRequestError, match="Missing 'a'"):
        await openai_client.chat.completions.create(
            model="m", messages=MESSAGES, response_format=labels_format(optional)
        )
    assert {request["billed"] for request in await admin.get("requests")} == {False}


LAX = "In context=(), 'additionalProperties' is required to be supplied and to be false."


@pytest.mark.parametrize(
    ("schema", "complaint"),
    [
        ({"type": "object", "properties": {"topic": {"type": "string"}}, "required": ["topic"]}, LAX),
        ({"type": "array", "items": {"type": "string"}}, "schema must be a JSON Schema of 'type: \"object\"'"),
        (closed({"a": {"description": "anything"}}), "In context=('properties', 'a'), schema must have a 'type' key."),
        (closed({"a": {"oneOf": [{"type": "string"}]}}), "In context=('properties', 'a'), 'oneOf' is not permitted."),
        (closed({"a": {"type": "array"}}), "In context=('properties', 'a'), array schema missing items."),
    ],
)
async def test_a_schema_that_is_not_strict_is_refused_in_openais_words(openai_client, schema, complaint):
    with pytest.raises(openai.BadRequestError) as refused:
        await openai_client.chat.completions.create(model="m", messages=MESSAGES, response_format=labels_format(schema))
    assert refused.value.param == "response_format"
    assert refused.value.body["message"].startswith(f"Invalid schema for response_format 'labels': {complaint}")


async def test_an_unknown_parameter_is_refused_by_openai_and_ignored_by_a_local_server(openai_client, local_client):
    terms: Any = {"model": "m", "messages": MESSAGES, "extra_body": {"mood": "good"}}
    with pytest.raises(openai.BadRequestError, match=r"Unknown parameter: 'mood'\.") as refused:
        await openai_client.chat.completions.create(**terms)
    assert (refused.value.code, refused.value.param) == ("unknown_parameter", "mood")
    assert (await local_client.chat.completions.create(**terms)).choices


@pytest.mark.parametrize("model", ["gpt-3.5-turbo", "gpt-4", "gpt-4-turbo"])
async def test_older_models_refuse_schemas_but_follow_one_in_the_system_prompt(openai_client, admin, model):
    with pytest.raises(openai.BadRequestError, match="not supported with this model"):
        await openai_client.chat.completions.create(model=model, messages=MESSAGES, response_format=labels_format())
    system = {"role": "system", "content": f"Be brief.\nAnswer with JSON:\n{json.dumps(LABELS_SCHEMA)}\nThank you."}
    completion = await openai_client.chat.completions.create(model=model, messages=[system, *MESSAGES])
    assert len(json.loads(completion.choices[0].message.content)["sessions"]) == 3


@pytest.mark.parametrize("words", ["{not JSON", '{"colour": "red"}', "[1]", "no schema"])
async def test_a_system_prompt_without_a_schema_gets_plain_text(openai_client, words):
    messages = [{"role": "system", "content": f"Be brief.\n{words}"}, *MESSAGES]
    completion = await openai_client.chat.completions.create(model="m", messages=messages)
    assert "simulator" in completion.choices[0].message.content


async def test_a_prompt_over_the_context_window_is_refused(openai_client, admin):
    with pytest.raises(openai.BadRequestError) as refused:
        await openai_client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "word " * 110_000}]
        )
    assert refused.value.code == "context_length_exceeded"
    assert "137500 tokens" in refused.value.message
    assert (await admin.only_request())["billed"] is False


async def test_missing_and_invalid_keys_are_refused(server: Server, admin):
    bad = openai.AsyncOpenAI(base_url=f"{server.url}/openai/v1", api_key="invalid", max_retries=0)
    with pytest.raises(openai.AuthenticationError) as refused:
        await bad.chat.completions.create(model="m", messages=MESSAGES)
    assert refused.value.code == "invalid_api_key"
    await bad.close()
    answer = await admin.http.post("/openai/v1/chat/completions", json={"model": "m", "messages": MESSAGES})
    assert answer.status_code == 401
    assert "didn't provide an API key" in answer.json()["error"]["message"]
    local = await admin.http.post("/local/v1/chat/completions", json={"model": "m", "messages": MESSAGES})
    assert local.status_code == 200


@pytest.mark.parametrize("body", [b"not json", b"[]", b"{}", b'{"model": "m"}', b'{"model": "m", "messages": [{}]}'])
async def test_invalid_bodies_get_a_400(admin, body):
    answer: httpx2.Response = await admin.http.post(
        "/openai/v1/chat/completions", content=body, headers={"authorization": "Bearer any"}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_unknown_routes_and_methods_get_the_vendors_404(openai_client, admin):
    with pytest.raises(openai.NotFoundError, match=r"Invalid URL \(GET /v1/fine_tuning/jobs\)"):
        await openai_client.fine_tuning.jobs.list()
    wrong_method = await admin.http.put("/openai/v1/chat/completions")
    assert wrong_method.status_code == 404
    assert wrong_method.json()["error"]["type"] == "invalid_request_error"
    assert wrong_method.headers["x-simulator"] == "1"
