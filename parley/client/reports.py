"""`client.reports`: what a workspace's AI work cost, how well it went, and what could be done about it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from parley.domain.recommendations import Recommendation, recommend
from parley.domain.reports import (
    DEFAULT_DAYS,
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
    UserReport,
    WeekSpend,
)
from parley.storage import reports

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from parley.client.client import Client

T = TypeVar("T")


class Reports:
    """Each report is about the time from `since` until now, by default the last thirty days."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def summary(self, since: datetime | None = None) -> Summary:
        """The workspace at a glance."""
        return await self._read(reports.summary, since)

    async def daily(self, since: datetime | None = None) -> SpendReport[DaySpend]:
        """What each day (UTC) cost; the first one is whole, and one without costs is a line as well."""
        return await self._read(reports.daily, since)

    async def weekly(self, since: datetime | None = None) -> SpendReport[WeekSpend]:
        """What each ISO week cost; the first one is whole, and one without costs is a line as well."""
        return await self._read(reports.weekly, since)

    async def users(self, since: datetime | None = None, *, limit: int = TOP_USERS) -> UserReport:
        """Whose use cost the most."""

        async def top(tx: AsyncSession, workspace_id: str, span: Span) -> UserReport:
            return await reports.users(tx, workspace_id, span, limit)

        return await self._read(top, since)

    async def actions(self, since: datetime | None = None) -> SpendReport[ActionSpend]:
        """Which kinds of work cost the most."""
        return await self._read(reports.actions, since)

    async def tokens(self, since: datetime | None = None) -> Report[ActionTokens]:
        """The tokens of each kind of work."""
        return await self._read(reports.tokens, since)

    async def models(self, since: datetime | None = None) -> ModelReport:
        """How calls and costs spread over providers and models, how fast these were, and how often they failed."""
        return await self._read(reports.models, since)

    async def experiments(self, since: datetime | None = None) -> Experiments:
        """How the arms of each experiment did."""
        return await self._read(reports.experiments, since)

    async def recommendations(self, since: datetime | None = None) -> Report[Recommendation]:
        """What could be done about costs and errors, by the rules in domain/recommendations.py."""
        seen = await self._read(reports.evidence, since)
        return Report[Recommendation](span=seen.span, lines=tuple(recommend(seen)))

    async def _read(self, report: Callable[[AsyncSession, str, Span], Awaitable[T]], since: datetime | None) -> T:
        now = datetime.now(UTC)
        begins = (since or now - timedelta(days=DEFAULT_DAYS)).astimezone(UTC)
        async with self._client.database.transaction() as tx:
            return await report(tx, self._client.workspace_id, Span(since=begins, until=now))
