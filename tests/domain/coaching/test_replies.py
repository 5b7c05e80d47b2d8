"""What a model replied: its structure follows the rubric, and its quotes are in the transcript."""

import json
from typing import Any

import pytest

from parley.domain.coaching.contract import Coaching, Moment
from parley.domain.coaching.replies import read_reply
from parley.domain.requests import ChatReply, Finish, Usage
from tests.domain.coaching.material import ANSWER, SALES, TALK, point, review
from tests.domain.sessions import session, turn


def reply(text: str, finish: Finish = Finish.STOP) -> ChatReply:
    return ChatReply(text=text, finish=finish, usage=Usage(), model="m")


def read(**changes: Any) -> tuple[Coaching | None, str]:
    return read_reply(reply(json.dumps(ANSWER | changes)), SALES, TALK)


def skills(**changes: Any) -> dict[str, Any]:
    return {"skills": ANSWER["skills"] | changes}


def test_a_good_reply_becomes_a_processed_analysis_with_moments():
    coaching, problem = read()
    assert (problem, coaching is not None) == ("", True)
    assert coaching is not None
    assert (coaching.rubric.reference, coaching.overall_score, coaching.processed) == ("sales@1", 70, True)
    assert [skill.id for skill in coaching.skills] == [skill.id for skill in SALES.skill]
    [strength], [improvement] = coaching.strengths, coaching.improvements
    assert strength.moment == Moment(turn=1, role="rep", start=8.0, end=10.0, quote="Is now all right?")
    assert improvement.better == "What would it have to save you?"
    assert not any(coaching.checks.model_dump().values())


def test_the_overall_score_is_the_mean_by_weight_of_the_skills_that_were_rated():
    coaching, _ = read(
        **skills(
            opening_technique=review(100),
            questioning_skills=review(50),
            objection_handling=review(None, "No objection was raised."),
            closing_technique=review(0),
        )
    )
    assert coaching is not None
    assert coaching.overall_score == 50  # (20 * 100 + 30 * 50 + 20 * 0) / 70
    assert coaching.skills[2].score is None


def test_a_point_whose_quote_is_invented_is_dropped_and_counted():
    invented = point("We signed the contract in the first minute of the call.")
    coaching, _ = read(strengths=[*ANSWER["strengths"], invented])
    assert coaching is not None
    assert [one.moment.turn for one in coaching.strengths if one.moment] == [1]
    assert coaching.checks.warnings() == ("coaching: 1 point dropped, because the transcript does not have the quote",)


def test_a_near_miss_gets_the_words_of_the_transcript():
    coaching, _ = read(strengths=[point("our customer cut calls by 40 % on avarage")])
    assert coaching is not None
    [strength] = coaching.strengths
    assert strength.moment is not None
    assert strength.moment.quote == "Our customers cut calls by 40% on average."
    assert coaching.checks.quotes_corrected == 1


def test_a_reply_without_a_true_quote_is_not_used():
    coaching, problem = read(strengths=[point("Nothing of this was ever said here.")], improvements=[])
    assert (coaching, problem) == (None, "quote: none of the quotes is in the transcript")


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ("", "the reply is not JSON"),
        ("I'd say 72 of 100.", "the reply is not JSON"),
        (json.dumps(ANSWER)[:-20], "the reply is not JSON"),
        ("[]", "reply"),
        ("null", "reply"),
        (skills(closing_technique=review(-1)), "skills.closing_technique.score"),
        (skills(closing_technique=review(101)), "skills.closing_technique.score"),
        (skills(closing_technique=review(True)), "skills.closing_technique.score"),
        (skills(closing_technique={"score": "high", "comment": "x"}), "skills.closing_technique.score"),
        (skills(closing_technique={"score": 71.5, "comment": "x"}), "skills.closing_technique.score"),
        (skills(closing_technique={"score": float("nan"), "comment": "x"}), "the reply is not JSON"),
        (skills(closing_technique={"score": 50}), "skills.closing_technique.comment"),
        (skills(closing_technique=review(50, "")), "skills.closing_technique.comment"),
        (skills(closing_technique=review(50, "x" * 2001)), "skills.closing_technique.comment"),
        (skills(loyalty=review()), "skills"),
        ({"skills": {"closing_technique": review()}}, "skills.opening_technique"),
        ({"skills": {skill.id: review(None) for skill in SALES.skill}}, "skills"),
        ({"strengths": "Clear."}, "strengths"),
        ({"strengths": ["Clear."]}, "strengths.0"),
        ({"strengths": ANSWER["strengths"] * 11}, "strengths"),
        ({"strengths": [point("Is now all right?", text="")]}, "strengths.0.text"),
        ({"strengths": [point("Is now all right?") | {"skill": "charm"}]}, "strengths"),
        ({"improvements": [point("Is now all right?", better="x" * 2001)]}, "improvements.0.better"),
        ({"improvements": [point("")]}, "improvements.0.quote"),
        ({"overall_score": 100}, "overall_score"),
        ({"confidence": 1}, "confidence"),
        ('{"skills": "\\ud800"}', "skills"),
        ("[" * 100_000, "the reply is not JSON"),
        ("x" * 1_000_000, "the reply is not JSON"),
    ],
    ids=lambda value: ascii(str(value)[-40:]),
)
def test_an_invalid_reply_is_refused_with_the_place_of_the_problem(changes: dict[str, Any] | str, place: str):
    text = changes if isinstance(changes, str) else json.dumps(ANSWER | changes)
    coaching, problem = read_reply(reply(text), SALES, TALK)
    assert coaching is None
    assert problem.startswith(f"{place}: ")
    assert len(problem) < 300
    assert "\n" not in problem


@pytest.mark.parametrize(("finish", "word"), [(Finish.LENGTH, "cut"), (Finish.REFUSED, "refused")])
def test_an_unfinished_reply_is_refused_even_if_it_parses(finish: Finish, word: str):
    coaching, problem = read_reply(reply(json.dumps(ANSWER), finish), SALES, TALK)
    assert coaching is None
    assert word in problem


@pytest.mark.parametrize("better", ["", "  ", None])
def test_an_improvement_without_a_better_line_is_dropped_and_counted(better: str | None):
    bare = point("What would it have to save?") | ({} if better is None else {"better": better})
    coaching, _ = read(improvements=[*ANSWER["improvements"], bare])
    assert coaching is not None
    assert [one.better for one in coaching.improvements] == ["What would it have to save you?"]
    assert coaching.checks.warnings() == ("coaching: 1 improvement dropped, because no better line to say is given",)


def test_a_reply_without_any_point_that_can_be_used_is_asked_for_again():
    bare = point("What would it have to save?", better=" ")
    assert read(strengths=[], improvements=[bare]) == (None, "improvements: none has a quote and a better line to say")


@pytest.mark.parametrize("quote", ["I", "the", "save", "Half … I", "."])
def test_a_quote_of_one_word_leads_to_no_moment(quote: str):
    coaching, _ = read(strengths=[*ANSWER["strengths"], point(quote)])
    assert coaching is not None
    assert len(coaching.strengths) == 1
    assert coaching.checks.points_dropped == 1


def test_a_whole_turn_of_one_word_is_a_moment():
    talk = session(turn("Is it too expensive?", 0, 3), turn("No.", 3, 4, "prospect"), turn("No wonder.", 4, 5))
    coaching, _ = read_reply(reply(json.dumps(ANSWER | {"strengths": [point("No")]})), SALES, talk)
    assert coaching is not None
    assert coaching.strengths[0].moment is not None
    assert coaching.strengths[0].moment.turn == 1
