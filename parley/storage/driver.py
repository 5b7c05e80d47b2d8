"""The driver's connection: statements that wait for the next round trip, and a limit for every wait.

A round trip costs more than most statements. BEGIN travels with a transaction's first statement, a deferred statement
with the next one that is executed or with COMMIT. The server runs them in the order in which they were given.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import ClauseElement
from sqlalchemy.dialects.postgresql.psycopg import PGDialectAsync_psycopg
from sqlalchemy.ext.asyncio import AsyncSession

DIALECT = PGDialectAsync_psycopg()
BEGIN = b"BEGIN ISOLATION LEVEL READ COMMITTED"


@dataclass(frozen=True)
class Deferred:
    """A statement that is sent later. `otherwise`: what to raise when it divides by zero, having changed no row."""

    sql: str
    parameters: dict[str, Any]
    otherwise: Exception | None


class Connection(psycopg.AsyncConnection[Any]):
    """A connection that sends several statements in one round trip, and waits for a bounded time.

    It begins transactions itself: to psycopg, which would wait for BEGIN, it is in autocommit mode. The limit of a wait
    also holds for a server that is frozen, and so cannot end a statement itself.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.cursor_factory, self.server_cursor_factory = Cursor, ServerCursor
        self.reply_seconds: float | None = None
        self.deferred: list[Deferred] = []
        # While this is set, each statement is a transaction: there is no BEGIN, and no round trip for COMMIT.
        self.autocommits = False

    @classmethod
    async def open(cls, conninfo: str = "", *, reply_seconds: float, **options: Any) -> "Connection":
        """Connect. `reply_seconds`: the longest wait for one reply."""
        connection = await cls.connect(conninfo, autocommit=True, **options)
        connection.reply_seconds = reply_seconds
        return connection

    async def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
        async with asyncio.timeout(self.reply_seconds):
            return await super().wait(gen, *args, **options)

    async def commit(self) -> None:
        """Commit, with the deferred statements ahead of it. If one of them fails, nothing is committed."""
        if not self.deferred:
            return await super().commit()
        async with self.deferred_first():
            await psycopg.AsyncCursor[Any](self).execute(b"COMMIT")
        return None

    async def rollback(self) -> None:
        self.deferred.clear()
        await super().rollback()

    @property
    def is_behind(self) -> bool:
        """Whether something has to be sent before the next statement: BEGIN, or deferred statements."""
        return bool(self.deferred) or self._begins

    @property
    def _begins(self) -> bool:
        return self.pgconn.transaction_status == TransactionStatus.IDLE and not self.autocommits

    @asynccontextmanager
    async def deferred_first(self) -> AsyncGenerator[None]:
        """Send BEGIN where it is missing, the deferred statements and what the block sends, in one round trip."""
        deferred, self.deferred = self.deferred, []
        sent: list[tuple[Deferred, psycopg.AsyncCursor[Any]]] = []
        try:
            begins = self._begins
            async with self.pipeline():
                if begins:
                    await psycopg.AsyncCursor[Any](self).execute(BEGIN)
                for one in deferred:
                    cursor = psycopg.AsyncCursor[Any](self)
                    sent.append((one, cursor))
                    await cursor.execute(one.sql.encode(), one.parameters)
                yield
        except psycopg.errors.DivisionByZero:
            failed = next((one for one, cursor in sent if cursor.pgresult is None), None)
            if failed and failed.otherwise:
                raise failed.otherwise from None
            raise


class Cursor(psycopg.AsyncCursor[Any]):
    """A cursor whose statement takes BEGIN and the deferred statements with it."""

    async def execute(self, query: Any, params: Any = None, **options: Any) -> "Cursor":
        connection = cast("Connection", self.connection)
        if not connection.is_behind:
            return await super().execute(query, params, **options)
        async with connection.deferred_first():
            return await super().execute(query, params, **options)

    async def executemany(self, query: Any, params_seq: Any, **options: Any) -> None:
        await _catch_up(cast("Connection", self.connection))
        await super().executemany(query, params_seq, **options)


class ServerCursor(psycopg.AsyncServerCursor[Any]):
    """A cursor of the server, for results that are read in pieces."""

    async def execute(self, query: Any, params: Any = None, **options: Any) -> "ServerCursor":
        await _catch_up(cast("Connection", self.connection))
        return await super().execute(query, params, **options)


async def _catch_up(connection: Connection) -> None:
    if connection.is_behind:
        async with connection.deferred_first():
            pass


async def defer(
    tx: AsyncSession, statement: ClauseElement, values: Mapping[str, Any], *, otherwise: Exception | None = None
) -> None:
    """Run a statement, whose result is not needed, with the transaction's next one or with its COMMIT.

    `statement` is built once and used often: it is compiled once. `otherwise`: for a statement that divides by the
    number of rows that it has changed, what the next statement or the commit raises if there are none.
    """
    sql, processors = _compiled(statement)
    parameters = {
        name: process(values[name]) if process and values[name] is not None else values[name]
        for name, process in processors.items()
    }
    (await _connection(tx)).deferred.append(Deferred(sql, parameters, otherwise))


@asynccontextmanager
async def autocommitted(tx: AsyncSession) -> AsyncGenerator[None]:
    """Run each statement of the block as a transaction, which needs no round trip for COMMIT."""
    connection = await _connection(tx)
    connection.autocommits = True
    try:
        yield
    finally:
        connection.autocommits = False


async def _connection(tx: AsyncSession) -> Connection:
    """The transaction's connection: a session is used for one transaction."""
    if Connection not in tx.info:
        raw = await (await tx.connection()).get_raw_connection()
        tx.info[Connection] = raw.driver_connection
    return tx.info[Connection]


@lru_cache(maxsize=256)
def _compiled(statement: ClauseElement) -> tuple[str, dict[str, Callable[[Any], Any] | None]]:
    """The statement as the driver takes it, and for each parameter the conversion of its type."""
    compiled = cast("Any", statement.compile(dialect=DIALECT))
    processors = {
        name: parameter.type.dialect_impl(DIALECT).bind_processor(DIALECT) for name, parameter in compiled.binds.items()
    }
    return compiled.string, processors
