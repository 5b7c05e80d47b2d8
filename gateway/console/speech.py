"""Who speaks when in a session, and for how long no one does: the data of its chart."""

from dataclasses import dataclass

from parley.domain.session import Session


@dataclass(frozen=True)
class Stretch:
    """Where one turn lies in the session: both from 0 to 1000."""

    role: str
    start: float
    width: float


@dataclass(frozen=True)
class Speech:
    """The turns on the session's time line, and the seconds of each speaker and of silence."""

    seconds: float
    stretches: tuple[Stretch, ...]
    talk: dict[str, float]
    silence: float


def speech_of(session: Session) -> Speech:
    """The chart of a session. Where both speak, both are drawn; silence is where neither does."""
    whole = max(session.duration_seconds, *(turn.end for turn in session.turns))
    talk = {"rep": 0.0, "prospect": 0.0}
    spoken, until = 0.0, 0.0
    for turn in session.turns:  # they are in the order of their starts
        talk[turn.role] += turn.end - turn.start
        spoken += max(turn.end - max(turn.start, until), 0.0)
        until = max(until, turn.end)
    stretches = tuple(
        Stretch(
            turn.role, round(turn.start / whole * 1000, 1), round(max((turn.end - turn.start) / whole * 1000, 1.0), 1)
        )
        for turn in session.turns
    )
    return Speech(whole, stretches, talk, whole - spoken)
