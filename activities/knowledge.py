"""Finds what a workspace's knowledge base has on a text. It is free, and cannot fail a turn for want of a vector."""

from sqlalchemy.ext.asyncio import AsyncSession

from parley.domain.knowledge import KnowledgePassage
from parley.domain.model import is_blank
from parley.embedder import Embedder
from parley.storage import knowledge

MOST_PASSAGES = 4
# How long a turn waits for the vector of its text.
VECTOR_SECONDS = 0.15


class KnowledgeSearch:
    """The search for a turn. `embedder`: computes vectors; None: words alone decide."""

    def __init__(self, embedder: Embedder | None = None) -> None:
        self._embedder = embedder

    async def find(
        self, tx: AsyncSession, workspace_id: str, text: str, limit: int = MOST_PASSAGES
    ) -> tuple[KnowledgePassage, ...] | None:
        """The passages that are about a text, the best first; none where nothing is, None without any document."""
        if not await knowledge.exists(tx, workspace_id):
            return None
        if is_blank(text):
            return ()
        vector = await self._embedder.vector_within(text, VECTOR_SECONDS) if self._embedder else None
        model = self._embedder.name if self._embedder else ""
        return await knowledge.search(tx, workspace_id, text, vector, limit, model=model)
