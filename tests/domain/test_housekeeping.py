"""Weeks are ISO weeks in UTC."""

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from pydantic import ValidationError

from parley.domain.housekeeping import Week, week_before

MONDAY = datetime(2026, 11, 23, 0, 5, tzinfo=UTC)


@pytest.mark.parametrize("moment", [MONDAY, MONDAY.replace(minute=0), MONDAY + timedelta(days=6, hours=23)])
def test_the_week_before_is_the_last_whole_one(moment: datetime):
    week = week_before(moment)
    assert (week.name, week.monday) == ("2026-W47", date(2026, 11, 16))
    assert week.begins == datetime(2026, 11, 16, tzinfo=UTC)
    assert week.ends == datetime(2026, 11, 23, tzinfo=UTC)


def test_a_moment_counts_in_utc():
    sunday_evening_in_utc = datetime(2026, 11, 23, 0, 5, tzinfo=timezone(timedelta(hours=2)))
    assert week_before(sunday_evening_in_utc).name == "2026-W46"


def test_a_week_belongs_to_the_year_of_its_thursday():
    assert Week(monday=date(2024, 12, 30)).name == "2025-W01"
    assert Week(monday=date(2026, 12, 28)).name == "2026-W53"


def test_a_week_begins_on_a_monday():
    with pytest.raises(ValidationError, match="must be a Monday"):
        Week(monday=date(2026, 11, 17))
