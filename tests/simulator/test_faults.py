"""Every fault as the vendors' SDKs report it, and whether the request is billed."""

import asyncio
import json
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest
from elevenlabs.core.api_error import ApiError

from tests.simulator.material import LABELS_PROMPT, LABELS_SCHEMA, wav

MESSAGES: Any = [{"role": "user", "content": LABELS_PROMPT}]
SOUND = wav((0.4, 0.3))
QUESTION: Any = {
    "model": "m",
    "messages": MESSAGES,
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "labels", "schema": LABELS_SCHEMA, "strict": True},
    },
}
MESSAGE: Any = {
    "model": "m",
    "max_tokens": 500,
    "messages": MESSAGES,
    "output_config": {"format": {"type": "json_schema", "schema": LABELS_SCHEMA}},
}
Headers = dict[str, str]


class Ask:
    """Sends a request to a vendor, whole or streamed (`way`). Returns the text and the finish reason."""

    def __init__(self, openai_client, local_client, anthropic_client, elevenlabs_client) -> None:
        self._openai, self._local = openai_client, local_client
        self._anthropic, self._elevenlabs = anthropic_client, elevenlabs_client

    async def __call__(self, way: str, fault: str = "", seconds: float = 10) -> tuple[str, str | None]:
        headers = {"X-Simulator-Fault": fault} if fault else {}
        return await getattr(self, f"_ask_{way}")(headers, seconds)

    async def _ask_openai(self, headers: Headers, seconds: float, client: openai.AsyncOpenAI | None = None):
        completion = await (client or self._openai).chat.completions.create(
            **QUESTION, extra_headers=headers, timeout=seconds
        )
        return completion.choices[0].message.content, completion.choices[0].finish_reason

    async def _ask_local(self, headers: Headers, seconds: float):
        return await self._ask_openai(headers, seconds, self._local)

    async def _ask_openai_stream(self, headers: Headers, seconds: float):
        text, finish = "", None
        async for chunk in await self._openai.chat.completions.create(
            **QUESTION, extra_headers=headers, timeout=seconds, stream=True
        ):
            text += chunk.choices[0].delta.content or ""
            finish = chunk.choices[0].finish_reason
        return text, finish

    async def _ask_anthropic(self, headers: Headers, seconds: float):
        message = await self._anthropic.messages.create(**MESSAGE, extra_headers=headers, timeout=seconds)
        return message.content[0].text, message.stop_reason

    async def _ask_anthropic_stream(self, headers: Headers, seconds: float):
        text, finish = "", None
        async for event in await self._anthropic.messages.create(
            **MESSAGE, extra_headers=headers, timeout=seconds, stream=True
        ):
            if event.type == "content_block_delta":
                text += event.delta.text
            if event.type == "message_delta":
                finish = event.delta.stop_reason
        return text, finish

    async def _ask_elevenlabs(self, headers: Headers, seconds: float):
        options: Any = {
            "max_retries": 0,
            "additional_headers": headers,
            "timeout_in_seconds": seconds,
        }
        reply = await self._elevenlabs.speech_to_text.convert(
            model_id="scribe_v1", file=("recording", SOUND), request_options=options
        )
        return reply.text, None


@pytest.fixture
def ask(openai_client, local_client, anthropic_client, elevenlabs_client) -> Ask:
    return Ask(openai_client, local_client, anthropic_client, elevenlabs_client)


CHATS = ("openai", "openai_stream", "local", "anthropic", "anthropic_stream")
STREAMS = ("openai_stream", "anthropic_stream")
WAYS = (*CHATS, "elevenlabs")

# fault: error class and status of openai, of anthropic, status of elevenlabs
REFUSALS = {
    "rate_limit": (openai.RateLimitError, 429, anthropic.RateLimitError, 429, 429),
    "quota": (openai.RateLimitError, 429, anthropic.BadRequestError, 400, 401),
    "server_error": (openai.InternalServerError, 500, anthropic.InternalServerError, 500, 500),
    "overloaded": (openai.InternalServerError, 503, anthropic.OverloadedError, 529, 503),
    "html": (openai.InternalServerError, 502, anthropic.InternalServerError, 502, 502),
    "auth": (openai.AuthenticationError, 401, anthropic.AuthenticationError, 401, 401),
    "bad_request": (openai.BadRequestError, 400, anthropic.BadRequestError, 400, 400),
    "context_too_long": (openai.BadRequestError, 400, anthropic.BadRequestError, 400, None),
    "too_large_for_minute": (openai.RateLimitError, 429, anthropic.RateLimitError, 429, None),
    "spend_limit": (openai.BadRequestError, 400, anthropic.BadRequestError, 400, None),
    "billing_inactive": (openai.RateLimitError, 429, anthropic.PaymentRequiredError, 402, None),
    "content_filter": (openai.BadRequestError, 400, anthropic.BadRequestError, 400, None),
    "gateway_timeout": (openai.InternalServerError, 524, anthropic.InternalServerError, 524, 524),
}


@pytest.mark.parametrize(
    ("way", "fault"),
    [(way, fault) for way in WAYS for fault in REFUSALS if way != "elevenlabs" or REFUSALS[fault][-1]],
)
async def test_refusals_are_the_vendors_errors_and_are_not_billed(ask, admin, fault, way):
    openai_error, openai_status, anthropic_error, anthropic_status, elevenlabs_status = REFUSALS[fault]
    expected: tuple[type[Exception], int | None] = (openai_error, openai_status)
    if way.startswith("anthropic"):
        expected = (anthropic_error, anthropic_status)
    if way == "elevenlabs":
        expected = (ApiError, elevenlabs_status)
    with pytest.raises(expected[0]) as refused:
        await ask(way, fault)
    assert type(refused.value) is expected[0]
    assert refused.value.status_code == expected[1]  # pyright: ignore[reportAttributeAccessIssue]
    request = await admin.only_request()
    assert (request["state"], request["billed"], request["fault"]) == ("refused", False, fault)
    assert request["status"] == expected[1]


async def test_refusals_differ_in_their_bodies(ask):
    with pytest.raises(openai.RateLimitError) as quota:
        await ask("openai", "quota")
    assert quota.value.code == "insufficient_quota"
    with pytest.raises(openai.RateLimitError) as limited:
        await ask("openai", "rate_limit;retry_after=3")
    assert limited.value.code == "rate_limit_exceeded"
    assert limited.value.response.headers["retry-after"] == "3"
    with pytest.raises(anthropic.RateLimitError) as default:
        await ask("anthropic", "rate_limit")
    assert default.value.response.headers["retry-after"] == "1"
    with pytest.raises(openai.BadRequestError) as long:
        await ask("openai", "context_too_long")
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(anthropic.BadRequestError, match="credit balance is too low"):
        await ask("anthropic", "quota")
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long"):
        await ask("anthropic", "context_too_long")
    with pytest.raises(anthropic.InternalServerError) as page:
        await ask("anthropic", "html")
    assert page.value.response.headers["content-type"].startswith("text/html")
    with pytest.raises(ApiError) as speech:
        await ask("elevenlabs", "quota")
    assert speech.value.body["detail"]["status"] == "quota_exceeded"


HANGS = {
    "openai": openai.APITimeoutError,
    "openai_stream": openai.APITimeoutError,
    "local": openai.APITimeoutError,
    "anthropic": anthropic.APITimeoutError,
    "anthropic_stream": anthropic.APITimeoutError,
    "elevenlabs": httpx.ReadTimeout,
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_hanging_reply_is_billed(ask, admin, way):
    with pytest.raises(HANGS[way]):
        await ask(way, "hang", seconds=0.15)
    request = await admin.only_request(state="gone")
    assert request["billed"] is True
    assert request["output_tokens"] + request["audio_seconds"] > 0


async def test_a_hang_with_a_hold_ends_with_a_closed_connection(ask):
    with pytest.raises(openai.APIConnectionError) as dropped:
        await ask("openai", "hang;hold=0.05")
    assert not isinstance(dropped.value, openai.APITimeoutError)


CUTS = {
    "openai": openai.APIConnectionError,
    "openai_stream": openai.APIConnectionError,
    "local": openai.APIConnectionError,
    "anthropic": anthropic.APIConnectionError,
    "anthropic_stream": httpx2.RemoteProtocolError,
    "elevenlabs": httpx.RemoteProtocolError,
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_cut_reply_is_billed(ask, admin, way):
    with pytest.raises(CUTS[way]):
        await ask(way, "cut")
    request = await admin.only_request()
    assert (request["state"], request["billed"]) == ("cut", True)


async def test_a_cut_stream_delivers_its_first_half(openai_client):
    whole = (await openai_client.chat.completions.create(model="m", messages=MESSAGES)).choices[0]
    text = ""
    with pytest.raises(openai.APIConnectionError):
        async for chunk in await openai_client.chat.completions.create(
            model="m", messages=MESSAGES, stream=True, extra_headers={"X-Simulator-Fault": "cut"}
        ):
            text += chunk.choices[0].delta.content or ""
    assert 0 < len(text) < len(whole.message.content)
    assert whole.message.content.startswith(text)


@pytest.mark.parametrize("way", CHATS)
async def test_no_finish_is_a_whole_reply_without_a_finish_reason(ask, way):
    whole, _ = await ask(way)
    assert await ask(way, "no_finish") == (whole, None)


@pytest.mark.parametrize("way", CHATS)
async def test_an_aborted_reply_says_that_it_is_not_whole(ask, admin, way):
    whole, _ = await ask(way)
    text, finish = await ask(way, "aborted")
    assert finish in ("error", "pause_turn")
    assert whole.startswith(text)
    assert 0 < len(text) < len(whole)
    assert len(await admin.get("requests", billed="true", state="answered")) == 2


@pytest.mark.parametrize("way", CHATS)
async def test_malformed_text_has_a_normal_finish_reason(ask, way):
    text, finish = await ask(way, "malformed")
    assert finish in ("stop", "end_turn")
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)


@pytest.mark.parametrize("way", CHATS)
async def test_truncated_text_has_the_finish_reason_length(ask, admin, way):
    text, finish = await ask(way, "truncated")
    assert finish in ("length", "max_tokens")
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)
    assert (await admin.only_request())["billed"] is True


@pytest.mark.parametrize("way", WAYS)
async def test_a_body_that_is_not_json_is_billed(ask, admin, way):
    with pytest.raises(ApiError if way == "elevenlabs" else json.JSONDecodeError) as raised:
        await ask(way, "not_json")
    assert getattr(raised.value, "status_code", 200) == 200
    assert (await admin.only_request())["billed"] is True


@pytest.mark.parametrize("way", CHATS)
async def test_items_are_missing_or_invented(ask, way):
    def ids(text: str) -> list[str]:
        return [item["session_id"] for item in json.loads(text)["sessions"]]

    whole, missing, invented = [ids((await ask(way, fault))[0]) for fault in ("", "missing_items", "invented_items")]
    assert whole == ["s-1", "s-2", "s-3"]
    assert missing == ["s-1", "s-2"]
    assert invented[:3] == whole
    assert len(invented) == 4
    assert invented[3] not in LABELS_PROMPT


async def test_an_error_inside_a_stream_is_billed(ask, admin):
    with pytest.raises(anthropic.APIStatusError) as overloaded:
        await ask("anthropic_stream", "in_stream_error")
    assert (overloaded.value.status_code, overloaded.value.type) == (200, "overloaded_error")
    with pytest.raises(openai.APIError) as failed:
        await ask("openai_stream", "in_stream_error")
    assert failed.value.type == "server_error"
    assert not isinstance(failed.value, openai.APIStatusError)
    assert {request["billed"] for request in await admin.get("requests")} == {True}


@pytest.mark.parametrize(
    ("way", "fault", "complaint"),
    [
        ("openai", "in_stream_error", "needs a request with stream"),
        ("openai", "surprise", "unknown fault 'surprise'"),
        ("openai", "hang;hold=long", "could not convert"),
        ("openai", "hang;pause=1", "pause"),
        ("elevenlabs", "malformed", "needs a request with chat"),
    ],
)
async def test_a_fault_that_the_request_cannot_show_is_refused(ask, admin, way, fault, complaint):
    with pytest.raises((openai.BadRequestError, ApiError)) as refused:
        await ask(way, fault)
    assert complaint in str(refused.value)
    assert (await admin.only_request())["billed"] is False


async def test_planned_faults_apply_in_order(ask, admin):
    await admin.post("faults", fault="server_error", provider="openai", times=2, after=1)
    await admin.post("faults", fault="rate_limit", retry_after=7)
    plan = await admin.get("faults")
    assert [(rule["fault"], rule["times"], rule["after"]) for rule in plan] == [
        ("server_error", 2, 1),
        ("rate_limit", 1, 0),
    ]
    # The first rule skips one request, which the second rule takes.
    with pytest.raises(openai.RateLimitError) as limited:
        await ask("openai")
    assert limited.value.response.headers["retry-after"] == "7"
    await ask("anthropic")
    for _ in range(2):
        with pytest.raises(openai.InternalServerError):
            await ask("openai")
    await ask("openai")
    assert await admin.get("faults") == []


async def test_concurrent_requests_never_take_one_fault_twice(ask, admin):
    await admin.post("faults", fault="server_error", provider="openai", times=5)
    results = await asyncio.gather(*(ask("openai") for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(result, openai.InternalServerError) for result in results) == 5
    assert sum(isinstance(result, tuple) for result in results) == 15


async def test_an_outage_lasts_until_reset(ask, admin):
    await admin.post("faults", fault="overloaded", times=None)
    for way in ("openai", "anthropic", "elevenlabs"):
        with pytest.raises((openai.InternalServerError, anthropic.OverloadedError, ApiError)):
            await ask(way)
    assert [rule["times"] for rule in await admin.get("faults")] == [None]
    await admin.post("reset")
    assert await ask("openai")


async def test_a_planned_fault_waits_for_a_request_that_can_show_it(ask, admin):
    await admin.post("faults", fault="missing_items")
    await ask("elevenlabs")
    assert len(await admin.get("faults")) == 1
    text, _ = await ask("openai")
    assert len(json.loads(text)["sessions"]) == 2
    assert await admin.get("faults") == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"fault": "surprise"},
        {"fault": "hang", "provider": "acme"},
        {"fault": "hang", "times": 0},
        {"fault": "hang", "after": -1},
        {"fault": "hang", "tmies": 3},
    ],
)
async def test_an_invalid_rule_is_refused(admin, body):
    answer = await admin.http.post("/admin/faults", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert await admin.get("faults") == []
