"""The knowledge base of a workspace: documents, the passages that they are cut into, and what is found of them."""

from parley.domain.knowledge.chunks import MOST_CHUNKS, Chunk, chunks_of
from parley.domain.knowledge.contract import (
    AddedDocument,
    AddOutcome,
    DocumentKind,
    KnowledgeDocument,
    KnowledgePassage,
    KnowledgeUsed,
)
from parley.domain.knowledge.documents import Document, read_document

__all__ = [
    "MOST_CHUNKS",
    "AddOutcome",
    "AddedDocument",
    "Chunk",
    "Document",
    "DocumentKind",
    "KnowledgeDocument",
    "KnowledgePassage",
    "KnowledgeUsed",
    "chunks_of",
    "read_document",
]
