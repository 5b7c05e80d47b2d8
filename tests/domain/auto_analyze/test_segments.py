"""How many rounds fit into the history of one segment."""

import pytest

from parley.domain.auto_analyze.batching import max_events, rounds_per_segment

LIMIT = 10_000


@pytest.mark.parametrize("streams", range(1, 65))
def test_a_segment_stays_below_the_limit_and_is_used_well(streams: int):
    rounds = rounds_per_segment(streams, history=50)
    assert rounds >= 1
    assert 50 + max_events(streams, rounds) < LIMIT
    assert 50 + max_events(streams, rounds + 2) > LIMIT - 1_000


def test_more_streams_make_fewer_rounds():
    rounds = [rounds_per_segment(streams, history=50) for streams in (1, 8, 64)]
    assert rounds == sorted(rounds, reverse=True)
    assert rounds[0] > rounds[-1]


def test_events_that_the_history_already_has_count():
    assert rounds_per_segment(64, history=4_500) == 0
    assert rounds_per_segment(8, history=4_000) < rounds_per_segment(8, history=50)
