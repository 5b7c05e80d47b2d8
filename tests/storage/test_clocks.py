"""Times come from the database's clock: a worker whose clock is wrong books on the right day."""

from datetime import datetime, timedelta, tzinfo
from decimal import Decimal

import pytest
from sqlalchemy import text

import parley.storage.tables
from parley.domain.budgets import Period
from parley.domain.errors import Billed, BudgetExhausted
from parley.storage import budgets
from parley.storage.tables import Attempt, EnergyEntry, OutboxEvent, PaidRequest, UsageLog
from tests.storage.ledger_fixture import BOUND, COST, EXPIRED, NOTHING, LedgerFixture


class FastClock(datetime):
    """A worker's clock that is a day ahead."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:
        return datetime.now(tz) + timedelta(days=1)


class SlowClock(datetime):
    """A worker's clock that is a day behind."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:
        return datetime.now(tz) - timedelta(days=1)


@pytest.fixture
async def ahead(books: LedgerFixture, monkeypatch: pytest.MonkeyPatch) -> LedgerFixture:
    """The ledger of a worker whose clock is a day ahead."""
    monkeypatch.setattr(parley.storage.tables, "datetime", FastClock)
    return books


async def todays(books: LedgerFixture) -> tuple[Decimal, Decimal, Decimal]:
    async with books.database.transaction() as tx:
        now = (await tx.execute(text("SELECT now()"))).scalar_one()
    return await books.day(now)


async def test_a_worker_whose_clock_is_a_day_ahead_books_on_the_right_day(ahead: LedgerFixture):
    await ahead.settle(await ahead.granted("settled"))
    await ahead.fail(await ahead.granted("failed"), Billed.UNKNOWN)
    await ahead.granted("swept", terms=EXPIRED)
    await ahead.sweep("swept")
    await ahead.settle((await ahead.taken_over())[0])
    assert await todays(ahead) == (BOUND, 2 * COST, 2 * BOUND)
    times = [
        moment
        for table, columns in (
            (PaidRequest, ("created_at",)),
            (Attempt, ("started_at", "ended_at")),
            (UsageLog, ("created_at",)),
            (EnergyEntry, ("created_at",)),
            (OutboxEvent, ("created_at", "next_at")),
        )
        for row in await ahead.all(table)
        for moment in (getattr(row, column) for column in columns)
        if moment
    ]
    async with ahead.database.transaction() as tx:
        assert max(times) <= (await tx.execute(text("SELECT clock_timestamp()"))).scalar_one()


async def test_a_worker_whose_clock_is_a_day_ahead_cannot_spend_tomorrows_cap(ahead: LedgerFixture):
    await ahead.cap(Period.DAY, BOUND)
    await ahead.granted()
    with pytest.raises(BudgetExhausted):
        await ahead.granted("another")
    async with ahead.database.transaction() as tx:
        assert await budgets.left(tx, ahead.workspace) == NOTHING


async def test_a_cap_that_is_lowered_by_a_worker_whose_clock_is_behind_is_not_overdrawn(
    books: LedgerFixture, monkeypatch: pytest.MonkeyPatch
):
    """What was spent before the cap was set does not count as overdrawn: the fixture audits the ledger."""
    monkeypatch.setattr(parley.storage.tables, "datetime", SlowClock)
    await books.settle(await books.granted())
    await books.cap(Period.DAY, NOTHING)
    assert await books.disagreements() == []
