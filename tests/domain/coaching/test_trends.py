"""Progress over sessions: values, change and best, of scores and of habits."""

from parley.domain.coaching.contract import Coaching
from parley.domain.coaching.trends import Past, Trend, Trends, trends
from tests.domain.coaching.material import coaching, counted, voice


def past(
    name: str, overall: int | None, *, opening: int | None = 40, fillers: float = 1.0, listed: bool = True
) -> Past:
    rated = coaching(overall=overall)
    skills = (rated.skills[0].model_copy(update={"score": opening}), *rated.skills[1:])
    return Past(name, rated.model_copy(update={"skills": skills}), counted(fillers=fillers, listed=listed), voice())


def line(found: Trends, name: str) -> Trend:
    return next(one for one in found.lines if one.id == name)


def test_a_first_session_has_no_progress():
    assert trends([], past("one", 50)) == Trends()


def test_each_score_and_habit_has_its_values_change_and_best():
    found = trends([past("one", 50, fillers=4), past("two", 70, fillers=2.5)], past("three", 64, fillers=3))
    assert found.sessions == ("one", "two", "three")
    overall, fillers = line(found, "overall"), line(found, "filler_words")
    assert (overall.values, overall.change, overall.best) == ((50, 70, 64), -6, 70)
    assert (fillers.values, fillers.change, fillers.best) == ((4, 2.5, 3), 0.5, 2.5)
    assert line(found, "talk_time_ratio").best is None
    assert [one.id for one in found.lines if one.kind == "score"][1:] == [one.id for one in coaching().skills]


def test_what_was_not_rated_is_a_gap():
    found = trends([past("one", 50, opening=30), past("two", 60, opening=None)], past("three", 64, opening=45))
    opening = line(found, "opening_technique")
    assert (opening.values, opening.change, opening.best) == ((30, None, 45), 15, 45)
    found = trends([past("one", 50)], past("two", None, opening=None, listed=False))
    for name in ("overall", "opening_technique", "filler_words"):
        assert line(found, name).change is None
    assert Coaching.model_validate_json(coaching().model_dump_json()) == coaching()


def test_a_session_that_no_model_rated_has_no_scores_and_its_habits():
    rated = past("two", 50, fillers=2)
    fallback = rated._replace(coaching=rated.coaching.model_copy(update={"fallback": True, "processed": False}))
    found = trends([past("one", 85, opening=80)], fallback)
    overall, opening = line(found, "overall"), line(found, "opening_technique")
    assert (overall.values, overall.change, overall.best) == ((85, None), None, 85)
    assert (opening.values, opening.change, opening.best) == ((80, None), None, 80)
    assert line(found, "filler_words").values == (1, 2)
