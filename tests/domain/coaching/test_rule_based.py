"""The analysis without a model: counted facts, marked as a fallback."""

from parley.domain.coaching.rubric import built_in_rubrics
from parley.domain.coaching.rule_based import rule_based
from parley.domain.habits import habits
from tests.domain.coaching.material import ANSWERED, SALES, TALK, counted
from tests.domain.sessions import session, turn


def test_a_rule_based_analysis_is_marked():
    coaching = rule_based(TALK, counted(), SALES)
    assert (coaching.overall_score, coaching.processed, coaching.fallback) == (50, False, True)
    assert [skill.id for skill in coaching.skills] == [skill.id for skill in SALES.skill]
    assert all(skill.score == 50 and skill.comment.startswith("Not assessed") for skill in coaching.skills)


def test_a_rule_based_analysis_has_counted_facts_only():
    good = rule_based(TALK, counted(), SALES)
    bad = rule_based(TALK, counted(share=0.7, fillers=9.5, questions=1), built_in_rubrics()["support"])
    assert [len(good.strengths), good.improvements] == [3, ()]
    assert [bad.strengths, len(bad.improvements)] == [(), 3]
    assert "the support agent spoke 70%" in bad.improvements[0].text
    assert "9.5" in bad.improvements[1].text


def test_a_counted_fact_points_to_a_moment_where_there_is_one():
    talk = session(turn("Um, we sell, um, software.", 0, 5), *TALK.turns[1:])
    coaching = rule_based(talk, habits(talk), SALES)
    quotes = {point.text.partition(":")[0]: point.moment and point.moment.quote for point in coaching.improvements}
    assert quotes["Leave the prospect more room"] == ANSWERED
    assert quotes["Fewer filler words"] == "Um, we sell, um, software."
    assert quotes["Ask more"] == "Is now all right?"


def test_fillers_that_could_not_be_counted_are_not_praised():
    coaching = rule_based(TALK, counted(fillers=0, listed=False), SALES)
    assert not any("filler" in point.text for point in (*coaching.strengths, *coaching.improvements))
