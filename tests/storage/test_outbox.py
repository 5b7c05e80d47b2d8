"""Events in the outbox: one worker at a time holds each, none is lost, and none blocks the others."""

import asyncio
from datetime import timedelta

import pytest

from parley.domain.errors import NotFound
from parley.domain.events import Event
from parley.storage import outbox
from parley.storage.tables import OutboxEvent
from tests.storage.ledger_fixture import LedgerFixture

HOUR = timedelta(hours=1)


async def written(books: LedgerFixture, count: int, workspace: str = "acme") -> None:
    async with books.database.transaction() as tx:
        tx.add_all([OutboxEvent(workspace_id=workspace, kind="test", payload={"n": n}) for n in range(count)])


async def claim(books: LedgerFixture, limit: int = 100, hold_seconds: float = 60) -> list[Event]:
    async with books.database.transaction() as tx:
        return await outbox.claim_due(tx, limit=limit, hold_seconds=hold_seconds)


async def put_off(books: LedgerFixture, event: Event, wait: timedelta | None) -> None:
    async with books.database.transaction() as tx:
        await outbox.put_off(tx, event, wait, "HTTP 500")


async def delivered(books: LedgerFixture, event: Event) -> None:
    async with books.database.transaction() as tx:
        await outbox.delivered(tx, event)


async def listed(books: LedgerFixture, workspace: str = "acme", *, undelivered: bool = False) -> list[OutboxEvent]:
    async with books.database.transaction() as tx:
        return list(await outbox.events(tx, workspace, undelivered=undelivered))


def numbers(events: list[Event]) -> list[int]:
    return [event.payload["n"] for event in events]


async def test_events_are_due_at_once_in_the_order_they_were_written(books: LedgerFixture):
    await written(books, 5)
    assert numbers(await claim(books, limit=3)) == [0, 1, 2]
    assert numbers(await claim(books, limit=3)) == [3, 4]
    assert await claim(books) == []


async def test_concurrent_workers_never_hold_one_event_twice(books: LedgerFixture):
    await written(books, 60)
    claimed = await asyncio.gather(*(claim(books, limit=7) for _ in range(15)))
    held = [n for events in claimed for n in numbers(events)]
    assert sorted(held) == sorted(set(held))
    while rest := await claim(books, limit=7):
        held += numbers(rest)
    assert sorted(held) == list(range(60))


async def test_an_event_whose_holder_died_is_due_again_and_the_attempt_counts(books: LedgerFixture):
    await written(books, 1)
    (first,) = await claim(books, hold_seconds=0)
    (again,) = await claim(books)
    assert (first.id, first.tries, again.tries) == (again.id, 1, 2)
    assert first.message_id == again.message_id


async def test_an_event_that_arrived_is_done(books: LedgerFixture):
    await written(books, 1)
    (event,) = await claim(books, hold_seconds=0)
    await delivered(books, event)
    assert await claim(books) == []
    (row,) = await listed(books)
    assert row.delivered_at is not None
    assert await listed(books, undelivered=True) == []


async def test_a_delayed_event_does_not_block_the_others(books: LedgerFixture):
    await written(books, 2)
    first, _ = await claim(books, hold_seconds=0)
    await put_off(books, first, HOUR)
    assert numbers(await claim(books)) == [1]


async def test_an_event_that_was_abandoned_stays_visible_and_can_be_retried(books: LedgerFixture):
    await written(books, 1)
    (event,) = await claim(books, hold_seconds=0)
    await put_off(books, event, None)
    assert await claim(books) == []
    (row,) = await listed(books, undelivered=True)
    assert (row.next_at, row.delivered_at, row.tries, row.problem) == (None, None, 1, "HTTP 500")
    async with books.database.transaction() as tx:
        await outbox.retry(tx, "acme", event.id)
    (again,) = await claim(books)
    assert again.tries == 1


async def test_a_late_failure_of_an_earlier_attempt_delays_nothing(books: LedgerFixture):
    await written(books, 1)
    (late,) = await claim(books, hold_seconds=0)
    (again,) = await claim(books, hold_seconds=0)
    await put_off(books, late, None)
    (third,) = await claim(books, hold_seconds=0)
    await delivered(books, again)
    await put_off(books, third, HOUR)
    (row,) = await listed(books)
    assert row.delivered_at is not None
    assert row.next_at is None


async def test_an_event_that_arrived_is_not_retried(books: LedgerFixture):
    await written(books, 1)
    (event,) = await claim(books)
    await delivered(books, event)
    async with books.database.transaction() as tx:
        with pytest.raises(NotFound):
            await outbox.retry(tx, "acme", event.id)


async def test_a_workspace_sees_its_own_events_and_retries_no_other(books: LedgerFixture):
    await written(books, 1)
    await written(books, 1, workspace="globex")
    (theirs,) = await listed(books, "globex")
    assert [row.workspace_id for row in await listed(books)] == ["acme"]
    assert theirs.id
    async with books.database.transaction() as tx:
        with pytest.raises(NotFound):
            await outbox.retry(tx, "acme", theirs.id)


async def test_events_that_the_ledger_writes_are_due(books: LedgerFixture):
    await books.settle(await books.granted())
    (event,) = await claim(books)
    assert (event.kind, event.workspace_id) == ("ai_generation_completed", "acme")
