"""What counts as a database that is away, and what an error may tell."""

import asyncio

import asyncpg
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from domain.errors import InvalidInput, Unreachable
from storage.database import Database, is_away, storable


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(),
        TimeoutError(),
        PoolTimeoutError("QueuePool limit reached"),
        asyncpg.CannotConnectNowError("the database system is starting up"),
        asyncpg.AdminShutdownError("terminating connection"),
        asyncpg.TooManyConnectionsError("too many clients already"),
        asyncpg.ConnectionDoesNotExistError("closed in the middle of operation"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_absent_database_is_away(error: Exception):
    assert is_away(error)


@pytest.mark.parametrize("error", [asyncpg.UniqueViolationError(), asyncpg.CheckViolationError(), ValueError()])
def test_a_wrong_statement_is_not_an_absent_database(error: Exception):
    assert not is_away(error)


async def test_a_connection_ended_by_the_server_is_unreachable(database: Database):
    with pytest.raises(Unreachable):
        async with database.transaction() as tx:
            await tx.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    await database.ping()


async def test_a_pool_without_a_free_connection_is_unreachable(database_url: str):
    small = Database(SecretStr(database_url), pool_size=1)
    small.engine.sync_engine.pool._timeout = 0.01
    async with small.transaction() as one, small.transaction() as two:
        await asyncio.gather(one.execute(text("SELECT 1")), two.execute(text("SELECT 1")))
        with pytest.raises(Unreachable):
            await small.ping()
    await small.close()


async def test_a_refused_connection_is_unreachable_and_tells_no_password():
    away = Database(SecretStr("postgresql://user:hunter2@127.0.0.1:1/db"))
    with pytest.raises(Unreachable) as refused:
        await away.ping()
    assert "127.0.0.1:1" in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("url", ["no address", "mysql://user:hunter2@host/db"])
def test_another_kind_of_address_is_refused(url: str):
    with pytest.raises(InvalidInput, match="DATABASE_URL") as refused:
        Database(SecretStr(url))
    assert "hunter2" not in str(refused.value)


async def test_a_failing_statement_does_not_quote_its_parameters(database: Database):
    with pytest.raises(Exception, match="division by zero") as failed:
        async with database.transaction() as tx:
            await tx.execute(text("SELECT 1 / 0, CAST(:said AS text)"), {"said": "what the customer said"})
    assert "what the customer said" not in str(failed.value)


async def test_an_exception_rolls_back(database: Database):
    with pytest.raises(ValueError, match="stop"):
        async with database.transaction() as tx:
            await tx.execute(text("INSERT INTO breakers (provider, failures, generation) VALUES ('x', 0, 0)"))
            raise ValueError("stop")
    async with database.transaction() as tx:
        assert (await tx.execute(text("SELECT count(*) FROM breakers"))).scalar() == 0


def test_storable_text_keeps_everything_but_nul_and_half_pairs():
    kept = {"a": ["é", "\U0001f600", 1, None, True, 2.5]}
    assert storable(kept) == kept
    assert storable({"k\0": ["\ud800x", {"y": "\0"}]}) == {"k\ufffd": ["\ufffdx", {"y": "\ufffd"}]}
