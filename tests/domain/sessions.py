"""Small sessions to measure, and the parts they are made of."""

from typing import Any

from parley.domain.session import Session, Turn, Word


def turn(text: str, start: float = 0.0, end: float = 60.0, role: str = "rep", words: tuple[Word, ...] = ()) -> Turn:
    return Turn.model_validate({"role": role, "start": start, "end": end, "text": text, "words": words})


def session(*turns: Turn, **fields: Any) -> Session:
    given = {"session_id": "s-1", "user_id": "rep-1", "duration_seconds": 600, "turns": turns or (turn("Hello."),)}
    return Session.model_validate(given | fields)


def as_json(**fields: Any) -> dict[str, Any]:
    """A valid session as the JSON that a caller sends."""
    return session(turn("Hello there.", 0, 2), turn("Who is it?", 2, 3, "prospect")).model_dump(mode="json") | fields
