"""Frames of ConversationRelay: what Twilio sends is read in each form that it has, anything else is malformed."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.domain.phone.frames import (
    Dtmf,
    End,
    Interrupt,
    Language,
    MalformedFrame,
    Play,
    Prompt,
    SendDigits,
    Setup,
    Text,
    read_frame,
)


def wired(**fields: Any) -> str:
    return json.dumps(fields)


@pytest.mark.parametrize("duration", [0, 460, "460", 460.7, "460.7", "0", 1e3])
def test_a_duration_is_a_number_in_any_form(duration: Any):
    frame = read_frame(wired(type="interrupt", utteranceUntilInterrupt="Hello", durationUntilInterruptMs=duration))
    assert isinstance(frame, Interrupt)
    assert frame.duration_until_interrupt_ms == float(duration)


def test_null_is_what_is_not_there():
    assert read_frame(wired(type="prompt", voicePrompt="Hello", lang=None, last=None)) == Prompt(voice_prompt="Hello")
    interrupted = wired(type="interrupt", utteranceUntilInterrupt="We are open", durationUntilInterruptMs=None)
    assert read_frame(interrupted) == Interrupt(utterance_until_interrupt="We are open")


def test_null_is_the_empty_text_and_unknown_fields_are_ignored():
    setup = {"type": "setup", "callSid": "CA1", "parentCallSid": None, "from": "+1555", "to": None, "news": {"a": 1}}
    frame = read_frame(wired(**setup, customParameters=None))
    assert isinstance(frame, Setup)
    assert (frame.parent_call_sid, frame.from_, frame.to, frame.custom_parameters) == ("", "+1555", "", {})
    assert read_frame(wired(type="prompt", voicePrompt="Hi")) == Prompt(voice_prompt="Hi")


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        "",
        "{",
        "[]",
        "null",
        '"dtmf"',
        wired(type="surprise"),
        wired(type="dtmf"),
        wired(type="dtmf", digit="12"),
        wired(type="dtmf", digit=1),
        wired(type="setup"),
        wired(type="setup", callSid="../x"),
        wired(type="interrupt", durationUntilInterruptMs=-1),
        wired(type="interrupt", durationUntilInterruptMs="soon"),
        wired(type="interrupt", durationUntilInterruptMs=True),
        '{"type": "interrupt", "durationUntilInterruptMs": NaN}',
        wired(type="prompt", voicePrompt="a" * 70_000),
        wired(type="prompt", last="maybe"),
    ],
)
def test_anything_else_is_malformed(data: str | bytes):
    with pytest.raises(MalformedFrame):
        read_frame(data)


def test_a_malformed_frame_is_not_quoted():
    with pytest.raises(MalformedFrame) as caught:
        read_frame(wired(type="dtmf", digit="4711"))
    assert "4711" not in str(caught.value)
    assert "7" not in repr(Dtmf(digit="7"))


@given(st.text() | st.binary())
def test_no_text_breaks_the_reader(data: str | bytes):
    with pytest.raises(MalformedFrame):
        read_frame(data)


def test_frames_are_sent_in_twilios_names():
    assert json.loads(Text(token="é", last=True).wire()) == {"type": "text", "token": "é", "last": True}
    assert json.loads(Play(source="https://a/b.mp3", loop=2).wire()) == {
        "type": "play",
        "source": "https://a/b.mp3",
        "loop": 2,
    }
    assert json.loads(SendDigits(digits="1w#").wire()) == {"type": "sendDigits", "digits": "1w#"}
    assert json.loads(Language(tts_language="es-ES").wire()) == {"type": "language", "ttsLanguage": "es-ES"}
    assert json.loads(End(handoff_data="{}").wire()) == {"type": "end", "handoffData": "{}"}
