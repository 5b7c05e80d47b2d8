"""A workspace's caps: what counts against a day, a week and a month, and that no race overdraws one."""

import asyncio
from collections import Counter
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import text

from parley.domain.budgets import Period, first_day, least_left_usd
from parley.domain.errors import Billed, BudgetExhausted
from parley.domain.requests import Usage
from parley.storage import budgets
from parley.storage.driver import fetch
from parley.storage.ledger import Granted
from parley.storage.tables import OutboxEvent, utc_now
from tests.parts import until
from tests.storage.ledger_fixture import BOUND, COST, EXPIRED, NOTHING, PRICE, LedgerFixture, reply

MANY = 200
THURSDAY = datetime(2026, 11, 26, 12, tzinfo=UTC)


@pytest.fixture
def must_agree() -> bool:
    """False: some tests write costs of a day without an attempt."""
    return False


@pytest.mark.parametrize(
    ("period", "today", "begins", "ends"),
    [
        (Period.DAY, date(2026, 11, 26), date(2026, 11, 26), date(2026, 11, 26)),
        (Period.WEEK, date(2026, 11, 26), date(2026, 11, 23), date(2026, 11, 29)),
        (Period.WEEK, date(2026, 11, 23), date(2026, 11, 23), date(2026, 11, 29)),
        (Period.WEEK, date(2027, 1, 1), date(2026, 12, 28), date(2027, 1, 3)),
        (Period.MONTH, date(2026, 11, 30), date(2026, 11, 1), date(2026, 11, 30)),
        (Period.MONTH, date(2026, 12, 31), date(2026, 12, 1), date(2026, 12, 31)),
        (Period.MONTH, date(2028, 2, 1), date(2028, 2, 1), date(2028, 2, 29)),
    ],
)
async def test_weeks_begin_on_mondays_and_months_on_firsts(
    books: LedgerFixture, period: Period, today: date, begins: date, ends: date
):
    assert first_day(period, today) == begins
    await books.cap(period, Decimal(1000))
    for day in {begins, ends}:
        await spend(books, noon(day), "1")
    for outside in (begins - timedelta(days=1), ends + timedelta(days=1)):
        await spend(books, noon(outside), "100")
    async with books.database.transaction() as tx:
        (cap,) = await fetch(tx, budgets.caps(books.workspace, noon(today)))
    assert cap.reserved_usd == len({begins, ends})


def noon(day: date) -> datetime:
    return datetime.combine(day, time(12), UTC)


async def spend(books: LedgerFixture, moment: datetime, usd: str) -> None:
    async with books.database.transaction() as tx:
        is_capped = await budgets.lock_caps(tx, books.workspace)
        await budgets.reserve_day(tx, books.workspace, moment, Decimal(usd), is_capped=is_capped)


async def test_an_attempt_counts_on_its_day_until_its_cost_is_known(books: LedgerFixture):
    attempt = await books.granted()
    assert await books.day() == (BOUND, NOTHING, NOTHING)
    await books.settle(attempt)
    assert await books.day() == (NOTHING, COST, NOTHING)


async def test_a_lost_attempt_counts_as_uncertain_and_a_refused_one_not_at_all(books: LedgerFixture):
    await books.granted(terms=EXPIRED)
    await books.fail(await books.granted())
    assert await books.day() == (NOTHING, NOTHING, BOUND)
    await books.granted("another", terms=EXPIRED)
    await books.sweep("another")
    await books.fail(await books.granted("third"), Billed.UNKNOWN)
    assert await books.day() == (NOTHING, NOTHING, 3 * BOUND)


async def test_a_late_reply_counts_on_the_day_of_its_attempt(books: LedgerFixture):
    attempt = await books.granted()
    yesterday = datetime.now(UTC) - timedelta(days=1)
    await books.run("UPDATE attempts SET started_at = :then", then=yesterday)
    await books.run("UPDATE budgets SET scope = :then WHERE scope LIKE 'day:%'", then=budgets.day_scope(yesterday))
    await books.settle(attempt)
    assert await books.day(yesterday) == (NOTHING, COST, NOTHING)


@pytest.mark.parametrize("period", Period)
async def test_two_hundred_claims_of_many_jobs_on_a_cap_for_fifty(database, period: Period):
    books = LedgerFixture(database)
    for job in range(10):
        await books.open(energy_granted=MANY * PRICE, job=f"job {job}")
    await books.cap(period, 50 * BOUND + BOUND / 2)
    claims = [books.claim(f"step {number}", job=f"job {number % 10}") for number in range(MANY)]
    done = await asyncio.gather(*claims, return_exceptions=True)
    assert Counter(map(type, done)) == {Granted: 50, BudgetExhausted: 150}
    assert await books.day() == (50 * BOUND, NOTHING, NOTHING)


async def test_a_refused_claim_leaves_no_trace(books: LedgerFixture):
    await books.cap(Period.DAY, BOUND / 2)
    with pytest.raises(BudgetExhausted, match="day"):
        await books.granted()
    assert await books.energy() == (0, 0)
    assert await books.dollars() == (NOTHING, NOTHING, NOTHING)
    assert await books.attempts() == []


async def test_a_week_adds_up_its_days_and_a_month_its_weeks(books: LedgerFixture):
    await books.cap(Period.WEEK, Decimal(10))
    await books.cap(Period.MONTH, Decimal(12))
    await spend(books, THURSDAY - timedelta(days=7), "3")
    await spend(books, THURSDAY - timedelta(days=1), "6")
    with pytest.raises(BudgetExhausted, match="month"):
        await spend(books, THURSDAY, "4")
    with pytest.raises(BudgetExhausted, match="week"):
        await spend(books, THURSDAY, "5")
    await spend(books, THURSDAY, "3")
    await spend(books, THURSDAY + timedelta(days=5), "10")  # December


async def test_what_was_spent_before_a_cap_was_set_counts(books: LedgerFixture):
    await spend(books, THURSDAY, "3")
    await books.cap(Period.DAY, Decimal(4))
    with pytest.raises(BudgetExhausted):
        await spend(books, THURSDAY, "2")
    await books.cap(Period.DAY, Decimal(5))
    await spend(books, THURSDAY, "2")
    await books.cap(Period.DAY, None)
    await spend(books, THURSDAY, "100")


async def test_claims_on_two_days_cannot_overdraw_their_week_between_them(books: LedgerFixture):
    await books.cap(Period.WEEK, Decimal(50))
    days = [THURSDAY, THURSDAY + timedelta(days=1)]
    done = await asyncio.gather(*(spend(books, days[n % 2], "1") for n in range(MANY)), return_exceptions=True)
    assert Counter(map(type, done)) == {type(None): 50, BudgetExhausted: 150}


async def test_what_is_left_is_the_least_of_the_caps(books: LedgerFixture):
    async def left() -> Decimal | None:
        async with books.database.transaction() as tx:
            return least_left_usd(await fetch(tx, budgets.caps(books.workspace, THURSDAY)))

    assert await left() is None
    await books.cap(Period.WEEK, Decimal(10))
    await spend(books, THURSDAY - timedelta(days=1), "4")
    assert await left() == Decimal(6)
    await books.cap(Period.DAY, Decimal(5))
    assert await left() == Decimal(5)


async def test_another_workspace_spends_from_its_own_cap(books: LedgerFixture):
    await books.cap(Period.DAY, Decimal(1))
    other = LedgerFixture(books.database, "globex")
    await spend(other, THURSDAY, "100")
    await spend(books, THURSDAY, "1")


@pytest.mark.parametrize("earlier", [[], [Period.MONTH]], ids=["no cap", "a cap"])
async def test_a_cap_that_is_set_during_a_takeover_does_not_deadlock(books: LedgerFixture, earlier: list[Period]):
    """The new cap waits for the claims that are under way, and bounds the next one."""
    for period in earlier:
        await books.cap(period, Decimal(100))
    await books.open(user="bob", job="other")
    await books.granted(terms=EXPIRED)
    async with books.database.transaction() as tx:
        await budgets.lock(tx, books.workspace, budgets.day_scope(utc_now()))
        takeover = asyncio.create_task(books.granted())
        await until(lambda: waiting(books))
        setting = asyncio.create_task(books.cap(Period.DAY, 2 * BOUND))
        await until(lambda: waiting(books, 2, unless=setting))
        refused = asyncio.create_task(books.claim(job="other", user_id="bob"))
        await until(lambda: waiting(books, 3 - setting.done()))
    await asyncio.gather(takeover, setting)
    with pytest.raises(BudgetExhausted, match="day"):
        await refused
    assert await books.states() == ["lost", "open"]


async def waiting(books: LedgerFixture, transactions: int = 1, *, unless: asyncio.Task[None] | None = None) -> bool:
    """Whether so many transactions wait for a lock in this test's database, or the task is done without waiting."""
    if unless and unless.done():
        return True
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with books.database.transaction() as tx:
        return (await tx.execute(text(query))).scalar_one() >= transactions


class TestCostAboveItsBound:
    """A provider may bill more than a request can cost by its rates: the cost is booked, and the workspace stops."""

    @pytest.mark.parametrize("ends", ["settles", "fails"])
    async def test_it_is_booked_and_reported_and_further_claims_are_refused(self, books: LedgerFixture, ends: str):
        await books.cap(Period.WEEK, 2 * BOUND)
        attempt = await books.granted()
        high = Usage(input_tokens=1_000_000)
        if ends == "settles":
            await books.settle(attempt, reply(usage=high))
        else:
            await books.fail(attempt, Billed.YES, usage=high, cost_usd=Decimal(1))
        assert await books.day() == (NOTHING, Decimal(1), NOTHING)
        [event] = [one for one in await books.all(OutboxEvent) if one.kind == "ai_cost_above_bound"]
        assert event.attempt_id == attempt
        assert (Decimal(event.payload["cost_usd"]), event.payload["upper_bound_usd"]) == (1, str(BOUND))
        with pytest.raises(BudgetExhausted):
            await books.claim("another", bound=Decimal("0.000001"))
        found = await books.disagreements()
        assert found == ["an attempt costs at most its upper bound", "a workspace's spending is within its caps"]

    async def test_a_cap_below_what_is_spent_already_is_not_overdrawn(self, books: LedgerFixture):
        await books.settle(await books.granted())
        await books.cap(Period.DAY, COST / 2)
        with pytest.raises(BudgetExhausted):
            await books.claim("another")
        assert await books.disagreements() == []
