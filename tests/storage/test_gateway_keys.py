"""The keys of the gateway: only a hash is stored, and a minute's requests are shared by all processes."""

import asyncio
from datetime import UTC, datetime

import pytest
from sqlalchemy import literal

from parley import Backend, NotFound
from parley.domain.gateway_keys import Scope, hash_of
from parley.storage import gateway_keys
from parley.storage.database import Database
from tests.parts import run_sql


async def test_a_key_is_found_by_the_hash_of_its_secret_only(backend: Backend, database: Database, database_url: str):
    made = await backend.client("acme").gateway_keys.create("app", scopes=[Scope.READ], concurrent_streams=3)
    async with database.transaction() as tx:
        found = await gateway_keys.find(tx, hash_of(made.secret))
        assert await gateway_keys.find(tx, hash_of(made.secret + "x")) is None
    assert found is not None
    assert found.model_dump() == made.model_dump(exclude={"secret"})
    [row] = await run_sql(database_url, "SELECT gateway_keys::text AS row FROM gateway_keys")
    assert made.secret not in row["row"]
    assert made.secret.startswith(found.prefix)


async def test_a_workspace_neither_sees_nor_revokes_the_keys_of_another(backend: Backend):
    acme, globex = backend.client("acme").gateway_keys, backend.client("globex").gateway_keys
    made = await acme.create("app")
    assert await globex.list() == []
    with pytest.raises(NotFound, match=made.key_id):
        await globex.revoke(made.key_id)
    await acme.revoke(made.key_id)
    [revoked] = await acme.list()
    assert revoked.revoked_at is not None
    await acme.revoke(made.key_id)
    assert await acme.list() == [revoked]


@pytest.fixture
def one_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """The minute does not change during the test."""
    monkeypatch.setattr(gateway_keys, "MINUTE", literal(datetime(2026, 11, 2, 9, 0, tzinfo=UTC)))


@pytest.mark.usefixtures("one_minute")
async def test_all_processes_together_take_exactly_what_the_minute_allows(backend: Backend, database: Database):
    made = await backend.client("acme").gateway_keys.create("app", requests_per_minute=50)

    async def take() -> tuple[int, float]:
        async with database.transaction() as tx:
            return await gateway_keys.take(tx, made, 7)

    taken = await asyncio.gather(*(take() for _ in range(12)))
    assert sorted(count for count, _ in taken) == [0] * 4 + [1] + [7] * 7
    assert all(0 < seconds <= 60 for _, seconds in taken)


@pytest.mark.usefixtures("one_minute")
async def test_a_new_minute_has_a_new_allowance(backend: Backend, database: Database, database_url: str):
    made = await backend.client("acme").gateway_keys.create("app", requests_per_minute=5)
    async with database.transaction() as tx:
        assert (await gateway_keys.take(tx, made, 9))[0] == 5
    await run_sql(database_url, "UPDATE gateway_keys SET minute = minute - interval '1 minute'")
    async with database.transaction() as tx:
        assert (await gateway_keys.take(tx, made, 3))[0] == 3
    [used] = await backend.client("acme").gateway_keys.list()
    assert used.last_used_at is not None
