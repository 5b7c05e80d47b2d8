"""The analysis without a model: counted facts with their moments, and a neutral score, marked as a fallback."""

from parley.domain.coaching.contract import NEUTRAL_SCORE, Coaching, CoachingPoint, Moment, scored
from parley.domain.coaching.quotes import find_moment
from parley.domain.coaching.rubric import Rubric
from parley.domain.habits import Habits
from parley.domain.session import Session

NOT_ASSESSED = "Not assessed: no model was available for this analysis."


def rule_based(session: Session, counted: Habits, rubric: Rubric) -> Coaching:
    """Counted facts as strengths and improvements, and every score neutral."""
    strengths, improvements = _observations(session, counted, rubric)
    return Coaching(
        rubric=rubric.summary,
        overall_score=NEUTRAL_SCORE,
        skills=scored(rubric, {skill.id: (NEUTRAL_SCORE, NOT_ASSESSED) for skill in rubric.skill}),
        strengths=strengths,
        improvements=improvements,
        processed=False,
        fallback=True,
    )


def _observations(
    session: Session, counted: Habits, rubric: Rubric
) -> tuple[tuple[CoachingPoint, ...], tuple[CoachingPoint, ...]]:
    fillers, share = counted.filler_words, counted.talk_time_ratio
    user, other = rubric.user, rubric.other
    rules = (
        (
            None if share is None else share <= 0.55,
            f"Left the {other} room: the {user} spoke {share or 0:.0%} of the time.",
            f"Leave the {other} more room: the {user} spoke {share or 0:.0%} of the time.",
            _longest_turn(session),
        ),
        (
            None if fillers.per_minute is None or not fillers.listed else fillers.per_minute <= 3,
            f"Few filler words: {fillers.per_minute} a minute.",
            f"Fewer filler words: {fillers.per_minute} a minute.",
            find_moment(session.turns, fillers.examples[0], None)[0] if fillers.examples else None,
        ),
        (
            None if counted.questions is None else counted.questions >= 4,
            f"Asked {counted.questions} questions.",
            f"Ask more: {counted.questions} questions in the session.",
            _first_question(session),
        ),
    )
    praised = tuple(CoachingPoint(text=praise, moment=moment) for holds, praise, _, moment in rules if holds)
    advised = tuple(CoachingPoint(text=advice, moment=moment) for holds, _, advice, moment in rules if holds is False)
    return praised, advised


def _longest_turn(session: Session) -> Moment | None:
    own = [turn for turn in session.turns if turn.role == "rep"]
    longest = max(own, key=lambda turn: turn.end - turn.start, default=None)
    return None if longest is None else find_moment(session.turns, longest.text, longest.start)[0]


def _first_question(session: Session) -> Moment | None:
    asked = next((turn for turn in session.turns if turn.role == "rep" and "?" in turn.text), None)
    if asked is None:
        return None
    question = asked.text[: asked.text.index("?") + 1]
    begins = max(question.rfind(mark, 0, -1) for mark in ".!?") + 1
    return find_moment(session.turns, question[begins:], asked.start)[0]
