"""Run one generation inline, as a gateway does: `python -m tests.faults.inline_process WORKSPACE KEY`.

With `embed` as a further argument, run an embedding.
"""

import asyncio
import sys

from gateway.inline import InlineGenerate
from parley.client.generate import generate_input
from parley.domain.embedding import EmbeddingInput
from parley.domain.requests import Provider
from parley.process import leave
from parley.settings import Settings
from parley.storage.database import Database

USER, QUESTION = "ann", "What does the export to CSV contain?"


def embedding(workspace_id: str) -> EmbeddingInput:
    return EmbeddingInput(
        workspace_id=workspace_id,
        user_id=USER,
        action="ai_message",
        inputs=(QUESTION,),
        provider=Provider.OPENAI,
        model="text-embedding-3-small",
    )


async def main(workspace_id: str, key: str, kind: str = "generate") -> None:
    settings = Settings()
    assert settings.database_url
    database = Database(settings.database_url)
    inline = InlineGenerate(database, settings)
    if kind == "embed":
        await inline.embed(embedding(workspace_id), key)
    else:
        await inline.run(generate_input(workspace_id, QUESTION, user_id=USER), key)
    await inline.close()
    await database.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
    leave(0)
