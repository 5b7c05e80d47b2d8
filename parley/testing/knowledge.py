"""A knowledge base in memory, for `FakeClient`: documents are read as they are, and found by their words."""

import asyncio
import re
from datetime import UTC, datetime
from hashlib import sha256
from uuid import UUID, uuid4

from parley.client.knowledge import Knowledge, OnProgress, checked_search, content_of
from parley.domain.errors import NotFound
from parley.domain.knowledge import (
    AddedDocument,
    AddOutcome,
    Chunk,
    DocumentKind,
    KnowledgeDocument,
    KnowledgePassage,
    chunks_of,
    read_document,
)

WORD = re.compile(r"\w{3,}")


class FakeKnowledge(Knowledge):
    """The documents of a workspace, in memory. A passage is found if it has a word of the text."""

    def __init__(self) -> None:
        self._documents: dict[str, tuple[KnowledgeDocument, list[Chunk]]] = {}

    @property
    def has_vectors(self) -> bool:
        """No vectors are computed."""
        return False

    async def add(
        self,
        content: str | bytes,
        *,
        name: str,
        kind: DocumentKind | None = None,
        on_progress: OnProgress | None = None,  # noqa: ARG002 - there is no work whose progress could be shown
    ) -> AddedDocument:
        """Add a document, or replace the one that has its name.

        Raises:
            InvalidInput: the name or the content is not valid, too long, or has no text.
        """
        data, kind = content_of(content, name, kind)
        digest, (known, _) = sha256(data).hexdigest(), self._documents.get(name, (None, None))
        if known is not None and known.sha256 == digest:
            return AddedDocument(document=known, outcome=AddOutcome.UNCHANGED)
        document = await asyncio.to_thread(read_document, data, kind)
        chunks, now = chunks_of(document), datetime.now(UTC)
        stored = KnowledgeDocument(
            id=known.id if known else uuid4(),
            name=name,
            title=document.title or name,
            kind=kind,
            sha256=digest,
            characters=sum(len(chunk.text) for chunk in chunks),
            chunks=len(chunks),
            vectors=0,
            created_at=known.created_at if known else now,
            updated_at=now,
        )
        self._documents[name] = stored, chunks
        return AddedDocument(document=stored, outcome=AddOutcome.CHANGED if known else AddOutcome.ADDED)

    async def list(self, *, after: str = "", limit: int = 1000) -> tuple[KnowledgeDocument, ...]:
        """The documents by their names."""
        return tuple(self._documents[name][0] for name in sorted(self._documents) if name > after)[:limit]

    async def remove(self, document: UUID | str) -> None:
        """Remove a document.

        Raises:
            NotFound: there is no such document.
        """
        found = next((name for name, (one, _) in self._documents.items() if document in (name, one.id)), None)
        if found is None:
            raise NotFound(f"there is no document {str(document)!r}")
        del self._documents[found]

    async def search(self, text: str, *, limit: int = 5) -> tuple[KnowledgePassage, ...]:
        """The passages that have most words of a text; none where none has one.

        Raises:
            InvalidInput: the text is blank, or the limit is not valid.
        """
        checked_search(text, limit)
        asked = set(WORD.findall(text.lower()))
        found = [
            _passage(document, chunk, len(asked & set(WORD.findall(chunk.text.lower()))))
            for document, chunks in self._documents.values()
            for chunk in chunks
        ]
        return tuple(sorted((one for one in found if one.score), key=lambda one: -one.score)[:limit])


def _passage(document: KnowledgeDocument, chunk: Chunk, score: int) -> KnowledgePassage:
    return KnowledgePassage(
        document_id=document.id,
        name=document.name,
        title=document.title,
        chunk=chunk.number,
        heading=chunk.heading,
        text=chunk.text,
        score=score,
    )
