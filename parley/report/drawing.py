"""The drawings of an analysis as numbers: where turns, pauses, fillers and moments lie, and how curves run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from parley.domain.coaching.contract import Coaching, CoachingPoint
from parley.domain.coaching.quotes import times_of
from parley.domain.coaching.trends import Trends
from parley.domain.habits import filler_places
from parley.domain.session import Session
from parley.domain.speaking import PAUSE_SECONDS
from parley.domain.voice_metrics import SoundEvent

WIDTH, HEIGHT = 1000, 100
# A silence between two turns is drawn from this length.
SILENCE_SECONDS = 1.0
# As many lines as there are colours.
MOST_LINES = 6


@dataclass(frozen=True)
class Stretch:
    """A part of the session: both from 0 to `WIDTH`."""

    start: float
    width: float


@dataclass(frozen=True)
class Mark:
    """A moment on the time line. `anchor`: the id of its point on the page."""

    at: float
    anchor: str
    label: str
    seconds: float


@dataclass(frozen=True)
class TimeLine:
    """Who speaks when, in what order, with pauses, fillers and moments; and the seconds of each speaker and of none.

    sounds: what is heard beside words: its name, its place, and its start in seconds.
    """

    seconds: float
    turns: tuple[tuple[str, Stretch], ...]
    pauses: tuple[Stretch, ...]
    fillers: tuple[float, ...]
    marks: tuple[Mark, ...]
    talk: dict[str, float]
    silence: float
    sounds: tuple[tuple[str, Stretch, float], ...] = ()


@dataclass(frozen=True)
class Lines:
    """Several lines over the same sessions: each with its name and the points of an SVG polyline."""

    series: tuple[tuple[str, tuple[str, ...]], ...]


def time_line(session: Session, coaching: Coaching, sounds: Sequence[SoundEvent] = ()) -> TimeLine:
    """The drawing of a session. Where both speak, both are drawn; silence is where neither does."""
    whole = max(session.duration_seconds, *(turn.end for turn in session.turns))
    talk = {"rep": 0.0, "prospect": 0.0}
    spoken, until = 0.0, 0.0
    pieces = sorted((start, end, turn.role) for turn in session.turns for start, end in turn.spoken)
    for start, end, role in pieces:
        talk[role] += end - start
        spoken += max(end - max(start, until), 0.0)
        until = max(until, end)
    return TimeLine(
        seconds=whole,
        turns=tuple((role, _stretch(start, end, whole)) for start, end, role in pieces),
        pauses=tuple(_stretch(start, end, whole) for start, end in _pauses(session)),
        fillers=tuple(round(at / whole * WIDTH, 1) for at in _fillers(session)),
        marks=tuple(_marks(coaching, whole)),
        talk=talk,
        silence=whole - spoken,
        sounds=tuple((one.text, _stretch(one.start, one.end, whole), one.start) for one in sounds),
    )


def curve(values: Sequence[float | None]) -> str:
    """A line as the path of an SVG, from the lowest value at the bottom to the highest at the top. None is a gap."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return ""
    low, span = min(known), max(max(known) - min(known), 1e-9)
    step = WIDTH / max(len(values) - 1, 1)
    parts: list[str] = []
    pen = "M"
    for place, value in enumerate(values):
        if value is None:
            pen = "M"
            continue
        parts.append(f"{pen}{place * step:.1f} {HEIGHT - (value - low) / span * HEIGHT:.1f}")
        pen = "L"
    return "".join(parts)


def scores(found: Trends) -> Lines:
    """The scores over the sessions, from 0 at the bottom to 100 at the top."""
    lines = [line for line in found.lines if line.kind == "score"][:MOST_LINES]
    step = WIDTH / max(len(found.sessions) - 1, 1)
    return Lines(tuple((line.title, tuple(_runs(line.values, step))) for line in lines))


def _runs(values: Sequence[float | None], step: float) -> Iterator[str]:
    """The points of each part of a line that has no gap."""
    run: list[str] = []
    for place, value in enumerate([*values, None]):
        if value is not None:
            run.append(f"{place * step:.1f},{HEIGHT - value:.1f}")
        elif run:
            yield " ".join(run)
            run = []


def _stretch(start: float, end: float, whole: float) -> Stretch:
    return Stretch(round(start / whole * WIDTH, 1), round(max((end - start) / whole * WIDTH, 1.0), 1))


def _pauses(session: Session) -> Iterator[tuple[float, float]]:
    """The pauses within the user's turns, where words have times, and the silences between turns."""
    for turn in session.turns:
        if turn.role == "rep":
            gaps = ((before.end, after.start) for before, after in pairwise(turn.words))
            yield from ((start, end) for start, end in gaps if end - start >= PAUSE_SECONDS)
    until = 0.0
    for turn in session.turns:
        if turn.start - until >= SILENCE_SECONDS:
            yield until, turn.start
        until = max(until, turn.end)


def _fillers(session: Session) -> Iterator[float]:
    """When the user said a filler word."""
    for turn in session.turns:
        if turn.role == "rep":
            yield from (times_of(turn, *place)[0] for place in filler_places(turn.text, session.language))


def _marks(coaching: Coaching, whole: float) -> Iterator[Mark]:
    for anchor, point in anchored(coaching):
        if point.moment:
            at = round(min(point.moment.start / whole, 1.0) * WIDTH, 1)
            yield Mark(at, anchor, point.text, point.moment.start)


def anchored(coaching: Coaching) -> Iterator[tuple[str, CoachingPoint]]:
    """The points with their ids on the page."""
    for kind, points in (("strength", coaching.strengths), ("improvement", coaching.improvements)):
        yield from ((f"{kind}-{number}", point) for number, point in enumerate(points, 1))
