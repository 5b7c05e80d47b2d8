"""The frames of ConversationRelay: those of a server, checked as Twilio checks them, and Twilio's own."""

import json
import re
from dataclasses import dataclass
from typing import Any

DIGITS = re.compile(r"[0-9wW#*]+")
MOST_MALFORMED = 10


class Malformed(Exception):
    """A frame that Twilio refuses with error 64107. It stays in the session, and the tenth in a row ends it."""


@dataclass(frozen=True)
class Text:
    """A piece of an answer. `interruptible` and `preemptible` None: what the TwiML says."""

    token: str
    last: bool = False
    lang: str | None = None
    interruptible: bool | None = None
    preemptible: bool | None = None


@dataclass(frozen=True)
class Play:
    """A recording. `loop` 0: a thousand times."""

    source: str
    loop: int = 1
    interruptible: bool | None = None
    preemptible: bool | None = None


@dataclass(frozen=True)
class SendDigits:
    digits: str


@dataclass(frozen=True)
class Language:
    tts_language: str | None = None
    transcription_language: str | None = None


@dataclass(frozen=True)
class End:
    handoff_data: str | None = None


ServerFrame = Text | Play | SendDigits | Language | End

# Of each type: the fields with their JSON types and the names here. A name with `!` is required.
FIELDS: dict[str, tuple[type[Any], dict[str, tuple[type, str]]]] = {
    "text": (
        Text,
        {
            "token!": (str, "token"),
            "last": (bool, "last"),
            "lang": (str, "lang"),
            "interruptible": (bool, "interruptible"),
            "preemptible": (bool, "preemptible"),
        },
    ),
    "play": (
        Play,
        {
            "source!": (str, "source"),
            "loop": (int, "loop"),
            "interruptible": (bool, "interruptible"),
            "preemptible": (bool, "preemptible"),
        },
    ),
    "sendDigits": (SendDigits, {"digits!": (str, "digits")}),
    "language": (
        Language,
        {"ttsLanguage": (str, "tts_language"), "transcriptionLanguage": (str, "transcription_language")},
    ),
    "end": (End, {"handoffData": (str, "handoff_data")}),
}


def read_frame(data: str | bytes) -> tuple[ServerFrame, list[str]]:
    """A frame of the server, and the names of fields that Twilio does not know and ignores.

    Raises:
        Malformed: it is not a frame that ConversationRelay takes.
    """
    value = _json_object(data)
    kind = value.pop("type", None)
    if not isinstance(kind, str) or kind not in FIELDS:
        raise Malformed(f"its type is {kind!r}: it must be one of {', '.join(FIELDS)}")
    made, fields = FIELDS[kind]
    found = {}
    for name, (wanted, attribute) in fields.items():
        given = value.pop(name.rstrip("!"), None)
        if given is None and name.endswith("!"):
            raise Malformed(f"{kind} without {name.rstrip('!')!r}")
        if given is not None and type(given) is not wanted:
            raise Malformed(f"{kind}: {name.rstrip('!')!r} must be {wanted.__name__}, and is {given!r}")
        if given is not None:
            found[attribute] = given
    frame = made(**found)
    _check(frame)
    return frame, [*value]


def _json_object(data: str | bytes) -> dict[str, Any]:
    if isinstance(data, bytes):
        raise Malformed("a binary frame")
    try:
        value = json.loads(data)
    except ValueError:
        raise Malformed("it is not JSON") from None
    if not isinstance(value, dict):
        raise Malformed("it is not a JSON object")
    return value


def _check(frame: ServerFrame) -> None:
    if isinstance(frame, SendDigits) and not DIGITS.fullmatch(frame.digits):
        raise Malformed(f"sendDigits: digits are 0-9, w, # and *, and not {frame.digits!r}")
    if isinstance(frame, Play) and not frame.source.startswith(("https://", "http://")):
        raise Malformed(f"play: source must be an http or https URL, and is {frame.source!r}")
    if isinstance(frame, Play) and frame.loop < 0:
        raise Malformed("play: loop must not be negative")
    if isinstance(frame, Language) and not (frame.tts_language or frame.transcription_language):
        raise Malformed("language without ttsLanguage and transcriptionLanguage")


def refusal(data: str | bytes) -> dict[str, Any]:
    """The frame that answers a malformed one."""
    shown = data.decode(errors="replace") if isinstance(data, bytes) else data
    return {"type": "error", "description": f"Invalid message received, code: 64107, {shown}"}


def prompt(text: str, language: str, *, last: bool) -> dict[str, Any]:
    return {"type": "prompt", "voicePrompt": text, "lang": language, "last": last}


def interrupt(heard: str, duration: object) -> dict[str, Any]:
    return {"type": "interrupt", "utteranceUntilInterrupt": heard, "durationUntilInterruptMs": duration}


def key(digit: str) -> dict[str, Any]:
    return {"type": "dtmf", "digit": digit}


def info(name: str, value: str) -> dict[str, Any]:
    return {"type": "info", "name": name, "value": value}
