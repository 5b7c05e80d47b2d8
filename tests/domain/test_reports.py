"""What reports derive from figures: days, weeks, rates, and how sure a share is."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from parley.domain.intervals import Interval, wilson
from parley.domain.reports import (
    Arm,
    Attempts,
    Experiments,
    Requests,
    Span,
    Spend,
    compare,
    every_day,
    every_week,
    week_name,
    whole_days,
    whole_weeks,
)

NOW = datetime(2026, 11, 26, 15, 30, tzinfo=UTC)


def span(days: float) -> Span:
    return Span(since=NOW - timedelta(days=days), until=NOW)


def test_every_day_of_a_span_is_a_line():
    lines = list(every_day(whole_days(span(2)), {date(2026, 11, 25): Spend(attempts=3)}))
    assert [(line.day.day, line.attempts) for line in lines] == [(24, 0), (25, 3), (26, 0)]


def test_a_span_that_ends_at_midnight_does_not_touch_the_next_day():
    midnight = datetime(2026, 11, 26, tzinfo=UTC)
    assert [line.day.day for line in every_day(Span(since=midnight - timedelta(days=1), until=midnight), {})] == [25]


def test_every_week_of_a_span_is_a_line_also_at_the_end_of_a_year():
    year = Span(since=datetime(2026, 12, 20, tzinfo=UTC), until=datetime(2027, 1, 5, tzinfo=UTC))
    lines = list(every_week(whole_weeks(year), {date(2026, 12, 28): Spend(attempts=2)}))
    assert [(line.week, line.attempts) for line in lines] == [
        ("2026-W51", 0),
        ("2026-W52", 0),
        ("2026-W53", 2),
        ("2027-W01", 0),
    ]


@pytest.mark.parametrize(
    ("day", "week"), [((2027, 1, 3), "2026-W53"), ((2027, 1, 4), "2027-W01"), ((2024, 12, 30), "2025-W01")]
)
def test_weeks_are_named_as_iso_names_them(day: tuple[int, int, int], week: str):
    assert week_name(date(*day)) == week


def test_a_rate_of_nothing_is_unknown():
    assert (Attempts().error_rate, Requests().error_rate, Requests().cache_hit_rate) == (None, None, None)
    assert Attempts(settled=6, duplicate=1, lost=1, failed=2).error_rate == 0.3
    assert Requests(completed=3, failed=1, refused=5, cancelled=7).error_rate == 0.25
    assert Requests(completed=4, cached_exact=1, cached_similar=1, cached_stale=1).cache_hit_rate == 0.5


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_of_a_share_is_the_published_one(successes: int, trials: int, low: float, high: float):
    assert wilson(successes, trials) == Interval(low=low, high=high)


def test_a_share_of_nothing_has_no_interval():
    assert wilson(0, 0) is None


def arm(name: str, good: int = 0, bad: int = 0, **fields: Any) -> Arm:
    given: dict[str, Any] = {
        "experiment": "tone",
        "requests": good + bad,
        "completed": good + bad,
        "failed": 0,
        "cached": 0,
        "cost_usd": 0,
        "average_ms": None,
        "p95_ms": None,
        "graded": 0,
        "quality": None,
    }
    return Arm(arm=name, good=good, bad=bad, **given | fields)


def test_the_difference_of_two_shares_is_the_published_one():
    """Newcombe, "Interval estimation for the difference between independent proportions", 1998, table II, method 10."""
    found = compare(arm("a", 56, 14), arm("b", 48, 32))
    assert found is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    assert found.differs


def test_few_ratings_show_no_difference():
    found = compare(arm("a", 3, 1), arm("b", 2, 2))
    assert found is not None
    assert not found.differs


def test_only_two_rated_arms_are_compared():
    def compared(*arms: Arm) -> int:
        return len(Experiments(span=span(1), lines=arms).comparisons)

    assert compared(arm("a", 1, 1), arm("b", 1, 1)) == 1
    assert compared(arm("a", 1, 1), arm("b")) == 0
    assert compared(arm("a", 1, 1), arm("b", 1, 1), arm("c", 1, 1)) == 0
    assert compared(arm("a", 1, 1), arm("b", 1, 1), arm("a", 1, 1, experiment="x"), arm("b", 1, 1, experiment="x")) == 2
