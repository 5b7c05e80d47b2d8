import pytest

from parley.domain.speaking import Stretch
from parley.domain.turn_taking import (
    Interruptions,
    interruptions,
    longest_monologue,
    response_latency,
    talk_time_ratio,
)


def stretches(*times: tuple[float, float]) -> list[Stretch]:
    return [Stretch(*pair) for pair in times]


def test_the_talk_time_ratio_is_of_both_sides():
    assert talk_time_ratio(stretches((0, 3), (4, 10)), stretches((3, 4))) == 0.9
    assert talk_time_ratio(stretches((0, 3)), []) == 1
    assert talk_time_ratio([], []) is None


def test_who_starts_inside_the_others_speech_interrupts():
    found = interruptions(stretches((0, 4), (8, 12)), stretches((3, 6), (7, 9)))
    assert found == Interruptions(by_user=1, by_others=1, overlap_seconds=2)


@pytest.mark.parametrize(
    ("own", "why"),
    [
        ((4.6, 9), "starts as the other ends"),
        ((0.2, 9), "starts together with the other"),
        ((2, 2.9), "a sign of listening"),
        ((5, 9), "starts after the other"),
    ],
)
def test_not_every_overlap_is_an_interruption(own: tuple[float, float], why: str):
    assert interruptions(stretches(own), stretches((0, 5))).by_user == 0, why


def test_a_long_stretch_interrupts_once_however_many_pieces_it_overlaps():
    own = stretches((2, 30))
    assert interruptions(own, stretches((0, 4), (5, 8), (9, 12))).by_user == 1


def test_the_response_latency_is_the_median_of_the_gaps_before_the_users_answers():
    own, others = stretches((1, 2), (4.5, 5), (5.7, 6), (9, 10)), stretches((0, 0.8), (3, 4), (7, 8))
    assert response_latency(own, others) == 0.5  # 0.2, 0.5 and 1.0 s; the third stretch answers no one


def test_an_answer_that_begins_before_the_other_ends_is_not_a_gap():
    assert response_latency(stretches((3, 6)), stretches((0, 4))) is None
    assert response_latency(stretches((0, 4)), stretches((5, 6))) is None


def test_a_short_stretch_inside_another_does_not_shorten_the_latency():
    assert response_latency(stretches((2, 2.4), (12, 13)), stretches((0, 10))) is None
    assert response_latency(stretches((2, 2.4), (12, 13)), stretches((0, 10), (10.5, 11.5))) == 0.5


@pytest.mark.parametrize(
    "own",
    [stretches((0, 42)), stretches(*((at * 3.5, at * 3.5 + 3.5) for at in range(12))), stretches((0, 20), (22, 42))],
)
def test_a_monologue_is_as_long_in_pieces_as_in_one(own: list[Stretch]):
    assert longest_monologue(own, stretches((42, 44))) == 42


def test_another_speaker_or_a_long_silence_ends_a_monologue():
    assert longest_monologue(stretches((0, 20), (21, 30)), stretches((20.2, 20.8))) == 20
    assert longest_monologue(stretches((0, 20), (24, 50)), []) == 26
    assert longest_monologue([], stretches((0, 3))) == 0
