"""The frames of ConversationRelay, as JSON texts over its WebSocket.

Twilio's frames may have fields that are not listed here: they are ignored, so that a new one breaks no phone call.
"""

import json
import math
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from parley.domain.model import Received
from parley.domain.phone.settings import Tones

# ConversationRelay ends a session after so many malformed frames in a row, and so does Parley.
MOST_MALFORMED = 10
LONGEST_FRAME = 64 * 1024


class MalformedFrame(ValueError):
    """A text that is not a frame of ConversationRelay. It quotes nothing of it: a frame may have secret digits."""


class Frame(BaseModel):
    """Base of every frame. The names on the wire are in camel case."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, hide_input_in_errors=True)


class FromTwilio(Frame):
    model_config = ConfigDict(extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _null_is_unknown(cls, given: Any) -> Any:
        """Twilio sends null, and not the empty text, for what it does not know: it is as if it were not there."""
        if not isinstance(given, dict):
            return given
        fields = cast(dict[str, Any], given)
        return {name: value for name, value in fields.items() if value is not None}


def _milliseconds(value: Any) -> Any:
    """A duration as Twilio sends it: an integer, a fraction, or either of them as text. Nothing else is one."""
    if isinstance(value, str):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError("must be a number of milliseconds")
    return float(value)


Milliseconds = Annotated[float, BeforeValidator(_milliseconds)]


class Setup(FromTwilio):
    """The first frame of a session. `direction`: of the phone call, for example `inbound`."""

    type: Literal["setup"] = "setup"
    session_id: Received = ""
    call_sid: Annotated[Received, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9_-]+$")]
    parent_call_sid: Received = ""
    from_: Received = Field(default="", alias="from")
    to: Received = ""
    forwarded_from: Received = ""
    caller_name: Received = ""
    direction: Received = ""
    call_type: Received = ""
    call_status: Received = ""
    account_sid: Received = ""
    custom_parameters: Annotated[dict[str, Any], BeforeValidator(lambda value: value or {})] = Field(
        default_factory=dict
    )


class Prompt(FromTwilio):
    """What the caller said. `last`: the caller has finished; else it is what was recognised so far."""

    type: Literal["prompt"] = "prompt"
    voice_prompt: Received = ""
    lang: Received = ""
    last: bool = True


class Interrupt(FromTwilio):
    """The caller spoke while the agent did. `utterance_until_interrupt`: what the voice had said of its text."""

    type: Literal["interrupt"] = "interrupt"
    utterance_until_interrupt: Received = ""
    duration_until_interrupt_ms: Milliseconds = 0.0


class Dtmf(FromTwilio):
    """The caller pressed a key."""

    type: Literal["dtmf"] = "dtmf"
    digit: Annotated[str, Field(pattern=r"^[0-9A-D*#]$", repr=False)]


class Failed(FromTwilio):
    """Twilio reports an error of the session."""

    type: Literal["error"] = "error"
    description: Received = ""


class Info(FromTwilio):
    """An event that the TwiML asked for, for example that the agent has stopped speaking."""

    type: Literal["info"] = "info"
    name: Received = ""
    value: Any = None


TwilioFrame = Annotated[Setup | Prompt | Interrupt | Dtmf | Failed | Info, Field(discriminator="type")]
_FRAMES: TypeAdapter[TwilioFrame] = TypeAdapter(TwilioFrame)


def read_frame(data: str | bytes) -> TwilioFrame:
    """A frame of Twilio's.

    Raises:
        MalformedFrame: it is not one.
    """
    if isinstance(data, bytes) or len(data) > LONGEST_FRAME:
        raise MalformedFrame("a frame is a text of at most 64 KB")
    try:
        return _FRAMES.validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise MalformedFrame(f"{place or 'frame'}: {first['type']}") from None


class ToTwilio(Frame):
    def wire(self) -> str:
        """The frame as it is sent: what is None is left out."""
        return json.dumps(self.model_dump(mode="json", by_alias=True, exclude_none=True), ensure_ascii=False)


class Text(ToTwilio):
    """The next piece of what the agent says. `last`: nothing follows until the caller speaks."""

    type: Literal["text"] = "text"
    token: str
    last: bool = False
    lang: str | None = None
    interruptible: bool | None = None
    preemptible: bool | None = None


class Play(ToTwilio):
    """A recording, by its URL."""

    type: Literal["play"] = "play"
    source: str
    loop: int | None = None
    preemptible: bool | None = None
    interruptible: bool | None = None


class SendDigits(ToTwilio):
    """Tones to the other end."""

    type: Literal["sendDigits"] = "sendDigits"
    digits: Tones


class Language(ToTwilio):
    """What is spoken and understood from here on."""

    type: Literal["language"] = "language"
    tts_language: str | None = None
    transcription_language: str | None = None


class End(ToTwilio):
    """The session ends, and Twilio calls the action with the hand-off data. What was not yet spoken is cut off."""

    type: Literal["end"] = "end"
    handoff_data: str | None = None
