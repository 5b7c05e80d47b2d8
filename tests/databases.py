"""Databases for tests: copies of the migrated template, each for one test at a time."""

from typing import LiteralString
from uuid import uuid4

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

# Of every table except the one that Alembic writes: empty it if it has rows. Foreign keys and sequences included.
EMPTY = """
DO $$
DECLARE
    one record;
    found boolean;
    filled text[] := '{}';
BEGIN
    FOR one IN SELECT oid::regclass::text AS name FROM pg_class
               WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
               AND relname <> 'alembic_version' LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM %s)', one.name) INTO found;
        IF found THEN
            filled := filled || one.name;
        END IF;
    END LOOP;
    IF cardinality(filled) > 0 THEN
        EXECUTE 'TRUNCATE ' || array_to_string(filled, ', ') || ' RESTART IDENTITY CASCADE';
    END IF;
    -- A sequence moves without a row, too: an insertion may be rolled back.
    PERFORM setval(format('%I.%I', schemaname, sequencename)::regclass, start_value, false)
        FROM pg_sequences WHERE last_value IS NOT NULL;
END $$
"""
# What a test may change besides rows: settings of the database, schemas, relations and their columns, functions, roles.
SHAPE = """
SELECT md5(concat_ws('|',
    (SELECT string_agg(setconfig::text, ',') FROM pg_db_role_setting
        WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())),
    (SELECT string_agg(nspname, ',' ORDER BY nspname) FROM pg_namespace WHERE nspname NOT LIKE 'pg_t%'),
    (SELECT string_agg(concat(relname, relkind, relnatts, relchecks, reltriggers, relacl::text), ',' ORDER BY relname)
        FROM (SELECT *, (SELECT count(*) FROM pg_trigger WHERE tgrelid = pg_class.oid) AS reltriggers FROM pg_class
              WHERE relnamespace = 'public'::regnamespace) relations),
    (SELECT string_agg(concat(attrelid::regclass, attname, atttypid, attnotnull, atthasdef), ',' ORDER BY attrelid,
        attnum) FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        WHERE relnamespace = 'public'::regnamespace AND attnum > 0),
    (SELECT count(*)::text FROM pg_proc),
    (SELECT string_agg(version_num, ',') FROM alembic_version)))
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
                self._shape = await _shape_of(connection)
        return name

    async def give_back(self, name: str) -> None:
        """End every connection to the database, and empty it."""
        emptied = _new_name()
        try:
            await self._server.execute(END_CONNECTIONS, (name,))
            await self._run("ALTER DATABASE {} RENAME TO {}", name, emptied)
            async with await self._connected(emptied) as connection:
                is_reusable = await _shape_of(connection) == self._shape
                if is_reusable:
                    await connection.execute(EMPTY)
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


async def _shape_of(connection: psycopg.AsyncConnection) -> str:
    row = await (await connection.execute(SHAPE)).fetchone()
    assert row
    return str(row[0])
