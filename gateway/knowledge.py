"""The knowledge base over HTTP: documents and the search in them."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request
from pydantic import Field

from gateway.auth import CurrentCaller, KeyedRoute, requires
from gateway.uploads import MULTIPART, bytes_of, parts_of, text_of
from parley.client.knowledge import MOST_BYTES, MOST_FOUND, NAME_CHARACTERS
from parley.domain.errors import InvalidInput
from parley.domain.gateway_keys import Scope
from parley.domain.knowledge import AddedDocument, DocumentKind, KnowledgeDocument, KnowledgePassage
from parley.domain.model import Model, Name, Text

PATH = "/api/knowledge"
UPLOAD = f"{PATH}/upload"
DocumentId = Annotated[UUID, Path(description="The id of the document.")]
FORM: dict[str, Any] = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {"type": "string", "format": "binary", "description": "text, Markdown, HTML or PDF"},
        "name": {"type": "string", "description": "default: the name of the file"},
    },
}
router = APIRouter(prefix=PATH, tags=["knowledge"], route_class=KeyedRoute)


class NewDocument(Model):
    """A document as text. `kind`: default: by the content and the end of the name."""

    name: Name
    text: Text
    kind: DocumentKind | None = None


class KnowledgeQuery(Model):
    """What is searched for."""

    text: Text = Field(max_length=100_000)
    limit: int = Field(default=5, ge=1, le=MOST_FOUND)


class Documents(Model):
    """Documents by their names. `next`: `after` of the next page; None on the last one."""

    documents: tuple[KnowledgeDocument, ...]
    next: str | None


class Passages(Model):
    """The passages that are about a text, the best first; none where nothing is."""

    passages: tuple[KnowledgePassage, ...]


@router.post("", openapi_extra=requires(Scope.KNOWLEDGE))
async def add(caller: CurrentCaller, body: NewDocument) -> AddedDocument:
    """Add a document, or replace the one that has its name. The same text again changes nothing."""
    return await caller.client.knowledge.add(body.text, name=body.name, kind=body.kind)


@router.post(
    "/upload",
    openapi_extra={
        **requires(Scope.KNOWLEDGE, MULTIPART),
        "requestBody": {"required": True, "content": {MULTIPART: {"schema": FORM}}},
    },
)
async def upload(caller: CurrentCaller, request: Request) -> AddedDocument:
    """Add a file as a document, or replace the one that has its name. The same file again changes nothing."""
    async with parts_of(request) as form:
        part = form.get("file")
        content = await bytes_of(part, "file", MOST_BYTES)
        name = await text_of(form, "name", NAME_CHARACTERS * 4) or getattr(part, "filename", None)
    if not name:
        raise InvalidInput("is missing: name the document", where="name")
    return await caller.client.knowledge.add(content, name=name)


@router.get("", openapi_extra=requires(Scope.READ))
async def list_documents(
    caller: CurrentCaller,
    after: Annotated[str, Query(max_length=NAME_CHARACTERS, description="The last name of the page before.")] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Documents:
    """The documents by their names."""
    found = await caller.client.knowledge.list(after=after, limit=limit)
    return Documents(documents=found, next=found[-1].name if len(found) == limit else None)


@router.post("/search", openapi_extra=requires(Scope.READ))
async def search(caller: CurrentCaller, body: KnowledgeQuery) -> Passages:
    """The passages that an answer to a text would be made from."""
    return Passages(passages=await caller.client.knowledge.search(body.text, limit=body.limit))


@router.delete("/{document_id}", status_code=204, openapi_extra=requires(Scope.KNOWLEDGE))
async def remove(caller: CurrentCaller, document_id: DocumentId) -> None:
    """Remove a document with its passages. What was answered from it stays."""
    await caller.client.knowledge.remove(document_id)
