"""Which sessions are labelled a second time, in the place of which round, and what their labels say."""

import pytest

from parley.domain.auto_analyze.consistency import consistency
from parley.domain.auto_analyze.probing import Pair, drawn, probe_batches, probe_count


@pytest.mark.parametrize(
    ("wanted", "sessions", "count"),
    [(None, 10, 0), (None, 99, 0), (None, 100, 5), (None, 1000, 10), (None, 10**6, 50), (0, 1000, 0), (9, 4, 4)],
)
def test_a_small_share_of_the_sessions_are_probes(wanted: int | None, sessions: int, count: int):
    assert probe_count(wanted, sessions) == count


def test_the_seed_decides_which_sessions_are_drawn():
    assert drawn(1000, 10, 7) == drawn(1000, 10, 7) != drawn(1000, 10, 8)
    assert len(set(drawn(1000, 10, 7))) == 20
    assert sorted(drawn(3, 3, 1)) == [0, 1, 2]


def test_no_probe_is_in_its_own_round():
    own = {ordinal: ordinal % 4 + 1 for ordinal in range(40)}
    batches = probe_batches(own, 30, 7, 4, 3)
    asked = [ordinal for batch in batches for ordinal in batch.ordinals]
    assert sorted(asked) == [*range(30)]
    assert all(own[ordinal] != batch.round for batch in batches for ordinal in batch.ordinals)
    assert max(len(batch.ordinals) for batch in batches) == 7
    assert {batch.round for batch in batches} <= {1, 2, 3, 4}


@pytest.mark.parametrize("rounds", [0, 1])
def test_one_round_is_the_place_of_all_probes(rounds: int):
    assert probe_batches({4: 0, 2: 1}, 2, 10, rounds, 3) == [(1, (2, 4))]


def test_all_sessions_may_be_of_one_round():
    batches = probe_batches(dict.fromkeys(range(5), 2), 5, 10, 3, 1)
    assert [ordinal for batch in batches for ordinal in batch.ordinals] == [0, 1, 2, 3, 4]
    assert all(batch.round != 2 for batch in batches)


def test_the_agreement_of_probes_is_before_and_after_merging():
    pairs = [Pair("refund", "refunds", "refund", "refund"), Pair("parcel", "login", "parcel", "login")]
    found = consistency({"refund": 1, "parcel": 1}, {"refund": 1, "parcel": 1}, [], 2, pairs)
    assert (found.probes, found.probe_agreement_before, found.probe_agreement) == (2, 0.0, 0.5)
    assert found.probe_interval == (0.0945, 0.9055)


def test_there_is_no_interval_without_probes():
    assert consistency({}, {}, [], 0).probe_interval is None
    alike = [Pair("refund", "refund", "refund", "refund")] * 50
    assert consistency({"refund": 50}, {"refund": 50}, [], 50, alike).probe_interval == (0.9287, 1.0)


def test_catch_alls_and_other_are_shares_of_labelled_sessions():
    found = consistency({}, {"other": 3, "refund": 2, "parcel": 5}, [], 20)
    assert (found.catch_alls, found.other, found.coverage) == (2, 0.3, 0.5)
