"""The connection pool, transactions, and the errors of PostgreSQL that pass by themselves."""

import asyncio
import logging
import re
import select as select_module
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Any, TypeVar, cast

import psycopg
from pydantic import SecretStr
from sqlalchemy import URL, CursorResult, Executable, delete, event, func, inspect, select, text, tuple_
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlmodel import SQLModel

from parley.domain.errors import InvalidInput, ReplyLost, Unreachable
from parley.domain.text import one_line
from parley.storage.driver import Connection, autocommitted

# The database's clock: leases and breakers use one clock, because the clocks of workers differ.
NOW = func.clock_timestamp()
LOCK_NAME = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")
# The SQLSTATEs of errors that no repetition cures, by class or in full; PostgreSQL's manual, appendix A. Every other
# error is transient: a failover to a read-only server, a full disk, a deadlock, a cancelled statement, a restart.
PERMANENT_SQLSTATES = (
    "0A",  # feature not supported
    "21",  # cardinality violation
    "22",  # data exception
    "23",  # integrity constraint violation
    "42",  # syntax error or access rule violation: also undefined columns and tables
    "44",  # WITH CHECK OPTION violation
    "54",  # program limit exceeded: also an index entry that is too long
)
# What libpq says where no session begins, which has no SQLSTATE, and what it means.
NO_CONNECTION = ("connection failed: ", "connection is bad: ", "failed to resolve host ", "connection timeout expired")
REFUSALS = {
    "authentication failed|no password supplied|role .* not exist": "refuses the user or the password: correct them",
    "database .* does not exist": "has no such database: create it, or correct the name",
    "pg_hba.conf": "refuses this user from this machine: correct its pg_hba.conf, or sslmode",
    "does not support SSL": "offers no TLS: start it with TLS, or correct sslmode",
    "response to SSL negotiation|expected authentication request": "is not PostgreSQL: correct the address",
    "resolve host": "has a host name that is not known: correct it",
    "Connection refused": "does not answer (connection refused): start it, or correct the address",
    "timeout expired": "does not answer: start it, or correct the address",
}
REASON_CHARACTERS = 200
RECONNECT_SECONDS = 0.5
# The first limit suffices for statements on a few rows; one on every session of a large dataset needs the second.
STATEMENT_SECONDS, BULK_STATEMENT_SECONDS = 30.0, 1800.0
# Few connections for bulk work, so that it does not slow down other work.
BULK_POOL_SIZE = 2
# A firewall may drop an idle connection without notifying either end, so connections are replaced after this time.
CONNECTION_SECONDS = 300
CONNECT_SECONDS = 5
DEAD_CONNECTION_SECONDS = 30
# Either end closes a connection when sent data is not acknowledged, or keepalive probes are not answered.
KEEPALIVES = {
    "keepalives_idle": DEAD_CONNECTION_SECONDS // 2,
    "keepalives_interval": DEAD_CONNECTION_SECONDS // 6,
    "keepalives_count": 3,
}
# A transaction that sends nothing for this time is rolled back, so that a worker that vanished holds no locks.
# Bulk work computes longer between two statements.
IDLE_SECONDS, BULK_IDLE_SECONDS = 10.0, 60.0

T = TypeVar("T")

log = logging.getLogger(__name__)


def is_transient(error: BaseException) -> bool:
    """Whether the same transaction may succeed later: PostgreSQL is unreachable, or its error is not permanent."""
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or (error.orig is not None and is_transient(error.orig))
    if isinstance(error, psycopg.Error) and error.sqlstate:
        return not error.sqlstate.startswith(PERMANENT_SQLSTATES)
    # An operational error without an SQLSTATE is libpq's own, and means no connection.
    return isinstance(error, (PoolTimeoutError, psycopg.OperationalError, Unreachable))


class Database:
    """A pool of connections to Parley's own PostgreSQL."""

    def __init__(self, url: SecretStr, *, pool_size: int = 20) -> None:
        """Create the pool. The first transaction opens the first connection.

        Raises:
            InvalidInput: `url` is not a PostgreSQL URL.
        """
        self.engine: AsyncEngine = engine(
            url, pool_size=pool_size, statement_seconds=STATEMENT_SECONDS, idle_seconds=IDLE_SECONDS
        )
        self._bulk_engine = engine(url)

    @asynccontextmanager
    async def transaction(self, *, bulk: bool = False) -> AsyncIterator[AsyncSession]:
        """One transaction: committed at the end of the block, rolled back by an exception.

        `bulk`: for statements on every session of a dataset; each may take 30 minutes instead of 30 seconds.

        Raises:
            Unreachable: PostgreSQL does not answer, or has a transient error. It is then unknown whether a commit in
                progress took effect.
        """
        pool = self._bulk_engine if bulk else self.engine
        try:
            async with AsyncSession(pool, expire_on_commit=False) as session, session.begin():
                yield session
        except Exception as error:
            if is_transient(error) and not isinstance(error, Unreachable):
                raise unreachable(self.engine.url, error) from error
            raise

    @asynccontextmanager
    async def reads(self) -> AsyncIterator[AsyncSession]:
        """A session for reads that need no common snapshot: without BEGIN and COMMIT, one round trip less.

        Each statement commits by itself. At READ COMMITTED a transaction's reads have no common snapshot either.

        Raises:
            Unreachable: PostgreSQL does not answer.
        """
        async with self.transaction() as tx, autocommitted(tx):
            yield tx

    async def retried(self, work: Callable[[AsyncSession], Awaitable[T]], *, seconds: float) -> T:
        """One transaction, retried while PostgreSQL is unreachable, for so many seconds.

        `work` is idempotent: a commit whose outcome is unknown is repeated.

        Raises:
            Unreachable: it was unreachable for longer, or the task was cancelled.
        """

        async def transaction() -> T:
            async with self.transaction() as tx:
                return await work(tx)

        return await retry_while_unreachable(transaction, seconds=seconds)

    async def ping(self) -> None:
        """Check that PostgreSQL answers.

        Raises:
            Unreachable: it does not.
        """
        async with self.transaction() as tx:
            await tx.execute(text("SELECT 1"))

    async def close(self) -> None:
        await self.engine.dispose()
        await self._bulk_engine.dispose()


async def retry_while_unreachable(work: Callable[[], Awaitable[T]], *, seconds: float) -> T:
    """Retry while the database is unreachable, for so many seconds, unless a retry could pay twice.

    Raises:
        Unreachable: it was unreachable for longer, or the task was cancelled.
        ReplyLost: a paid reply could not be stored; a retry would pay again.
    """
    clock = asyncio.get_running_loop()
    deadline = clock.time() + seconds
    while True:
        try:
            return await work()
        except Unreachable as error:
            if isinstance(error, ReplyLost) or _is_cancelled() or clock.time() > deadline:
                raise
            log.warning("waiting for the database: %s", error)
        await asyncio.sleep(RECONNECT_SECONDS)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def unreachable(url: URL, error: BaseException) -> Unreachable:
    """The error for a transient one: what is wrong with the server at `url`, and what to do."""
    return Unreachable(f"DATABASE_URL: PostgreSQL at {url.host}:{url.port or 5432} {_problem(error)}")


def _problem(error: BaseException) -> str:
    """What a transient error says, without the text of a statement's error, which may quote data."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, psycopg.Error) and cause.sqlstate:
        return f"cannot complete the transaction now: {type(cause).__name__} (SQLSTATE {cause.sqlstate})"
    said = str(cause)
    if not isinstance(cause, psycopg.OperationalError) or not said.startswith(NO_CONNECTION):
        return "does not answer"
    known = next((meaning for words, meaning in REFUSALS.items() if re.search(words, said)), None)
    reason = re.split(r"failed: (?:FATAL: )?|bad: ", said)[-1]
    return known or f"cannot be connected to: {one_line(reason, REASON_CHARACTERS)}"


async def database_time(tx: AsyncSession) -> datetime:
    """The time by the database's clock."""
    return (await tx.execute(select(NOW))).scalar_one()


async def lock_name(tx: AsyncSession, name: str) -> None:
    """Let no other transaction pass that locks the same name, until this one ends."""
    await tx.execute(LOCK_NAME, {"name": name})


async def changed(tx: AsyncSession, statement: Executable, values: Mapping[str, Any] | None = None) -> int:
    """Run a statement that changes rows. Returns the number of rows changed."""
    return cast("CursorResult[Any]", await tx.execute(statement, values)).rowcount


async def changed_one(tx: AsyncSession, statement: Executable, values: Mapping[str, Any] | None = None) -> bool:
    """Run a conditional statement. Returns whether it changed exactly one row."""
    return await changed(tx, statement, values) == 1


async def purge(tx: AsyncSession, row: type[SQLModel], moment: Any, older_than: datetime, *, limit: int) -> int:
    """Delete at most `limit` rows of any workspace whose `moment` is before `older_than`, the oldest first.

    Returns the number of rows deleted. Rows that another transaction has locked are skipped.
    """
    identity = inspect(row).primary_key
    old = select(*identity).where(moment < older_than).order_by(moment).limit(limit).with_for_update(skip_locked=True)
    return await changed(tx, delete(row).where(tuple_(*identity).in_(old)))


def engine(
    url: SecretStr,
    *,
    pool_size: int = BULK_POOL_SIZE,
    statement_seconds: float = BULK_STATEMENT_SECONDS,
    idle_seconds: float = BULK_IDLE_SECONDS,
) -> AsyncEngine:
    """A psycopg engine for a PostgreSQL URL with any driver name. The defaults suit bulk work such as migrations.

    Raises:
        InvalidInput: `url` is not a PostgreSQL URL.
    """
    try:
        parsed = make_url(url.get_secret_value())
    except ArgumentError:
        raise InvalidInput(
            "is not a PostgreSQL address, for example postgresql://user:password@localhost:5432/parley",
            where="DATABASE_URL",
        ) from None
    if parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise InvalidInput(
            "must be a PostgreSQL address, for example postgresql://user:password@localhost:5432/parley",
            where="DATABASE_URL",
        )
    made = create_async_engine(
        parsed.set(drivername="postgresql+psycopg"),
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=statement_seconds,
        pool_recycle=CONNECTION_SECONDS,
        connect_args=_connection_options(parsed, statement_seconds, idle_seconds),
        use_native_hstore=False,
        # Error messages reach logs and histories, which must not contain what users wrote.
        hide_parameters=True,
    )
    event.listen(made.sync_engine, "checkout", _refuse_closed)
    return made


def _connection_options(url: URL, statement_seconds: float, idle_seconds: float) -> dict[str, Any]:
    """Options that make either end notice that the other one is lost, and that fix the isolation level."""
    given = url.query.get("options", "")
    session = {
        # The ledger locks a row and then reads the newest version, which a server's stricter default would refuse.
        "default_transaction_isolation": r"read\ committed",
        "statement_timeout": round(statement_seconds * 1000),
        "idle_in_transaction_session_timeout": round(idle_seconds * 1000),
        "tcp_user_timeout": DEAD_CONNECTION_SECONDS * 1000,
        **{f"tcp_{name}": value for name, value in KEEPALIVES.items()},
    }
    options = [given] if isinstance(given, str) else list(given)
    return {
        "async_creator_fn": partial(Connection.open, reply_seconds=statement_seconds + CONNECT_SECONDS),
        "connect_timeout": CONNECT_SECONDS,
        "options": " ".join([*options, *(f"-c {name}={value}" for name, value in session.items())]).strip(),
        "tcp_user_timeout": DEAD_CONNECTION_SECONDS * 1000,
        **KEEPALIVES,
    }


def _refuse_closed(connection: Any, *_: object) -> None:
    """Make the pool replace a connection that the server has closed, for example by a restart.

    A closed socket is readable: this needs no round trip, unlike `pool_pre_ping`, which needs one per transaction.
    """
    driver = connection.driver_connection
    if driver.closed or _is_readable(driver.fileno()):
        raise DisconnectionError


def _is_readable(file_number: int) -> bool:
    """Whether there is data to read. Between transactions that is the server's notice of closing the connection."""
    poll = select_module.poll()
    poll.register(file_number, select_module.POLLIN)
    return bool(poll.poll(0))
