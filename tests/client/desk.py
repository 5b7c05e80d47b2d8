"""Imports into a new workspace of a real PostgreSQL, for tests."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from parley.client.importing import Imported, import_chats
from parley.domain.auto_analyze.sampling import SessionFacts
from parley.domain.errors import InvalidInput
from parley.storage.database import Database
from parley.storage.datasets import session_facts
from tests.databases import Databases


def as_bytes(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content


class Desk:
    """Imports file contents into a new workspace, and reads what is stored there."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database, self.folder, self.workspace = database, folder, f"workspace-{uuid4().hex}"

    async def load(
        self, content: str | bytes, name: str = "chats.jsonl", *, workspace: str | None = None, **how: Any
    ) -> Imported:
        path = self.folder / name
        path.write_bytes(as_bytes(content))
        return await import_chats(self.database, workspace or self.workspace, path, **how)

    async def refused(self, content: str | bytes, name: str = "chats.jsonl", **how: Any) -> InvalidInput:
        """The error, which is one short line; nothing is stored."""
        with pytest.raises(InvalidInput) as error:
            await self.load(content, name, **how)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 400
        assert await self.rows() == (0, 0)
        return error.value

    async def stored(self, imported: Imported) -> list[SessionFacts]:
        async with self.database.transaction() as tx:
            return await session_facts(tx, self.workspace, imported.dataset_id)

    async def names(self, imported: Imported) -> list[str]:
        return [facts.session_id for facts in await self.stored(imported)]

    async def payloads(self, imported: Imported) -> list[dict[str, Any]]:
        query = "SELECT payload FROM chat_sessions WHERE workspace_id = :workspace AND dataset_id = :dataset"
        return await self._all(f"{query} ORDER BY position", dataset=imported.dataset_id)

    async def rows(self) -> tuple[int, int]:
        """The number of datasets and sessions of the workspace."""
        [datasets] = await self._all("SELECT count(*) FROM datasets WHERE workspace_id = :workspace")
        [sessions] = await self._all("SELECT count(*) FROM chat_sessions WHERE workspace_id = :workspace")
        return datasets, sessions

    async def _all(self, query: str, **values: str) -> list[Any]:
        async with self.database.transaction() as tx:
            return list((await tx.execute(text(query), {"workspace": self.workspace, **values})).scalars())


@pytest.fixture(scope="module")
async def database(databases: Databases) -> AsyncIterator[Database]:
    """One database for this module: each test uses a new workspace."""
    name = await databases.take()
    opened = Database(SecretStr(databases.url(name)))
    yield opened
    await opened.close()
    await databases.give_back(name)


@pytest.fixture
def desk(database: Database, tmp_path: Path) -> Desk:
    return Desk(database, tmp_path)
