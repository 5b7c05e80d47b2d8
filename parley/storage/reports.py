"""Reports, aggregated by PostgreSQL for one workspace and time span, which every query finds by an index."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Date, RowMapping, and_, case, cast, extract, func, select, tuple_
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, aggregate_order_by
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped
from sqlmodel import col

from parley.domain.errors import Billed, StreamSuperseded
from parley.domain.recommendations import REPEAT_SECONDS, Evidence, Repetition, Serving
from parley.domain.reports import (
    FIRST_MONDAY,
    TOP_USERS,
    ActionSpend,
    ActionTokens,
    Arm,
    Attempts,
    DaySpend,
    ErrorCount,
    Experiments,
    Feedback,
    ModelReport,
    ModelUse,
    Report,
    Requests,
    Span,
    Spend,
    SpendReport,
    Summary,
    TimeSeries,
    TimeSlice,
    UserReport,
    UserSpend,
    WeekSpend,
    every_day,
    every_week,
    share,
    slice_starts,
    whole_days,
    whole_steps,
    whole_weeks,
)
from parley.storage.ledger import WITHDRAWN
from parley.storage.tables import USD, Attempt, Generation, PaidRequest, UsageLog
from parley.storage.usage import PROMPT_CACHE_SAVED

Column = ColumnElement[Any] | Mapped[Any]
Condition = ColumnElement[bool] | Mapped[bool]


def _total(amount: Column, where: Condition | None = None) -> ColumnElement[Any]:
    summed = func.sum(amount)
    return func.coalesce(summed if where is None else summed.filter(where), 0)


def _count(where: Condition) -> ColumnElement[Any]:
    return func.count().filter(where)


def _mean_and_p95(amount: Column, where: Condition, unit: str) -> list[ColumnElement[Any]]:
    chosen = case((where, amount))
    return [
        func.avg(chosen).label(f"average_{unit}"),
        func.percentile_cont(0.95).within_group(chosen).label(f"p95_{unit}"),
    ]


SAME_REQUEST = and_(
    col(PaidRequest.workspace_id) == Attempt.workspace_id, col(PaidRequest.request_id) == Attempt.request_id
)
# Between the clocks of Temporal and of the database: a worker's own clock may be wrong.
LATENCY_MS = func.greatest(extract("epoch", col(Generation.created_at) - col(Generation.started_at)) * 1000, 0)
SAME_WORKSPACE = col(Attempt.workspace_id) == Generation.workspace_id
IS_WITHDRAWN = and_(
    func.coalesce(Attempt.error_type, "").in_((WITHDRAWN, StreamSuperseded.__name__)),
    col(Attempt.billed) == Billed.NO.value,
)
CONFIRMED, COST = col(UsageLog.confirmed), col(UsageLog.cost_usd)


SPEND: Sequence[ColumnElement[Any]] = (
    func.count().label("attempts"),
    _count(col(UsageLog.simulated)).label("simulated_attempts"),
    _total(col(UsageLog.tokens_prompt)).label("tokens_prompt"),
    _total(col(UsageLog.tokens_completion)).label("tokens_completion"),
    _total(col(UsageLog.audio_seconds)).label("audio_seconds"),
    _total(COST, CONFIRMED).label("confirmed_usd"),
    _total(COST, ~CONFIRMED).label("uncertain_usd"),
    cast(_total(PROMPT_CACHE_SAVED, CONFIRMED), USD).label("prompt_cache_saved_usd"),
    _total(COST, col(UsageLog.simulated)).label("simulated_usd"),
    _total(col(UsageLog.energy_charged)).label("energy_charged"),
)


async def summary(tx: AsyncSession, workspace_id: str, span: Span) -> Summary:
    """The summary of a workspace."""
    of_models = await models(tx, workspace_id, span)
    requests, reasons = await _requests(tx, workspace_id, span)
    return Summary(
        span=span,
        total=of_models.total,
        attempts=of_models.attempts,
        requests=requests,
        reasons=reasons,
        models=of_models.lines,
        errors=of_models.errors,
    )


async def daily(tx: AsyncSession, workspace_id: str, span: Span) -> SpendReport[DaySpend]:
    """What each day cost, from the first whole one (UTC)."""
    span = whole_days(span)
    total, days = await _spent_by_time(tx, workspace_id, span, _utc(col(UsageLog.created_at)))
    return SpendReport[DaySpend](span=span, total=total, lines=tuple(every_day(span, days)))


async def weekly(tx: AsyncSession, workspace_id: str, span: Span) -> SpendReport[WeekSpend]:
    """What each ISO week cost, from the first whole one (UTC)."""
    span = whole_weeks(span)
    monday = func.date_trunc("week", _utc(col(UsageLog.created_at)))
    total, weeks = await _spent_by_time(tx, workspace_id, span, monday)
    return SpendReport[WeekSpend](span=span, total=total, lines=tuple(every_week(span, weeks)))


async def over_time(tx: AsyncSession, workspace_id: str, span: Span, step: timedelta) -> TimeSeries:
    """Spending, requests and attempts of each step of time, from the first whole one."""
    span = whole_steps(span, step)
    spent = await _sliced(tx, SPEND, col(UsageLog.created_at), step, _logged(workspace_id, span))
    requests = await _sliced(tx, _request_columns(), col(Generation.created_at), step, _generated(workspace_id, span))
    attempts = await _sliced(tx, _attempt_columns(), col(Attempt.started_at), step, _ended(workspace_id, span))
    models = await _models_over_time(tx, workspace_id, span, step)
    slices = [
        TimeSlice(
            begins=begins,
            spend=Spend(**spent.get(begins, {})),
            requests=Requests(**requests.get(begins, {})),
            attempts=Attempts(**attempts.get(begins, {})),
            models=models.get(begins, {}),
        )
        for begins in slice_starts(span, step)
    ]
    return TimeSeries(span=span, step=step, lines=tuple(slices))


async def users(tx: AsyncSession, workspace_id: str, span: Span, limit: int = TOP_USERS) -> UserReport:
    """The users with the highest costs."""
    everyone = func.count(col(UsageLog.user_id).distinct()).label("users")
    total, rows = await _spent_by(tx, workspace_id, span, [col(UsageLog.user_id)], everyone, limit=limit)
    lines = tuple(UserSpend(user_id=row["user_id"], **_spend(row)) for row in rows)
    return UserReport(span=span, total=Spend(**_spend(total)), lines=lines, users=total["users"])


async def actions(tx: AsyncSession, workspace_id: str, span: Span) -> SpendReport[ActionSpend]:
    """Spending by action, the highest first."""
    average = func.round(func.avg(COST).filter(CONFIRMED), 6).label("average_usd")
    total, rows = await _spent_by(tx, workspace_id, span, [col(UsageLog.action)], average)
    lines = [ActionSpend(action=row["action"], average_usd=row["average_usd"], **_spend(row)) for row in rows]
    return SpendReport[ActionSpend](span=span, total=Spend(**_spend(total)), lines=tuple(lines))


async def tokens(tx: AsyncSession, workspace_id: str, span: Span) -> Report[ActionTokens]:
    """Tokens by action, the most first."""
    names = ("tokens_prompt", "tokens_cached", "tokens_completion")
    query = (
        select(
            col(UsageLog.action),
            func.count().label("attempts"),
            *(func.sum(getattr(UsageLog, name)).label(name) for name in names),
        )
        .where(*_logged(workspace_id, span), CONFIRMED, col(UsageLog.tokens_total) > 0)
        .group_by(col(UsageLog.action))
        .order_by(func.sum(UsageLog.tokens_total).desc(), col(UsageLog.action))
    )
    rows = (await tx.execute(query)).mappings()
    return Report[ActionTokens](span=span, lines=tuple(ActionTokens(**row) for row in rows))


async def models(tx: AsyncSession, workspace_id: str, span: Span) -> ModelReport:
    """How spending spreads over providers and models, how fast they were, and how often they failed."""
    model_columns = [col(UsageLog.provider), col(UsageLog.model)]
    total, rows = await _spent_by(tx, workspace_id, span, model_columns)
    spent = {(row["provider"], row["model"]): Spend(**_spend(row)) for row in rows}
    tried, attempts = await _attempts(tx, workspace_id, span)
    whole = total["confirmed_usd"] + total["uncertain_usd"]
    lines = [
        ModelUse(
            provider=provider,
            model=model,
            spend=spend,
            attempts=tried.get((provider, model), Attempts()),
            cost_share=share(spend.confirmed_usd + spend.uncertain_usd, whole),
        )
        for (provider, model), spend in {**dict.fromkeys(tried, Spend()), **spent}.items()
    ]
    lines.sort(key=lambda line: line.cost_share or 0.0, reverse=True)
    return ModelReport(
        span=span,
        total=Spend(**_spend(total)),
        lines=tuple(lines),
        attempts=attempts,
        errors=await _errors(tx, workspace_id, span),
    )


async def experiments(tx: AsyncSession, workspace_id: str, span: Span) -> Experiments:
    """How the arms of each experiment did."""
    completed = col(Generation.outcome) == "completed"
    arm = [col(Generation.experiment), col(Generation.arm)]
    query = (
        select(
            *arm,
            func.count().label("requests"),
            _count(completed).label("completed"),
            _count(col(Generation.outcome) == "failed").label("failed"),
            _count(col(Generation.cached) != "").label("cached"),
            func.sum(Generation.cost_usd).label("cost_usd"),
            *_mean_and_p95(LATENCY_MS, completed, "ms"),
            func.count(col(Generation.quality)).label("graded"),
            func.avg(col(Generation.quality)).label("quality"),
            *_ratings(),
        )
        .where(*_generated(workspace_id, span), col(Generation.experiment) != "")
        .group_by(*arm)
        .order_by(*arm)
    )
    return Experiments(span=span, lines=tuple(Arm(**row) for row in (await tx.execute(query)).mappings()))


async def evidence(tx: AsyncSession, workspace_id: str, span: Span) -> Evidence:
    """The figures that recommendations are based on."""
    top = await users(tx, workspace_id, span, 1)
    return Evidence(
        span=span,
        servings=await _servings(tx, workspace_id, span),
        repetitions=await _repetitions(tx, workspace_id, span),
        users=top.lines,
        user_count=top.users,
        total=top.total,
    )


def _slice(moment: Column, step: timedelta) -> ColumnElement[Any]:
    return func.date_bin(step, moment, FIRST_MONDAY).label("begins")


async def _sliced(
    tx: AsyncSession,
    columns: Sequence[ColumnElement[Any]],
    moment: Column,
    step: timedelta,
    which: Sequence[ColumnElement[bool]],
) -> dict[datetime, dict[str, Any]]:
    """The columns of each step of time in which there are rows."""
    query = select(_slice(moment, step), *columns).where(*which).group_by("begins")
    rows = [dict(row) for row in (await tx.execute(query)).mappings()]
    return {row.pop("begins"): row for row in rows}


async def _models_over_time(
    tx: AsyncSession, workspace_id: str, span: Span, step: timedelta
) -> dict[datetime, dict[str, int]]:
    """How many attempts of each provider and model ended, of those made in each step of time."""
    kinds = [col(Attempt.provider), col(Attempt.model)]
    query = (
        select(_slice(col(Attempt.started_at), step), *kinds, func.count().label("count"))
        .where(*_ended(workspace_id, span))
        .group_by("begins", *kinds)
        .order_by(*kinds)
    )
    found: dict[datetime, dict[str, int]] = {}
    for row in (await tx.execute(query)).mappings():
        found.setdefault(row["begins"], {})[f"{row['provider']} {row['model']}"] = row["count"]
    return found


def _utc(moment: Column) -> ColumnElement[Any]:
    return func.timezone("UTC", moment)


def _logged(workspace_id: str, span: Span) -> list[ColumnElement[bool]]:
    return _within(UsageLog, workspace_id, col(UsageLog.created_at), span)


def _logged_since(workspace_id: str, span: Span) -> list[ColumnElement[bool]]:
    """Rows of attempts that were made in the span: a row is never older than its attempt."""
    return [col(UsageLog.workspace_id) == workspace_id, col(UsageLog.created_at) >= span.since]


def _generated(workspace_id: str, span: Span) -> list[ColumnElement[bool]]:
    return _within(Generation, workspace_id, col(Generation.created_at), span)


def _ended(workspace_id: str, span: Span) -> list[ColumnElement[bool]]:
    """Attempts made in the span that are over. What was withdrawn before it was sent says nothing of its provider."""
    made = _within(Attempt, workspace_id, col(Attempt.started_at), span)
    return [*made, col(Attempt.state) != "open", ~IS_WITHDRAWN]


def _within(table: Any, workspace_id: str, moment: Column, span: Span) -> list[ColumnElement[bool]]:
    return [col(table.workspace_id) == workspace_id, moment >= span.since, moment < span.until]


def _spend(row: RowMapping) -> dict[str, Any]:
    return {name: row[name] for name in Spend.model_fields}


async def _spent_by(
    tx: AsyncSession,
    workspace_id: str,
    span: Span,
    keys: Sequence[Column],
    *more: ColumnElement[Any],
    limit: int | None = None,
) -> tuple[RowMapping, Sequence[RowMapping]]:
    """Spending in total, and by some columns with the most expensive first, as one query."""
    is_total = func.grouping(keys[0])
    query = (
        select(*keys, *SPEND, *more)
        .where(*_logged(workspace_id, span))
        .group_by(func.grouping_sets(tuple_(*keys), tuple_()))
        .order_by(is_total.desc(), _total(COST).desc(), *keys)
        .limit(None if limit is None else limit + 1)
    )
    total, *rows = (await tx.execute(query)).mappings()
    return total, rows


async def _spent_by_time(
    tx: AsyncSession, workspace_id: str, span: Span, moment: ColumnElement[Any]
) -> tuple[Spend, dict[date, Spend]]:
    total, rows = await _spent_by(tx, workspace_id, span, [cast(moment, Date).label("day")])
    return Spend(**_spend(total)), {row["day"]: Spend(**_spend(row)) for row in rows}


async def _attempts(
    tx: AsyncSession, workspace_id: str, span: Span
) -> tuple[dict[tuple[str, str], Attempts], Attempts]:
    """How attempts ended: by provider and model, and of all together."""
    model_columns = [col(Attempt.provider), col(Attempt.model)]
    query = (
        select(*model_columns, *_attempt_columns())
        .where(*_ended(workspace_id, span))
        .group_by(func.grouping_sets(tuple_(*model_columns), tuple_()))
        .order_by(func.grouping(model_columns[0]).desc(), *model_columns)
    )
    total, *rows = [dict(row) for row in (await tx.execute(query)).mappings()]
    found = {(row.pop("provider"), row.pop("model")): Attempts(**row) for row in rows}
    return found, Attempts(**{name: total[name] for name in total.keys() - {"provider", "model"}})


def _attempt_columns() -> list[ColumnElement[Any]]:
    state, seconds = col(Attempt.state), extract("epoch", col(Attempt.ended_at) - col(Attempt.started_at))
    return [
        *(_count(state == end).label(end) for end in ("settled", "duplicate", "lost", "failed")),
        *_mean_and_p95(seconds, state == "settled", "seconds"),
    ]


async def _errors(tx: AsyncSession, workspace_id: str, span: Span) -> tuple[ErrorCount, ...]:
    error = func.coalesce(Attempt.error_type, Attempt.state).label("error")
    kinds = [col(Attempt.provider), col(Attempt.model), error]
    query = (
        select(*kinds, func.count().label("count"))
        .where(*_ended(workspace_id, span), col(Attempt.state).in_(("lost", "failed")))
        .group_by(*kinds)
        .order_by(func.count().desc(), *kinds)
    )
    return tuple(ErrorCount(**row) for row in (await tx.execute(query)).mappings())


def _ratings() -> list[ColumnElement[Any]]:
    return [_count(col(Generation.feedback) == rating.value).label(rating.value) for rating in Feedback]


def _request_columns() -> list[ColumnElement[Any]]:
    outcome, cached = col(Generation.outcome), col(Generation.cached)
    return [
        *(_count(outcome == end).label(end) for end in ("completed", "refused", "failed", "cancelled")),
        *(_count(cached == how).label(f"cached_{how}") for how in ("exact", "similar", "stale")),
        _total(col(Generation.saved_usd)).label("saved_usd"),
        *_mean_and_p95(LATENCY_MS, outcome == "completed", "ms"),
        *_ratings(),
    ]


async def _requests(tx: AsyncSession, workspace_id: str, span: Span) -> tuple[Requests, dict[str, int]]:
    """How requests ended, and why they were refused or failed."""
    query = select(*_request_columns()).where(*_generated(workspace_id, span))
    why = (
        select(col(Generation.reason), func.count().label("count"))
        .where(*_generated(workspace_id, span), col(Generation.outcome).in_(("refused", "failed")))
        .group_by(col(Generation.reason))
        .order_by(func.count().desc(), col(Generation.reason))
    )
    reasons = {row["reason"]: row["count"] for row in (await tx.execute(why)).mappings()}
    return Requests(**(await tx.execute(query)).mappings().one()), reasons


async def _servings(tx: AsyncSession, workspace_id: str, span: Span) -> tuple[Serving, ...]:
    """How each model served each action. The rates are those of its latest settled attempt at the usual price."""
    kinds = [col(PaidRequest.action), col(Attempt.provider), col(Attempt.model), col(Attempt.simulated)]
    counted = and_(CONFIRMED, col(UsageLog.tokens_total) > 0)
    # A batch costs half, and takes hours: its rates are not those of a model that is asked instead.
    has_usual_price = func.coalesce(col(Attempt.rates)["price_class"].astext, "") == ""
    latest = aggregate_order_by(
        case((has_usual_price, col(Attempt.rates))),
        has_usual_price.desc(),
        (col(Attempt.state) == "settled").desc(),
        col(Attempt.started_at).desc(),
    )
    query = (
        select(
            *kinds,
            func.count().label("ended"),
            _count(col(Attempt.state).in_(("lost", "failed"))).label("errors"),
            _count(counted).label("attempts"),
            _total(col(UsageLog.tokens_prompt), counted).label("tokens_prompt"),
            _total(col(UsageLog.tokens_completion), counted).label("tokens_completion"),
            _total(COST, counted).label("paid_usd"),
            _total(COST).label("spent_usd"),
            _total(COST, ~CONFIRMED).label("uncertain_usd"),
            func.array_agg(latest, type_=ARRAY(JSONB))[1].label("rates"),
        )
        .join(PaidRequest, SAME_REQUEST)
        .outerjoin(UsageLog, and_(col(UsageLog.attempt_id) == Attempt.id, *_logged_since(workspace_id, span)))
        .where(*_ended(workspace_id, span))
        .group_by(*kinds)
        .order_by(*kinds)
    )
    return tuple(Serving(**row) for row in (await tx.execute(query)).mappings())


async def _repetitions(tx: AsyncSession, workspace_id: str, span: Span) -> tuple[Repetition, ...]:
    """Requests that repeated an earlier one to the same model.

    Counted within fixed windows of a cache's time to live: of `n` in a window, at least `n - 1` would have been hits.
    """
    uncached = col(Generation.cached) == ""
    cost = col(Generation.cost_usd)
    window = func.floor(extract("epoch", col(Generation.created_at)) / REPEAT_SECONDS)
    alike = (
        select(
            col(Generation.action),
            func.count().label("requests"),
            _count(col(Generation.cached).in_(("exact", "similar"))).label("hits"),
            func.greatest(_count(uncached) - 1, 0).label("repeats"),
            (_total(cost, uncached) - func.coalesce(func.max(cost).filter(uncached), 0)).label("repeats_usd"),
            func.bool_and(Attempt.simulated).label("simulated"),
        )
        .join(Attempt, and_(col(Attempt.id) == Generation.attempt_id, SAME_WORKSPACE))
        .join(PaidRequest, SAME_REQUEST)
        .where(*_generated(workspace_id, span), col(Generation.outcome) == "completed")
        .group_by(col(Generation.action), col(PaidRequest.fingerprint), col(Attempt.model), window)
        .subquery()
    )
    sums = (func.sum(alike.c[name]).label(name) for name in ("requests", "hits", "repeats", "repeats_usd"))
    query = (
        select(alike.c.action, *sums, func.bool_and(alike.c.simulated).label("simulated"))
        .group_by(alike.c.action)
        .order_by(alike.c.action)
    )
    return tuple(Repetition(**row) for row in (await tx.execute(query)).mappings())
