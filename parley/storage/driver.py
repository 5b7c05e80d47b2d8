"""The psycopg connection: deferred statements, which share a round trip with a later one, and a timeout for every wait.

A round trip costs more than most statements. BEGIN is sent with the first statement of a transaction. A deferred
statement, whose result is not needed, is sent with the next executed statement or with COMMIT.

Deferral is safe for four reasons:

- Order: all statements of a round trip go to the server in one pipeline, and the server runs them in the order in
  which they were issued. A later statement sees the changes of an earlier one, and locks are taken in the same order.
- Atomicity: after a failed statement the server skips the rest of the pipeline, COMMIT included, and the transaction
  is aborted. A transaction therefore never commits without one of its deferred statements.
- Conditions: a deferred statement that must change a row ends in `SELECT 1 / count(*)` over the rows that it changed.
  If no row was changed, it fails with a division by zero, so no caller has to read a row count.
- Errors: `deferred_first` maps that DivisionByZero to the exception that was passed to `defer` as `otherwise`. The
  failed statement is the first deferred one without a result. The exception is raised by the next executed statement
  or by the commit. Any other error of a deferred statement is raised there unchanged.
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Generic, TypeVar, cast, overload

import psycopg
from psycopg._queries import PostgresQuery, _query2pg
from psycopg.abc import PQGen
from psycopg.generators import send
from psycopg.pq import TransactionStatus
from psycopg.rows import namedtuple_row
from sqlalchemy import ClauseElement, TypeDecorator
from sqlalchemy.dialects.postgresql.psycopg import PGDialectAsync_psycopg
from sqlalchemy.ext.asyncio import AsyncSession

DIALECT = PGDialectAsync_psycopg()
T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")
BEGIN = b"BEGIN ISOLATION LEVEL READ COMMITTED"


@dataclass(frozen=True)
class Deferred:
    """A statement to send later. `otherwise`: the exception to raise if it changes no row and so divides by zero."""

    sql: bytes
    parameters: dict[str, Any]
    otherwise: Exception | None


class Pipeline(psycopg.AsyncPipeline):
    """A pipeline that sends its statements together, at the end of the block, with Sync after them.

    psycopg sends each statement at once, in a packet of its own for which the server's process wakes up. It also sends
    Flush after Sync: the server then stops the timer of `idle_in_transaction_session_timeout`, and a worker that
    vanishes would hold its locks until TCP gives up.
    """

    def _communicate_gen(self) -> PQGen[None]:
        yield from ()

    def _exit_gen(self) -> PQGen[None]:
        self._enqueue_sync()
        while self.command_queue:
            self.command_queue.popleft()()  # into libpq's buffer
        yield from send(self.pgconn)
        yield from self._fetch_gen(flush=False)


class Connection(psycopg.AsyncConnection[Any]):
    """A connection that sends several statements in one round trip and limits how long it waits for a reply.

    It sends BEGIN itself: psycopg is in autocommit mode, because otherwise it would wait for the reply to BEGIN. The
    client-side timeout is needed for a frozen server, which cannot apply its own `statement_timeout`.
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
        """Connect. `reply_seconds`: the timeout for each reply, in seconds."""
        connection = await cls.connect(conninfo, autocommit=True, **options)
        connection.reply_seconds = reply_seconds
        return connection

    async def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
        if self.reply_seconds is not None:
            options |= {"timeout": self.reply_seconds, "interval": self.reply_seconds}
        try:
            return await super().wait(gen, *args, **options)
        except psycopg.errors._WaitTimeout:
            self.pgconn.finish()  # the statement may still run
            raise psycopg.OperationalError("no reply within the timeout") from None

    @asynccontextmanager
    async def pipeline(self) -> AsyncGenerator[psycopg.AsyncPipeline]:
        """Send the statements of the block in one round trip."""
        self._pipeline = self._pipeline or Pipeline(self)
        async with super().pipeline() as pipeline:
            yield pipeline

    async def commit(self) -> None:
        """Send the deferred statements, then COMMIT. If one of them fails, nothing is committed."""
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
        """Whether BEGIN or deferred statements must be sent before the next statement."""
        return bool(self.deferred) or self._begins

    @property
    def _begins(self) -> bool:
        return self.pgconn.transaction_status == TransactionStatus.IDLE and not self.autocommits

    @asynccontextmanager
    async def deferred_first(self) -> AsyncGenerator[None]:
        """Send BEGIN if it is missing, the deferred statements, and the statements of the block, in one round trip.

        Raises:
            Exception: the `otherwise` of a deferred statement that changed no row.
        """
        deferred, self.deferred = self.deferred, []
        sent: list[tuple[Deferred, psycopg.AsyncCursor[Any]]] = []
        try:
            begins = self._begins
            async with self.pipeline():
                if begins:
                    await psycopg.AsyncCursor[Any](self).execute(BEGIN)
                for statement in deferred:
                    cursor = ConstantCursor(self)
                    sent.append((statement, cursor))
                    await cursor.execute(statement.sql, statement.parameters)
                yield
        except psycopg.errors.DivisionByZero:
            # Results arrive in order: the first deferred statement without a result is the one that failed.
            failed = next((statement for statement, cursor in sent if cursor.pgresult is None), None)
            if failed and failed.otherwise:
                raise failed.otherwise from None
            raise


class ConstantQuery(PostgresQuery):
    """The conversion of a constant statement is kept, however long it is; psycopg keeps that of short ones."""

    def convert(self, query: Any, vars: Any) -> None:  # the names are psycopg's
        converted = _query2pg(self._ensure_bytes(query), self._tx.encoding)
        self.query, self._want_formats, self._order, self._parts = converted
        self.dump(vars)


class ConstantCursor(psycopg.AsyncCursor[Any]):
    """A cursor for statements that are constants."""

    _query_cls = ConstantQuery


class Cursor(psycopg.AsyncCursor[Any]):
    """A cursor that sends BEGIN and the deferred statements in the round trip of its statement."""

    async def execute(self, query: Any, params: Any = None, **options: Any) -> "Cursor":
        connection = cast("Connection", self.connection)
        if not connection.is_behind:
            return await super().execute(query, params, **options)
        async with connection.deferred_first():
            return await super().execute(query, params, **options)

    async def executemany(self, query: Any, params_seq: Any, **options: Any) -> None:
        await _send_deferred(cast("Connection", self.connection))
        await super().executemany(query, params_seq, **options)


class ServerCursor(psycopg.AsyncServerCursor[Any]):
    """A server-side cursor, for results that are read in portions."""

    async def execute(self, query: Any, params: Any = None, **options: Any) -> "ServerCursor":
        await _send_deferred(cast("Connection", self.connection))
        return await super().execute(query, params, **options)


async def _send_deferred(connection: Connection) -> None:
    if connection.is_behind:
        async with connection.deferred_first():
            pass


async def defer(
    tx: AsyncSession, statement: ClauseElement, values: Mapping[str, Any], *, otherwise: Exception | None = None
) -> None:
    """Defer a statement whose result is not needed to the transaction's next statement or its COMMIT.

    `statement` is a module-level constant: its compiled form is cached. `otherwise`: for a statement that ends in
    `SELECT 1 / count(*)`, the exception that the next statement or the commit raises if no row was changed.
    """
    (await _connection(tx)).deferred.append(Deferred(*_for_driver(statement, values), otherwise))


@dataclass(frozen=True)
class Query(Generic[T]):
    """A SELECT that can share a round trip with others, and how its rows are read.

    `statement` is a module-level constant, as for `defer`. `read` gets named tuples, with values as the columns' types
    read them.
    """

    statement: ClauseElement
    values: Mapping[str, Any]
    read: Callable[[Sequence[Any]], T]


async def fetch(tx: AsyncSession, query: Query[T]) -> T:
    """The result of one query."""
    (result,) = await _fetch(tx, query)
    return result


@overload
async def fetch_together(tx: AsyncSession, first: Query[T1], second: Query[T2], /) -> tuple[T1, T2]: ...
@overload
async def fetch_together(
    tx: AsyncSession, first: Query[T1], second: Query[T2], third: Query[T3], /
) -> tuple[T1, T2, T3]: ...
@overload
async def fetch_together(
    tx: AsyncSession, first: Query[T1], second: Query[T2], third: Query[T3], fourth: Query[T4], /
) -> tuple[T1, T2, T3, T4]: ...
async def fetch_together(tx: AsyncSession, *queries: Query[Any]) -> tuple[Any, ...]:
    """The results of several queries, in one round trip. Each one sees what was committed before it ran."""
    return tuple(await _fetch(tx, *queries))


async def _fetch(tx: AsyncSession, *queries: Query[Any]) -> list[Any]:
    connection = await _connection(tx)
    cursors: list[psycopg.AsyncCursor[Any]] = []
    async with connection.deferred_first():
        for query in queries:
            cursor = ConstantCursor(connection, row_factory=namedtuple_row)
            cursors.append(await cursor.execute(*_for_driver(query.statement, query.values)))
    return [
        query.read(_as_typed(query.statement, await cursor.fetchall()))
        for query, cursor in zip(queries, cursors, strict=True)
    ]


def _as_typed(statement: ClauseElement, rows: Sequence[Any]) -> Sequence[Any]:
    """The rows with the values that the types of their columns make of the driver's, for example amounts of dollars."""
    processors = _result_processors(statement)
    if not processors:
        return rows
    return [row._replace(**{name: process(getattr(row, name)) for name, process in processors.items()}) for row in rows]


@asynccontextmanager
async def autocommitted(tx: AsyncSession) -> AsyncGenerator[None]:
    """Run each statement of the block as a transaction, which needs no round trip for COMMIT."""
    connection = await _connection(tx)
    connection.autocommits = True
    try:
        yield
    finally:
        connection.autocommits = False


@asynccontextmanager
async def atomic(tx: AsyncSession) -> AsyncGenerator[None]:
    """Run the statements of the block as one transaction, inside a session of `Database.reads`, on its connection."""
    connection = await _connection(tx)
    connection.autocommits = False
    try:
        yield
        await connection.commit()
    except BaseException:
        await connection.rollback()
        raise
    finally:
        connection.autocommits = True


async def _connection(tx: AsyncSession) -> Connection:
    """The transaction's connection. It can be cached, because a session is used for one transaction only."""
    if Connection not in tx.info:
        raw = await (await tx.connection()).get_raw_connection()
        tx.info[Connection] = raw.driver_connection
    return tx.info[Connection]


def _for_driver(statement: ClauseElement, values: Mapping[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """The SQL and the parameters for the driver. Constants of the statement are parameters too."""
    sql, constants, processors = _compiled(statement)
    given = {**constants, **values}
    return sql, {
        name: process(given[name]) if process and given[name] is not None else given[name]
        for name, process in processors.items()
    }


@lru_cache(maxsize=256)
def _compiled(
    statement: ClauseElement,
) -> tuple[bytes, dict[str, Any], dict[str, Callable[[Any], Any] | None]]:
    """The SQL for the driver, its constants, and for each parameter the conversion of its type."""
    compiled = cast("Any", statement.compile(dialect=DIALECT))
    processors = {
        name: parameter.type.dialect_impl(DIALECT).bind_processor(DIALECT) for name, parameter in compiled.binds.items()
    }
    constants = {name: parameter.value for name, parameter in compiled.binds.items() if not parameter.required}
    return compiled.string.encode(), constants, processors


@lru_cache(maxsize=256)
def _result_processors(statement: ClauseElement) -> dict[str, Callable[[Any], Any]]:
    """The conversion of each column of a SELECT whose type has one."""
    default = TypeDecorator.process_result_value
    return {
        column.name: partial(column.type.process_result_value, dialect=DIALECT)
        for column in cast("Any", getattr(statement, "selected_columns", ()))
        if isinstance(column.type, TypeDecorator) and type(column.type).process_result_value is not default
    }
