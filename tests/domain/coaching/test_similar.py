"""When a session is the same conversation as another one: on the labelled pairs, and at the borders of each gate."""

import pytest

from benchmarks.similar import FILES, Pair, read_pairs
from parley.domain.coaching.contract import Coaching, CoachingPoint, Moment
from parley.domain.coaching.similar import adapted, least_cosine, passages, text_similarity
from tests.domain.coaching.material import SALES
from tests.domain.sessions import session, turn

NEAR_MISSES = [pair for name in FILES for pair in read_pairs(name) if not pair.same]
FOUND = {"the same text", "hesitations", "contractions", "numbers", "punctuation", "timing", "repeated words"}
SAME = [pair for name in FILES for pair in read_pairs(name) if pair.kind in FOUND]


@pytest.mark.parametrize("pair", NEAR_MISSES, ids=lambda pair: f"{pair.kind}-{pair.session}")
def test_another_conversation_is_not_a_hit(pair: Pair):
    assert text_similarity(*pair.sessions()) is None


@pytest.mark.parametrize("pair", SAME, ids=lambda pair: f"{pair.kind}-{pair.session}")
def test_a_conversation_that_is_held_again_is_a_hit(pair: Pair):
    one, other = pair.sessions()
    similarity = text_similarity(one, other)
    assert similarity is not None
    assert similarity > 90
    assert len(passages(one)) == len(passages(other))


def test_other_scripts_are_never_compared():
    talk = session(turn("Здравствуйте, это Инес.", 0, 2), language="ru")
    assert text_similarity(talk, talk) is None


def test_passages_that_are_not_about_the_same_have_a_low_cosine():
    assert least_cosine([(1.0, 0.0), (0.0, 1.0)], [(1.0, 0.0), (1.0, 0.0)]) == 0.0
    assert least_cosine([(1.0, 0.0)], [(0.8, 0.6)]) == pytest.approx(0.8)


def coaching(*quotes: str) -> Coaching:
    points = tuple(
        CoachingPoint(text="well said", moment=Moment(turn=0, role="rep", start=0, end=1, quote=quote))
        for quote in quotes
    )
    return Coaching(rubric=SALES.summary, overall_score=70, skills=(), strengths=points, improvements=())


def test_moments_are_those_of_this_session_or_are_dropped():
    talk = session(turn("Who is it?", 0, 2, "prospect"), turn("Hello, this is Ines from Tesselry.", 8, 12))
    ours = adapted(coaching("this is ines, from tesselry", "a line that no one says here"), talk)
    assert ours is not None
    [point] = ours.strengths
    assert point.moment is not None
    assert (point.moment.turn, point.moment.quote) == (1, "this is Ines from Tesselry.")
    assert 8 <= point.moment.start < point.moment.end <= 12


def test_coaching_without_a_moment_in_this_session_is_not_used():
    assert adapted(coaching("a line that no one says here"), session(turn("Hello.", 0, 1))) is None
