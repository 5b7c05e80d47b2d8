"""Two runs on the same sessions."""

from decimal import Decimal

import pytest

from parley.domain.auto_analyze.comparison import RunSide, adjusted_rand_index, compared, matched


def side(cost: str) -> RunSide:
    return RunSide(id="job", job_key="key", models=("m",), cost_usd=Decimal(cost), tokens=10, intents=2)


@pytest.mark.parametrize(
    ("cells", "index"),
    [
        ({("a", "x"): 3, ("b", "y"): 4}, 1.0),
        ({("a", "x"): 3}, 1.0),
        ({}, None),
        # (1 - 2 * 1 / 6) / ((2 + 1) / 2 - 2 * 1 / 6)
        ({("a", "x"): 2, ("b", "y"): 1, ("b", "z"): 1}, 0.5714),
        ({("a", "x"): 1, ("a", "y"): 1, ("b", "x"): 1, ("b", "y"): 1}, -0.5),
    ],
)
def test_the_index_is_1_for_the_same_groups(cells: dict[tuple[str, str], int], index: float | None):
    assert adjusted_rand_index(cells) == index


def test_labels_match_by_the_sessions_that_they_share():
    cells = {("refund", "money back"): 9, ("refund", "login"): 1, ("login", "login"): 5, ("fax", "login"): 5}
    assert matched(cells) == {"refund": "money back", "login": "login"}


def test_a_comparison_says_what_differs():
    cells = {("refund", "money back"): 6, ("login", "login"): 2, ("login", "money back"): 2}
    found = compared(cells, side("1.50"), side("1.20"))
    assert (found.sessions, found.same_name, found.same_label) == (10, 0.2, 0.8)
    assert found.cost_difference_usd == Decimal("-0.30")
    assert (found.only_first, found.only_second) == ((("refund", 6),), (("money back", 8),))
    assert [(one.first, one.second, one.sessions) for one in found.moved] == [("login", "money back", 2)]


def test_two_runs_without_a_common_session_have_no_agreement():
    found = compared({}, side("1"), side("1"))
    assert (found.ari, found.same_label, found.same_name) == (None, None, None)
