"""`/v1/chat/completions` and `/v1/models`, as OpenAI's own SDK uses them."""

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from gateway.fields import Fields
from gateway.openai import read
from parley import Client
from parley.domain.budgets import Period
from parley.settings import Settings
from parley.testing import SimulatorAdmin
from tests.gateway.parts import Running, with_open_models
from tests.parts import TEST_TIMEOUT_SECONDS, until

MODEL = "gpt-4o-mini"
ASK: list[Any] = [{"role": "user", "content": "Which plan has SSO?"}]
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "get_order",
            "description": "Read an order by its number",
            "parameters": {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]},
        },
    }
]
BOTH = pytest.mark.parametrize("model", [MODEL, "claude-haiku-4-5"])
PATH = "/v1/chat/completions"
MODES = pytest.mark.parametrize("mode", ["durable", "inline"])
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
# The header of an image of one pixel.
JPEG = "/9j/wAARCAABAAEDASIAAhEBAxEB/9k="

UNSUPPORTED: list[tuple[dict[str, Any], str]] = [
    ({"frequency_penalty": 0.5}, "frequency_penalty"),
    ({"n": 2}, "n"),
    ({"logprobs": True}, "logprobs"),
    ({"metadata": {"team": "a"}}, "metadata"),
    ({"store": True}, "store"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"reasoning_effort": "high"}, "reasoning_effort"),
    ({"surprise": 1}, "surprise"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": 3}, "temperature"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
    ({"stop": [1]}, "stop"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"user": "u" * 201}, "user"),
    ({"messages": []}, "messages"),
    ({"messages": "Hi"}, "messages"),
    ({"messages": [{"role": "user", "content": ""}]}, "messages"),
    ({"messages": [{"role": "user", "content": "Hi", "name": "ann"}]}, "messages.0.name"),
    ({"messages": [{"role": "function", "content": "Hi"}]}, "messages.0.role"),
    ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages.0.content.0.type"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]}]},
        "messages.0.content.0.image_url.url",
    ),
    ({"tools": [{"type": "custom", "custom": {}}]}, "tools.0.type"),
    ({"tools": [{"type": "function", "function": {"name": "f", "extra": 1}}]}, "tools.0.function.extra"),
    ({"tool_choice": "required"}, "tool_choice"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
        "response_format.json_schema.schema",
    ),
    ({"response_format": {"type": "grammar"}}, "response_format.type"),
]

pytestmark = pytest.mark.usefixtures("worker")


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return with_open_models(settings, tmp_path)


@pytest.fixture
async def sdk(gateway: Running, secret: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=secret, max_retries=0)


async def chunks(sdk: openai.AsyncOpenAI, **asked: Any) -> list[ChatCompletionChunk]:
    stream = await sdk.chat.completions.create(stream=True, **{"model": MODEL, "messages": ASK, **asked})
    return [chunk async for chunk in stream]


class TestAnswer:
    @MODES
    @BOTH
    async def test_it_has_the_providers_text_usage_and_cost(
        self, model: str, mode: str, sdk: openai.AsyncOpenAI, client: Client, simulator: SimulatorAdmin
    ):
        raw = await sdk.chat.completions.with_raw_response.create(
            model=model, messages=ASK, user="ann", extra_headers={"x-parley-mode": mode}
        )
        answer, headers = raw.parse(), raw.headers
        assert answer.choices[0].message.content
        assert answer.choices[0].finish_reason == "stop"
        assert answer.model.startswith("simulator/")
        [billed] = await simulator.billed()
        assert answer.usage is not None
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
        assert float(headers["x-parley-cost-usd"]) == float((await client.costs()).confirmed_usd) > 0
        assert headers["x-parley-model"] == f"{billed['provider']}/{model}"
        assert (headers["x-parley-cached"], headers["x-parley-attempts"], headers["x-parley-mode"]) == ("no", "1", mode)
        assert headers["x-request-id"]
        assert (await client.energy("ann")).charged == 1
        assert await client.audit() == []

    async def test_the_same_request_again_is_cached(self, sdk: openai.AsyncOpenAI, simulator: SimulatorAdmin):
        first = await sdk.chat.completions.create(model=MODEL, messages=ASK)
        raw = await sdk.chat.completions.with_raw_response.create(model=MODEL, messages=ASK)
        assert raw.parse().choices[0].message == first.choices[0].message
        assert (raw.headers["x-parley-cached"], raw.headers["x-parley-cost-usd"]) == ("exact", "0")
        assert len(await simulator.billed()) == 1

    async def test_without_a_user_the_user_is_the_key(self, sdk: openai.AsyncOpenAI, client: Client):
        await sdk.chat.completions.create(model=MODEL, messages=ASK)
        [key] = await client.gateway_keys.list()
        assert (await client.energy(key.key_id)).charged == 1

    async def test_the_headers_choose(self, sdk: openai.AsyncOpenAI, client: Client, simulator: SimulatorAdmin):
        chosen = {"x-parley-action": "support", "x-parley-user": "bob", "x-parley-cache": "off"}
        for _ in range(2):
            await sdk.chat.completions.create(model=MODEL, messages=ASK, user="ann", extra_headers=chosen)
        assert len(await simulator.billed()) == 2
        assert (await client.energy("bob")).charged == 2
        jobs = await client.job_page()
        assert len(jobs.jobs) == 2

    async def test_a_stopped_or_cut_answer_says_so(self, sdk: openai.AsyncOpenAI):
        cut = await sdk.chat.completions.create(model=MODEL, messages=ASK, max_completion_tokens=5)
        assert cut.choices[0].finish_reason == "length"

    async def test_the_conversation_goes_on_with_the_sdks_own_message(self, sdk: openai.AsyncOpenAI):
        first = await sdk.chat.completions.create(model=MODEL, messages=ASK)
        again: list[Any] = [*ASK, first.choices[0].message, {"role": "user", "content": "And which one has an API?"}]
        assert (await sdk.chat.completions.create(model=MODEL, messages=again)).choices[0].message.content

    async def test_a_jpeg_may_have_the_name_that_is_not_registered(self, sdk: openai.AsyncOpenAI):
        image = {"type": "image_url", "image_url": {"url": f"data:image/jpg;base64,{JPEG}"}}
        answer = await sdk.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": [image]}])
        assert answer.choices[0].message.content

    async def test_every_option_is_asked_for(self, sdk: openai.AsyncOpenAI):
        image = f"data:image/png;base64,{PIXEL}"
        messages: list[Any] = [
            {"role": "developer", "content": "Answer briefly."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is in these images?"},
                    {"type": "image_url", "image_url": {"url": image, "detail": "low"}},
                    {"type": "image_url", "image_url": {"url": "https://pictures.example/cat.png"}},
                ],
            },
        ]
        asked: dict[str, Any] = {
            "model": "gpt-4o",
            "messages": messages,
            "temperature": 0.5,
            "top_p": 0.9,
            "seed": 7,
            "stop": ["END"],
            "max_tokens": 50,
            "n": 1,
            "logprobs": False,
            "store": False,
            "metadata": {},
            "response_format": {"type": "text"},
        }
        sent = read(Fields(asked))[0].arguments
        assert (sent["temperature"], sent["top_p"], sent["seed"], sent["stop"]) == (0.5, 0.9, 7, ["END"])
        [inside, outside] = sent["messages"][1].images
        assert (inside.data, inside.media_type, inside.detail) == (PIXEL, "image/png", "low")
        assert outside.url == "https://pictures.example/cat.png"
        assert (await sdk.chat.completions.create(**asked)).choices[0].message.content

    async def test_a_dropped_parameter_is_named(self, sdk: openai.AsyncOpenAI):
        raw = await sdk.chat.completions.with_raw_response.create(
            model="claude-haiku-4-5", messages=ASK, temperature=0.5, seed=1
        )
        assert raw.headers["x-parley-dropped"] == "temperature, seed"

    @BOTH
    async def test_a_schema_is_followed(self, model: str, sdk: openai.AsyncOpenAI):
        class Contact(BaseModel):
            name: str
            age: int

        parsed = await sdk.chat.completions.parse(model=model, messages=ASK, response_format=Contact)
        assert isinstance(parsed.choices[0].message.parsed, Contact)

    async def test_any_json_object(self, sdk: openai.AsyncOpenAI):
        ask: list[Any] = [{"role": "user", "content": "Answer in JSON: which plan has SSO?"}]
        answer = await sdk.chat.completions.create(model=MODEL, messages=ask, response_format={"type": "json_object"})
        assert (answer.choices[0].message.content or "").startswith("{")


class TestTools:
    @BOTH
    async def test_a_call_and_its_result(self, model: str, sdk: openai.AsyncOpenAI):
        ask: list[Any] = [{"role": "user", "content": "Where is order 17?"}]
        asked: dict[str, Any] = {"model": model, "tools": TOOLS, "tool_choice": "required"}
        first = await sdk.chat.completions.create(messages=ask, **asked)
        message = first.choices[0].message
        assert first.choices[0].finish_reason == "tool_calls"
        [call] = message.tool_calls or []
        assert call.type == "function" and call.function.name == "get_order"
        result = {"role": "tool", "tool_call_id": call.id, "content": "It is on its way"}
        turns: list[Any] = [*ask, message, result]
        last = await sdk.chat.completions.create(messages=turns, model=model, tools=TOOLS)
        assert last.choices[0].message.content

    @BOTH
    async def test_a_streamed_call_is_the_same(self, model: str, sdk: openai.AsyncOpenAI):
        asked: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": "Where is order 17?"}],
            "tools": TOOLS,
            "tool_choice": {"type": "function", "function": {"name": "get_order"}},
        }
        whole: ChatCompletion = await sdk.chat.completions.create(**asked)
        async with sdk.chat.completions.stream(**asked) as stream:
            streamed = await stream.get_final_completion()
        one: Any = (whole.choices[0].message.tool_calls or [])[0]
        other: Any = (streamed.choices[0].message.tool_calls or [])[0]
        assert one.type == "function" == other.type
        assert (one.function.name, one.function.arguments) == (other.function.name, other.function.arguments)
        assert streamed.choices[0].finish_reason == "tool_calls"


class TestStream:
    @MODES
    async def test_it_has_the_same_text_and_ends_with_usage_and_cost(
        self, mode: str, sdk: openai.AsyncOpenAI, client: Client
    ):
        headers = {"x-parley-mode": mode}
        seen = await chunks(sdk, stream_options={"include_usage": True}, extra_headers=headers)
        whole = await sdk.chat.completions.create(model=MODEL, messages=ASK)
        text = "".join(choice.delta.content or "" for chunk in seen for choice in chunk.choices)
        assert text == whole.choices[0].message.content
        *_, last, usage = seen
        assert (last.choices[0].finish_reason, usage.choices) == ("stop", [])
        assert usage.usage is not None and usage.usage.completion_tokens > 0
        assert float((last.model_extra or {})["parley"]["cost_usd"]) == float((await client.costs()).confirmed_usd) > 0

    @MODES
    async def test_the_first_text_is_read_before_the_last_is_made(
        self, mode: str, sdk: openai.AsyncOpenAI, simulator: SimulatorAdmin
    ):
        await simulator.fault("stall")
        headers = {"x-parley-mode": mode, "x-parley-on-disconnect": "cancel"}
        stream = await sdk.chat.completions.create(model=MODEL, messages=ASK, stream=True, extra_headers=headers)
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        assert [request["state"] for request in await simulator.requests()] != ["answered"]
        await stream.close()

    async def test_a_break_is_continued_and_every_text_comes_once(
        self, sdk: openai.AsyncOpenAI, client: Client, simulator: SimulatorAdmin
    ):
        await simulator.fault("cut", provider="openai")
        headers = {"idempotency-key": "broken"}
        seen = await chunks(sdk, extra_headers=headers)
        text = "".join(choice.delta.content or "" for chunk in seen for choice in chunk.choices)
        whole = await sdk.chat.completions.create(model=MODEL, messages=ASK, extra_headers=headers)
        assert text == whole.choices[0].message.content
        assert (seen[-1].model_extra or {})["parley"]["attempts"] == "2"
        assert await client.audit() == []

    async def test_an_error_after_the_first_text_is_raised_by_the_sdk(
        self, sdk: openai.AsyncOpenAI, simulator: SimulatorAdmin
    ):
        await simulator.fault("cut")
        await simulator.fault("server_error", times=None)
        with pytest.raises(openai.APIError) as failed:
            await chunks(sdk)
        assert not isinstance(failed.value, openai.APIStatusError)
        assert failed.value.code == "ProviderUnavailable"

    async def test_usage_only_where_it_is_asked_for(self, sdk: openai.AsyncOpenAI):
        assert all(chunk.usage is None and chunk.choices for chunk in await chunks(sdk))

    async def test_an_error_before_the_first_text_is_a_status(self, sdk: openai.AsyncOpenAI, simulator: SimulatorAdmin):
        await simulator.fault("server_error", times=None)
        with pytest.raises(openai.InternalServerError) as failed:
            await chunks(sdk)
        assert failed.value.status_code == 503


class TestErrors:
    async def test_what_is_not_supported_is_refused_by_name(self, http: httpx.AsyncClient, simulator: SimulatorAdmin):
        for body, param in UNSUPPORTED:
            answer = await http.post(PATH, json={"model": MODEL, "messages": ASK, **body})
            error = answer.json()["error"]
            assert (answer.status_code, error["param"], error["type"]) == (400, param, "invalid_request_error"), body
        assert await simulator.requests() == []

    async def test_an_unknown_header_is_refused(self, http: httpx.AsyncClient):
        body = {"model": MODEL, "messages": ASK}
        answer = await http.post(PATH, json=body, headers={"x-parley-workspace": "other"})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x-parley-workspace")

    async def test_an_unknown_model(self, sdk: openai.AsyncOpenAI):
        with pytest.raises(openai.NotFoundError) as missing:
            await sdk.chat.completions.create(model="unknown-9000", messages=ASK)
        assert missing.value.param == "model"

    async def test_no_budget_is_refused_once(self, gateway: Running, secret: str, client: Client):
        retrying = openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=secret, max_retries=2)
        await client.set_cap(Period.DAY, Decimal(0))
        with pytest.raises(openai.APIStatusError) as refused:
            await retrying.chat.completions.create(model=MODEL, messages=ASK)
            await client.set_cap(Period.DAY, Decimal(0))
        error: Any = refused.value
        assert (error.status_code, error.code, error.type) == (402, "budget_exhausted", "insufficient_quota")
        assert error.request.headers["x-stainless-retry-count"] == "0"

    async def test_a_wrong_key(self, gateway: Running):
        sdk = openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="sk-other", max_retries=0)
        with pytest.raises(openai.AuthenticationError):
            await sdk.chat.completions.create(model=MODEL, messages=ASK)


class TestARepetition:
    @MODES
    async def test_of_a_request_that_was_cancelled_when_its_caller_left_is_made_again(
        self,
        mode: str,
        http: httpx.AsyncClient,
        client: Client,
        simulator: SimulatorAdmin,
        caplog: pytest.LogCaptureFixture,
    ):
        await simulator.gate(closed=True, provider="openai")
        headers = {"x-parley-mode": mode, "x-parley-on-disconnect": "cancel"}
        body = {"model": MODEL, "messages": ASK}
        leaving = asyncio.create_task(http.post(PATH, json=body, headers=headers))
        await simulator.requests(at_least=1, state="in_flight")
        with caplog.at_level("INFO", "parley.gateway"):
            leaving.cancel()
            await until(lambda: has_left(caplog))
        await simulator.gate(closed=False, provider="openai")
        again = await http.post(PATH, json=body, headers={**headers, "x-stainless-retry-count": "1"})
        [choice] = again.json()["choices"]
        assert choice["finish_reason"] == "stop" and choice["message"]["content"]
        assert await client.audit() == []


async def has_left(caplog: pytest.LogCaptureFixture) -> bool:
    return f"POST {PATH} 499" in caplog.text


class TestModels:
    async def test_those_of_the_policy_can_be_named(self, sdk: openai.AsyncOpenAI):
        models = [model.id async for model in sdk.models.list()]
        assert models == ["parley/auto", MODEL, "gpt-4o", "claude-haiku-4-5"]
        assert (await sdk.models.retrieve("parley/auto")).owned_by == "parley"
        for model in models:
            assert (await sdk.chat.completions.create(model=model, messages=ASK)).choices[0].message.content

    async def test_another_one_does_not_exist(self, sdk: openai.AsyncOpenAI):
        with pytest.raises(openai.NotFoundError):
            await sdk.models.retrieve("gpt-1")


class TestRepetition:
    async def test_one_key_is_one_answer(self, sdk: openai.AsyncOpenAI, simulator: SimulatorAdmin):
        headers = {"idempotency-key": "turn-1", "x-parley-cache": "off"}
        first, again = [
            await sdk.chat.completions.create(model=MODEL, messages=ASK, extra_headers=headers) for _ in range(2)
        ]
        assert first.id == again.id and first.choices == again.choices
        assert len(await simulator.billed()) == 1

    async def test_one_key_with_another_body_is_a_conflict(self, sdk: openai.AsyncOpenAI):
        headers = {"idempotency-key": "turn-1"}
        await sdk.chat.completions.create(model=MODEL, messages=ASK, extra_headers=headers)
        with pytest.raises(openai.ConflictError) as conflict:
            await sdk.chat.completions.create(model=MODEL, messages=ASK, seed=1, extra_headers=headers)
        assert conflict.value.response.headers["x-should-retry"] == "false"

    @MODES
    async def test_the_sdks_own_retry_joins_the_request_that_it_gave_up(
        self, mode: str, gateway: Running, secret: str, simulator: SimulatorAdmin
    ):
        sdk = openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=secret, max_retries=5, timeout=0.5)
        headers = {"x-parley-cache": "off", "x-parley-mode": mode}
        await simulator.gate(closed=True, provider="openai")
        asking = asyncio.create_task(sdk.chat.completions.create(model=MODEL, messages=ASK, extra_headers=headers))
        retries = gateway.server.config.app.state.gateway.retries  # pyright: ignore[reportAttributeAccessIssue, reportFunctionMemberAccess]
        await simulator.requests(at_least=1, state="in_flight")
        while not retries.joined:
            assert not asking.done()
            await asyncio.sleep(0.02)
        await simulator.gate(closed=False, provider="openai")
        assert (await asking).choices[0].message.content
        assert len(await simulator.requests()) == 1

    async def test_a_retry_that_was_answered_leaves_nothing_to_a_later_request(
        self, gateway: Running, http: httpx.AsyncClient, simulator: SimulatorAdmin, caplog: pytest.LogCaptureFixture
    ):
        """The retry came before the end of the connection that it replaces was noticed."""
        caplog.set_level("INFO", "parley.gateway")
        retries = gateway.server._gateway.retries

        def asked(retry_count: str) -> asyncio.Task[httpx.Response]:
            headers = {"x-stainless-retry-count": retry_count, "x-parley-cache": "off"}
            return asyncio.create_task(http.post(PATH, json={"model": MODEL, "messages": ASK}, headers=headers))

        async def asked_twice(joined: int) -> tuple[asyncio.Task[httpx.Response], asyncio.Task[httpx.Response]]:
            await simulator.gate(closed=True, provider="openai")
            asking = asked("0")
            await simulator.requests(at_least=joined)
            again = asked("1")
            async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
                while retries.joined < joined:
                    await asyncio.sleep(0.01)
            return asking, again

        left, retry = await asked_twice(1)
        left.cancel()
        await until(lambda: has_left(caplog))
        await simulator.gate(closed=False, provider="openai")
        earlier = (await retry).json()
        answers = await asked_twice(2)
        await simulator.gate(closed=False, provider="openai")
        one, other = [(await answer).json()["id"] for answer in answers]
        assert one == other != earlier["id"]
        assert len(await simulator.billed()) == 2

    async def test_equal_requests_that_no_sdk_repeats_are_separate(
        self, sdk: openai.AsyncOpenAI, simulator: SimulatorAdmin
    ):
        asked: dict[str, Any] = {"model": MODEL, "messages": ASK, "extra_headers": {"x-parley-cache": "off"}}
        one, other = await asyncio.gather(*(sdk.chat.completions.create(**asked) for _ in range(2)))
        assert one.id != other.id
        assert len(await simulator.billed()) == 2
