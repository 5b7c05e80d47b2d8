"""A chat session of a product's bot: who wrote what, and how it ended."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, Field

from parley.domain.model import Model, Name, Text


class Containment(StrEnum):
    """How a session ended: with a person, by itself, or with the user gone."""

    AGENT = "agent"
    SELF_SERVICE = "selfService"
    DROP_OFF = "dropOff"


def _in_the_calendar(time: datetime) -> datetime:
    try:
        time.astimezone(UTC)
    except OverflowError:
        raise ValueError("is beyond the calendar") from None
    return time


class ChatMessage(Model):
    role: Literal["user", "bot", "agent"]
    text: Text
    time: Annotated[AwareDatetime, AfterValidator(_in_the_calendar)] | None = None


class ChatSession(Model):
    """One session. A user has many; `session_id` is the key."""

    session_id: Name
    user_id: Name
    bot_id: Annotated[Text, Field(max_length=200)] = ""
    containment: Containment
    messages: tuple[ChatMessage, ...] = Field(min_length=1)

    @property
    def started_at(self) -> datetime | None:
        return next((message.time for message in self.messages if message.time), None)

    @property
    def has_user_text(self) -> bool:
        return any(message.role == "user" and message.text.strip() for message in self.messages)
