from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from parley.domain.chat import ChatMessage, ChatSession
from tests.domain.auto_analyze.chats import MONDAY, chat

GOOD: dict[str, Any] = {
    "session_id": "s",
    "user_id": "u",
    "containment": "agent",
    "messages": [{"role": "user", "text": "Hello"}],
}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"containment": "escalated"}, "containment"),
        ({"containment": "Agent"}, "containment"),
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": [{"role": "system", "text": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "text": "a\0b"}]}, "messages.0.text"),
        ({"messages": [{"role": "user", "text": 7}]}, "messages.0.text"),
        ({"messages": [{"role": "user", "text": "x", "time": "2026-03-02T10:00:00"}]}, "messages.0.time"),
        ({"session_id": " "}, "session_id"),
        ({"session_id": "x" * 201}, "session_id"),
        ({"user_id": "\ud800"}, "user_id"),
        ({"topic": "billing"}, "topic"),
    ],
)
def test_a_bad_field_is_refused_by_its_name(change: dict[str, Any], field: str):
    with pytest.raises(ValidationError) as refused:
        ChatSession.model_validate({**GOOD, **change})
    assert ".".join(map(str, refused.value.errors()[0]["loc"])) == field


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_outside_the_calendar_in_utc_is_refused(time: str):
    with pytest.raises(ValidationError, match="outside the calendar"):
        ChatMessage.model_validate({"role": "user", "text": "x", "time": time})


def test_a_time_keeps_its_zone():
    message = ChatMessage.model_validate({"role": "user", "text": "x", "time": "2026-03-02T02:00:00+02:00"})
    assert message.time == MONDAY
    assert message.time.utcoffset() == timedelta(hours=2)


def test_a_session_starts_with_its_first_message_that_has_a_time():
    later = MONDAY + timedelta(minutes=1)
    messages = [{"role": "bot", "text": "Hi"}, {"role": "user", "text": "x", "time": MONDAY}]
    session = ChatSession.model_validate(
        {**GOOD, "messages": [*messages, {"role": "user", "text": "y", "time": later}]}
    )
    assert session.started_at == MONDAY
    assert ChatSession.model_validate(GOOD).started_at is None


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        *[(said, True) for said in ("hello", "\u200e<Media omitted>", "🙂", "?", "\u0301", "あ")],
        *[
            (said, False)
            for said in ("", "  \n\t\u3000", "\u200e", "\u202d \ufeff\u200b", "\ufe0f\u2060", "\u3164\u2800")
        ],
    ],
)
def test_whether_the_user_wrote_anything(text: str, spoken: bool):
    assert chat("s", text).has_user_text is spoken


def test_texts_of_bot_and_agent_are_not_texts_of_the_user():
    messages = [{"role": "bot", "text": "Hello?"}, {"role": "agent", "text": "Are you there?"}]
    assert not ChatSession.model_validate({**GOOD, "messages": messages}).has_user_text
