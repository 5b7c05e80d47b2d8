"""How the labels of two runs differ. Expected figures are worked out by hand, from the formulas of the module."""

import pytest

from parley.domain.auto_analyze.contract import LabelKind
from parley.domain.auto_analyze.drift import LabelTrend, benjamini_hochberg, drift, jensen_shannon


def trends(earlier: dict[str, int], later: dict[str, int]) -> dict[str, LabelTrend]:
    return {one.label: one.change for one in drift(LabelKind.INTENT, earlier, later).labels}


@pytest.mark.parametrize(
    ("earlier", "later", "distance"),
    [
        ({"a": 5, "b": 5}, {"a": 50, "b": 50}, 0.0),
        ({"a": 5}, {"b": 7}, 1.0),
        # KL(P || M) = log2(4 / 3), KL(Q || M) = log2(2 / 3) / 2 + 1 / 2
        ({"a": 2, "b": 2}, {"a": 1, "b": 1, "c": 2}, 0.5579),
    ],
)
def test_the_distance_is_between_the_same_shares_and_no_common_label(
    earlier: dict[str, int], later: dict[str, int], distance: float
):
    assert jensen_shannon(earlier, later) == jensen_shannon(later, earlier) == distance


def test_labels_are_new_gone_grown_or_shrunk():
    earlier = {"refund": 500, "parcel": 300, "login": 150, "fax": 50}
    later = {"refund": 300, "parcel": 300, "login": 300, "app": 100}
    assert trends(earlier, later) == {
        "refund": LabelTrend.SHRANK,
        "parcel": LabelTrend.STEADY,
        "login": LabelTrend.GREW,
        "fax": LabelTrend.GONE,
        "app": LabelTrend.NEW,
    }


def test_the_largest_change_of_share_comes_first():
    found = drift(LabelKind.INTENT, {"a": 50, "b": 50}, {"a": 80, "b": 10, "c": 10})
    assert [one.label for one in found.labels] == ["b", "a", "c"]
    assert [one.label for one in found.of(LabelTrend.NEW)] == ["c"]


def test_the_test_is_of_two_proportions():
    found = drift(LabelKind.INTENT, {"a": 30, "rest": 70}, {"a": 45, "rest": 55})
    # z = 0.15 / sqrt(0.375 * 0.625 * 0.02) = 2.19, for both labels.
    assert {one.p_value for one in found.labels} == {0.0285}


def test_few_sessions_are_not_judged():
    found = drift(LabelKind.INTENT, {"a": 1, "b": 99}, {"a": 4, "b": 96})
    assert {one.p_value for one in found.labels} == {None}
    assert trends({"a": 1, "b": 99}, {"a": 4, "b": 96}) == dict.fromkeys("ab", LabelTrend.STEADY)


def test_a_run_without_sessions_has_no_distance():
    found = drift(LabelKind.INTENT, {"a": 3}, {})
    assert (found.distance, found.labels[0].change, found.labels[0].later_share) == (None, LabelTrend.GONE, 0.0)


def test_p_values_are_adjusted_for_their_number():
    # In rank: 0.005 * 4 / 1, 0.01 * 4 / 2, 0.03 * 4 / 3, 0.04 * 4 / 4.
    assert benjamini_hochberg([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert benjamini_hochberg([]) == []
