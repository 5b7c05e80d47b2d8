"""A workspace that spent too much in a week gets one alert and one event."""

import asyncio
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from parley.domain.housekeeping import Week
from parley.storage import alerts
from parley.storage.tables import CostAlert, OutboxEvent
from tests.storage.ledger_fixture import BOUND, COST, EXPIRED, LedgerFixture

WEEK = Week(monday=date(2026, 11, 16))
LITTLE = COST / 2


@pytest.fixture
async def books(books: LedgerFixture) -> LedgerFixture:
    """A workspace that spent a confirmed reply and a lost one in the week, and another that spent nothing."""
    await LedgerFixture(books.database, "globex").open()
    await books.granted(terms=EXPIRED)
    await books.sweep()
    await books.settle(await books.granted("settled"))
    await spent_at(books, WEEK.begins)
    return books


async def spent_at(books: LedgerFixture, moment: datetime) -> None:
    await books.run("UPDATE ai_usage_logs SET created_at = :moment", moment=moment)


async def raised(books: LedgerFixture, threshold: Decimal = LITTLE, week: Week = WEEK) -> list[CostAlert]:
    async with books.database.transaction() as tx:
        return list(await alerts.raise_alerts(tx, week, threshold))


async def test_confirmed_and_uncertain_dollars_count_together(books: LedgerFixture):
    (alert,) = await raised(books, threshold=BOUND)
    assert (alert.workspace_id, alert.period) == ("acme", "2026-W47")
    assert (alert.spent_usd, alert.uncertain_usd, alert.threshold_usd) == (BOUND + COST, BOUND, BOUND)


async def test_the_alert_is_an_event_as_well(books: LedgerFixture):
    await raised(books)
    (event,) = await books.all(OutboxEvent, kind="cost_alert")
    assert event.workspace_id == "acme"
    assert event.payload == {
        "period": "2026-W47",
        "begins": "2026-11-16T00:00:00+00:00",
        "ends": "2026-11-23T00:00:00+00:00",
        "spent_usd": str(BOUND + COST),
        "uncertain_usd": str(BOUND),
        "threshold_usd": str(LITTLE),
    }


async def test_a_week_has_one_alert_although_it_is_checked_repeatedly(books: LedgerFixture):
    found = await asyncio.gather(*(raised(books) for _ in range(5)))
    assert sorted(map(len, found)) == [0, 0, 0, 0, 1]
    assert len(await books.all(OutboxEvent, kind="cost_alert")) == 1
    assert await raised(books, threshold=BOUND) == []


async def test_spending_exactly_the_threshold_gives_no_alert(books: LedgerFixture):
    assert await raised(books, threshold=BOUND + COST) == []


@pytest.mark.parametrize(
    ("moment", "counts"),
    [
        (WEEK.begins - timedelta(microseconds=1), False),
        (WEEK.ends - timedelta(microseconds=1), True),
        (WEEK.ends, False),
    ],
)
async def test_a_week_begins_and_ends_at_midnight_in_utc(books: LedgerFixture, moment: datetime, counts: bool):
    await spent_at(books, moment)
    assert bool(await raised(books)) is counts


async def test_each_week_and_workspace_has_its_own_alert(books: LedgerFixture):
    other = await LedgerFixture(books.database, "globex").open()
    await other.settle(await other.granted("theirs"))
    await spent_at(books, datetime(2026, 11, 17, tzinfo=UTC))
    assert [alert.workspace_id for alert in await raised(books)] == ["acme", "globex"]
    await spent_at(books, datetime(2026, 11, 24, tzinfo=UTC))
    assert len(await raised(books, week=Week(monday=date(2026, 11, 23)))) == 2
    async with books.database.transaction() as tx:
        mine = await alerts.alerts(tx, "acme")
    assert [(alert.workspace_id, alert.period) for alert in mine] == [("acme", "2026-W48"), ("acme", "2026-W47")]
