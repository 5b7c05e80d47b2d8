"""Databases for tests: copies of the migrated template, each for one test at a time."""

from typing import LiteralString
from uuid import uuid4

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

# What a test may change besides rows: settings of the database, schemas, relations and their columns, functions, roles.
# And the tables that have pages, by the sizes of their files: to look for a row in each table takes ten times as long.
# Object identifiers are the same in every copy of the template; to resolve names takes longer than the rest.
FOUND = """
SELECT md5(concat_ws('|',
    (SELECT string_agg(setconfig::text, ',') FROM pg_db_role_setting
        WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())),
    (SELECT string_agg(nspname, ',' ORDER BY nspname) FROM pg_namespace WHERE nspname NOT LIKE 'pg_t%'),
    (SELECT string_agg(concat(oid, relname, relkind, relnatts, relchecks, relacl::text), ',' ORDER BY oid)
        FROM pg_class WHERE relnamespace = 'public'::regnamespace),
    (SELECT string_agg(concat(attrelid, attname, atttypid, attnotnull, atthasdef), ',' ORDER BY attrelid, attnum)
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        WHERE relnamespace = 'public'::regnamespace AND attnum > 0),
    (SELECT string_agg(concat(tgrelid, tgname), ',' ORDER BY oid) FROM pg_trigger),
    (SELECT count(*)::text FROM pg_proc WHERE oid >= 16384),  -- the first identifier after PostgreSQL's own
    (SELECT string_agg(version_num, ',') FROM alembic_version))),
  (SELECT string_agg(oid::regclass::text, ', ') FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> 'alembic_version'
      AND (pg_stat_file(pg_relation_filepath(oid))).size > 0)
"""
# A sequence moves without a row, too: an insertion may be rolled back.
RESTART_SEQUENCES = """
SELECT setval(seqrelid, seqstart, false) FROM pg_sequence WHERE pg_sequence_last_value(seqrelid) IS NOT NULL
"""
END_CONNECTIONS = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s"


class Databases:
    """Copies of a template. A copy is emptied after its test and used again, since to create and drop one takes longer.

    It gets another name then, so that no connection of the earlier test reaches it. A copy whose schema or settings a
    test changed is dropped.
    """

    def __init__(self, server: psycopg.AsyncConnection, server_url: str, template: str) -> None:
        self._server, self._server_url, self._template = server, server_url, template
        self._empty: list[str] = []
        self._shape: str | None = None

    def url(self, name: str) -> str:
        return make_url(self._server_url).set(database=name).render_as_string(hide_password=False)

    async def take(self) -> str:
        """The name of an empty, migrated database."""
        if self._empty:
            return self._empty.pop()
        name = _new_name()
        await self._run("CREATE DATABASE {} TEMPLATE {}", name, self._template)
        if self._shape is None:
            async with await self._connected(name) as connection:
                self._shape, _ = await _found_in(connection)
        return name

    async def give_back(self, name: str) -> None:
        """End every connection to the database, and empty it."""
        emptied = _new_name()
        try:
            await self._server.execute(END_CONNECTIONS, (name,))
            await self._run("ALTER DATABASE {} RENAME TO {}", name, emptied)
            async with await self._connected(emptied) as connection:
                shape, filled = await _found_in(connection)
                is_reusable = shape == self._shape
                if is_reusable and filled:
                    await connection.execute(f"TRUNCATE {filled} RESTART IDENTITY CASCADE".encode())
                if is_reusable:
                    await connection.execute(RESTART_SEQUENCES)
        except psycopg.Error:  # for example, it refuses connections
            is_reusable = False
        if is_reusable:
            self._empty.append(emptied)
            return
        for one in (name, emptied):
            await self._run("DROP DATABASE IF EXISTS {} WITH (FORCE)", one)

    async def _connected(self, name: str) -> psycopg.AsyncConnection:
        return await psycopg.AsyncConnection.connect(self.url(name), autocommit=True)

    async def _run(self, statement: LiteralString, *names: str) -> None:
        await self._server.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


def _new_name() -> str:
    return f"test_{uuid4().hex}"


async def _found_in(connection: psycopg.AsyncConnection) -> tuple[str, str | None]:
    """A hash of the shape of a database, and the names of its tables with pages; None: every table is empty."""
    row = await (await connection.execute(FOUND)).fetchone()
    assert row
    return row
