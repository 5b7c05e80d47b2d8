"""The first page: what the workspace's AI work costs, how fast it is and how often it fails, over time."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from gateway.auth import CurrentCaller, requires
from gateway.console.pages import PREFIX
from gateway.console.sign_in import ConsoleRoute, show
from parley.domain.gateway_keys import Scope
from parley.domain.reports import Summary, TimeSeries, TimeSlice

router = APIRouter(prefix=PREFIX, include_in_schema=False, route_class=ConsoleRoute)


@dataclass(frozen=True)
class Range:
    """A time that can be chosen, and the step of its charts."""

    name: str
    length: timedelta
    step: timedelta


RANGES = {
    "24h": Range("24 hours", timedelta(hours=24), timedelta(hours=1)),
    "7d": Range("7 days", timedelta(days=7), timedelta(hours=6)),
    "30d": Range("30 days", timedelta(days=30), timedelta(days=1)),
    "90d": Range("90 days", timedelta(days=90), timedelta(days=3)),
}
DEFAULT_RANGE = "24h"
MOST_MODELS, OTHERS = 5, "others"


@dataclass(frozen=True)
class Chart:
    """A chart and its table. `kind`: line, bars or stacked. `unit`: usd, ms, percent or count."""

    title: str
    kind: str
    unit: str
    series: Sequence[str]
    rows: Sequence[tuple[datetime, Sequence[Decimal | float | None]]]


@router.get("", openapi_extra=requires(Scope.READ))
async def overview(request: Request, caller: CurrentCaller, range: str = DEFAULT_RANGE) -> HTMLResponse:
    """Costs, tokens, latency, errors, cache and models over a range of time."""
    chosen, until = RANGES.get(range, RANGES[DEFAULT_RANGE]), datetime.now(UTC)
    since = until - chosen.length
    reports = caller.client.reports
    return show(
        request,
        "overview.html",
        ranges=RANGES,
        chosen=chosen,
        seen=(seen := await reports.summary(since, until)),
        has_work=_has_work(seen),
        charts=charts(await reports.over_time(since, until, step=chosen.step)),
    )


@router.get("/recommendations", openapi_extra=requires(Scope.READ))
async def recommendations(request: Request, caller: CurrentCaller) -> HTMLResponse:
    """What the rules find in the figures of the last thirty days."""
    found = await caller.client.reports.recommendations()
    return show(request, "recommendations.html", found=found)


def charts(series: TimeSeries) -> list[Chart]:
    """The charts of a time."""

    def chart(title: str, kind: str, unit: str, **columns: Callable[[TimeSlice], Any]) -> Chart:
        rows = [(line.begins, [value(line) for value in columns.values()]) for line in series.lines]
        return Chart(title, kind, unit, [name.replace("_", " ") for name in columns], rows)

    return [
        chart(
            "Cost",
            "stacked",
            "usd",
            confirmed=lambda line: line.spend.confirmed_usd,
            uncertain=lambda line: line.spend.uncertain_usd,
        ),
        chart(
            "Tokens",
            "stacked",
            "count",
            prompt=lambda line: line.spend.tokens_prompt,
            completion=lambda line: line.spend.tokens_completion,
        ),
        chart(
            "Latency of answers",
            "line",
            "ms",
            average=lambda line: line.requests.average_ms,
            p95=lambda line: line.requests.p95_ms,
        ),
        chart(
            "Errors and cache hits",
            "line",
            "percent",
            failed_requests=lambda line: line.requests.error_rate,
            failed_attempts=lambda line: line.attempts.error_rate,
            cache_hits=lambda line: line.requests.cache_hit_rate,
        ),
        _models(series),
    ]


def _models(series: TimeSeries) -> Chart:
    """The attempts of the models that were used most, and of all others together."""
    totals = sum((Counter(line.models) for line in series.lines), Counter[str]())
    top = [name for name, _ in totals.most_common(MOST_MODELS)]
    others = [OTHERS] if len(totals) > len(top) else []

    def counts(line: TimeSlice) -> list[int]:
        return [line.models.get(name, 0) for name in top] + [
            sum(count for name, count in line.models.items() if name not in top) for _ in others
        ]

    rows = [(line.begins, counts(line)) for line in series.lines]
    return Chart("Attempts by model", "stacked", "count", [*top, *others], rows)


def _has_work(seen: Summary) -> bool:
    return bool(seen.requests.total or seen.attempts.ended or seen.total.attempts)
