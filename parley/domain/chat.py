"""A chat session of a product's bot: its messages, and how it ended."""

import hashlib
import json
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, Field

from parley.domain.model import Model, Name, Text, is_blank

HASH_BYTES = 16


class Containment(StrEnum):
    """How a session ended: transferred to a human agent, solved by the bot, or left by the user."""

    AGENT = "agent"
    SELF_SERVICE = "selfService"
    DROP_OFF = "dropOff"


def _in_the_calendar(time: datetime) -> datetime:
    try:
        time.astimezone(UTC)
    except OverflowError:
        raise ValueError("is outside the calendar: in UTC the year must be from 1 to 9999") from None
    return time


class ChatMessage(Model):
    role: Literal["user", "bot", "agent"]
    text: Text
    time: Annotated[AwareDatetime, AfterValidator(_in_the_calendar)] | None = None


class ChatSession(Model):
    """One chat session. `session_id` is its key within a dataset."""

    session_id: Name
    user_id: Name
    bot_id: Annotated[Text, Field(max_length=200)] = ""
    containment: Containment
    messages: tuple[ChatMessage, ...] = Field(min_length=1)

    @property
    def started_at(self) -> datetime | None:
        return next((message.time for message in self.messages if message.time), None)

    @property
    def transcript_hash(self) -> bytes:
        """Of all that a model is sent of the session: equal for two sessions only if they are copies."""
        lines = [self.containment.value, *(f"{message.role}: {message.text}" for message in self.messages)]
        return hashlib.blake2b(json.dumps(lines).encode(), digest_size=HASH_BYTES).digest()

    @property
    def has_user_text(self) -> bool:
        return any(message.role == "user" and not is_blank(message.text) for message in self.messages)
