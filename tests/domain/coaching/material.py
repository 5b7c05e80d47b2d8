"""A session to coach, and a reply of a model about it."""

from typing import Any

from parley.domain.coaching.contract import Coaching
from parley.domain.coaching.rubric import built_in_rubrics
from parley.domain.habits import FillerWords, Habits
from parley.domain.session import Session, Word
from parley.domain.voice_metrics import VoiceMetrics, from_session
from tests.domain.sessions import session, turn

SALES = built_in_rubrics()["sales"]
OPENING = "Hi Rick, my name is Dev from Cargolume. Is now all right?"
ANSWERED = "I understand. What would it have to save? Our customers cut calls by 40% on average."


def timed(text: str, start: float, seconds: float) -> tuple[Word, ...]:
    """The words of a text, each as long as the others."""
    parts = text.split()
    each = seconds / len(parts)
    return tuple(Word(text=part, start=start + n * each, end=start + (n + 1) * each) for n, part in enumerate(parts))


TALK: Session = session(
    turn("Brandt Hollow, Rick.", 2, 4, "prospect"),
    turn(OPENING, 4, 10, words=timed(OPENING, 4, 6)),
    turn("Honestly, your kind of tool is “too expensive” for us.", 30, 36, "prospect"),
    turn(ANSWERED, 36, 50),
    turn("Half a day a week.", 50, 54, "prospect"),
)


def review(score: int | None = 70, comment: str = "Well done.") -> dict[str, Any]:
    return {"score": score, "comment": comment}


def point(quote: str, at: str = "00:36", text: str = "Good.", **more: str) -> dict[str, Any]:
    return {"skill": "objection_handling", "text": text, "at": at, "quote": quote, **more}


ANSWER: dict[str, Any] = {
    "skills": {skill.id: review() for skill in SALES.skill},
    "strengths": [point("Is now all right?", "00:04")],
    "improvements": [point("Our customers cut calls by 40% on average.", better="What would it have to save you?")],
}


def counted(*, share: float = 0.5, fillers: float = 1.0, questions: int = 5, listed: bool = True) -> Habits:
    rate = fillers if listed else None
    words = FillerWords(listed=listed, count=12, per_minute=rate, by_word={}, examples=())
    return Habits(filler_words=words, talk_time_ratio=share, questions=questions, longest_monologue_seconds=42)


def voice(pace_wpm: float = 150.0) -> VoiceMetrics:
    return from_session(TALK).model_copy(update={"pace_wpm": pace_wpm})


def coaching(*, comment: str = "Fine.", text: str = "Fine.", overall: int | None = 63) -> Coaching:
    skills = [
        {"id": skill.id, "title": skill.title, "weight": skill.weight, "score": 40, "comment": comment}
        for skill in SALES.skill
    ]
    return Coaching.model_validate(
        {
            "rubric": SALES.summary.model_dump(),
            "overall_score": overall,
            "skills": skills,
            "strengths": [{"text": text}],
            "improvements": [{"text": "Fine.", "better": "At 987 words a minute."}],
        }
    )
