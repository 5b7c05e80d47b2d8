"""The migrations create exactly the tables that the code declares, and two can run concurrently."""

import asyncio
from uuid import uuid4

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pydantic import SecretStr
from sqlalchemy import Connection
from sqlalchemy.engine import make_url

from parley.domain.errors import InvalidInput
from parley.storage.database import Database, engine
from parley.storage.migrate import has_vectors, migrate
from parley.storage.tables import SQLModel
from tests.parts import run_sql


def differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return compare_metadata(context, SQLModel.metadata)


async def test_the_migrated_schema_is_the_declared_one(database_url: str) -> None:
    opened = engine(SecretStr(database_url))
    async with opened.connect() as connection:
        assert await connection.run_sync(differences) == []
    await opened.dispose()


async def test_repeated_and_concurrent_migrations_change_nothing(database: Database, database_url: str) -> None:
    await asyncio.gather(*(migrate(SecretStr(database_url)) for _ in range(3)))
    await database.ping()


async def test_an_account_that_cannot_create_the_extension_is_refused_with_what_to_do(template: str) -> None:
    name = f"test_{uuid4().hex}"
    await run_sql(template, f"CREATE ROLE {name} LOGIN PASSWORD 'secret'")
    await run_sql(template, f"CREATE DATABASE {name} OWNER {name}")
    url = make_url(template).set(database=name, username=name, password="secret")
    try:
        with pytest.raises(InvalidInput, match=r"DATABASE_URL.*pgvector.*superuser"):
            await migrate(SecretStr(url.render_as_string(hide_password=False)))
        # Once it is there, the account needs no more rights.
        as_superuser = make_url(template).set(database=name).render_as_string(hide_password=False)
        await run_sql(as_superuser, "CREATE EXTENSION vector")
        await migrate(SecretStr(url.render_as_string(hide_password=False)))
    finally:
        await run_sql(template, f"DROP DATABASE {name} WITH (FORCE)")
        await run_sql(template, f"DROP ROLE {name}")


async def test_the_server_says_whether_it_has_the_extension(database: Database) -> None:
    assert await has_vectors(database)
