"""Periods of spending: UTC days, ISO weeks and months; and a cap with what counts against it."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from enum import StrEnum


class Period(StrEnum):
    """The period that a cap applies to."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"


@dataclass(frozen=True)
class CapView:
    """A workspace's cap for the current period, and the amounts in USD that count against it."""

    period: Period
    cap_usd: Decimal
    reserved_usd: Decimal
    confirmed_usd: Decimal
    uncertain_usd: Decimal

    @property
    def left_usd(self) -> Decimal:
        return self.cap_usd - self.reserved_usd - self.confirmed_usd - self.uncertain_usd


def least_left_usd(caps: Iterable[CapView]) -> Decimal | None:
    """The smallest amount in USD that any cap leaves; None without a cap."""
    return min((cap.left_usd for cap in caps), default=None)


def first_day(period: Period, day: date) -> date:
    """The first day of the period that contains `day`."""
    match period:
        case Period.DAY:
            return day
        case Period.WEEK:
            return day - timedelta(days=day.weekday())
        case Period.MONTH:
            return day.replace(day=1)


def week_name(day: date) -> str:
    """The ISO week that contains `day`, for example 2026-W47."""
    year, week, _ = day.isocalendar()
    return f"{year}-W{week:02}"
