"""Migrate the schema to the newest version. Idempotent and safe to run concurrently."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from pydantic import SecretStr
from sqlalchemy import Connection, text

from parley.domain.errors import Unreachable
from parley.storage.database import engine, is_transient

# An arbitrary key: every migration must take the same advisory lock.
LOCK = 7_240_001


async def migrate(url: SecretStr) -> None:
    """Apply the pending migrations, under an advisory lock.

    Raises:
        Unreachable: PostgreSQL does not answer, or has a transient error.
    """
    database = engine(url)
    try:
        async with database.begin() as connection:
            await connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
            await connection.run_sync(_upgrade)
    except Exception as error:
        if is_transient(error):
            raise Unreachable("DATABASE_URL: PostgreSQL does not answer") from error
        raise
    finally:
        await database.dispose()


def configuration(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def _upgrade(connection: Connection) -> None:
    command.upgrade(configuration(connection), "head")
