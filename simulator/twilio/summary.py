"""What the phone calls were like: turns, latencies, gaps, repeated words, errors."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from simulator.twilio.log import CallLog, Event

WORD = re.compile(r"[\w'’]+")
LONGEST_REPETITION = 12
# One word twice is normal speech ("very very", "that that"); a longer one is not.
SHORTEST_WORD = 5


@dataclass
class Turn:
    """What the caller said, and its answer. Times are seconds of the phone call.

    Attributes:
        ended: the end of the caller's speech. asked: the final prompt was sent.
        first_text, last_text: pieces of text arrived. heard_at: the caller hears the answer.
    """

    said: str
    ended: float
    asked: float
    first_text: float | None = None
    last_text: float | None = None
    heard_at: float | None = None
    answer: str = ""
    heard: str = ""
    interrupted: bool = False
    gaps: list[float] = field(default_factory=list)

    @property
    def is_answered(self) -> bool:
        return self.first_text is not None

    @property
    def repeated(self) -> list[str]:
        return repetitions(self.answer)


@dataclass(frozen=True)
class Spread:
    """Milliseconds: the median, the 95th percentile and the longest; None without a value."""

    p50: int | None
    p95: int | None
    longest: int | None


@dataclass(frozen=True)
class Summary:
    """The figures of some phone calls.

    Attributes:
        first_text_ms: from the final prompt to the first text: the server's time.
        answer_ms: from the final prompt to the last text: the server's time.
        heard_ms: from the end of the caller's speech to the first sound, with the modelled times of speech-to-text
            and the voice. Of the phone call's clock, as the gaps are.
        gaps: silences of at least half a second in the middle of an answer.
    """

    phone_calls: int
    failed: int
    turns: int
    unanswered: int
    interruptions: int
    first_text_ms: Spread
    heard_ms: Spread
    answer_ms: Spread
    gaps: int
    longest_gap_ms: int
    repeated: tuple[str, ...]
    warnings: int
    errors: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def turns_of(events: Sequence[Event]) -> list[Turn]:
    """The turns of one phone call. What the agent says before the caller's first words belongs to none."""
    turns: list[Turn] = []
    for event in events:
        if event.kind == "said":
            turns.append(Turn(event.details["text"], event.details["ended"], event.at))
            continue
        number = event.details.get("turn", len(turns))
        if number and event.kind in NOTES:
            NOTES[event.kind](turns[number - 1], event)
    return turns


def _note_text(turn: Turn, event: Event) -> None:
    if event.details["token"].strip():
        turn.first_text = turn.first_text or event.at
        turn.last_text = event.at
    turn.answer += event.details["token"]


def _note_spoken(turn: Turn, event: Event) -> None:
    turn.heard += event.details["text"]


def _note_speaking(turn: Turn, event: Event) -> None:
    turn.heard_at = turn.heard_at or event.at


def _note_interrupt(turn: Turn, event: Event) -> None:  # noqa: ARG001 - one signature for all notes
    turn.interrupted = True


def _note_gap(turn: Turn, event: Event) -> None:
    turn.gaps.append(event.details["seconds"])


NOTES = {
    "text": _note_text,
    "spoken": _note_spoken,
    "speaking": _note_speaking,
    "interrupt": _note_interrupt,
    "gap": _note_gap,
}


def repetitions(text: str) -> list[str]:
    """The words that follow themselves at once, as after an answer that was resumed at the wrong place."""
    words = [word.lower() for word in WORD.findall(text)]
    found, at = [], 0
    while at < len(words):
        length = _repeated_at(words, at)
        if length:
            found.append(" ".join(words[at : at + length]))
        at += length or 1
    return found


def _repeated_at(words: list[str], at: int) -> int:
    for length in range(LONGEST_REPETITION, 0, -1):
        first, second = words[at : at + length], words[at + length : at + 2 * length]
        if first == second and len("".join(first)) >= SHORTEST_WORD and (length > 1 or len(first[0]) >= SHORTEST_WORD):
            return length
    return 0


def summarize(logs: Sequence[CallLog], speed: float = 1.0) -> Summary:
    """The figures of these phone calls. `speed`: of their clocks; the server's times are those of the machine."""
    turns = [turn for log in logs for turn in turns_of(log.events)]
    gaps = [gap for turn in turns for gap in turn.gaps]
    return Summary(
        phone_calls=len(logs),
        failed=sum(1 for log in logs if log.of("error")),
        turns=len(turns),
        unanswered=sum(1 for turn in turns if not turn.is_answered and not turn.interrupted),
        interruptions=sum(len(log.of("interrupt")) for log in logs),
        first_text_ms=_spread((turn.first_text - turn.asked for turn in turns if turn.first_text), speed),
        heard_ms=_spread((turn.heard_at - turn.ended for turn in turns if turn.heard_at), 1.0),
        answer_ms=_spread((turn.last_text - turn.asked for turn in turns if turn.last_text), speed),
        gaps=len(gaps),
        longest_gap_ms=round(max(gaps, default=0.0) * 1000),
        repeated=tuple(words for turn in turns for words in turn.repeated),
        warnings=sum(len(log.of("warning")) for log in logs),
        errors=sum(len(log.of("error")) for log in logs),
    )


def _spread(seconds: Iterator[float], speed: float) -> Spread:
    values = sorted(round(value / speed * 1000) for value in seconds)
    if not values:
        return Spread(None, None, None)
    return Spread(_at(values, 0.5), _at(values, 0.95), values[-1])


def _at(values: list[int], share: float) -> int:
    """The smallest value that at least this share of the values does not exceed."""
    return values[max(0, -(-int(share * 100) * len(values) // 100) - 1)]
