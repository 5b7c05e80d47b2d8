"""Run one generation inline, as a gateway does: `python -m tests.faults.inline_process WORKSPACE KEY`."""

import asyncio
import sys

from gateway.inline import InlineGenerate
from parley.client.generate import generate_input
from parley.process import leave
from parley.settings import Settings
from parley.storage.database import Database

USER, QUESTION = "ann", "What does the export to CSV contain?"


async def main(workspace_id: str, key: str) -> None:
    settings = Settings()
    assert settings.database_url
    database = Database(settings.database_url)
    inline = InlineGenerate(database, settings)
    await inline.run(generate_input(workspace_id, QUESTION, user_id=USER), key)
    await inline.close()
    await database.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
    leave(0)
