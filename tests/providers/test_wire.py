"""The requests of the adapters, and their handling of documented and undocumented replies."""

import asyncio
import json
import re
from typing import Any

import httpx
import httpx2
import pytest

from parley.domain.capabilities import dropped_parameters
from parley.domain.errors import (
    AuthenticationFailed,
    BadRequest,
    Billed,
    ContentFiltered,
    ContextTooLong,
    EmptyReply,
    MalformedReply,
    ProviderError,
    ProviderUnavailable,
    QuotaExceeded,
    RateLimited,
    TruncatedReply,
)
from parley.domain.requests import (
    ChatReply,
    ChatRequest,
    Finish,
    Message,
    Provider,
    TextPart,
    TranscriptionReply,
    Usage,
)
from tests.providers.vendors import (
    ALL,
    AUDIO,
    CHAT,
    COACHING_SCHEMA,
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
from tests.sounds import encode, tone

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


TURNS = (
    Message(role="system", content=" "),
    Message(role="user", content="Is the lift running?"),
    Message(role="assistant", content=""),
    Message(role="user", content="Hello?"),
    Message(role="user", content=" \n"),
    Message(role="assistant", content="It is. "),
)


async def test_blank_turns_are_left_out_and_their_neighbours_joined_where_the_vendor_refuses_them():
    body = (await sent(ANTHROPIC, chat(messages=TURNS))).json
    assert [(turn["role"], turn["content"]) for turn in body["messages"]] == [
        ("user", "Is the lift running?\n\nHello?"),
        ("assistant", "It is."),
    ]
    assert "system" not in body


async def test_a_vendor_that_takes_blank_turns_gets_them():
    body = (await sent(OPENAI, chat(messages=TURNS))).json
    assert [turn["content"] for turn in body["messages"]] == [turn.content for turn in TURNS]


def beginning_like_others(shared: str) -> ChatRequest:
    message = Message(role="user", content=(TextPart(text=shared), TextPart(text="What now?")))
    return chat(messages=(message,), begins_like_others=True)


async def test_what_other_requests_begin_with_too_is_marked_where_a_vendor_caches_what_is_marked():
    long = "The lift is running. " * 300
    [turn] = (await sent(ANTHROPIC, beginning_like_others(long))).json["messages"]
    marked, own = turn["content"]
    assert marked == {"type": "text", "text": long, "cache_control": {"type": "ephemeral"}}
    assert own == {"type": "text", "text": "What now?"}
    [turn] = (await sent(OPENAI, beginning_like_others(long))).json["messages"]
    assert turn["content"] == f"{long}What now?"


async def test_a_short_beginning_is_not_marked():
    [turn] = (await sent(ANTHROPIC, beginning_like_others("Hi. "))).json["messages"]
    assert turn["content"] == "Hi. What now?"


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
        (OPENAI, openai_body("max_tokens"), Finish.LENGTH),
    ],
)
async def test_each_finish_reason_is_mapped(provider: Provider, body: object, finish: Finish):
    assert (await ask(provider, body)).finish is finish


def finished(provider: Provider, reason: object) -> dict[str, Any]:
    return anthropic_body(reason) if provider is ANTHROPIC else openai_body(reason)


@pytest.mark.parametrize(
    ("provider", "reason"), [(ANTHROPIC, "pause_turn"), (OPENAI, "error"), (LOCAL, "abort")], ids=str
)
async def test_a_reply_that_goes_on_is_truncated_and_has_its_usage(provider: Provider, reason: str):
    error = await failure(provider, finished(provider, reason))
    assert (type(error), error.billed) == (TruncatedReply, Billed.YES)
    assert error.usage == Usage(input_tokens=30, output_tokens=5)


@pytest.mark.parametrize("provider", CHAT)
@pytest.mark.parametrize(
    "reason",
    ["", "eos", "eos_token", "STOP", "COMPLETE", "tool_calls", "from_the_future", None, 7, ["stop"], {"odd": 1}],
    ids=str,
)
async def test_a_whole_reply_is_complete_whatever_its_finish_reason_is(provider: Provider, reason: object):
    reply: ChatReply = await ask(provider, finished(provider, reason))
    assert (reply.text, reply.finish) == ("A lift.", Finish.STOP)


@pytest.mark.parametrize("provider", CHAT)
@pytest.mark.parametrize("reason", ["from_the_future", None])
async def test_a_reply_as_long_as_it_may_be_with_an_unknown_finish_is_cut(provider: Provider, reason: object):
    reply: ChatReply = await ask(provider, finished(provider, reason), request=chat(max_tokens=5))
    assert reply.finish is Finish.LENGTH


@pytest.mark.parametrize(
    ("provider", "body"),
    [
        (OPENAI, openai_body("length", content="")),
        (OPENAI, openai_body("stop", content=None)),
        (LOCAL, openai_body("stop", content=" \n")),
        (LOCAL, openai_body("stop", content=[{"type": "thinking", "thinking": []}])),
        (ANTHROPIC, anthropic_body("end_turn", content=[])),
        (ANTHROPIC, anthropic_body("max_tokens", content=[{"type": "thinking", "thinking": "hm", "signature": "s"}])),
    ],
)
async def test_a_reply_without_text_is_an_error_with_its_usage(provider: Provider, body: object):
    error = await failure(provider, body)
    assert (type(error), error.billed, error.retryable) == (EmptyReply, Billed.YES, False)
    assert error.usage == Usage(input_tokens=30, output_tokens=5)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "From 6 "}, {"type": "text", "text": "to 22."}], "From 6 to 22."),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "A"}], "A"),
        ([{"type": "output_text", "text": "A"}, {"type": "image_url", "image_url": {}}, 1, None], "A"),
        (["A ", {"type": "text", "text": "lift."}, {"type": "text"}, {"type": "text", "text": 7}], "A lift."),
    ],
)
async def test_the_text_parts_of_a_message_are_joined(content: object, text: str):
    assert (await ask(LOCAL, openai_body(content=content))).text == text


@pytest.mark.parametrize(
    ("counted", "output"),
    [
        ({"completion_tokens": 40, "total_tokens": 660, "reasoning": 600}, 640),
        ({"completion_tokens": 640, "total_tokens": 660, "reasoning": 600}, 640),
        ({"completion_tokens": 40, "total_tokens": 60, "reasoning": 600}, 40),
        ({"completion_tokens": 40, "total_tokens": 660, "reasoning": None}, 640),
        ({"completion_tokens": 40, "total_tokens": 100, "reasoning": 600}, 640),
        ({"completion_tokens": 40, "total_tokens": None, "reasoning": 600}, 640),
        ({"completion_tokens": 640, "total_tokens": None, "reasoning": 600}, 640),
        ({"completion_tokens": 40, "total_tokens": None, "reasoning": None}, 40),
    ],
    ids=["beside", "inside", "agrees-without", "unnamed", "neither", "no-total-beside", "no-total-inside", "plain"],
)
async def test_reasoning_is_counted_once_inside_or_beside_the_completion(counted: dict[str, Any], output: int):
    reasoning = counted.pop("reasoning")
    details = {"completion_tokens_details": {"reasoning_tokens": reasoning}} if reasoning else {}
    for provider in (OPENAI, LOCAL):
        reply: ChatReply = await ask(provider, openai_body(usage={"prompt_tokens": 20, **counted, **details}))
        assert (reply.usage.input_tokens, reply.usage.output_tokens) == (20, output)


@pytest.mark.parametrize(
    ("provider", "body", "price_class"),
    [
        (OPENAI, openai_body() | {"service_tier": "priority"}, "priority"),
        (OPENAI, openai_body() | {"service_tier": "regional"}, "regional"),
        (OPENAI, openai_body() | {"service_tier": "default"}, ""),
        (OPENAI, openai_body() | {"service_tier": None}, ""),
        (LOCAL, openai_body() | {"service_tier": "priority"}, ""),
        (ANTHROPIC, anthropic_body(service_tier="priority"), "priority"),
        (ANTHROPIC, anthropic_body(service_tier="standard", speed="standard", inference_geo="global"), ""),
        (ANTHROPIC, anthropic_body(service_tier="standard", speed="fast", inference_geo="us"), "fast+us"),
    ],
)
async def test_a_price_class_that_the_reply_names_is_kept(provider: Provider, body: object, price_class: str):
    assert (await ask(provider, body)).usage.price_class == price_class


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


BY_CHANNEL = question(ELEVENLABS).model_copy(update={"channels": 2, "audio": encode(tone(2.0), 0.5 * tone(2.0))})


async def test_channels_are_transcribed_in_one_request_and_each_counts():
    theirs = elevenlabs_body(word("No", start=0.5, end=0.8, speaker_id="speaker_1"), channel_index=1)
    mine = elevenlabs_body(word("Yes"), word("(laughs)", type="audio_event", speaker_id=None), channel_index=0)
    body = {"transcripts": [mine, theirs], "transcription_id": "t-2", "audio_duration_secs": 30.0}
    reply: TranscriptionReply = await ask(ELEVENLABS, body, request=BY_CHANNEL)
    assert [(word.text, word.speaker) for word in reply.words] == [
        ("No", "channel 2"),
        ("Yes", "channel 1"),
        ("(laughs)", "channel 1"),
    ]
    assert (reply.usage.audio_seconds, reply.language, reply.provider_request_id) == (60.0, "eng", "t-2")


@pytest.mark.parametrize(
    ("channels", "fields"), [(1, (b"true", b"false")), (2, (b"false", b"true")), (6, (b"true", b"false"))]
)
async def test_speakers_are_known_by_voice_or_by_channel(channels: int, fields: tuple[bytes, bytes]):
    """The vendor refuses both at once, and more than five channels."""
    body = (await sent(ELEVENLABS, BY_CHANNEL.model_copy(update={"channels": channels}))).body
    found = [re.search(rb'name="%s"\r\n\r\n(\w+)' % name, body) for name in (b"diarize", b"use_multi_channel")]
    assert tuple(one and one[1] for one in found) == fields


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
        (OPENAI, openai_body(content={"a": 1})),
        (ANTHROPIC, damaged(anthropic_body(), content=None)),
        (ANTHROPIC, anthropic_body(content=[None])),
        (ANTHROPIC, anthropic_body(content=[{"type": "text"}])),
        (ELEVENLABS, damaged(elevenlabs_body(), words=None)),
        (ELEVENLABS, damaged(elevenlabs_body(), words=[None])),
        (ELEVENLABS, elevenlabs_body({"type": "word", "start": 0})),
        (ELEVENLABS, {"transcripts": []}),
        (ELEVENLABS, {"transcripts": [damaged(elevenlabs_body(), words=[None])]}),
        (ELEVENLABS, elevenlabs_body(word(logprob=None))),
        (ELEVENLABS, elevenlabs_body(word(logprob=float("nan")))),
        (ELEVENLABS, elevenlabs_body(word(start="soon"))),
        (ELEVENLABS, elevenlabs_body(word(end=float("inf")))),
    ],
    ids=lambda value: value.value if isinstance(value, Provider) else "",
)
async def test_a_reply_with_wrong_types_is_malformed(provider: Provider, body: object):
    error = await failure(provider, body)
    assert (type(error), error.retryable) == (MalformedReply, True)


@pytest.mark.parametrize(
    ("provider", "body"),
    [
        (OPENAI, openai_body(usage={"prompt_tokens": -5, "completion_tokens": 1})),
        (OPENAI, openai_body(usage={"prompt_tokens": "many", "completion_tokens": 1})),
        (ANTHROPIC, anthropic_body(input_tokens=-1)),
        (OPENAI, damaged(openai_body(), usage="many")),
        (OPENAI, damaged(openai_body(), usage=None)),
        (LOCAL, openai_body(usage={"total_tokens": 5})),
        (ANTHROPIC, damaged(anthropic_body(), usage=None)),
        (ANTHROPIC, damaged(anthropic_body(), usage={})),
        (ELEVENLABS, elevenlabs_body(word(), audio_duration_secs=None)),
        (ELEVENLABS, elevenlabs_body(audio_duration_secs=-1)),
        (ELEVENLABS, elevenlabs_body(audio_duration_secs=float("inf"))),
    ],
    ids=lambda value: value.value if isinstance(value, Provider) else "",
)
async def test_a_reply_is_kept_if_its_counts_are_missing_or_cannot_be_true(provider: Provider, body: object):
    reply = await ask(provider, body)
    assert reply.usage == Usage(is_known=False)


@pytest.mark.parametrize(
    ("provider", "body"),
    [
        (OPENAI, damaged(openai_body(), choices=[])),
        (OPENAI, damaged(openai_body(), choices=[None])),
        (OPENAI, damaged(openai_body(), choices="none")),
        (OPENAI, damaged(openai_body(), choices=[{"finish_reason": "stop"}])),
        (LOCAL, openai_body(content=7)),
        (LOCAL, damaged(openai_body(), model={"name": 1})),
        (ANTHROPIC, damaged(anthropic_body(), content=None)),
        (ANTHROPIC, anthropic_body(content=[{"type": "text"}])),
    ],
)
async def test_a_malformed_reply_has_its_usage(provider: Provider, body: object):
    error = await failure(provider, body)
    assert (type(error), error.billed) == (MalformedReply, Billed.YES)
    assert error.usage == Usage(input_tokens=30, output_tokens=5)


async def test_a_malformed_transcription_has_its_usage():
    error = await failure(ELEVENLABS, elevenlabs_body({"type": "word", "start": 0}))
    assert (error.billed, error.usage) == (Billed.YES, Usage(audio_seconds=54.4))


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
    (402, QuotaExceeded, Billed.NO),
    (504, ProviderUnavailable, Billed.UNKNOWN),
    *((status, ProviderUnavailable, Billed.UNKNOWN) for status in range(520, 528)),
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


TOO_LARGE = (
    "Request too large for gpt-4o in organization org-1 on tokens per min (TPM): Limit 30000, Requested 41250. "
    "The input or output tokens must be reduced in order to run successfully."
)


def openai_error(message: str, code: str | None = None, kind: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code, **fields}}


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
        (OPENAI, 429, openai_error(TOO_LARGE, "rate_limit_exceeded", "tokens"), ContextTooLong),
        (LOCAL, 413, openai_error(TOO_LARGE, "rate_limit_exceeded", "tokens"), ContextTooLong),
        (OPENAI, 429, openai_error("Rate limit reached: Limit: 10,000 / min. Requested: 12,000."), ContextTooLong),
        (OPENAI, 429, openai_error("Rate limit reached: Limit 30000, Used 20000, Requested 12000."), RateLimited),
        (OPENAI, 429, openai_error("Rate limit reached.", "rate_limit_exceeded", "requests"), RateLimited),
        (OPENAI, 429, openai_error("check", "billing_not_active", "billing_not_active"), QuotaExceeded),
        (OPENAI, 400, openai_error("reached", "billing_hard_limit_reached"), QuotaExceeded),
        (OPENAI, 429, openai_error("Your account is not active, please check your billing details."), QuotaExceeded),
        (LOCAL, 402, openai_error("Insufficient Balance", "invalid_request_error"), QuotaExceeded),
        (OPENAI, 400, openai_error("The response was filtered.", "content_filter"), ContentFiltered),
        (OPENAI, 400, openai_error("no", innererror={"code": "ResponsibleAIPolicyViolation"}), ContentFiltered),
        (LOCAL, 400, openai_error("long", kind="exceed_context_size_error"), ContextTooLong),
        (LOCAL, 400, {"error": "the request exceeds the available context size"}, ContextTooLong),
        (
            OPENAI,
            400,
            openai_error("Invalid schema for response_format 'reply'.", kind="invalid_request_error"),
            BadRequest,
        ),
        (ANTHROPIC, 400, anthropic_error("You have reached your specified API usage limits."), QuotaExceeded),
        (ANTHROPIC, 429, anthropic_error("reached your workspace API usage limits", "rate_limit_error"), QuotaExceeded),
        (
            ANTHROPIC,
            429,
            anthropic_error("Extra usage is required for long context", "rate_limit_error"),
            ContextTooLong,
        ),
        (ANTHROPIC, 413, anthropic_error("Request exceeds the maximum size", "request_too_large"), ContextTooLong),
        (ANTHROPIC, 400, anthropic_error("Output blocked by content filtering policy"), ContentFiltered),
        (ANTHROPIC, 400, anthropic_error("messages: text content blocks must be non-empty"), BadRequest),
        (ELEVENLABS, 401, {"detail": {"status": "detected_unusual_activity", "message": "free tier"}}, QuotaExceeded),
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


@pytest.mark.parametrize(
    ("provider", "body", "kind", "billed"),
    [
        (OPENAI, openai_error("no credit", "insufficient_quota"), QuotaExceeded, Billed.NO),
        (OPENAI, openai_error("sorry", kind="server_error"), ProviderUnavailable, Billed.UNKNOWN),
        (LOCAL, {"error": {"code": 429, "message": "slow down"}}, RateLimited, Billed.NO),
        (LOCAL, {"error": {"code": 502, "message": "upstream"}}, ProviderUnavailable, Billed.UNKNOWN),
        (LOCAL, {"error": "the request exceeds the available context size"}, ContextTooLong, Billed.NO),
        (ANTHROPIC, anthropic_error("Overloaded", "overloaded_error"), ProviderUnavailable, Billed.NO),
        (ANTHROPIC, anthropic_error("slow down", "rate_limit_error"), RateLimited, Billed.NO),
        (ANTHROPIC, anthropic_error("oops", "api_error"), ProviderUnavailable, Billed.UNKNOWN),
        (ELEVENLABS, {"detail": {"status": "quota_exceeded", "message": "0 left"}}, QuotaExceeded, Billed.NO),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else str(value)[:10],
)
async def test_an_error_inside_a_successful_response_is_that_error(
    provider: Provider, body: object, kind: type[ProviderError], billed: Billed
):
    error = await failure(provider, body)
    assert (type(error), error.billed) == (kind, billed)


async def test_an_error_beside_the_usage_is_billed():
    error = await failure(OPENAI, openai_body() | openai_error("sorry", kind="server_error"))
    assert (type(error), error.usage) == (ProviderUnavailable, Usage(input_tokens=30, output_tokens=5))


@pytest.mark.parametrize("provider", CHAT)
async def test_a_key_in_an_error_inside_a_successful_response_is_redacted(provider: Provider):
    error = await failure(provider, {"error": {"message": f"bad key {KEY}", "code": "x", "type": "api_error"}})
    assert KEY not in f"{error!r} {error.args} {error.detail}"


async def test_the_page_of_a_gateway_is_not_searched_for_words():
    error = await failure(ANTHROPIC, b"<html>context window, credit balance is too low</html>", status=524)
    assert (type(error), error.billed) == (ProviderUnavailable, Billed.UNKNOWN)


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
