"""Migrate the schema to the newest version. Idempotent and safe to run concurrently."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from pydantic import SecretStr
from sqlalchemy import Connection, text

from parley.domain.errors import InvalidInput
from parley.storage.database import Database, engine, is_transient, unreachable

# An arbitrary key: every migration must take the same advisory lock.
LOCK = 7_240_001
# The statement of the first migration that a server may refuse, whatever the account and the packages are.
EXTENSION = "CREATE EXTENSION IF NOT EXISTS vector"
NO_EXTENSION = (
    "PostgreSQL has no extension `vector`, and this account cannot create it: install pgvector on the server (for "
    "example the package postgresql-18-pgvector), and run CREATE EXTENSION vector in the database as a superuser"
)


async def migrate(url: SecretStr) -> None:
    """Apply the pending migrations, under an advisory lock.

    Raises:
        InvalidInput: the server lacks the extension pgvector, or the account may not create it.
        Unreachable: PostgreSQL does not answer, or has a transient error.
    """
    database = engine(url)
    try:
        async with database.begin() as connection:
            await connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
            await connection.run_sync(_upgrade)
    except Exception as error:
        if is_transient(error):
            raise unreachable(database.url, error) from error
        if EXTENSION in str(getattr(error, "statement", "")):
            raise InvalidInput(NO_EXTENSION, where="DATABASE_URL") from error
        raise
    finally:
        await database.dispose()


async def is_current(database: Database) -> bool:
    """Whether the schema is the one of this version.

    Raises:
        Unreachable: PostgreSQL does not answer.
    """
    async with database.transaction() as tx:
        return await (await tx.connection()).run_sync(_is_current)


async def has_vectors(database: Database) -> bool:
    """Whether the server has the extension pgvector, installed or ready to be.

    Raises:
        Unreachable: PostgreSQL does not answer.
    """
    async with database.transaction() as tx:
        found = await tx.execute(text("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'"))
        return found.first() is not None


def _is_current(connection: Connection) -> bool:
    known = ScriptDirectory.from_config(configuration(connection)).get_heads()
    return set(MigrationContext.configure(connection).get_current_heads()) == set(known)


def configuration(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def _upgrade(connection: Connection) -> None:
    command.upgrade(configuration(connection), "head")
