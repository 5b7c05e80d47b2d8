"""Progress of a user over sessions: the same rubric, per skill and per habit."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from parley.domain.coaching.contract import Coaching
from parley.domain.habits import Habits
from parley.domain.model import Model
from parley.domain.voice_metrics import VoiceMetrics

EARLIER_SESSIONS = 10
OVERALL = "overall"


class Trend(Model):
    """How one score or habit develops. `kind`: a score is from 0 to 100.

    values: one for each session of `Trends`, the oldest first; None: not rated, or not measured. change: this session
    less the one before it that has a value. best: the best value of all these sessions; None where more is not better.
    """

    kind: Literal["score", "habit"]
    id: str
    title: str
    values: tuple[float | None, ...]
    change: float | None
    best: float | None


class Trends(Model):
    """The user's sessions under one rubric, at most ten earlier ones and this one, the oldest first."""

    sessions: tuple[str, ...] = ()
    lines: tuple[Trend, ...] = ()


class Past(NamedTuple):
    """An analysed session."""

    session_id: str
    coaching: Coaching
    habits: Habits
    voice: VoiceMetrics


@dataclass(frozen=True)
class Habit:
    """A habit that is followed. `best`: which of its values is the best one; None: more is not better, nor less."""

    title: str
    value: Callable[[Past], float | None]
    best: Callable[[Sequence[float]], float] | None


HABITS: Mapping[str, Habit] = {
    "talk_time_ratio": Habit("talk time, %", lambda one: _share(one.habits.talk_time_ratio), None),
    "pace_wpm": Habit("words a minute", lambda one: one.voice.pace_wpm, None),
    "filler_words": Habit("filler words a minute", lambda one: one.habits.filler_words.per_minute, min),
    "questions": Habit("questions", lambda one: one.habits.questions, max),
    "longest_monologue_seconds": Habit("longest monologue, s", lambda one: one.habits.longest_monologue_seconds, min),
}


def trends(earlier: Sequence[Past], current: Past) -> Trends:
    """The progress up to the current session. `earlier`: the oldest first. Empty for a user's first session."""
    if not earlier:
        return Trends()
    sessions = (*earlier, current)
    lines = [_trend("score", OVERALL, OVERALL, [_overall(one.coaching) for one in sessions], max)]
    for skill in current.coaching.skills:
        values = [_score(one.coaching, skill.id) for one in sessions]
        lines.append(_trend("score", skill.id, skill.title, values, max))
    for name, habit in HABITS.items():
        lines.append(_trend("habit", name, habit.title, [habit.value(one) for one in sessions], habit.best))
    return Trends(sessions=tuple(one.session_id for one in sessions), lines=tuple(lines))


def _share(ratio: float | None) -> float | None:
    return None if ratio is None else round(100 * ratio, 1)


def _overall(coaching: Coaching) -> int | None:
    """None for a fallback: its neutral score says that no model answered, and nothing of the session."""
    return None if coaching.fallback else coaching.overall_score


def _score(coaching: Coaching, skill_id: str) -> int | None:
    if coaching.fallback:
        return None
    return next((skill.score for skill in coaching.skills if skill.id == skill_id), None)


def _trend(
    kind: Literal["score", "habit"],
    name: str,
    title: str,
    values: Sequence[float | None],
    best: Callable[[Sequence[float]], float] | None,
) -> Trend:
    known = [value for value in values[:-1] if value is not None]
    current = values[-1]
    everything = [*known, *([current] if current is not None else [])]
    return Trend(
        kind=kind,
        id=name,
        title=title,
        values=tuple(values),
        change=round(current - known[-1], 3) if known and current is not None else None,
        best=best(everything) if best and everything else None,
    )
