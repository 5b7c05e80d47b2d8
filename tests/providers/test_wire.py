"""The requests of the adapters, and their handling of documented and undocumented replies."""

import asyncio
import json
from typing import Any

import httpx
import httpx2
import pytest

from parley.domain.capabilities import dropped_parameters
from parley.domain.coaching import COACHING_SCHEMA
from parley.domain.errors import (
    AuthenticationFailed,
    BadRequest,
    Billed,
    ContextTooLong,
    MalformedReply,
    ProviderError,
    ProviderUnavailable,
    QuotaExceeded,
    RateLimited,
    TruncatedReply,
)
from parley.domain.requests import ChatReply, Finish, Provider, TranscriptionReply, Usage
from tests.providers.vendors import (
    ALL,
    AUDIO,
    CHAT,
    KEY,
    MODEL,
    ReceivedRequest,
    answering,
    anthropic_body,
    chat,
    elevenlabs_body,
    good_body,
    openai_body,
    providers,
    question,
    real,
    word,
)

OPENAI, LOCAL, ANTHROPIC, ELEVENLABS = Provider.OPENAI, Provider.LOCAL, Provider.ANTHROPIC, Provider.ELEVENLABS
each_vendor = pytest.mark.parametrize("provider", ALL)


async def ask(provider: Provider, body: object, *, status: int = 200, request: Any = None, **headers: str) -> Any:
    """How the adapter reads one answer."""
    async with answering(body, status, **headers) as stub, providers(real(stub.url)) as opened:
        return await opened.adapter(provider).call(request or question(provider), MODEL, "attempt-1")


async def failure(provider: Provider, body: object, **answer: Any) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await ask(provider, body, **answer)
    return caught.value


async def sent(provider: Provider, request: Any = None, model: str = MODEL) -> ReceivedRequest:
    async with answering(good_body(provider)) as stub, providers(real(stub.url)) as opened:
        await opened.adapter(provider).call(request or question(provider), model, "attempt-1")
    [received] = stub.requests
    return received


# Requests


@pytest.mark.parametrize(
    ("provider", "limit"),
    [(OPENAI, "max_completion_tokens"), (LOCAL, "max_tokens"), (ANTHROPIC, "max_tokens")],
)
async def test_the_token_limit_has_the_vendors_name(provider: Provider, limit: str):
    body = (await sent(provider)).json
    assert {name: value for name, value in body.items() if name.startswith("max")} == {limit: 200}


@pytest.mark.parametrize(
    ("provider", "model", "temperature"),
    [(OPENAI, "gpt-4o-mini", 0.1), (OPENAI, "o3-mini", None), (LOCAL, "llama", 0.1), (ANTHROPIC, "claude", None)],
)
async def test_a_temperature_is_sent_only_where_it_is_accepted(
    provider: Provider, model: str, temperature: float | None
):
    body = (await sent(provider, model=model)).json
    assert (body["model"], body.get("temperature")) == (model, temperature)
    text = dropped_parameters(provider, model, chat())
    assert text == (() if temperature else ("temperature",))
    assert dropped_parameters(provider, model, chat(temperature=None)) == ()


@pytest.mark.parametrize(
    ("provider", "model", "takes"),
    [
        (OPENAI, "gpt-4o-mini", True),
        (OPENAI, "gpt-4.1-mini", True),
        (OPENAI, "gpt-3.5-turbo", False),
        (OPENAI, "ft:gpt-3.5-turbo-0125:acme::7", False),
        (OPENAI, "gpt-4", False),
        (OPENAI, "gpt-4-turbo", False),
        (LOCAL, "gpt-3.5-like", True),
        (ANTHROPIC, "claude-haiku-4-5", True),
        (ANTHROPIC, "claude-sonnet-4-6", True),
        (ANTHROPIC, "claude-3-5-sonnet-20241022", False),
    ],
)
async def test_a_schema_that_a_model_does_not_accept_is_a_system_message(provider: Provider, model: str, takes: bool):
    request = chat(response_schema=COACHING_SCHEMA, temperature=None)
    body = (await sent(provider, request, model)).json
    system = [one["content"] for one in body["messages"] if one["role"] == "system"] or [body.get("system", "")]
    assert dropped_parameters(provider, model, request) == (() if takes else ("response_schema",))
    assert bool({"response_format", "output_config"} & body.keys()) is takes
    assert system[0].startswith("Be brief.")
    assert ("Answer with JSON alone" in system[-1]) is not takes
    assert takes or system[-1].endswith(json.dumps(COACHING_SCHEMA))


@pytest.mark.parametrize("model", ["claude-sonnet-4-20250514", "claude-opus-4-0", "claude-3-haiku-20240307"])
async def test_newer_claude_models_accept_schemas(model: str):
    request = chat(response_schema=COACHING_SCHEMA, temperature=None)
    assert dropped_parameters(ANTHROPIC, model, request) == ("response_schema",)


async def test_a_recording_has_nothing_to_drop():
    assert dropped_parameters(ELEVENLABS, MODEL, question(ELEVENLABS)) == ()


async def test_anthropic_gets_the_system_prompt_separately_from_the_messages():
    body = (await sent(ANTHROPIC)).json
    assert body["system"] == "Be brief."
    assert body["messages"] == [{"role": "user", "content": "What is a lift?"}]


@pytest.mark.parametrize("provider", [OPENAI, LOCAL])
async def test_other_vendors_get_the_system_prompt_as_the_first_message(provider: Provider):
    body = (await sent(provider)).json
    assert [message["role"] for message in body["messages"]] == ["system", "user"]


async def test_a_schema_is_sent_in_each_vendors_parameter():
    request = chat(response_schema=COACHING_SCHEMA, schema_name="coaching")
    strict = {"name": "coaching", "schema": COACHING_SCHEMA, "strict": True}
    assert (await sent(OPENAI, request)).json["response_format"] == {"type": "json_schema", "json_schema": strict}
    wanted = {"format": {"type": "json_schema", "schema": COACHING_SCHEMA}}
    assert (await sent(ANTHROPIC, request)).json["output_config"] == wanted
    assert not {"response_format", "output_config"} & (await sent(OPENAI)).json.keys()


async def test_a_recording_is_sent_whole_under_a_fixed_name():
    received = await sent(ELEVENLABS)
    assert AUDIO in received.body
    assert b'filename="recording"' in received.body
    for name, value in (("model_id", MODEL), ("diarize", "true"), ("timestamps_granularity", "word")):
        assert f'name="{name}"\r\n\r\n{value}\r\n'.encode() in received.body


@each_vendor
async def test_every_call_has_its_attempt_id_and_its_key(provider: Provider):
    headers = (await sent(provider)).headers
    assert headers["x-parley-attempt-id"] == "attempt-1"
    assert headers["xi-api-key" if provider is ELEVENLABS else "authorization"].removeprefix("Bearer ") == KEY


@pytest.mark.parametrize(("provider", "other"), [*((llm, ELEVENLABS) for llm in CHAT), (ELEVENLABS, OPENAI)])
async def test_a_request_that_the_vendor_cannot_serve_is_not_sent(provider: Provider, other: Provider):
    async with answering(good_body(provider)) as stub, providers(real(stub.url)) as opened:
        with pytest.raises(BadRequest, match="cannot serve"):
            await opened.adapter(provider).call(question(other), MODEL, "attempt-1")
    assert stub.requests == []


# Valid replies


async def test_openai_counts_cached_tokens_as_prompt_tokens():
    usage = {"prompt_tokens": 2006, "completion_tokens": 300, "prompt_tokens_details": {"cached_tokens": 1920}}
    reply: ChatReply = await ask(OPENAI, openai_body(usage=usage))
    assert reply.usage == Usage(input_tokens=2006, cached_input_tokens=1920, output_tokens=300)


async def test_anthropic_counts_cached_tokens_separately_from_input_tokens():
    body = anthropic_body(input_tokens=50, cache_read_input_tokens=1920, cache_creation_input_tokens=248)
    reply: ChatReply = await ask(ANTHROPIC, body)
    assert reply.usage == Usage(input_tokens=2218, cached_input_tokens=1920, cache_write_tokens=248, output_tokens=5)


async def test_a_compatible_server_may_omit_optional_fields():
    body = openai_body()
    del body["id"], body["created"], body["object"]
    reply: ChatReply = await ask(LOCAL, body)
    assert (reply.text, reply.provider_request_id) == ("A lift.", "")


async def test_text_blocks_are_joined_and_other_blocks_ignored():
    blocks = [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "text", "text": "A "},
        {"type": "text", "text": "lift."},
    ]
    assert (await ask(ANTHROPIC, anthropic_body(content=blocks))).text == "A lift."


@pytest.mark.parametrize(
    ("provider", "body"),
    [
        (OPENAI, openai_body("content_filter", content=None)),
        (OPENAI, openai_body("stop", content=None, refusal="I cannot help with that.")),
        (ANTHROPIC, anthropic_body("refusal")),
        (ANTHROPIC, anthropic_body("refusal", content=[])),
    ],
    ids=["filter", "refusal", "anthropic", "anthropic-empty"],
)
async def test_a_refusal_is_a_reply(provider: Provider, body: object):
    reply: ChatReply = await ask(provider, body)
    assert (reply.finish, reply.usage.input_tokens) == (Finish.REFUSED, 30)


@pytest.mark.parametrize(
    ("provider", "body", "finish"),
    [
        (OPENAI, openai_body("length"), Finish.LENGTH),
        (ANTHROPIC, anthropic_body("max_tokens"), Finish.LENGTH),
        (ANTHROPIC, anthropic_body("model_context_window_exceeded"), Finish.LENGTH),
        (ANTHROPIC, anthropic_body("stop_sequence"), Finish.STOP),
        (ANTHROPIC, anthropic_body("end_turn", content=[]), Finish.STOP),
    ],
)
async def test_each_finish_reason_is_mapped(provider: Provider, body: object, finish: Finish):
    assert (await ask(provider, body)).finish is finish


@pytest.mark.parametrize("provider", CHAT)
@pytest.mark.parametrize("reason", [None, "", "tool_calls", "pause_turn", "from_the_future", 7])
async def test_an_unknown_finish_is_a_truncated_reply_with_its_usage(provider: Provider, reason: object):
    error = await failure(provider, anthropic_body(reason) if provider is ANTHROPIC else openai_body(reason))
    assert (type(error), error.billed) == (TruncatedReply, Billed.YES)
    assert error.usage == Usage(input_tokens=30, output_tokens=5)


async def test_words_include_audio_events_and_no_spacing():
    body = elevenlabs_body(
        word("Hi", logprob=-0.25),
        word(" ", type="spacing"),
        word("(laughs)", type="audio_event", speaker_id=None),
        word("odd", start=2.0, end=1.0, logprob=5.0),
        word("late", start=3.0, end=None),
        word("lost", start=None, end=None),
    )
    reply: TranscriptionReply = await ask(ELEVENLABS, body)
    assert [(word.text, word.start, word.end, word.kind) for word in reply.words] == [
        ("Hi", 1.0, 1.5, "word"),
        ("(laughs)", 1.0, 1.5, "audio_event"),
        ("odd", 2.0, 2.0, "word"),
        ("late", 3.0, 3.0, "word"),
    ]
    assert [word.speaker for word in reply.words] == ["speaker_0", "", "speaker_0", "speaker_0"]
    assert [round(word.confidence, 3) for word in reply.words] == [0.779, 1.0, 1.0, 1.0]
    assert (reply.usage.audio_seconds, reply.language, reply.provider_request_id) == (54.4, "eng", "t-1")
    assert reply.model == MODEL


async def test_a_transcription_without_a_length_has_that_of_the_recording():
    reply: TranscriptionReply = await ask(ELEVENLABS, elevenlabs_body(word(), audio_duration_secs=None))
    assert reply.usage.audio_seconds == 54.21


@pytest.mark.parametrize(
    ("provider", "body"),
    [
        (OPENAI, openai_body(content="a\0b\ud83d")),
        (ANTHROPIC, anthropic_body(content=[{"type": "text", "text": "a\0b\ud83d"}])),
    ],
)
async def test_unstorable_characters_in_a_paid_reply_are_replaced(provider: Provider, body: object):
    assert (await ask(provider, body)).text == "a\ufffdb\ufffd"


# Malformed replies

NO_REPLIES: list[object] = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b'"text"',
    b"7",
    b"{",
    b"\xff\xfe\x00",
    b"[" * 100_000,
    b"<html>200</html>",
    {"error": {"message": "odd"}},
]


@each_vendor
@pytest.mark.parametrize("body", NO_REPLIES, ids=lambda body: ascii(body)[:20])
async def test_a_body_that_is_not_a_reply_is_malformed(provider: Provider, body: object):
    error = await failure(provider, body)
    assert (type(error), error.billed) == (MalformedReply, Billed.UNKNOWN)
    assert len(str(error)) < 400


def damaged(body: dict[str, Any], **changes: object) -> dict[str, Any]:
    return body | changes


@pytest.mark.parametrize(
    ("provider", "body"),
    [
        (OPENAI, damaged(openai_body(), choices=None, usage=None)),
        (OPENAI, damaged(openai_body(), choices=[None])),
        (OPENAI, damaged(openai_body(), choices="none")),
        (OPENAI, damaged(openai_body(), choices=[{"finish_reason": "stop"}])),
        (OPENAI, damaged(openai_body(), usage="many")),
        (OPENAI, damaged(openai_body(), usage=None)),
        (OPENAI, openai_body(usage={"prompt_tokens": -5, "completion_tokens": 1})),
        (OPENAI, openai_body(usage={"prompt_tokens": "many", "completion_tokens": 1})),
        (OPENAI, openai_body(usage={"total_tokens": 5})),
        (OPENAI, openai_body(content=["a", 1])),
        (OPENAI, openai_body(["stop"])),
        (ANTHROPIC, damaged(anthropic_body(), usage=None)),
        (ANTHROPIC, damaged(anthropic_body(), usage={})),
        (ANTHROPIC, anthropic_body(input_tokens=-1)),
        (ANTHROPIC, damaged(anthropic_body(), content=None)),
        (ANTHROPIC, anthropic_body(content=[None])),
        (ANTHROPIC, anthropic_body(content=[{"type": "text"}])),
        (ANTHROPIC, anthropic_body({"odd": 1})),
        (ELEVENLABS, damaged(elevenlabs_body(), words=None)),
        (ELEVENLABS, damaged(elevenlabs_body(), words=[None])),
        (ELEVENLABS, elevenlabs_body({"type": "word", "start": 0})),
        (ELEVENLABS, elevenlabs_body(word(logprob=None))),
        (ELEVENLABS, elevenlabs_body(word(logprob=float("nan")))),
        (ELEVENLABS, elevenlabs_body(word(start="soon"))),
        (ELEVENLABS, elevenlabs_body(word(end=float("inf")))),
        (ELEVENLABS, elevenlabs_body(audio_duration_secs=-1)),
        (ELEVENLABS, elevenlabs_body(audio_duration_secs=float("inf"))),
    ],
    ids=lambda value: value.value if isinstance(value, Provider) else "",
)
async def test_a_reply_with_wrong_types_is_malformed(provider: Provider, body: object):
    error = await failure(provider, body)
    assert (type(error), error.retryable) == (MalformedReply, True)


async def test_a_malformed_reply_has_its_usage():
    error = await failure(OPENAI, damaged(openai_body(), choices=[]))
    assert (error.billed, error.usage) == (Billed.YES, Usage(input_tokens=30, output_tokens=5))


@each_vendor
async def test_a_body_that_cannot_be_decompressed_may_have_been_billed(provider: Provider):
    error = await failure(provider, b"not gzip at all", content_encoding="gzip")
    assert (type(error), error.billed) == (ProviderUnavailable, Billed.UNKNOWN)


# Errors by status and by message

STATUSES = [
    (400, BadRequest, Billed.NO),
    (401, AuthenticationFailed, Billed.NO),
    (403, AuthenticationFailed, Billed.NO),
    (404, BadRequest, Billed.NO),
    (408, ProviderUnavailable, Billed.UNKNOWN),
    (409, ProviderUnavailable, Billed.NO),
    (413, BadRequest, Billed.NO),
    (422, BadRequest, Billed.NO),
    (429, RateLimited, Billed.NO),
    (500, ProviderUnavailable, Billed.NO),
    (502, ProviderUnavailable, Billed.UNKNOWN),
    (503, ProviderUnavailable, Billed.NO),
    (504, ProviderUnavailable, Billed.UNKNOWN),
    (529, ProviderUnavailable, Billed.NO),
]


@each_vendor
@pytest.mark.parametrize(("status", "kind", "billed"), STATUSES)
async def test_a_status_without_a_message_decides_the_error(
    provider: Provider, status: int, kind: type[ProviderError], billed: Billed
):
    error = await failure(provider, b"", status=status)
    assert (type(error), error.billed, error.retry_after) == (kind, billed, None)


@each_vendor
@pytest.mark.parametrize(
    "body",
    [
        b"null",
        b"[]",
        b'"words"',
        b"<html>500</html>",
        {"error": None},
        {"error": "words"},
        {"error": {"message": None, "type": 7}},
        {"detail": [{"loc": ["body"], "msg": "no"}]},
        {"detail": None},
        {"detail": {"status": 5, "message": ["a"]}},
    ],
    ids=ascii,
)
async def test_an_error_body_of_any_shape_is_mapped_by_its_status(provider: Provider, body: object):
    assert type(await failure(provider, body, status=500)) is ProviderUnavailable


def anthropic_error(message: str, kind: str = "invalid_request_error") -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}}


@pytest.mark.parametrize(
    ("provider", "status", "body", "kind"),
    [
        (OPENAI, 429, {"error": {"code": "insufficient_quota", "message": "no credit"}}, QuotaExceeded),
        (OPENAI, 400, {"error": {"code": "context_length_exceeded", "message": "long"}}, ContextTooLong),
        (LOCAL, 400, {"message": "This model's maximum context length is 4096 tokens.", "code": 400}, ContextTooLong),
        (LOCAL, 400, {"error": {"message": "the request exceeds the available context size."}}, ContextTooLong),
        (ANTHROPIC, 400, anthropic_error("prompt is too long: 210000 tokens > 200000 maximum"), ContextTooLong),
        (ANTHROPIC, 400, anthropic_error("input length and `max_tokens` exceed context limit: 2 > 1"), ContextTooLong),
        (ANTHROPIC, 400, anthropic_error("Your credit balance is too low to access the API."), QuotaExceeded),
        (ANTHROPIC, 402, anthropic_error("pay", "billing_error"), QuotaExceeded),
        (ANTHROPIC, 529, anthropic_error("Overloaded", "overloaded_error"), ProviderUnavailable),
        (ELEVENLABS, 401, {"detail": {"status": "quota_exceeded", "message": "0 credits left"}}, QuotaExceeded),
        (ELEVENLABS, 401, {"detail": {"status": "invalid_api_key", "message": "no"}}, AuthenticationFailed),
        (ELEVENLABS, 429, {"detail": {"status": "too_many_concurrent_requests", "message": "wait"}}, RateLimited),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else str(value)[:10],
)
async def test_the_vendors_message_precedes_the_status(
    provider: Provider, status: int, body: object, kind: type[ProviderError]
):
    error = await failure(provider, body, status=status)
    assert (type(error), error.billed) == (kind, Billed.NO)


@each_vendor
async def test_an_error_body_that_is_not_text_is_a_provider_error(provider: Provider):
    """ElevenLabs' SDK loses the status of such a response."""
    assert (await failure(provider, b"\xff", status=500)).retryable


@each_vendor
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "7"}, 7.0),
        ({"retry_after": "0.5"}, 0.5),
        ({"retry_after_ms": "1500", "retry_after": "9"}, 1.5),
        ({"retry_after_ms": "soon", "retry_after": "9"}, 9.0),
        ({"retry_after": "-3"}, 0.0),
        ({"retry_after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"retry_after": "nan"}, None),
        ({"retry_after": "inf"}, 86_400.0),
        ({"retry_after": "1e300"}, 86_400.0),
        ({}, None),
    ],
    ids=str,
)
async def test_retry_after_is_bounded(provider: Provider, headers: dict[str, str], seconds: float | None):
    for status in (429, 503):
        assert (await failure(provider, b"{}", status=status, **headers)).retry_after == seconds


@each_vendor
async def test_a_key_that_the_server_quotes_is_redacted(provider: Provider):
    words = f"Incorrect API key provided: {KEY}. Find yours on the site."
    body = {"error": {"message": words}, "detail": {"status": "invalid_api_key", "message": words}}
    error = await failure(provider, body, status=401)
    assert "Incorrect API key provided: [key]." in str(error)
    assert KEY not in f"{error!r} {error.args} {error.detail}"


@each_vendor
async def test_an_error_message_is_cut_and_made_storable(provider: Provider):
    words = "odd\0\ud800 " + "very " * 5000 + "long"
    error = await failure(provider, {"error": {"message": words}, "detail": words}, status=400)
    assert len(error.detail) <= 300
    json.dumps(error.detail, ensure_ascii=False).encode()
    assert "\0" not in error.detail


# The connection


@each_vendor
async def test_a_connection_that_ends_before_the_reply_may_have_been_billed(provider: Provider):
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, providers(real(url)) as opened:
        with pytest.raises(ProviderUnavailable) as caught:
            await opened.adapter(provider).call(question(provider), MODEL, "attempt-1")
    assert caught.value.billed is Billed.UNKNOWN


@each_vendor
@pytest.mark.parametrize(
    ("failure_name", "billed", "detail"),
    [
        ("ConnectError", Billed.NO, "connection: gone"),
        ("ConnectTimeout", Billed.NO, "no answer within the timeout"),
        ("PoolTimeout", Billed.NO, "no answer within the timeout"),
        ("ReadTimeout", Billed.UNKNOWN, "no answer within the timeout"),
        ("WriteTimeout", Billed.UNKNOWN, "no answer within the timeout"),
        ("RemoteProtocolError", Billed.UNKNOWN, "connection: gone"),
        ("ReadError", Billed.UNKNOWN, "connection: gone"),
    ],
)
async def test_only_a_request_that_was_never_sent_is_certainly_not_billed(
    provider: Provider, failure_name: str, billed: Billed, detail: str, monkeypatch: pytest.MonkeyPatch
):
    http = httpx if provider is ELEVENLABS else httpx2

    async def fail(*_: object) -> None:
        raise getattr(http, failure_name)("gone")

    monkeypatch.setattr(http.AsyncHTTPTransport, "handle_async_request", fail)
    async with providers(real("http://127.0.0.1:1")) as opened:
        with pytest.raises(ProviderUnavailable) as caught:
            await opened.adapter(provider).call(question(provider), MODEL, "attempt-1")
    assert (caught.value.billed, caught.value.detail) == (billed, detail)
