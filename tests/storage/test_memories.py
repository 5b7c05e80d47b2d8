"""The memories of users: what is valid, what is near, what is forgotten, and what the purge deletes."""

import asyncio
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from parley.domain.conversation.memory import Changes, Memory
from parley.domain.errors import NotFound
from parley.storage import memories, retention
from parley.storage.database import Database
from parley.storage.retention import Old
from parley.storage.tables import JournaledReply, StoredMemory, utc_now
from tests.storage.ledger_fixture import COST, USER, LedgerFixture, reply

WORKSPACE, MODEL = "acme", "model"
NOW = utc_now()


def memory(value: str, *, minutes: int = 0, predicate: str = "likes", **changes: Any) -> Memory:
    known = {"subject": "user", "confidence": 1, "importance": 0.5, "valid_from": NOW + timedelta(minutes=minutes)}
    return Memory(id=uuid4(), predicate=predicate, value=value, **{**known, **changes})


def vector(*numbers: float) -> list[float]:
    return [*numbers, *[0.0] * (384 - len(numbers))]


class Store:
    """Each operation in a transaction of its own."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def add(self, *added: Memory, attempt_id: UUID | None = None, user: str = USER, **ended: datetime) -> int:
        async with self.database.transaction() as tx:
            return await memories.apply(tx, WORKSPACE, user, Changes(added=added), attempt_id)

    async def end(self, memory_id: UUID, when: datetime) -> None:
        async with self.database.transaction() as tx:
            await memories.apply(tx, WORKSPACE, USER, Changes(ended=((memory_id, when),)))

    async def embed(self, vectors: dict[UUID, list[float]], model: str = MODEL) -> None:
        async with self.database.transaction() as tx:
            await memories.store_vectors(tx, WORKSPACE, USER, model, vectors)

    async def near(self, *numbers: float, model: str = MODEL) -> list[tuple[str, float | None]]:
        async with self.database.transaction() as tx:
            given = vector(*numbers) if numbers else None
            found = await memories.near(tx, WORKSPACE, USER, given, model)
        return [(one.memory.value, one.similarity and round(one.similarity, 3)) for one in found]

    async def values(self, *, with_ended: bool = False, user: str = USER) -> list[str]:
        async with self.database.transaction() as tx:
            return [one.value for one in await memories.of_user(tx, WORKSPACE, user, with_ended=with_ended)]

    async def forget(self, *memory_ids: UUID) -> int:
        async with self.database.transaction() as tx:
            return await memories.forget(tx, WORKSPACE, USER, memory_ids or None)


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database)


async def test_the_nearest_valid_memories_come_first(store: Store):
    far, near, ended = memory("far"), memory("near"), memory("ended")
    await store.add(far, near, ended)
    await store.add(memory("another user's"), user="bob")
    await store.embed({far.id: vector(0, 1), near.id: vector(1, 0.1), ended.id: vector(1)})
    await store.end(ended.id, NOW)
    assert await store.near(1) == [("near", 0.995), ("far", 0.0)]


async def test_a_repeated_correction_changes_nothing(database: Database, store: Store):
    wrong, new_id = memory("Bergen", predicate="lives_in"), uuid4()
    await store.add(wrong)
    for _ in range(2):
        async with database.transaction() as tx:
            made = await memories.correct(tx, WORKSPACE, USER, wrong.id, "Oslo", new_id)
        assert (made.id, made.value) == (new_id, "Oslo")
    assert await store.values() == ["Oslo"]
    await store.forget(new_id)
    async with database.transaction() as tx:
        with pytest.raises(NotFound):
            await memories.correct(tx, WORKSPACE, USER, wrong.id, "Oslo", new_id)
    assert await store.values() == []


async def test_what_has_no_vector_of_the_model_is_compared_as_well(store: Store):
    old, other, new = memory("old", minutes=1), memory("of another model", minutes=2), memory("new", minutes=3)
    await store.add(old, other, new)
    await store.embed({old.id: vector(1)})
    await store.embed({other.id: vector(1)}, model="another")
    assert await store.near(1) == [("new", None), ("of another model", None), ("old", 1.0)]
    async with store.database.transaction() as tx:
        missing = await memories.without_vector(tx, WORKSPACE, USER, MODEL, limit=10)
    assert [one.value for one in missing] == ["new", "of another model"]


async def test_without_a_vector_the_newest_come_first(store: Store):
    await store.add(memory("old", minutes=1), memory("new", minutes=2))
    assert await store.near() == [("new", None), ("old", None)]


async def test_at_most_so_many_are_compared(store: Store):
    await store.add(*(memory(str(number), minutes=number) for number in range(memories.MOST_COMPARED + 5)))
    assert len(await store.near()) == memories.MOST_COMPARED


async def test_applied_again_changes_add_and_end_nothing(store: Store):
    old, new = memory("old"), memory("new", minutes=5)
    await store.add(old)
    changes = Changes(added=(new,), ended=((old.id, new.valid_from),))
    for added in (1, 0):
        async with store.database.transaction() as tx:
            assert await memories.apply(tx, WORKSPACE, USER, changes) == added
    await store.end(old.id, NOW + timedelta(days=9))
    (row,) = [row for row in await all_rows(store) if row.value == "old"]
    assert row.valid_until == new.valid_from


async def all_rows(store: Store) -> list[StoredMemory]:
    return list(await LedgerFixture(store.database).all(StoredMemory))


async def test_memories_about_a_subject_are_found_whatever_its_case(store: Store):
    await store.add(memory("tea", subject="Anna", minutes=2), memory("jazz", subject="anna"), memory("coffee"))
    async with store.database.transaction() as tx:
        found = await memories.valid_about(tx, WORKSPACE, USER, {"ANNA"})
    assert [one.value for one in found] == ["jazz", "tea"]


async def test_what_is_forgotten_has_no_content_and_does_not_come_back(store: Store, books: LedgerFixture):
    attempt = await books.granted()
    await books.settle(attempt, reply("the user likes a secret"))
    secret, kept = memory("secret"), memory("kept")
    await store.add(secret, attempt_id=attempt)
    await store.add(kept)
    await store.embed({secret.id: vector(1)})
    assert await store.forget(secret.id) == 1
    assert await store.forget(secret.id) == 0
    assert await store.add(secret, attempt_id=attempt) == 0
    await store.embed({secret.id: vector(1)})
    assert await store.values(with_ended=True) == ["kept"]
    assert "secret" not in await contents(store.database)
    row = next(row for row in await all_rows(store) if row.memory_id == secret.id)
    assert (row.embedding, row.valid_until is not None) == (None, True)
    # The money stays: what the reply counted, and what it cost.
    (journaled,) = await books.all(JournaledReply)
    assert journaled.payload["usage"]["input_tokens"] == 1000
    assert await books.day() == (0, COST, 0)


async def contents(database: Database) -> str:
    """The rows of memories and of replies, as text."""
    async with database.transaction() as tx:
        queries = [f"SELECT x::text FROM {table} x" for table in ("memories", "replies")]
        return "\n".join([line for query in queries for line in (await tx.execute(text(query))).scalars()])


async def test_all_of_a_user_is_forgotten_and_nothing_of_others(store: Store):
    ended = memory("ended")
    await store.add(memory("valid"), ended)
    await store.add(memory("another user's"), user="bob")
    await store.end(ended.id, NOW)
    assert await store.forget() == 2
    assert await store.values(with_ended=True) == []
    assert await store.values(user="bob") == ["another user's"]


async def test_a_memory_that_is_not_the_users_is_not_found(store: Store):
    one = memory("tea")
    await store.add(one)
    async with store.database.transaction() as tx:
        assert (await memories.find(tx, WORKSPACE, USER, one.id)).value == "tea"
        for workspace, user, memory_id in (
            ("globex", USER, one.id),
            (WORKSPACE, "bob", one.id),
            (WORKSPACE, USER, uuid4()),
        ):
            with pytest.raises(NotFound):
                await memories.find(tx, workspace, user, memory_id)


async def test_the_lock_lets_one_transaction_change_a_user_at_a_time(store: Store):
    order: list[str] = []
    holds = asyncio.Event()

    async def first() -> None:
        async with store.database.transaction() as tx:
            await memories.lock(tx, WORKSPACE, USER)
            holds.set()
            async with store.database.transaction() as other:
                await memories.lock(other, WORKSPACE, "bob")
            order.append("first")

    async def second() -> None:
        await holds.wait()
        async with store.database.transaction() as tx:
            await memories.lock(tx, WORKSPACE, USER)
            order.append("second")

    await asyncio.gather(second(), first())
    assert order == ["first", "second"]


async def test_the_purge_deletes_what_ended_long_ago_and_nothing_valid(store: Store):
    valid, ended, recent = memory("valid", minutes=-10_000), memory("ended"), memory("recent")
    await store.add(valid, ended, recent)
    await store.end(ended.id, NOW - timedelta(days=2))
    await store.end(recent.id, NOW)
    async with store.database.transaction() as tx:
        old = Old(NOW - timedelta(days=1), ())
        assert await retention.purge_results(tx, "memories", old, limit=10) == 1
    assert await store.values(with_ended=True) == ["recent", "valid"]
