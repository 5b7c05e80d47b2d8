"""Reads a model's reply: the structure follows the rubric, and every quote is in the transcript."""

import json
import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, ModelWrapValidatorHandler, ValidationError, model_validator

from parley.domain.coaching.contract import Checks, Coaching, CoachingPoint, scored
from parley.domain.coaching.quotes import find_moment
from parley.domain.coaching.rubric import HIGHEST, LOWEST, Rubric
from parley.domain.json_schema import is_array, is_object
from parley.domain.model import STORABLE, Model
from parley.domain.reply_json import read_reply_json
from parley.domain.requests import ChatReply, Finish
from parley.domain.session import Session
from parley.domain.text import one_line

PROBLEM_CHARACTERS = 200
# One word is in every talk: it leads to no moment.
LEAST_WORDS = 2
AT = re.compile(r"(?:(\d{1,2}):)?(\d{1,3}):(\d{2})")

# Strict: a JSON `true` is not a score of 1.
Score = Annotated[int, Field(strict=True, ge=LOWEST, le=HIGHEST)]
Remark = Annotated[str, Field(min_length=1, max_length=2000), STORABLE]


class SkillReview(Model):
    """A score with a comment. A brief reply has the score alone."""

    score: Score | None
    comment: Remark

    @model_validator(mode="wrap")
    @classmethod
    def _of_score(cls, given: object, handler: ModelWrapValidatorHandler["SkillReview"]) -> "SkillReview":
        if not (given is None or isinstance(given, int)):
            return handler(given)
        return handler({"score": given, "comment": "none"}).model_copy(update={"comment": ""})


class GivenPoint(Model):
    """A strength or an improvement as the model wrote it. `at`: empty in a brief reply."""

    skill: str
    text: Remark
    at: Annotated[str, Field(max_length=100)] = ""
    quote: Remark
    better: Annotated[str, Field(max_length=2000), STORABLE] = ""


GivenPoints = Annotated[tuple[GivenPoint, ...], Field(max_length=10)]


class CoachingReply(Model):
    """The reply that the model must give."""

    skills: dict[str, SkillReview]
    strengths: GivenPoints
    improvements: GivenPoints


def read_reply(reply: ChatReply, rubric: Rubric, session: Session) -> tuple[Coaching | None, str]:
    """The coaching in a reply, or None and the problem of the reply.

    A point whose quote is not in the transcript is dropped, and counted; so is an improvement without a better line. A
    reply without any point that is left cannot be used.
    """
    if reply.finish is Finish.LENGTH:
        return None, "cut at the token limit"
    if reply.finish is Finish.REFUSED:
        return None, "the model refused"
    try:
        answer = CoachingReply.model_validate(read_reply_json(reply.text))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "reply"
        return None, one_line(f"{place}: {first['msg']}", PROBLEM_CHARACTERS)
    except ValueError as error:
        return None, one_line(f"the reply is not JSON: {error}", PROBLEM_CHARACTERS)
    problem = _other_skills(answer, rubric)
    return (None, problem) if problem else _coaching(answer, rubric, session)


def divide(reply: ChatReply, count: int) -> list[ChatReply]:
    """The reply to a joint request as so many replies to single ones, by the index of each session.

    A session without exactly one result has an empty reply, which `read_reply` refuses. So has each session of a reply
    that was cut or is not JSON. It never fails, since the reply is paid for.
    """
    results = _results(reply) if reply.finish is Finish.STOP else {}
    return [
        reply.model_copy(update={"text": json.dumps(found[0], ensure_ascii=False) if len(found) == 1 else ""})
        for found in (results.get(index, []) for index in range(1, count + 1))
    ]


def _results(reply: ChatReply) -> dict[int, list[Any]]:
    """The results in the reply to a joint request, by index. An index that is not a whole number has none."""
    try:
        answer = read_reply_json(reply.text)
    except ValueError:
        return {}
    listed = answer.get("sessions") if is_object(answer) else None
    found: dict[int, list[Any]] = {}
    for one in listed if is_array(listed) else ():
        index = one.get("index") if is_object(one) else None
        if isinstance(index, int) and not isinstance(index, bool):
            found.setdefault(index, []).append(one.get("coaching"))
    return found


def _other_skills(answer: CoachingReply, rubric: Rubric) -> str:
    """Where a reply does not follow the rubric; empty if it does."""
    ids = [skill.id for skill in rubric.skill]
    for name in ids:
        if name not in answer.skills:
            return f"skills.{name}: Field required"
    points = [("strengths", one) for one in answer.strengths] + [("improvements", one) for one in answer.improvements]
    named = [("skills", name) for name in answer.skills] + [(place, point.skill) for place, point in points]
    for place, name in named:
        if name not in ids:
            return one_line(f"{place}: {name[:50]!r} is not a skill of the rubric", PROBLEM_CHARACTERS)
    if all(review.score is None for review in answer.skills.values()):
        return "skills: none is rated"
    return ""


def _coaching(answer: CoachingReply, rubric: Rubric, session: Session) -> tuple[Coaching | None, str]:
    given = [one for one in answer.improvements if one.better.strip()]
    bare = len(answer.improvements) - len(given)
    strengths, corrected, dropped = _checked(answer.strengths, session)
    improvements, more_corrected, more_dropped = _checked(given, session)
    if not strengths and not improvements:
        no_line = "improvements: none has a quote and a better line to say"
        return None, no_line if bare else "quote: none of the quotes is in the transcript"
    points = (*strengths, *improvements)
    comments = {name: " ".join(one.text for one in points if one.skill == name) for name in answer.skills}
    reviews = {name: (one.score, one.comment or comments[name]) for name, one in answer.skills.items()}
    skills = scored(rubric, reviews)
    coaching = Coaching(
        rubric=rubric.summary,
        overall_score=rubric.overall([skill.score for skill in skills]),
        skills=skills,
        strengths=strengths,
        improvements=improvements,
        checks=Checks(
            quotes_corrected=corrected + more_corrected,
            points_dropped=dropped + more_dropped,
            improvements_dropped=bare,
        ),
    )
    return coaching, ""


def _checked(given: Sequence[GivenPoint], session: Session) -> tuple[tuple[CoachingPoint, ...], int, int]:
    """The points whose quotes are in the transcript; how many quotes were corrected, and how many points dropped."""
    points: list[CoachingPoint] = []
    corrections = 0
    for one in given:
        moment, corrected = find_moment(session.turns, one.quote, _seconds(one.at), least_words=LEAST_WORDS)
        if moment is not None:
            points.append(CoachingPoint(skill=one.skill, text=one.text, moment=moment, better=one.better))
            corrections += corrected
    return tuple(points), corrections, len(given) - len(points)


def _seconds(at: str) -> float | None:
    found = AT.search(at)
    return int(found[1] or 0) * 3600 + int(found[2]) * 60 + float(found[3]) if found else None
