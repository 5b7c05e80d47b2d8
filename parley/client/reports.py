"""`client.reports`: the costs and the quality of a workspace's AI work, and recommendations on them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from parley.client.backend import Backend
from parley.domain.errors import InvalidInput
from parley.domain.recommendations import Recommendation, recommend
from parley.domain.reports import (
    DEFAULT_DAYS,
    MOST_DAYS,
    MOST_SLICES,
    TOP_USERS,
    ActionSpend,
    ActionTokens,
    DaySpend,
    Experiments,
    ModelReport,
    Report,
    Span,
    SpendReport,
    Summary,
    TimeSeries,
    UserReport,
    WeekSpend,
)
from parley.storage import reports

T = TypeVar("T")


class Reports:
    """Each report covers the time from `since` until now; by default the last thirty days.

    `since` is an aware time. Days and weeks are UTC.
    """

    def __init__(self, backend: Backend, workspace_id: str) -> None:
        self._database, self._workspace_id = backend.database, workspace_id

    async def summary(self, since: datetime | None = None, until: datetime | None = None) -> Summary:
        """Totals of the workspace: costs, requests, attempts, latency, cache and feedback. `until`: default now."""
        return await self._read(reports.summary, since, until)

    async def daily(self, since: datetime | None = None) -> SpendReport[DaySpend]:
        """The cost of each day, from the start of the first day; a day without costs has a line too.

        Raises:
            InvalidInput: `since` is more than ten years ago.
        """
        return await self._read(reports.daily, since, most=timedelta(days=MOST_DAYS))

    async def weekly(self, since: datetime | None = None) -> SpendReport[WeekSpend]:
        """The cost of each ISO week, from the start of the first week; a week without costs has a line too.

        Raises:
            InvalidInput: `since` is more than ten years ago.
        """
        return await self._read(reports.weekly, since, most=timedelta(days=MOST_DAYS))

    async def over_time(
        self,
        since: datetime | None = None,
        until: datetime | None = None,
        *,
        step: timedelta = timedelta(days=1),
    ) -> TimeSeries:
        """Costs, tokens, latency, errors, cache hits and models of each step of time, also of an empty one.

        Args:
            since: the start, which is moved back to the start of its step; default: thirty days before `until`.
            until: the end; default: now.
            step: the length of a step; default: a day. Days begin at midnight UTC.

        Raises:
            InvalidInput: `step` is not positive, or makes more than a thousand lines.
        """
        ends = until or datetime.now(UTC)
        whole = ends - (since or ends - timedelta(days=DEFAULT_DAYS))
        if step <= timedelta(0) or whole / step >= MOST_SLICES:
            most = f"make fewer than {MOST_SLICES:,} lines"
            raise InvalidInput(f"must be positive, and {most}; got {step}", where="step")

        async def sliced(tx: AsyncSession, workspace_id: str, span: Span) -> TimeSeries:
            return await reports.over_time(tx, workspace_id, span, step)

        return await self._read(sliced, since, ends)

    async def users(self, since: datetime | None = None, *, limit: int = TOP_USERS) -> UserReport:
        """The users with the highest costs.

        Args:
            since: the start; default: thirty days ago.
            limit: how many users; default: 20.
        """

        async def top(tx: AsyncSession, workspace_id: str, span: Span) -> UserReport:
            return await reports.users(tx, workspace_id, span, limit)

        return await self._read(top, since)

    async def actions(self, since: datetime | None = None) -> SpendReport[ActionSpend]:
        """The cost of each action, the highest first."""
        return await self._read(reports.actions, since)

    async def tokens(self, since: datetime | None = None) -> Report[ActionTokens]:
        """The tokens of each action."""
        return await self._read(reports.tokens, since)

    async def models(self, since: datetime | None = None) -> ModelReport:
        """Costs, attempts, latency and errors of each provider and model."""
        return await self._read(reports.models, since)

    async def experiments(self, since: datetime | None = None) -> Experiments:
        """Costs, errors and ratings of the arms of each experiment, and whether they differ."""
        return await self._read(reports.experiments, since)

    async def recommendations(
        self, since: datetime | None = None, until: datetime | None = None
    ) -> Report[Recommendation]:
        """Recommendations on costs and errors, by the rules in parley/domain/recommendations.py."""
        seen = await self._read(reports.evidence, since, until)
        return Report[Recommendation](span=seen.span, lines=tuple(recommend(seen)))

    async def _read(
        self,
        report: Callable[[AsyncSession, str, Span], Awaitable[T]],
        since: datetime | None,
        until: datetime | None = None,
        *,
        most: timedelta | None = None,
    ) -> T:
        """Read a report. `most`: how much time it covers at most; None: any."""
        try:
            ends = (until or datetime.now(UTC)).astimezone(UTC)
            begins = (since or ends - timedelta(days=DEFAULT_DAYS)).astimezone(UTC)
        except OverflowError:
            raise InvalidInput("is too early or too late for a calendar: give a time in use", where="since") from None
        if most is not None and ends - begins > most:
            raise InvalidInput(f"must be at most {most.days:,} days ago: the report has a line for each", where="since")
        async with self._database.transaction() as tx:
            return await report(tx, self._workspace_id, Span(since=begins, until=ends))
