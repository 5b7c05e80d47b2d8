"""The cache of answers: ownership, expiry and savings."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import event, select, text

from parley.domain.generate.caching import cache_key, context_sha256, question
from parley.domain.generate.contract import CachePolicy, GenerateInput, Prompt, Serving, chat_request
from parley.domain.requests import ChatReply, ChatRequest, Finish, Message, Provider, Usage
from parley.storage import cache
from parley.storage.cache import Hit
from parley.storage.database import Database
from parley.storage.ledger import Settled
from parley.storage.tables import CachedAnswer, utc_now

CLAUDE, MINI = (Provider.ANTHROPIC, "claude"), (Provider.OPENAI, "mini")
MODELS = [CLAUDE, MINI]
COST = Decimal("0.001640")
HOW, HOW_ELSE = "How do I reset my password?", "hi, how can I reset my pasword"
SIMULATED = [(provider, True) for provider, _ in MODELS]


class Cache:
    """Finds and stores answers for one user of one workspace, each in a separate transaction."""

    def __init__(self, database: Database, workspace: str = "acme", user: str = "ann", action: str = "ai_message"):
        self.database, self.workspace, self.user, self.action = database, workspace, user, action

    def asked(self, said: str, system: str = "You help.", **changes: Any) -> tuple[GenerateInput, ChatRequest]:
        messages = (Message(role="system", content=system), Message(role="user", content=said))
        prompt = Prompt(messages=messages)
        user = {"workspace_id": self.workspace, "user_id": self.user, "action": self.action}
        asked = GenerateInput(**user, prompt=prompt, **changes)
        return asked, chat_request(asked, prompt)

    async def store(
        self,
        said: str,
        answer: str = "Like this.",
        *,
        by: tuple[Provider, str] = CLAUDE,
        seconds: int = 60,
        finish: Finish = Finish.STOP,
        attempt_id: UUID | None = None,
        system: str = "You help.",
    ) -> UUID:
        asked, request = self.asked(said, system)
        reply = ChatReply(text=answer, finish=finish, usage=Usage(input_tokens=9), model="vendor/model")
        provider, model = by
        settled = Settled(
            reply=reply,
            attempt_id=attempt_id or uuid4(),
            provider=provider,
            model=model,
            simulated=True,
            cost_usd=COST,
            prompt_cache_saved_usd=Decimal(0),
            energy_charged=1,
            energy_left=9,
        )
        serving = Serving(
            cache=CachePolicy.SIMILAR, cache_seconds=seconds, cache_key=cache_key(self.workspace, request)
        )
        async with self.database.transaction() as tx:
            await cache.store(tx, asked, serving, request, settled)
        return settled.attempt_id

    async def find(self, said: str, models: cache.Models = MODELS, *, stale: bool = False) -> Hit | None:
        _, request = self.asked(said)
        key = cache_key(self.workspace, request)
        async with self.database.transaction() as tx:
            if stale:
                return await cache.find_stale(tx, self.workspace, key, models, SIMULATED)
            return await cache.find(tx, self.workspace, key, models)

    async def find_similar(self, said: str, models: cache.Models = MODELS, *, system: str = "You help.") -> Hit | None:
        _, request = self.asked(said, system)
        async with self.database.transaction() as tx:
            return await cache.find_similar(
                tx, self.workspace, self.user, self.action, context_sha256(request), question(request), models
            )

    async def use(self, hit: Hit) -> None:
        async with self.database.transaction() as tx:
            await cache.used(tx, self.workspace, hit)

    async def purge(self, **terms: Any) -> int:
        async with self.database.transaction() as tx:
            return await cache.purge(tx, utc_now(), **terms)

    async def rows(self) -> list[CachedAnswer]:
        async with self.database.transaction() as tx:
            return list((await tx.execute(select(CachedAnswer))).scalars())

    async def expire(self) -> None:
        """Make the entries an hour older."""
        async with self.database.transaction() as tx:
            await tx.execute(text("UPDATE llm_cache SET expires_at = expires_at - interval '1 hour'"))


@pytest.fixture
def ann(database: Database) -> Cache:
    return Cache(database)


# Exact.


async def test_an_answer_is_found_by_its_whole_prompt(ann: Cache):
    attempt_id = await ann.store(HOW)
    hit = await ann.find(HOW)
    assert hit is not None
    assert (hit.reply.text, hit.reply.usage.input_tokens) == ("Like this.", 9)
    assert (hit.provider, hit.model, hit.attempt_id) == (*CLAUDE, attempt_id)
    assert (hit.cost_usd, hit.simulated, hit.expired) == (COST, True, False)
    assert await ann.find(HOW_ELSE) is None


async def test_the_best_model_that_has_answered_is_taken(ann: Cache):
    await ann.store(HOW, "best", by=CLAUDE)
    await ann.store(HOW, "cheap", by=MINI)
    assert (await ann.find(HOW, [CLAUDE, MINI])).reply.text == "best"
    assert (await ann.find(HOW, [MINI, CLAUDE])).reply.text == "cheap"
    assert (await ann.find(HOW, [MINI])).reply.text == "cheap"
    assert await ann.find(HOW, [(Provider.LOCAL, "mini")]) is None
    assert await ann.find(HOW, []) is None


async def test_a_model_of_one_name_at_two_providers_is_two_models(ann: Cache):
    local = (Provider.LOCAL, "mini")
    await ann.store(HOW, "at the vendor's", by=MINI)
    await ann.store(HOW, "at home", by=local)
    assert (await ann.find(HOW, [MINI])).reply.text == "at the vendor's"
    assert (await ann.find(HOW, [local])).reply.text == "at home"


@pytest.mark.parametrize("finish", [Finish.LENGTH, Finish.REFUSED])
async def test_a_reply_that_is_incomplete_is_never_stored(ann: Cache, finish: Finish):
    await ann.store(HOW, finish=finish)
    assert await ann.rows() == []


# Times.


async def test_an_expired_answer_is_only_found_as_a_stale_one(ann: Cache):
    await ann.store(HOW)
    await ann.expire()
    assert await ann.find(HOW) is None
    assert await ann.find_similar(HOW_ELSE) is None
    stale = await ann.find(HOW, stale=True)
    assert stale is not None
    assert (stale.reply.text, stale.expired) == ("Like this.", True)
    assert await ann.find(HOW_ELSE, stale=True) is None


async def test_the_newest_stale_answer_of_any_model_is_used(ann: Cache):
    await ann.store(HOW, "older", by=CLAUDE)
    await ann.store(HOW, "newer", by=MINI)
    await ann.expire()
    assert (await ann.find(HOW, stale=True)).reply.text == "newer"
    assert (await ann.find(HOW, [CLAUDE], stale=True)).reply.text == "older"
    await ann.store(HOW, "fresh", by=CLAUDE)
    fresh = await ann.find(HOW, stale=True)
    assert (fresh.reply.text, fresh.expired) == ("fresh", False)


async def test_a_newer_answer_replaces_the_older_with_its_count(ann: Cache):
    await ann.store(HOW, "older")
    older = await ann.find(HOW)
    await ann.use(older)
    await ann.expire()
    await ann.store(HOW, "newer")
    (row,) = await ann.rows()
    assert (row.reply["text"], row.uses, row.last_used_at) == ("newer", 0, None)
    await ann.use(older)
    assert [row.uses for row in await ann.rows()] == [0], "it was the older one that was given"


async def test_keeping_the_same_answer_again_changes_nothing(ann: Cache):
    """A transaction is repeated when it is unknown whether its commit took effect."""
    attempt_id = await ann.store(HOW)
    await ann.use(await ann.find(HOW))
    (before,) = await ann.rows()
    await ann.store(HOW, attempt_id=attempt_id, seconds=3600)
    (after,) = await ann.rows()
    assert after.model_dump() == before.model_dump()


async def test_uses_are_counted_each(ann: Cache):
    await ann.store(HOW)
    hit = await ann.find(HOW)
    await asyncio.gather(*(ann.use(hit) for _ in range(10)))
    (row,) = await ann.rows()
    assert row.uses == 10
    assert row.last_used_at > row.created_at


async def test_concurrent_stores_of_one_key_store_one_answer(ann: Cache):
    await asyncio.gather(*(ann.store(HOW, f"answer {number}") for number in range(20)))
    (row,) = await ann.rows()
    hit = await ann.find(HOW)
    assert (hit.reply.text, hit.attempt_id) == (row.reply["text"], row.attempt_id)


async def test_housekeeping_deletes_what_expired_in_bounded_batches(ann: Cache):
    for number in range(5):
        await ann.store(f"old {number}")
    await ann.expire()
    await ann.store("new")
    assert [await ann.purge(limit=3) for _ in range(3)] == [3, 2, 0]
    assert [row.question for row in await ann.rows()] == ["new"]


async def test_two_purges_do_not_wait_for_each_other(ann: Cache):
    for number in range(4):
        await ann.store(f"old {number}")
    await ann.expire()
    async with ann.database.transaction() as one, ann.database.transaction() as other:
        assert await cache.purge(one, utc_now(), limit=2) == 2
        assert await cache.purge(other, utc_now(), limit=9) == 2


async def test_stale_answers_are_available_until_the_purge_deletes_them(ann: Cache):
    await ann.store(HOW)
    await ann.expire()
    async with ann.database.transaction() as tx:
        assert await cache.purge(tx, utc_now() - timedelta(days=1)) == 0
    assert await ann.find(HOW, stale=True) is not None


# Similar.


async def test_the_same_question_in_other_words_is_answered(ann: Cache):
    attempt_id = await ann.store(HOW)
    hit = await ann.find_similar(HOW_ELSE)
    assert hit is not None and hit.attempt_id == attempt_id
    await ann.use(hit)
    assert [row.uses for row in await ann.rows()] == [1]


async def test_another_question_is_not(ann: Cache):
    await ann.store("Delete my account.")
    assert await ann.find_similar("Please delete my account.") is not None
    assert await ann.find_similar("Do not delete my account.") is None


async def test_of_similar_answers_the_one_of_the_best_model_is_used(ann: Cache):
    await ann.store(HOW, "cheap", by=MINI)
    await ann.store(HOW_ELSE, "best", by=CLAUDE)
    await ann.store("What do I owe?", "20", by=CLAUDE)
    said = "How can I reset my password"
    assert (await ann.find_similar(said, [CLAUDE, MINI])).reply.text == "best"
    assert (await ann.find_similar(said, [MINI, CLAUDE])).reply.text == "cheap"
    assert await ann.find_similar(said, [(Provider.LOCAL, "llama")]) is None


async def test_another_context_is_another_question(ann: Cache):
    await ann.store(HOW, system="You help customers of Acme.")
    assert await ann.find_similar(HOW_ELSE) is None
    assert await ann.find_similar(HOW_ELSE, system="You help customers of Acme.") is not None


@pytest.mark.parametrize("other", [{"workspace": "globex"}, {"user": "bob"}, {"action": "ai_analysis"}])
async def test_similar_questions_of_others_are_never_answered(ann: Cache, other: dict[str, str]):
    await ann.store(HOW)
    stranger = Cache(ann.database, **other)
    assert await stranger.find_similar(HOW) is None
    assert await stranger.find_similar(HOW_ELSE) is None


async def test_a_workspace_never_gets_answers_of_another(ann: Cache):
    """Even if it knows the other's cache key."""
    await ann.store(HOW)
    _, request = ann.asked(HOW)
    key = cache_key("acme", request)
    hit = await ann.find(HOW)
    async with ann.database.transaction() as tx:
        assert await cache.find(tx, "globex", key, MODELS) is None
        assert await cache.find_stale(tx, "globex", key, MODELS, SIMULATED) is None
        await cache.used(tx, "globex", hit)
    assert [row.uses for row in await ann.rows()] == [0]
    assert await Cache(ann.database, workspace="globex").find(HOW) is None


async def test_a_hit_of_another_model_does_not_count_as_this_ones(ann: Cache):
    await ann.store(HOW, by=CLAUDE)
    await ann.store(HOW, by=MINI)
    await ann.use(await ann.find(HOW, [MINI]))
    assert {row.model: row.uses for row in await ann.rows()} == {"claude": 0, "mini": 1}


# Queries.


MANY_ANSWERS = """
INSERT INTO llm_cache (workspace_id, key, provider, model, simulated, action, user_id, context_sha256, question,
    attempt_id, reply, cost_usd, uses, created_at, expires_at)
SELECT 'acme', md5(n::text), 'openai', 'mini', true, 'ai_message', 'user-' || n % 100, md5((n % 7)::text), 'How?',
    gen_random_uuid(), '{}', 0, 0, now(), now() + interval '1 hour' FROM generate_series(1, 20000) n
"""


@pytest.fixture
async def crowded(ann: Cache) -> Cache:
    """A cache so large that PostgreSQL uses its indexes."""
    async with ann.database.transaction() as tx:
        await tx.execute(text(MANY_ANSWERS))
        await tx.execute(text("ANALYZE llm_cache"))
    return ann


async def statements_of(database: Database, work: Awaitable[object]) -> list[tuple[str, Any]]:
    recorded: list[tuple[str, Any]] = []

    def record(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        recorded.append((statement, parameters))

    event.listen(database.engine.sync_engine, "before_cursor_execute", record)
    await work
    event.remove(database.engine.sync_engine, "before_cursor_execute", record)
    return recorded


LOOKUPS: dict[str, tuple[str, Callable[[Cache], Awaitable[object]]]] = {
    "find": ("llm_cache_pkey", lambda ann: ann.find(HOW)),
    "find_stale": ("llm_cache_pkey", lambda ann: ann.find(HOW, stale=True)),
    "find_similar": ("llm_cache_by_context", lambda ann: ann.find_similar(HOW)),
    "purge": ("llm_cache_by_expiry", lambda ann: ann.purge()),
}


@pytest.mark.parametrize(("index", "look"), LOOKUPS.values(), ids=LOOKUPS)
async def test_each_lookup_is_one_query_on_an_index(
    crowded: Cache, index: str, look: Callable[[Cache], Awaitable[object]]
):
    ((statement, parameters),) = await statements_of(crowded.database, look(crowded))
    async with crowded.database.transaction() as tx:
        connection = await tx.connection()
        plan = (await connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)).scalars().all()
    assert any(index in line for line in plan), plan
    assert not any("Seq Scan" in line for line in plan), plan
