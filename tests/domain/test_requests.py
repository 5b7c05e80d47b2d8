from typing import Any

import pytest
from pydantic import ValidationError

from parley.domain.requests import (
    ChatReply,
    ChatRequest,
    Finish,
    Message,
    Provider,
    SpokenWord,
    TranscriptionRequest,
    Usage,
    fingerprint,
    longest_seconds,
    request_id,
)

REQUEST = ChatRequest(
    messages=(Message(role="system", content="Be brief."), Message(role="user", content="¿Qué tal? 🙂")),
    max_tokens=100,
    temperature=0.1,
    response_schema={"type": "object", "properties": {"a": {"type": "string"}}},
)


def transcription(audio: bytes, sha256: str = "a" * 64, seconds: float = 3.0) -> TranscriptionRequest:
    return TranscriptionRequest(audio_sha256=sha256, audio_seconds=seconds, audio=audio)


def test_counts_that_cannot_be_true_are_dropped_and_the_price_class_is_kept():
    usage = Usage(input_tokens=-1, output_tokens=5, price_class="priority")
    assert usage == Usage(price_class="priority", is_known=False)


def test_a_fingerprint_never_changes_between_releases():
    """Requests that were in flight at a deploy are compared with fingerprints stored before it."""
    assert fingerprint(REQUEST) == "426f2bebba17825c80c18ca05fb2ee39fa52bd51777a873d5a8ed3180b79d161"
    assert fingerprint(transcription(b"x")) == "50f0d3bacbdbab48e28c375371d577ebbfd96f5136f80656e58d686445c7ac5c"


@pytest.mark.parametrize(
    "change",
    [
        {"messages": REQUEST.messages[:1]},
        {"messages": REQUEST.messages[::-1]},
        {"max_tokens": 101},
        {"temperature": None},
        {"schema_name": "other"},
        {"response_schema": None},
    ],
    ids=",".join,
)
def test_a_different_request_has_a_different_fingerprint(change: dict[str, object]):
    assert fingerprint(REQUEST.model_copy(update=change)) != fingerprint(REQUEST)


def test_the_order_of_names_in_a_schema_does_not_matter():
    schema = {"properties": {"a": {"type": "string"}}, "type": "object"}
    assert fingerprint(REQUEST.model_copy(update={"response_schema": schema})) == fingerprint(REQUEST)


def test_audio_is_known_by_its_hash_alone():
    assert fingerprint(transcription(b"one")) == fingerprint(transcription(b"other"))
    assert fingerprint(transcription(b"one")) != fingerprint(transcription(b"one", sha256="b" * 64))


def test_channels_that_are_heard_alone_are_another_request():
    apart = transcription(b"one").model_copy(update={"channels": 2})
    assert fingerprint(apart) != fingerprint(transcription(b"one"))


def test_audio_is_neither_printed_nor_serialised():
    request = transcription(b"secret sound")
    assert "secret sound" not in repr(request)
    assert b"secret sound" not in request.model_dump_json().encode()


def test_a_request_id_is_its_job_and_its_step():
    assert request_id("run-7", "coaching/ask-2") == "run-7/coaching/ask-2"


def test_the_limit_of_a_call_grows_with_each_channel_and_is_far_off_on_this_machine():
    one = transcription(b"", seconds=600)
    two = one.model_copy(update={"channels": 2})
    assert longest_seconds(REQUEST, 60, Provider.OPENAI) == 60
    assert [longest_seconds(request, 60, Provider.ELEVENLABS) for request in (one, two)] == [360, 660]
    assert [longest_seconds(request, 60, Provider.WHISPER) for request in (one, two)] == [2460, 4860]


def test_unstorable_characters_in_a_reply_are_replaced():
    reply = ChatReply(text="a\0b\ud83dc", finish=Finish.STOP, usage=Usage(), model="m\0")
    assert (reply.text, reply.model) == ("a\ufffdb\ufffdc", "m\ufffd")
    assert SpokenWord(text="\udc00", start=0, end=1).text == "\ufffd"
    assert ChatReply.model_validate_json(reply.model_dump_json()) == reply


@pytest.mark.parametrize("count", [float("nan"), float("inf"), -1, 10**9, 10**400, 1.5, None, "many", True])
def test_counts_that_cannot_be_true_are_dropped_together(count: Any):
    for name in ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens"):
        assert Usage(**{"input_tokens": 5, name: count}) == Usage(is_known=False)
    if count != 1.5:
        assert Usage(audio_seconds=count) == Usage(is_known=False)


def test_counts_that_may_be_true_are_kept():
    kept = Usage(input_tokens=10_000_000, output_tokens=0, audio_seconds=0.5)
    assert (kept.is_known, kept.total_tokens, kept.audio_seconds) == (True, 10_000_000, 0.5)
    assert Usage.model_validate_json(kept.model_dump_json()) == kept


def test_a_typo_in_a_contract_is_an_error():
    with pytest.raises(ValidationError, match="max_token"):
        ChatRequest.model_validate({"messages": [], "max_tokens": 1, "max_token": 1})
