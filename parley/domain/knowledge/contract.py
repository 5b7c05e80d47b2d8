"""What the knowledge base has, and what it answers."""

from enum import StrEnum
from uuid import UUID

from pydantic import AwareDatetime

from parley.domain.model import Model


class DocumentKind(StrEnum):
    """The form of a document."""

    TEXT = "text"
    MARKDOWN = "markdown"
    HTML = "html"
    PDF = "pdf"


class AddOutcome(StrEnum):
    """What adding a document changed."""

    ADDED = "added"
    CHANGED = "changed"
    """Its passages replace those of the document that had its name."""
    UNCHANGED = "unchanged"


class KnowledgeDocument(Model):
    """A document of a workspace.

    name: unique in the workspace, for example the path of its file. title: from its content, else its name.
    sha256: of the content. characters: of its text. chunks: how many passages it has.
    vectors: how many of them have a vector; the others are found by their words alone.
    """

    id: UUID
    name: str
    title: str
    kind: DocumentKind
    sha256: str
    characters: int
    chunks: int
    vectors: int
    created_at: AwareDatetime
    updated_at: AwareDatetime


class AddedDocument(Model):
    """A document that was added, and what that changed."""

    document: KnowledgeDocument
    outcome: AddOutcome


class KnowledgePassage(Model):
    """A passage of a document that was found for a text.

    chunk: its number in the document, from 1. heading: the headings above it, the outermost first.
    score: of the fusion of both rankings; higher is better, and only comparable within one search.
    """

    document_id: UUID
    name: str
    title: str
    chunk: int
    heading: str
    text: str
    score: float


class KnowledgeUsed(Model):
    """The source of a passage that a turn's prompt has. `chunk`: its number in the document, from 1."""

    document_id: UUID
    chunk: int
    title: str
