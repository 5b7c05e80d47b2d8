"""What happens in a phone call, as a list of events with times."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from simulator.twilio.clock import Clock


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Attributes:
        at: seconds since the phone call began.
        kind: see `KINDS`.
        details: plain values, which JSON can carry.
    """

    at: float
    kind: str
    details: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {"at": round(self.at, 3), "event": self.kind, **self.details}


KINDS = {
    "status": "the phone call's status: initiated, ringing, in-progress, completed, busy, no-answer, failed",
    "request": "a request to the server, its status code and seconds",
    "connected": "the WebSocket is open; seconds since the TwiML",
    "greeting": "the welcome greeting that the TwiML has",
    "says": "the caller begins to say something",
    "partial": "the words that were recognised so far",
    "said": "the caller has said something; the server has the final prompt",
    "lost": "what the caller said while the agent spoke, which nothing reported",
    "key": "the caller pressed a key",
    "text": "a piece of text from the server",
    "speaking": "the agent begins to be heard",
    "spoken": "words that the caller heard",
    "interrupt": "the caller interrupted: what was heard last, for how long, and what was not heard",
    "gap": "a silence in the middle of an answer",
    "play": "the server plays a recording",
    "digits": "the server sends keys",
    "language": "the server changes the language",
    "quiet": "the agent has said all that it sent",
    "ended": "the session is over, and why",
    "transfer": "the TwiML dials a person",
    "warning": "what Twilio's debugger would report, and what a caller would notice",
    "error": "what went wrong",
    "network": "a fault that the script makes",
    "expected": "a text that the script waited for, and whether it came",
}


class CallLog:
    """The events of one phone call. `watch` is called with each."""

    def __init__(self, clock: Clock, watch: Callable[[Event], None] | None = None) -> None:
        self._clock, self._watch = clock, watch
        self.events: list[Event] = []

    def note(self, kind: str, /, **details: Any) -> Event:
        event = Event(self._clock.now(), kind, details)
        self.events.append(event)
        if self._watch:
            self._watch(event)
        return event

    def of(self, *kinds: str) -> list[Event]:
        return [event for event in self.events if event.kind in kinds]
