"""Where the time of a phone call's turn goes, and what of its answer was heard: the data of its page."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from parley.client.attempts import AttemptReport
from parley.domain.phone.contract import PhoneTurn

FILLER, TEMPLATE = "filler", "template"
WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class Stage:
    """A part of a turn, in milliseconds since the caller had finished. `state`: of an attempt, or the stage's kind."""

    name: str
    state: str
    begins: float
    ends: float

    @property
    def lasted(self) -> float:
        return self.ends - self.begins


@dataclass(frozen=True)
class Mark:
    """Something that was said in place of a late answer: `filler` or `template`, with its time in milliseconds."""

    kind: str
    at: float


@dataclass(frozen=True)
class Waterfall:
    """The stages of a turn, and the marks on the wait for its first text."""

    stages: tuple[Stage, ...]
    marks: tuple[Mark, ...]

    @property
    def ends(self) -> float:
        return max((stage.ends for stage in self.stages), default=0.0)


@dataclass(frozen=True)
class Heard:
    """An answer: what the caller heard of it, and what was cut off."""

    heard: str
    cut: str


def waterfall_of(turn: PhoneTurn, attempts: Sequence[AttemptReport]) -> Waterfall:
    """The waterfall of a turn, and of the attempts at its answer."""
    first = turn.response_ms
    whole = _since(turn.created_at, turn.ended_at) if turn.ended_at else None
    stages: list[Stage] = []
    if attempts:
        stages.append(Stage("Until a model is asked", "wait", 0, _since(turn.created_at, attempts[0].started_at)))
    stages += [
        Stage(
            f"{one.provider} {one.model}",
            one.state,
            _since(turn.created_at, one.started_at),
            _since(turn.created_at, one.ended_at),
        )
        for one in attempts
        if one.ended_at is not None
    ]
    if turn.first_token_ms is not None:
        stages.append(Stage("Until its first token arrives", "token", 0, turn.first_token_ms))
    if first is not None:
        stages.append(Stage("Until its first text is sent", "first", 0, first))
        if whole is not None and whole > first:
            stages.append(Stage("Until its last text is made", "rest", first, whole))
    elif whole is not None:
        stages.append(Stage("Until the turn ends without text", "failed", 0, whole))
    marks = (FILLER, turn.filler_ms), (TEMPLATE, turn.template_ms)
    return Waterfall(tuple(stages), tuple(Mark(kind, at) for kind, at in marks if at is not None))


def heard_of(turn: PhoneTurn) -> Heard:
    """What was heard of a turn's answer, and what was cut off."""
    answer = turn.answer or ""
    if turn.heard is None:
        return Heard(answer, "")
    words, heard = list(WORD.finditer(answer)), turn.heard.split()
    if [word[0] for word in words[: len(heard)]] == heard:
        return Heard(turn.heard, answer[words[len(heard) - 1].end() if heard else 0 :].strip())
    return Heard(turn.heard, answer)  # it is spoken in other words than it is written


def longest_of(waterfalls: Mapping[str, Waterfall]) -> float:
    """The time that the widest bar is, the same for all turns of a page."""
    return max((one.ends for one in waterfalls.values()), default=0.0) or 1.0


def _since(began: datetime, then: datetime | None) -> float:
    return max((then - began).total_seconds() * 1000, 0.0) if then else 0.0
