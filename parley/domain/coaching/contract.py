"""What a coaching analysis consists of: scores by a rubric, and points that lead to moments of the session."""

from typing import Literal

from pydantic import Field

from parley.domain.coaching.rubric import Rubric, RubricSummary
from parley.domain.model import Model

NEUTRAL_SCORE = 50


class Moment(Model):
    """A place in a session: what was said there, in the transcript's own words.

    turn: the number of the turn, from 0. start, end: of the quoted words, in seconds from the start of the session.
    """

    turn: int
    role: Literal["rep", "prospect"]
    start: float
    end: float
    quote: str


class CoachingPoint(Model):
    """A strength or an improvement.

    skill: the id of the rubric's skill; empty for counted facts. moment: None only where it is about the whole session,
    which rules without a model may say. better: what the user could have said; empty for a strength.
    """

    skill: str = ""
    text: str
    moment: Moment | None = None
    better: str = ""


class SkillScore(Model):
    """The assessment of one skill. `score`: from 0 to 100; None: the session had no occasion for it."""

    id: str
    title: str
    weight: int
    score: int | None
    comment: str


class Checks(Model):
    """What code changed in a model's reply, by count.

    quotes_corrected: a quote that was nearly right has the transcript's own words. points_dropped: the quote is not in
    the transcript. improvements_dropped: there is no better line to say. numbers_corrected: a number contradicted the
    measured one, which replaces it. sentences_dropped: a sentence contradicted what was measured, and could not be
    corrected.
    """

    quotes_corrected: int = 0
    points_dropped: int = 0
    improvements_dropped: int = 0
    numbers_corrected: int = 0
    sentences_dropped: int = 0

    def warnings(self) -> tuple[str, ...]:
        """One line for each kind of change."""
        lines = (
            (self.points_dropped, "coaching: {} dropped, because the transcript does not have the quote", "point"),
            (self.improvements_dropped, "coaching: {} dropped, because no better line to say is given", "improvement"),
            (self.numbers_corrected, "coaching: {} of the model replaced by the measured ones", "number"),
            (self.sentences_dropped, "coaching: {} dropped, because they contradict what was measured", "sentence"),
        )
        return tuple(line.format(f"{count} {noun}{'s' * (count != 1)}") for count, line, noun in lines if count)


class TurnRange(Model):
    """Turns of a session that follow each other: their numbers from 0, and their times in seconds."""

    first: int
    last: int
    start: float
    end: float


class Excerpt(Model):
    """What a model read of a long transcript, and what was left out by the rules of `parley.domain.coaching.excerpt`.

    budget_tokens: the most tokens that the turns may have. tokens, turns: what was read, of `transcript_tokens` and
    `transcript_turns`. cut: the numbers of turns of which only the beginning and the end were read, because they have
    more than `longest_turn_tokens`. left_out: the turns that were not read.
    """

    budget_tokens: int
    tokens: int
    transcript_tokens: int
    turns: int
    transcript_turns: int
    cut: tuple[int, ...]
    longest_turn_tokens: int
    left_out: tuple[TurnRange, ...]

    def warning(self) -> str:
        """One line for a reader of the result."""
        read = f"{self.turns} of {self.transcript_turns} turns ({self.tokens} of {self.transcript_tokens} tokens)"
        return f"coaching: the model read {read}, selected by rules; quotes are checked against the whole transcript"


class Coaching(Model):
    """A coaching analysis as it is stored. A rule-based one is `fallback` and not `processed`.

    overall_score: the mean of the skills' scores by their weights; None: no skill was rated. excerpt: what the model
    read of the transcript; None: all of it. knows_voice: whether it was given what was measured on the recording.
    """

    rubric: RubricSummary
    overall_score: int | None
    skills: tuple[SkillScore, ...]
    strengths: tuple[CoachingPoint, ...]
    improvements: tuple[CoachingPoint, ...]
    checks: Checks = Field(default_factory=Checks)
    excerpt: Excerpt | None = None
    knows_voice: bool = False
    processed: bool = True
    fallback: bool = False

    def warnings(self) -> tuple[str, ...]:
        """What a reader of the result should know: what the model did not read, and what code changed."""
        return (*((self.excerpt.warning(),) if self.excerpt else ()), *self.checks.warnings())


def scored(rubric: Rubric, reviews: dict[str, tuple[int | None, str]]) -> tuple[SkillScore, ...]:
    """The skills of a rubric with their scores and comments, in its order."""
    return tuple(
        SkillScore(id=skill.id, title=skill.title, weight=skill.weight, score=score, comment=comment)
        for skill in rubric.skill
        for score, comment in (reviews[skill.id],)
    )
