"""Write rows of several tables in one statement.

Each statement is built once. Rows are plain values that are not attached to a session.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, cast

from sqlalchemy import Table, bindparam
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import SQLModel

from parley.storage.driver import defer
from parley.storage.tables import Attempt, PaidRequest, UsageLog

# The key of a row, and the columns that an update does not change. Rows of other tables are only inserted.
CHANGEABLE: Mapping[type[SQLModel], tuple[tuple[str, ...], tuple[str, ...]]] = {
    PaidRequest: (("workspace_id", "request_id"), ("created_at",)),
    Attempt: (("id",), ("workspace_id", "started_at")),
    UsageLog: (("attempt_id",), ("id", "created_at")),
}


async def save(tx: AsyncSession, *rows: SQLModel) -> None:
    """Write rows of different tables in one deferred statement: see `driver.defer`.

    The caller has locked a row that it changes, or is its only writer.
    """
    assert len({*map(type, rows)}) == len(rows), "two rows of one table"  # noqa: S101 - the second would be both
    values = {place(row, name): value for row in rows for name, value in row.model_dump().items()}
    await defer(tx, _saving(*map(_class, rows)), values)


async def add(tx: AsyncSession, row: SQLModel) -> bool:
    """Insert a row unless it exists. Returns whether it was inserted."""
    written = await tx.execute(_adding(_class(row)), row.model_dump())
    return written.first() is not None


async def add_later(tx: AsyncSession, row: SQLModel) -> None:
    """Insert a row unless it exists, by a deferred statement: see `driver.defer`."""
    await defer(tx, _adding_later(_class(row)), row.model_dump())


@cache
def _saving(*rows: type[Any]) -> Insert:
    last, *others = (_upsert(row) for row in rows)
    return last.add_cte(*(one.cte(f"saved_{number}") for number, one in enumerate(others)))


@cache
def _adding(row: type[Any]) -> Insert:
    columns = table(row).primary_key.columns
    return insert(table(row)).on_conflict_do_nothing().returning(*columns)


@cache
def _adding_later(row: type[Any]) -> Insert:
    return insert_of(row).on_conflict_do_nothing()


def insert_of(row: type[SQLModel]) -> Insert:
    """An INSERT whose parameters are named like the columns."""
    columns = table(row).columns
    return insert(table(row)).values({one.name: bindparam(one.name, type_=one.type) for one in columns})


def _upsert(row: type[SQLModel]) -> Insert:
    into = table(row)
    # The database assigns identity columns.
    columns = [column for column in into.columns if column.identity is None]
    new = insert(into).values({one.name: bindparam(place(row, one.name), type_=one.type) for one in columns})
    if row not in CHANGEABLE:
        return new
    key, stays = CHANGEABLE[row]
    changed = {one.name: new.excluded[one.name] for one in columns if one.name not in (*key, *stays)}
    return new.on_conflict_do_update(index_elements=key, set_=changed)


def table(row: type[SQLModel]) -> Table:
    """The table behind a class, for statements that need no session."""
    return cast("Table", cast("Any", row).__table__)


def _class(row: SQLModel) -> Any:
    """SQLModel's type says that its classes cannot be hashed. They can."""
    return type(row)


def place(row: SQLModel | type[SQLModel], column: str) -> str:
    """The name of a column among those of several tables."""
    return f"{row.__tablename__}_{column}"
