"""Times come from the database's clock: a worker whose clock is wrong books on the right day."""

from datetime import datetime, timedelta, tzinfo
from decimal import Decimal

import pytest
from sqlalchemy import DateTime, func, select, text
from sqlmodel import SQLModel

import parley.storage.tables
from parley.domain.budgets import Period, least_left_usd
from parley.domain.errors import Billed, BudgetExhausted
from parley.domain.generate.contract import Prompt
from parley.domain.requests import Message
from parley.storage import analyses, auto_analyze, budgets, generations, outbox
from parley.storage.driver import fetch
from parley.storage.tables import (
    AutoRun,
    Generation,
    StoredAnalysis,
)
from tests.storage.ledger_fixture import BOUND, COST, EXPIRED, JOB, NOTHING, USER, WORKSPACE, LedgerFixture


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
    await none_is_in_the_future(ahead)


# The audit names the attempt that costs more than its bound, on purpose.
@pytest.mark.parametrize("must_agree", [False])
async def test_jobs_and_what_they_store_have_the_databases_times(ahead: LedgerFixture):
    workspace = ahead.workspace
    await ahead.cap(Period.WEEK, BOUND)
    await ahead.cap(Period.WEEK, 2 * BOUND)
    await ahead.settle(await ahead.granted("above its bound", bound=COST / 2))
    run = {"workflow_id": "w", "dataset_id": "d", "user_id": USER, "settings": {}}
    analysis = {"workflow_id": "w", "session_id": "s", "session_sha256": "x", "user_id": USER}
    async with ahead.database.transaction() as tx:
        await generations.record_without_call(tx, generation(JOB))
        await generations.save_prompt(tx, workspace, Prompt(messages=(Message(role="user", content="How?"),)))
        await analyses.begin(tx, StoredAnalysis(workspace_id=workspace, job_key=JOB, **analysis))
        await analyses.end(tx, workspace, JOB, "failed", None)
        await auto_analyze.begin(tx, AutoRun(workspace_id=workspace, job_key=JOB, **run), [])
        await auto_analyze.end(tx, workspace, JOB, "failed", {})
    async with ahead.database.transaction() as tx:
        assert len(await outbox.claim_due(tx, limit=9, hold_seconds=0)) == 3, "due at once"
    await none_is_in_the_future(ahead)


async def none_is_in_the_future(books: LedgerFixture) -> None:
    """Check every time that is stored, of things that have happened."""
    async with books.database.transaction() as tx:
        now = (await tx.execute(text("SELECT clock_timestamp()"))).scalar_one()
        for table in SQLModel.metadata.sorted_tables:
            for column in table.columns:
                if isinstance(getattr(column.type, "impl", column.type), DateTime) and column.name not in (
                    "lease_until",
                    "expires_at",
                ):
                    latest = (await tx.execute(select(func.max(column)))).scalar_one()
                    assert latest is None or latest <= now, f"{table.name}.{column.name}"


def generation(job_key: str) -> Generation:
    what = {"request_id": f"{job_key}/generate", "fingerprint": "asked", "workflow_id": "w", "action": "ai_message"}
    return Generation(workspace_id=WORKSPACE, job_key=job_key, user_id=USER, outcome="failed", **what)


async def test_a_worker_whose_clock_is_a_day_ahead_cannot_spend_tomorrows_cap(ahead: LedgerFixture):
    await ahead.cap(Period.DAY, BOUND)
    await ahead.granted()
    with pytest.raises(BudgetExhausted):
        await ahead.granted("another")
    async with ahead.database.transaction() as tx:
        assert least_left_usd(await fetch(tx, budgets.caps(ahead.workspace))) == NOTHING


async def test_a_cap_that_is_lowered_by_a_worker_whose_clock_is_behind_is_not_overdrawn(
    books: LedgerFixture, monkeypatch: pytest.MonkeyPatch
):
    """What was spent before the cap was set does not count as overdrawn: the fixture audits the ledger."""
    monkeypatch.setattr(parley.storage.tables, "datetime", SlowClock)
    await books.settle(await books.granted())
    await books.cap(Period.DAY, NOTHING)
    assert await books.disagreements() == []
