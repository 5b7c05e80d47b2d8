"""`/v1/messages`, as Anthropic's own SDK uses it."""

from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest

from parley import Client
from parley.settings import Settings
from parley.testing import SimulatorAdmin
from simulator.images import TOKENS as IMAGE_TOKENS
from tests.gateway.parts import Running, with_open_models

MODEL = "claude-haiku-4-5"
ASK: list[Any] = [{"role": "user", "content": "Which plan has SSO?"}]
SCHEMA = {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}
TOOLS: list[Any] = [{"name": "get_order", "description": "Read an order by its number", "input_schema": SCHEMA}]
ORDER: list[Any] = [{"role": "user", "content": "Where is order 17?"}]
BOTH = pytest.mark.parametrize("model", [MODEL, "gpt-4o-mini"])
MODES = pytest.mark.parametrize("mode", ["durable", "inline"])
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="

UNSUPPORTED: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "max_tokens"),
    ({"top_k": 5}, "top_k"),
    ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
    ({"workspace_id": "other"}, "workspace_id"),
    ({"surprise": 1}, "surprise"),
    ({"metadata": {"user_id": "ann", "team": "a"}}, "metadata.team"),
    ({"metadata": {"user_id": "u" * 201}}, "metadata.user_id"),
    ({"stop_sequences": ["a", "b", "c", "d", "e"]}, "stop_sequences"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type"),
    ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "messages.0.content.0.type"),
    (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "tool_result", "tool_use_id": "a", "content": [{"type": "document"}]}],
                }
            ]
        },
        "messages.0.content.0.content.0.type",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file"}}]}]},
        "messages.0.content.0.source.type",
    ),
    ({"messages": [{"role": "user", "content": []}]}, "messages.0.content"),
]

pytestmark = pytest.mark.usefixtures("worker")


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return with_open_models(settings, tmp_path)


@pytest.fixture
async def sdk(gateway: Running, secret: str) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=gateway.url, api_key=secret, max_retries=0)


def asked(**more: Any) -> dict[str, Any]:
    return {"model": MODEL, "max_tokens": 200, "messages": ASK, **more}


@MODES
@BOTH
async def test_an_answer_has_the_providers_text_usage_and_cost(
    model: str, mode: str, sdk: anthropic.AsyncAnthropic, client: Client
):
    given = asked(model=model, system="Answer briefly.", metadata={"user_id": "ann"})
    raw = await sdk.messages.with_raw_response.create(**given, extra_headers={"x-parley-mode": mode})
    answer: Any = await raw.parse()
    assert answer.content[0].text
    assert (answer.stop_reason, answer.role) == ("end_turn", "assistant")
    assert answer.usage.input_tokens > 0 < answer.usage.output_tokens
    assert float(raw.headers["x-parley-cost-usd"]) == float((await client.costs()).confirmed_usd) > 0
    assert raw.headers["x-parley-model"].endswith(f"/{model}")
    assert (await client.energy("ann")).charged == 1


@BOTH
async def test_a_stream_is_the_same_message(model: str, sdk: anthropic.AsyncAnthropic):
    whole: Any = await sdk.messages.create(**asked(model=model))
    async with sdk.messages.stream(**asked(model=model)) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        message: Any = await stream.get_final_message()
    assert text == message.content[0].text == whole.content[0].text
    assert (message.stop_reason, message.id[:4]) == ("end_turn", "msg_")


async def test_the_usage_of_a_stream_comes_at_its_end(sdk: anthropic.AsyncAnthropic):
    async with sdk.messages.stream(**asked()) as stream:
        message = await stream.get_final_message()
    assert message.usage.input_tokens > 0 < message.usage.output_tokens


async def test_the_sdk_knows_the_id_of_a_request(sdk: anthropic.AsyncAnthropic):
    ids = [{"x-request-id": f"r-{number}"} for number in range(4)]
    message: Any = await sdk.messages.create(**asked(), extra_headers=ids[0])
    async with sdk.messages.stream(**asked(), extra_headers=ids[1]) as stream:
        streamed = stream.request_id
    models: Any = await sdk.models.list(extra_headers=ids[2])
    with pytest.raises(anthropic.APIStatusError) as refused:
        await sdk.messages.create(**asked(model="unknown-9000"), extra_headers=ids[3])
    body: Any = refused.value.body
    assert [message._request_id, streamed, models._request_id] == ["r-0", "r-1", "r-2"]
    assert (refused.value.request_id, body["request_id"]) == ("r-3", "r-3")


@BOTH
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_a_tool_call_and_its_result(model: str, streamed: bool, sdk: anthropic.AsyncAnthropic):
    given = asked(model=model, messages=ORDER, tools=TOOLS, tool_choice={"type": "any"})
    if streamed:
        async with sdk.messages.stream(**given) as stream:
            message: Any = await stream.get_final_message()
    else:
        message = await sdk.messages.create(**given)
    assert message.stop_reason == "tool_use"
    [call] = [block for block in message.content if block.type == "tool_use"]
    assert call.name == "get_order" and isinstance(call.input["number"], int)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "On its way"}]}
    turns = [*ORDER, {"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    last: Any = await sdk.messages.create(**asked(model=model, messages=turns, tools=TOOLS))
    assert last.content[0].text


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('{"number": NaN}', None),
        ('{"number": -Infinity}', None),
        ('{"number": 1e999}', None),
        (f'{{"number": {"1" * 400}}}', None),
        (f"{'[' * 2000}{']' * 2000}", None),
        (f'{{"number": {"[" * 200}{"]" * 200}}}', None),
        ('{"number": ', None),
        ('{"number": "\\ud83d\\u0000"}', {"number": "\ufffd\ufffd"}),
        ('{"number": "\\ud83d\\ude00"}', {"number": "\U0001f600"}),
    ],
    ids=["nan", "infinity", "1e999", "long", "list", "deep", "cut", "unstorable", "pair"],
)
async def test_arguments_that_are_not_json_for_everyone_are_delivered_as_text(
    written: str, read: Any, streamed: bool, sdk: anthropic.AsyncAnthropic, monkeypatch: pytest.MonkeyPatch
):
    """The answer is paid for: it is delivered, whatever the model wrote."""
    monkeypatch.setattr("simulator.answers.damaged", lambda *_: (written, "stop"))
    given = asked(model="gpt-4o-mini", max_tokens=4000, messages=ORDER, tools=TOOLS, tool_choice={"type": "any"})
    if streamed:
        async with sdk.messages.stream(**given) as stream:
            message: Any = await stream.get_final_message()
    else:
        message = await sdk.messages.create(**given)
    assert message.content[0].input == (read or {"unreadable_arguments": written})


async def test_images_and_cache_hints_are_accepted(sdk: anthropic.AsyncAnthropic):
    content = [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
        {"type": "image", "source": {"type": "url", "url": "https://pictures.example/cat.png"}},
        {"type": "text", "text": "What is this?", "cache_control": {"type": "ephemeral"}},
    ]
    raw = await sdk.messages.with_raw_response.create(**asked(messages=[{"role": "user", "content": content}]))
    assert raw.headers["x-parley-dropped"] == "cache_control"


@BOTH
async def test_an_image_in_the_result_of_a_tool_is_sent(model: str, sdk: anthropic.AsyncAnthropic):
    use = {"type": "tool_use", "id": "a", "name": "get_order", "input": {"number": 17}}
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
    result = {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "A photo:"}, image]}
    used: list[int] = []
    for one in (result | {"content": "A photo:"}, result):
        turns = [*ORDER, {"role": "assistant", "content": [use]}, {"role": "user", "content": [one]}]
        message: Any = await sdk.messages.create(**asked(model=model, messages=turns, tools=TOOLS))
        used.append(message.usage.input_tokens)
    assert used[1] - used[0] > IMAGE_TOKENS


async def test_a_name_of_a_tool_may_be_as_long_as_its_vendor_allows(sdk: anthropic.AsyncAnthropic):
    tools = [TOOLS[0] | {"name": "t" * 128}]
    given = asked(messages=ORDER, tools=tools, tool_choice={"type": "any"})
    message: Any = await sdk.messages.create(**given)
    assert message.content[-1].name == "t" * 128
    raw = await sdk.messages.with_raw_response.create(**given | {"model": "gpt-4o-mini"})
    assert not raw.headers["x-parley-model"].endswith("gpt-4o-mini")  # it accepts 64 characters


async def test_a_cut_answer_says_so(sdk: anthropic.AsyncAnthropic):
    assert (await sdk.messages.create(**asked(max_tokens=5))).stop_reason == "max_tokens"


async def test_tokens_are_estimated_without_a_provider(sdk: anthropic.AsyncAnthropic, simulator: SimulatorAdmin):
    short = await sdk.messages.count_tokens(model=MODEL, messages=ASK)
    long = await sdk.messages.count_tokens(model=MODEL, messages=ASK, system="Answer briefly.", tools=TOOLS)
    assert 0 < short.input_tokens < long.input_tokens
    assert await simulator.requests() == []


@pytest.mark.parametrize("more", ["call", "result", "image", "schema", "tool"])
async def test_the_estimate_of_tokens_has_everything_that_a_model_reads(more: str, sdk: anthropic.AsyncAnthropic):
    """The vocabulary has a token for each of the 300 words. An image has more in every vendor's documentation."""
    words = " order" * 300
    call = {"type": "tool_use", "id": "a", "name": "get_order", "input": {"text": words if more == "call" else "x"}}
    result = {"type": "tool_result", "tool_use_id": "a", "content": words if more == "result" else "x"}
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
    said = [*ORDER, {"role": "assistant", "content": [call]}]
    messages: Any = [*said, {"role": "user", "content": [result, *([picture] if more == "image" else [])]}]
    described = {**SCHEMA, "description": words}
    more_asked: dict[str, dict[str, Any]] = {
        "schema": {"output_config": {"format": {"type": "json_schema", "schema": described}}},
        "tool": {"tools": [{**TOOLS[0], "input_schema": described}]},
    }
    counted = await sdk.messages.count_tokens(model=MODEL, messages=messages, **more_asked.get(more, {}))
    assert 300 < counted.input_tokens < (2000 if more == "image" else 400)


async def test_the_models_can_be_listed(sdk: anthropic.AsyncAnthropic):
    assert MODEL in [model.id async for model in sdk.models.list()]


async def test_what_is_not_supported_is_refused_by_name(http: httpx.AsyncClient, simulator: SimulatorAdmin):
    for body, place in UNSUPPORTED:
        answer = await http.post("/v1/messages", json=asked(**body))
        error = answer.json()["error"]
        assert (answer.status_code, error["type"]) == (400, "invalid_request_error"), body
        assert error["message"].startswith(f"{place}: ")
    assert await simulator.requests() == []


async def test_an_outage_has_anthropics_shape(sdk: anthropic.AsyncAnthropic, simulator: SimulatorAdmin):
    await simulator.fault("server_error", times=None)
    with pytest.raises(anthropic.InternalServerError) as failed:
        await sdk.messages.create(**asked())
    body: Any = failed.value.body
    assert (failed.value.status_code, body["error"]["type"]) == (503, "overloaded_error")
