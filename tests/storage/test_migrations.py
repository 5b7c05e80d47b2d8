"""The migrations create exactly the tables that the code declares, and two can run concurrently."""

import asyncio

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pydantic import SecretStr
from sqlalchemy import Connection

from parley.storage.database import Database, engine
from parley.storage.migrate import migrate
from parley.storage.tables import SQLModel


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
