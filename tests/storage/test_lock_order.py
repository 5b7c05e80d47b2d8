"""The ledger's operations lock rows in one order, so that they cannot deadlock: docs/paid-call.md, "Locks".

Each operation is held up at one row after the other. Of the others, it may hold only those that come before.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest
from sqlalchemy import text

from parley.domain.budgets import Period
from parley.domain.errors import Billed
from parley.domain.requests import Provider
from parley.storage import breaker
from parley.storage.breaker import Passes
from tests.parts import until
from tests.storage.ledger_fixture import BOUND, EXPIRED, JOB, STEP, TERMS, USER, LedgerFixture

OTHER_JOB, OTHER_USER = "other job", "bob"
# Every row that two transactions may share, in the order of the page.
ROWS = {
    "request": f"SELECT 1 FROM paid_requests WHERE request_id = '{JOB}/{STEP}'",
    "another request": f"SELECT 1 FROM paid_requests WHERE request_id = '{OTHER_JOB}/{STEP}'",
    "fleet's breaker": "SELECT 1 FROM breakers WHERE provider = 'anthropic' AND workspace_id = ''",
    "breaker": "SELECT 1 FROM breakers WHERE provider = 'anthropic' AND workspace_id <> ''",
    "envelope": f"SELECT 1 FROM budgets WHERE scope = 'job:{JOB}'",
    "another envelope": f"SELECT 1 FROM budgets WHERE scope = 'job:{OTHER_JOB}'",
    "energy": f"SELECT 1 FROM energy_accounts WHERE user_id = '{USER}'",
    "another energy": f"SELECT 1 FROM energy_accounts WHERE user_id = '{OTHER_USER}'",
    "day's cap": "SELECT 1 FROM spending_caps WHERE period = 'day'",
    "week's cap": "SELECT 1 FROM spending_caps WHERE period = 'week'",
    "yesterday": "SELECT 1 FROM budgets WHERE scope = 'day:' || ((now() - interval '1 day') AT TIME ZONE 'UTC')::date",
    "today": "SELECT 1 FROM budgets WHERE scope = 'day:' || (now() AT TIME ZONE 'UTC')::date",
}


@dataclass
class Operation:
    """What is done, and which rows it locks."""

    run: Callable[[], Awaitable[object]]
    rows: list[str]


async def claim(books: LedgerFixture) -> Operation:
    await books.fail(await books.granted())
    await trouble(books)
    return Operation(books.granted, ["request", "envelope", "energy", "day's cap", "week's cap", "today"])


async def takeover(books: LedgerFixture) -> Operation:
    """It ends yesterday's attempt, and begins one of today."""
    await yesterdays(books)
    return Operation(books.granted, ["request", "envelope", "day's cap", "week's cap", "yesterday", "today"])


async def settle(books: LedgerFixture) -> Operation:
    attempt_id = await books.granted()
    await trouble(books)
    return Operation(
        lambda: books.settle(attempt_id), ["request", "fleet's breaker", "breaker", "envelope", "energy", "today"]
    )


async def settle_jointly(books: LedgerFixture) -> Operation:
    """Two requests of different jobs and users: each kind of row is locked for both before the next kind."""
    await books.open(user=OTHER_USER, job=OTHER_JOB)
    both = [await books.granted(), await books.granted(job=OTHER_JOB, user_id=OTHER_USER)]
    await trouble(books)
    rows = ["request", "another request", "fleet's breaker", "breaker", "envelope", "another envelope"]
    return Operation(lambda: books.settle_jointly(*both), [*rows, "energy", "another energy", "today"])


async def fail(books: LedgerFixture) -> Operation:
    attempt_id = await books.granted()
    await trouble(books)
    rows = ["request", "fleet's breaker", "breaker", "envelope", "energy", "today"]
    return Operation(lambda: books.fail(attempt_id, Billed.UNKNOWN, trips_breaker=True), rows)


async def late_reply(books: LedgerFixture) -> Operation:
    """It comes after the sweep, so that the energy is reserved again."""
    attempt_id = await yesterdays(books)
    await books.sweep()
    await trouble(books)
    return Operation(
        lambda: books.settle(attempt_id), ["request", "fleet's breaker", "breaker", "envelope", "energy", "yesterday"]
    )


async def sweep(books: LedgerFixture) -> Operation:
    await yesterdays(books)
    return Operation(books.sweep, ["request", "envelope", "energy", "yesterday"])


async def yesterdays(books: LedgerFixture) -> object:
    """An attempt of yesterday whose lease has expired, and one of today."""
    attempt_id = await books.granted(terms=EXPIRED)
    await books.run("UPDATE attempts SET started_at = started_at - interval '1 day'")
    await books.run(
        "UPDATE budgets SET scope = 'day:' || ((now() - interval '1 day') AT TIME ZONE 'UTC')::date"
        " WHERE scope LIKE 'day:%'"
    )
    await books.granted("another step")
    return attempt_id


async def supersede(books: LedgerFixture) -> Operation:
    """The first claim of a request, which ends an earlier request's attempt."""
    attempt_id = await books.granted()
    await trouble(books)
    return Operation(
        lambda: books.claim("further", supersedes=attempt_id, result_id=f"{JOB}/{STEP}"),
        ["request", "envelope", "energy", "day's cap", "week's cap", "today"],
    )


async def trouble(books: LedgerFixture) -> None:
    """A failure at the provider, so that each of its breakers has a row which a success resets."""
    async with books.database.transaction() as tx:
        await breaker.failed(tx, Provider.ANTHROPIC, books.workspace, Passes(0, 0), TERMS.breaker)


OPERATIONS = [claim, takeover, supersede, settle, settle_jointly, fail, late_reply, sweep]


@pytest.mark.parametrize("prepare", OPERATIONS, ids=lambda prepare: prepare.__name__)
async def test_an_operation_locks_rows_in_the_documented_order(
    books: LedgerFixture, prepare: Callable[[LedgerFixture], Awaitable[Operation]]
):
    for period in (Period.DAY, Period.WEEK):
        await books.cap(period, 100 * BOUND)
    operation = await prepare(books)
    order, rows = list(ROWS), operation.rows
    for row in rows:
        held = await held_while_waiting_for(books, row, operation)
        assert held <= set(order[: order.index(row)]), f"at {row!r} it holds {held}"
        assert set(rows[: rows.index(row)]) <= held, f"at {row!r} it holds {held} only"
    await operation.run()


async def held_while_waiting_for(books: LedgerFixture, row: str, operation: Operation) -> set[str]:
    """The rows that the operation has locked when it comes to `row`. It is then cancelled."""
    async with books.database.transaction() as holder:
        await holder.execute(text(f"{ROWS[row]} FOR UPDATE"))
        running = asyncio.ensure_future(operation.run())
        await until(lambda: is_waiting(books))
        held = {name for name in ROWS if name != row and await is_locked(books, name)}
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    return held


async def is_waiting(books: LedgerFixture) -> bool:
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with books.database.transaction() as tx:
        return (await tx.execute(text(query))).scalar_one() == 1


async def is_locked(books: LedgerFixture, row: str) -> bool:
    async with books.database.transaction() as tx:
        exists = (await tx.execute(text(ROWS[row]))).first()
        return bool(exists) and (await tx.execute(text(f"{ROWS[row]} FOR UPDATE SKIP LOCKED"))).first() is None
