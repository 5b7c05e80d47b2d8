"""Which errors of the database are transient, how connections end, and what a message may contain."""

import asyncio
import os
import signal
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import URL, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncSession

import parley.storage.database
from parley.domain.errors import InvalidInput, NotFound, Unreachable
from parley.domain.model import storable
from parley.storage.database import Database, is_transient
from parley.storage.driver import atomic, defer
from parley.storage.migrate import migrate
from tests.parts import run_sql, until


@pytest.mark.parametrize(
    "error",
    [
        PoolTimeoutError("QueuePool limit reached"),
        psycopg.OperationalError("server closed the connection unexpectedly"),
        psycopg.errors.CannotConnectNow("the database system is starting up"),
        psycopg.errors.AdminShutdown("terminating connection"),
        psycopg.errors.TooManyConnections("too many clients already"),
        psycopg.errors.ConnectionDoesNotExist("connection does not exist"),
        psycopg.errors.QueryCanceled("canceling statement due to statement timeout"),
        psycopg.errors.ReadOnlySqlTransaction("cannot execute UPDATE in a read-only transaction"),
        psycopg.errors.IdleInTransactionSessionTimeout("terminating connection"),
        psycopg.errors.DeadlockDetected("deadlock detected"),
        psycopg.errors.SerializationFailure("could not serialize access"),
        psycopg.errors.DiskFull("No space left on device"),
        psycopg.errors.OutOfMemory("out of memory"),
        psycopg.errors.LockNotAvailable("could not obtain lock"),
        psycopg.errors.IoError("could not read block"),
        psycopg.errors.InternalError_("an error that is not in the table"),
        OperationalError("SELECT 1", {}, psycopg.errors.DiskFull("No space left on device")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_that_may_pass_is_transient(error: Exception):
    assert is_transient(error)


@pytest.mark.parametrize(
    "error",
    [
        psycopg.errors.UniqueViolation(),
        psycopg.errors.CheckViolation(),
        psycopg.errors.UndefinedColumn(),
        psycopg.errors.NumericValueOutOfRange(),
        psycopg.errors.UntranslatableCharacter(),
        psycopg.errors.ProgramLimitExceeded(),
        psycopg.errors.FeatureNotSupported(),
        psycopg.ProgrammingError("cannot adapt type 'object'"),
        IntegrityError("INSERT", {}, psycopg.errors.UniqueViolation()),
        ValueError(),
        FileNotFoundError(),
        ConnectionResetError(),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_that_no_repetition_cures_is_permanent(error: Exception):
    assert not is_transient(error)


async def test_a_connection_ended_by_the_server_is_unreachable(database: Database):
    with pytest.raises(Unreachable):
        async with database.transaction() as tx:
            await tx.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    await database.ping()


async def driver(tx: AsyncSession) -> psycopg.AsyncConnection:
    raw = await (await tx.connection()).get_raw_connection()
    assert isinstance(raw.driver_connection, psycopg.AsyncConnection)
    return raw.driver_connection


async def end_others(database_url: str) -> None:
    """End every connection to the database, as its restart does."""
    mine = "datname = current_database() AND pid <> pg_backend_pid()"
    await run_sql(database_url, f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {mine}")


async def backend(database: Database, *, bulk: bool = False) -> int:
    """Which of the server's processes a transaction is given."""
    async with database.transaction(bulk=bulk) as tx:
        return (await driver(tx)).info.backend_pid


@pytest.mark.parametrize("bulk", [False, True])
async def test_connections_that_the_server_ended_are_replaced_without_an_error(
    database: Database, database_url: str, bulk: bool
):
    async with database.transaction(bulk=bulk) as one, database.transaction(bulk=bulk) as two:
        assert {await driver(one), await driver(two)}
    await end_others(database_url)
    async with database.transaction(bulk=bulk) as one, database.transaction(bulk=bulk) as two:
        for tx in (one, two):
            assert (await tx.execute(text("SELECT 1"))).scalar() == 1


async def test_a_connection_that_ends_before_the_first_statement_is_unreachable(database: Database, database_url: str):
    with pytest.raises(Unreachable):
        async with database.transaction() as tx:
            await driver(tx)
            await end_others(database_url)
            await tx.execute(text("SELECT 1"))
    await database.ping()


async def test_a_connection_is_reused_for_a_limited_time(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
):
    assert await backend(database) == await backend(database)
    monkeypatch.setattr(parley.storage.database, "CONNECTION_SECONDS", 0)
    short_lived = Database(SecretStr(database_url))
    assert await backend(short_lived) != await backend(short_lived)
    await short_lived.close()


async def test_only_bulk_transactions_have_a_long_timeout(database_url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parley.storage.database, "STATEMENT_SECONDS", 0.1)
    hasty = Database(SecretStr(database_url))
    slow = text("SELECT pg_sleep(0.5)")
    with pytest.raises(Unreachable):
        async with hasty.transaction() as tx:
            await tx.execute(slow)
    async with hasty.transaction(bulk=True) as tx:
        await tx.execute(slow)
    await hasty.close()


async def test_a_server_that_does_not_answer_is_unreachable_within_the_limit(
    database_url: str, monkeypatch: pytest.MonkeyPatch
):
    """A frozen server cannot end a statement itself: the client stops waiting."""
    limited = Database(SecretStr(database_url), pool_size=1)
    async with limited.transaction() as tx:
        connection = await driver(tx)
        monkeypatch.setattr(connection, "reply_seconds", 0.2)
        frozen = connection.info.backend_pid
    os.kill(frozen, signal.SIGSTOP)
    try:
        with pytest.raises(Unreachable):
            await limited.ping()
    finally:
        os.kill(frozen, signal.SIGCONT)
    assert await backend(limited) != frozen
    await limited.close()


@pytest.mark.parametrize("statements", [0, 1])
async def test_a_cancelled_transaction_leaves_a_usable_pool_and_no_locks(database_url: str, statements: int):
    """Cancelled while a statement waits: the first, which is sent with BEGIN, or a later one."""
    single = Database(SecretStr(database_url), pool_size=1)
    single.engine.sync_engine.pool._max_overflow = 0
    locked = "SELECT pg_advisory_xact_lock(1)"

    async def wait_for_lock() -> None:
        async with single.transaction() as tx:
            for _ in range(statements):
                await tx.execute(ADD_BREAKER, {"name": "x"})
            await tx.execute(text(locked))

    async def is_waiting() -> bool:
        return bool(await run_sql(database_url, "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))

    async with single.transaction(bulk=True) as holder:
        await holder.execute(text(locked))
        waiting = asyncio.create_task(wait_for_lock())
        await until(is_waiting)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        async with single.transaction() as tx:
            assert (await tx.execute(text("SELECT count(*) FROM breakers"))).scalar() == 0
        assert not await is_waiting()
    await single.close()


ADD_BREAKER = text(
    "INSERT INTO breakers (provider, workspace_id, failures, failing, generation) VALUES (:name, '', 0, '{}', 0)"
)
TRIP_ONE = text("""
    WITH changed AS (UPDATE breakers SET failures = 1 WHERE provider = :name RETURNING 1)
    SELECT 1 / count(*) FROM changed""")
COUNT = text("SELECT count(*) FROM breakers WHERE failures = 1")


async def test_deferred_statements_run_in_order_before_the_next_one(database: Database):
    async with database.transaction() as tx:
        await defer(tx, ADD_BREAKER, {"name": "x"})
        await defer(tx, TRIP_ONE, {"name": "x"}, otherwise=NotFound("no breaker x"))
        assert (await tx.execute(COUNT)).scalar() == 1


async def test_deferred_statements_run_before_the_commit(database: Database):
    async with database.transaction() as tx:
        await defer(tx, ADD_BREAKER, {"name": "x"})
        await defer(tx, TRIP_ONE, {"name": "x"}, otherwise=NotFound("no breaker x"))
    async with database.transaction() as tx:
        assert (await tx.execute(COUNT)).scalar() == 1


@pytest.mark.parametrize("before", ["a statement", "the commit"])
async def test_a_deferred_statement_that_changes_no_row_rolls_back(database: Database, before: str):
    with pytest.raises(NotFound, match="no breaker y"):
        async with database.transaction() as tx:
            await tx.execute(ADD_BREAKER, {"name": "x"})
            await defer(tx, TRIP_ONE, {"name": "x"}, otherwise=NotFound("no breaker x"))
            await defer(tx, TRIP_ONE, {"name": "y"}, otherwise=NotFound("no breaker y"))
            await defer(tx, TRIP_ONE, {"name": "z"}, otherwise=NotFound("no breaker z"))
            if before == "a statement":
                await tx.execute(COUNT)
    async with database.transaction() as tx:
        assert (await tx.execute(COUNT)).scalar() == 0


async def test_deferred_statements_of_a_transaction_that_fails_are_not_run(database_url: str):
    single = Database(SecretStr(database_url), pool_size=1)
    with pytest.raises(ValueError, match="stop"):
        async with single.transaction() as tx:
            await defer(tx, ADD_BREAKER, {"name": "x"})
            raise ValueError("stop")
    async with single.transaction() as tx:
        assert (await tx.execute(text("SELECT count(*) FROM breakers"))).scalar() == 0
    await single.close()


async def test_closing_ends_every_connection(database_url: str):
    opened = Database(SecretStr(database_url))
    ended = {await backend(opened), await backend(opened, bulk=True)}
    await opened.close()

    async def gone() -> bool:
        return not ended & {row["pid"] for row in await run_sql(database_url, "SELECT pid FROM pg_stat_activity")}

    await until(gone)


async def test_a_pool_without_a_free_connection_is_unreachable(database_url: str):
    small = Database(SecretStr(database_url), pool_size=1)
    small.engine.sync_engine.pool._timeout = 0.01
    async with small.transaction() as one, small.transaction() as two:
        await asyncio.gather(one.execute(text("SELECT 1")), two.execute(text("SELECT 1")))
        with pytest.raises(Unreachable):
            await small.ping()
    await small.close()


async def test_a_refused_connection_is_unreachable_and_shows_no_password():
    away = Database(SecretStr("postgresql://user:hunter2@127.0.0.1:1/db"))
    with pytest.raises(Unreachable) as refused:
        await away.ping()
    assert "127.0.0.1:1" in str(refused.value)
    assert "hunter2" not in str(refused.value)


async def refused(url: URL) -> str:
    """What the error says about a database that cannot be reached, to a transaction and to a migration."""
    secret = SecretStr(url.render_as_string(hide_password=False))
    away = Database(secret)
    with pytest.raises(Unreachable) as of_transaction:
        await away.ping()
    await away.close()
    with pytest.raises(Unreachable) as of_migration:
        await migrate(secret)
    assert str(of_transaction.value) == str(of_migration.value)
    return str(of_transaction.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"password": "hunter2"}, "refuses the user or the password: correct them"),
        ({"username": "stranger", "password": "hunter2"}, "refuses the user or the password: correct them"),
        ({"database": "missing"}, "has no such database: create it, or correct the name"),
        ({"port": 1}, "does not answer (connection refused): start it, or correct the address"),
        ({"host": "localhost", "port": 1}, "does not answer (connection refused): start it, or correct the address"),
        ({"host": "localhost or not"}, "has a host name that is not known: correct it"),
        ({"query": {"sslmode": "require"}}, "offers no TLS: start it with TLS, or correct sslmode"),
        ({"query": {"sslmode": "odd"}}, 'cannot be connected to: invalid sslmode value: "odd"'),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
async def test_a_database_that_cannot_be_reached_says_what_is_wrong(
    database_url: str, change: dict[str, Any], said: str
):
    url = make_url(database_url).set(**change)
    assert await refused(url) == f"DATABASE_URL: PostgreSQL at {url.host}:{url.port} {said}"


async def test_another_server_in_its_place_is_named(database_url: str):
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert "is not PostgreSQL: correct the address" in await refused(make_url(database_url).set(port=port))


@pytest.mark.parametrize("error", [FileNotFoundError("a.json"), TimeoutError(), ConnectionResetError()], ids=repr)
async def test_an_error_of_other_work_in_a_transaction_is_not_the_databases(database: Database, error: OSError):
    with pytest.raises(type(error)) as raised:
        async with database.transaction() as tx:
            await tx.execute(text("SELECT 1"))
            raise error
    assert raised.value is error


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
            await tx.execute(ADD_BREAKER, {"name": "x"})
            raise ValueError("stop")
    async with database.transaction() as tx:
        assert (await tx.execute(text("SELECT count(*) FROM breakers"))).scalar() == 0


def test_storable_text_replaces_only_nul_and_lone_surrogates():
    stored = {"a": ["é", "\U0001f600", 1, None, True, 2.5]}
    assert storable(stored) == stored
    assert storable({"k\0": ["\ud800x", {"y": "\0"}]}) == {"k\ufffd": ["\ufffdx", {"y": "\ufffd"}]}


async def test_a_block_within_reads_is_one_transaction(database: Database):
    async with database.transaction() as tx:
        await tx.execute(text("CREATE TABLE t (n integer)"))
    count = text("SELECT count(*) FROM t")
    async with database.reads() as tx, database.reads() as other:
        async with atomic(tx):
            await tx.execute(text("INSERT INTO t VALUES (1)"))
            await tx.execute(text("INSERT INTO t VALUES (2)"))
            assert (await other.execute(count)).scalar_one() == 0
        assert (await other.execute(count)).scalar_one() == 2
        with pytest.raises(ZeroDivisionError):
            async with atomic(tx):
                await tx.execute(text("DELETE FROM t"))
                raise ZeroDivisionError
        assert (await tx.execute(count)).scalar_one() == 2


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("transaction_isolation", "read committed"),
        ("default_transaction_isolation", "read committed"),
        ("idle_in_transaction_session_timeout", "10s"),
        ("tcp_user_timeout", "30000"),
        ("tcp_keepalives_idle", "15"),
        ("tcp_keepalives_interval", "5"),
        ("tcp_keepalives_count", "3"),
    ],
)
async def test_a_session_has_the_settings_that_the_ledger_needs(database: Database, setting: str, value: str):
    async with database.transaction() as tx:
        assert (await tx.execute(text("SELECT current_setting(:name)"), {"name": setting})).scalar_one() == value
