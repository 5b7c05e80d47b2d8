"""Finds what a workspace's knowledge base has on a text. It is free, and cannot fail a turn for want of a vector."""

from collections.abc import Awaitable

from sqlalchemy.ext.asyncio import AsyncSession

from parley.domain.knowledge import KnowledgePassage
from parley.domain.model import is_blank
from parley.embedder import TURN_VECTOR_SECONDS, Embedder, Vector
from parley.storage import knowledge

MOST_PASSAGES = 4


class KnowledgeSearch:
    """The search for a turn. `embedder`: computes vectors; None: words alone decide."""

    def __init__(self, embedder: Embedder | None = None) -> None:
        self._embedder = embedder

    async def find(
        self,
        tx: AsyncSession,
        workspace_id: str,
        text: str,
        limit: int = MOST_PASSAGES,
        *,
        computed: Awaitable[Vector | None] | None = None,
    ) -> tuple[KnowledgePassage, ...] | None:
        """The passages that are about a text, the best first; none where nothing is, None without any document.

        computed: the vector of the text, where its computation has begun.
        """
        if not await knowledge.exists(tx, workspace_id):
            return None
        if is_blank(text):
            return ()
        if self._embedder is None:
            return await knowledge.search(tx, workspace_id, text, None, limit, model="")
        vector, model = await (computed or self._embedder.vector_within(text, TURN_VECTOR_SECONDS)), self._embedder.name
        return await knowledge.search(tx, workspace_id, text, vector, limit, model=model)
