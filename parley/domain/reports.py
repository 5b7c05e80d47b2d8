"""The contracts of the reports: what a workspace's AI work cost, and its error rates and latency.

Spending has three amounts that are never added up: `confirmed_usd` is what providers counted, `uncertain_usd` is the
upper bound of what lost and unanswered attempts can add, `energy_charged` is what users paid. An attempt is one try at
a provider that billed it or may have; a request is one `Generate`, which may take several attempts or none.
"""

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Generic, TypeVar

from pydantic import Field, computed_field

from parley.domain.budgets import Period, first_day, week_name
from parley.domain.intervals import Interval, wilson
from parley.domain.model import Model

DEFAULT_DAYS = 30
TOP_USERS = 20
# Steps of time are counted from here, so that days begin at midnight and weeks on Monday.
FIRST_MONDAY = datetime(2000, 1, 3, tzinfo=UTC)
MOST_SLICES = 1000
# Reports with a line for each day or week cover so much at most: a terminal shows a thousand lines a second.
MOST_DAYS = 3660


class Feedback(StrEnum):
    """A user's rating of an answer."""

    GOOD = "good"
    BAD = "bad"


class Span(Model):
    """The time that a report is about: from `since` up to, not including, `until`."""

    since: datetime
    until: datetime


class Spend(Model):
    """What some attempts cost. `simulated_usd`: the part of both amounts that the simulator counted.

    `prompt_cache_saved_usd`: what the tokens that the vendors' prompt caches had would have cost as other input, less
    what they cost; negative where more was paid for writing to a cache than was saved by reading from it.
    """

    attempts: int = 0
    simulated_attempts: int = 0
    tokens_prompt: int = 0
    tokens_completion: int = 0
    audio_seconds: Decimal = Decimal(0)
    confirmed_usd: Decimal = Decimal(0)
    uncertain_usd: Decimal = Decimal(0)
    prompt_cache_saved_usd: Decimal = Decimal(0)
    simulated_usd: Decimal = Decimal(0)
    energy_charged: int = 0


class DaySpend(Spend):
    """One day, in UTC."""

    day: date


class WeekSpend(Spend):
    """One ISO week, such as 2026-W47, and its Monday."""

    week: str
    monday: date


class UserSpend(Spend):
    user_id: str


class ActionSpend(Spend):
    """One kind of work. `average_usd` is of the attempts whose cost is confirmed."""

    action: str
    average_usd: Decimal | None = None


class ActionTokens(Model):
    """The tokens of one kind of work, over the attempts whose tokens the provider counted.

    `tokens_cached`: the part of the prompts that came from the vendor's cache.
    """

    action: str
    attempts: int
    tokens_prompt: int
    tokens_cached: int
    tokens_completion: int

    @computed_field
    @property
    def prompt_per_attempt(self) -> int:
        return round(self.tokens_prompt / self.attempts)

    @computed_field
    @property
    def completion_per_attempt(self) -> int:
        return round(self.tokens_completion / self.attempts)


class Attempts(Model):
    """How tries at providers ended. Seconds are of settled attempts; None without one."""

    settled: int = 0
    duplicate: int = 0
    lost: int = 0
    failed: int = 0
    average_seconds: float | None = None
    p95_seconds: float | None = None

    @computed_field
    @property
    def ended(self) -> int:
        return self.settled + self.duplicate + self.lost + self.failed

    @computed_field
    @property
    def error_rate(self) -> float | None:
        """The share of lost and failed attempts among those that ended; None without one."""
        return share(self.lost + self.failed, self.ended)


class ModelUse(Model):
    """One model of one provider: its cost and outcomes. `cost_share`: its share of the upper bound of spending."""

    provider: str
    model: str
    spend: Spend = Spend()
    attempts: Attempts = Attempts()
    cost_share: float | None = None


class ErrorCount(Model):
    """How often a provider's tries ended with one kind of error; `lost` means that the worker's lease expired."""

    provider: str
    model: str
    error: str
    count: int


class Requests(Model):
    """How `Generate` ended, and cache hits. Milliseconds are of completed requests, cached ones among them."""

    completed: int = 0
    refused: int = 0
    failed: int = 0
    cancelled: int = 0
    cached_exact: int = 0
    cached_similar: int = 0
    cached_stale: int = 0
    saved_usd: Decimal = Decimal(0)
    average_ms: float | None = None
    p95_ms: float | None = None
    good: int = 0
    bad: int = 0

    @computed_field
    @property
    def total(self) -> int:
        return self.completed + self.refused + self.failed + self.cancelled

    @computed_field
    @property
    def error_rate(self) -> float | None:
        """The share of failed requests among those not refused or cancelled; None without one."""
        return share(self.failed, self.completed + self.failed)

    @computed_field
    @property
    def cache_hit_rate(self) -> float | None:
        """The share of completed requests that the cache answered; None without one. A stale answer is not a hit."""
        return share(self.cached_exact + self.cached_similar, self.completed)


class TimeSlice(Model):
    """What happened from `begins` until the next slice. `models`: the ended attempts of each provider and model."""

    begins: datetime
    spend: Spend = Spend()
    requests: Requests = Requests()
    attempts: Attempts = Attempts()
    models: dict[str, int] = Field(default_factory=dict)


class Summary(Model):
    """The summary of a workspace. `reasons`: why requests were refused or failed, and how many."""

    span: Span
    total: Spend
    attempts: Attempts
    requests: Requests
    reasons: dict[str, int]
    models: tuple[ModelUse, ...]
    errors: tuple[ErrorCount, ...]

    @property
    def providers(self) -> dict[str, float]:
        """Each provider's share of the upper bound of all spending."""
        shares: dict[str, float] = {}
        for use in self.models:
            shares[use.provider] = shares.get(use.provider, 0.0) + (use.cost_share or 0.0)
        return shares


class Arm(Model):
    """One arm of an experiment. `quality` is the mean of the `graded` answers, between 0 and 1."""

    experiment: str
    arm: str
    requests: int
    completed: int
    failed: int
    cached: int
    cost_usd: Decimal
    average_ms: float | None
    p95_ms: float | None
    graded: int
    quality: float | None
    good: int
    bad: int

    @computed_field
    @property
    def error_rate(self) -> float | None:
        return share(self.failed, self.completed + self.failed)

    @computed_field
    @property
    def good_interval(self) -> Interval | None:
        """The confidence interval of the share of good answers among rated ones; None without ratings."""
        return wilson(self.good, self.good + self.bad)


class Comparison(Model):
    """By how much the share of good answers of `first` exceeds that of `second`. The arms differ if it excludes 0."""

    experiment: str
    first: str
    second: str
    interval: Interval

    @property
    def differs(self) -> bool:
        return not self.interval.low <= 0 <= self.interval.high


LineT = TypeVar("LineT", bound=Model)


class Report(Model, Generic[LineT]):
    """Lines about one span of time."""

    span: Span
    lines: tuple[LineT, ...]


class SpendReport(Report[LineT], Generic[LineT]):
    """Lines with the total of all spending: more than their sum if only the top ones are listed."""

    total: Spend


class TimeSeries(Report[TimeSlice]):
    """Slices of `step`, also those in which nothing happened."""

    step: timedelta


class UserReport(SpendReport[UserSpend]):
    """`users`: the number of all users; the lines are the top ones."""

    users: int


class ModelReport(SpendReport[ModelUse]):
    """`attempts`: of all models together."""

    attempts: Attempts
    errors: tuple[ErrorCount, ...] = ()


class Experiments(Report[Arm]):
    """Arms, with a comparison for each experiment of two: more would need a correction for multiple comparisons."""

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        arms: dict[str, list[Arm]] = {}
        for line in self.lines:
            arms.setdefault(line.experiment, []).append(line)
        found = [compare(*pair) for pair in arms.values() if len(pair) == 2]
        return tuple(comparison for comparison in found if comparison)


def share(part: int | Decimal, whole: int | Decimal) -> float | None:
    """The share of a part in a whole; None if the whole is 0."""
    return round(float(part / whole), 4) if whole else None


def every_day(span: Span, found: Mapping[date, Spend]) -> Iterable[DaySpend]:
    """A line for each day that the span touches, zero where nothing was spent."""
    last = (span.until - timedelta(microseconds=1)).date()
    for offset in range((last - span.since.date()).days + 1):
        day = span.since.date() + timedelta(days=offset)
        yield DaySpend(day=day, **found.get(day, Spend()).model_dump())


def every_week(span: Span, found: Mapping[date, Spend]) -> Iterable[WeekSpend]:
    """A line for each ISO week that the span touches, zero where nothing was spent; `found` by Monday."""
    for day in every_day(span, {}):
        if day.day == first_day(Period.WEEK, day.day):
            spent = found.get(day.day, Spend())
            yield WeekSpend(week=week_name(day.day), monday=day.day, **spent.model_dump())


def whole_steps(span: Span, step: timedelta) -> Span:
    """The span from the start (UTC) of the step in which it begins."""
    return span.model_copy(update={"since": span.since - (span.since - FIRST_MONDAY) % step})


def slice_starts(span: Span, step: timedelta) -> list[datetime]:
    """Where each slice of a span of whole steps begins."""
    return [span.since + number * step for number in range(math.ceil((span.until - span.since) / step))]


def whole_days(span: Span) -> Span:
    """The span from the midnight (UTC) before it begins."""
    return span.model_copy(update={"since": span.since.replace(hour=0, minute=0, second=0, microsecond=0)})


def whole_weeks(span: Span) -> Span:
    """The span from the Monday (UTC) before it begins."""
    days = whole_days(span)
    monday = first_day(Period.WEEK, days.since.date())
    return days.model_copy(update={"since": datetime.combine(monday, days.since.timetz())})


def compare(first: Arm, second: Arm) -> Comparison | None:
    """How far two arms' shares of good answers are apart; None before both have ratings.

    Newcombe, "Interval estimation for the difference between independent proportions", 1998, method 10, which builds on
    Wilson's intervals. It is valid for one look at the end: with a look every day, some day shows a difference.
    """
    one, other = first.good_interval, second.good_interval
    if one is None or other is None:
        return None
    p, q = first.good / (first.good + first.bad), second.good / (second.good + second.bad)
    low = p - q - math.hypot(p - one.low, other.high - q)
    high = p - q + math.hypot(one.high - p, q - other.low)
    interval = Interval(low=round(low, 4), high=round(high, 4))
    return Comparison(experiment=first.experiment, first=first.arm, second=second.arm, interval=interval)
