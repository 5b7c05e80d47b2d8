"""`client.knowledge`: the documents of a workspace, and the search in them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import Callable, MutableSequence, Sequence
from pathlib import Path
from uuid import UUID

from parley.client.backend import Backend
from parley.domain.errors import InvalidInput, NotFound
from parley.domain.knowledge import (
    AddedDocument,
    AddOutcome,
    Chunk,
    Document,
    DocumentKind,
    KnowledgeDocument,
    KnowledgePassage,
    chunks_of,
    read_document,
)
from parley.domain.knowledge.documents import SUFFIXES, kind_of
from parley.domain.model import UNSTORABLE, is_blank
from parley.embedder import Embedder, Vector, is_installed, process_embedder
from parley.storage import knowledge

MOST_BYTES, MOST_PAGES, MOST_FILES = 20_000_000, 2000, 10_000
NAME_CHARACTERS = 500
PDF_SECONDS = 180
# As many texts as are computed between two reports of the progress.
BATCH = 32
# A passage with its headings; MiniLM reads no more.
PASSAGE_TOKENS = 256
MOST_FOUND = 50
# Another way of reading or cutting documents makes other passages of the same content.
CUT = b"2\0"

OnProgress = Callable[[int, int], None]
NamedVectors = tuple[str, Sequence[Vector]]
"""The name of a model, and vectors by it."""


class Knowledge:
    """The knowledge base of a workspace: its documents, which conversations are answered from."""

    def __init__(self, backend: Backend, workspace_id: str) -> None:
        self._database, self._workspace_id = backend.database, workspace_id
        self._wants_vectors = backend.settings.memory_vectors != "off"

    @property
    def has_vectors(self) -> bool:
        """Whether this process computes vectors. Without them passages are found by their words alone."""
        return self._embedder() is not None

    async def add(
        self,
        content: str | bytes,
        *,
        name: str,
        kind: DocumentKind | None = None,
        on_progress: OnProgress | None = None,
    ) -> AddedDocument:
        """Add a document, or replace the one that has its name. The same content again changes nothing.

        Args:
            content: text, or the bytes of a text, Markdown, HTML or PDF file; at most 20 million bytes.
            name: unique in the workspace, 1 to 500 characters.
            kind: the form of the content; default: by the content and the end of the name.
            on_progress: called with the number of passages whose vectors are computed, and of all.

        Raises:
            InvalidInput: the name or the content is not valid, too long, or has no text.
            Unreachable: PostgreSQL does not answer.
        """
        try:
            return await self._add(*content_of(content, name, kind), name, on_progress)
        except InvalidInput as error:
            raise InvalidInput(error.problem, where=error.where or name, field=error.field) from None

    async def add_file(
        self, path: Path, *, name: str | None = None, on_progress: OnProgress | None = None
    ) -> AddedDocument:
        """Add a file. `name`: default: the file's name.

        Raises:
            InvalidInput: as `add` does, or the file cannot be read.
            Unreachable: PostgreSQL does not answer.
        """
        return await self.add(await asyncio.to_thread(read_file, path), name=name or path.name, on_progress=on_progress)

    async def list(self, *, after: str = "", limit: int = 1000) -> tuple[KnowledgeDocument, ...]:
        """The documents by their names.

        Args:
            after: the last name of the page before; default: from the first.
            limit: the most documents, default 1,000.
        """
        async with self._database.reads() as tx:
            return await knowledge.documents(tx, self._workspace_id, after=after, limit=limit)

    async def remove(self, document: UUID | str) -> None:
        """Remove a document with its passages. What was answered from it stays.

        Args:
            document: its id, or its name.

        Raises:
            NotFound: the workspace has no such document.
        """
        async with self._database.transaction() as tx:
            if isinstance(document, str):
                found = await knowledge.find(tx, self._workspace_id, document)
                if found is None:
                    raise NotFound(f"there is no document {document!r}: see `parley knowledge list`")
                document = found.id
            await knowledge.remove(tx, self._workspace_id, document)

    async def search(self, text: str, *, limit: int = 5) -> tuple[KnowledgePassage, ...]:
        """The passages that are about a text, the best first; none where nothing is.

        Args:
            text: a question, or words.
            limit: the most passages, 1 to 50; default 5.

        Raises:
            InvalidInput: the text is blank, or the limit is not valid.
        """
        checked_search(text, limit)
        embedder = self._embedder()
        vector = (await embedder.vectors([text]))[0] if embedder else None
        model = embedder.name if embedder else ""
        async with self._database.reads() as tx:
            return await knowledge.search(tx, self._workspace_id, text, vector, limit, model=model)

    def _embedder(self) -> Embedder | None:
        return process_embedder() if self._wants_vectors and is_installed() else None

    async def _add(self, data: bytes, kind: DocumentKind, name: str, on_progress: OnProgress | None) -> AddedDocument:
        sha256 = hashlib.sha256(CUT + kind.value.encode() + b"\0" + data).hexdigest()
        async with self._database.reads() as tx:
            known = await knowledge.find(tx, self._workspace_id, name)
        if known and self._is_same(known, sha256):
            return AddedDocument(document=known, outcome=AddOutcome.UNCHANGED)
        document = await _read(data, kind)
        chunks = await asyncio.to_thread(chunks_of, document)
        vectors = await self._vectors(document.title or name, chunks, on_progress)
        return await self._store(name, sha256, document, chunks, vectors)

    def _is_same(self, known: KnowledgeDocument, sha256: str) -> bool:
        """Whether a document has this content, and vectors where they can be computed."""
        return known.sha256 == sha256 and (known.vectors == known.chunks or not self.has_vectors)

    async def _vectors(
        self, title: str, chunks: Sequence[Chunk], on_progress: OnProgress | None
    ) -> NamedVectors | None:
        embedder = self._embedder()
        if embedder is None:
            return None
        made: MutableSequence[Vector] = []
        for first in range(0, len(chunks), BATCH):
            texts = [f"{chunk.heading or title}\n{chunk.text}" for chunk in chunks[first : first + BATCH]]
            made.extend(await embedder.vectors(texts, most_tokens=PASSAGE_TOKENS))
            if on_progress:
                on_progress(len(made), len(chunks))
        return embedder.name, made

    async def _store(
        self,
        name: str,
        sha256: str,
        document: Document,
        chunks: Sequence[Chunk],
        vectors: NamedVectors | None,
    ) -> AddedDocument:
        async with self._database.transaction() as tx:
            await knowledge.lock(tx, self._workspace_id, name)
            known = await knowledge.find(tx, self._workspace_id, name)
            if known and self._is_same(known, sha256):  # another process was first
                return AddedDocument(document=known, outcome=AddOutcome.UNCHANGED)
            stored = await knowledge.put(tx, self._workspace_id, name, sha256, document, chunks, vectors)
        return AddedDocument(document=stored, outcome=AddOutcome.CHANGED if known else AddOutcome.ADDED)


def files_of(path: Path) -> list[Path]:
    """A file, or the files of a directory and of those below it that can be read, by their names.

    Hidden files and links are left out.

    Raises:
        InvalidInput: there is no such file, or there are too many.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InvalidInput("does not exist, or is not a file or a directory", where=str(path))
    found: list[Path] = []
    for parent, directories, names in os.walk(path):
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        found += [Path(parent, name) for name in sorted(names) if _is_readable(Path(parent, name))]
        if len(found) > MOST_FILES:
            raise InvalidInput(f"has more than {MOST_FILES:,} files: add its parts", where=str(path))
    return found


def read_file(path: Path) -> bytes:
    """The bytes of a file, one more than allowed at most.

    Raises:
        InvalidInput: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InvalidInput(f"cannot be read: {error.strerror}", where=str(path)) from None


def _is_readable(path: Path) -> bool:
    is_hidden = path.name.startswith(".") or path.is_symlink()
    return not is_hidden and path.suffix.lower() in SUFFIXES and path.is_file()


def content_of(content: str | bytes, name: str, kind: DocumentKind | None) -> tuple[bytes, DocumentKind]:
    """The bytes of a document, and their form.

    Raises:
        InvalidInput: the name is not valid, or the content is too long.
    """
    _check_name(name)
    data = content.encode(errors="replace") if isinstance(content, str) else content
    if len(data) > MOST_BYTES:
        raise InvalidInput(f"has {len(data):,} bytes; at most {MOST_BYTES:,} are allowed: split it")
    return data, kind or kind_of(name, data)


def checked_search(text: str, limit: int) -> None:
    """Check the arguments of a search.

    Raises:
        InvalidInput: the text is blank, or the limit is not valid.
    """
    if is_blank(text) or UNSTORABLE.search(text):
        raise InvalidInput("must be text that is not blank", where="text")
    if not 1 <= limit <= MOST_FOUND:
        raise InvalidInput(f"must be 1 to {MOST_FOUND}", where="limit")


def _check_name(name: str) -> None:
    if is_blank(name) or UNSTORABLE.search(name) or len(name) > NAME_CHARACTERS:
        raise InvalidInput(f"must be text of 1 to {NAME_CHARACTERS} characters", where="name")


async def _read(data: bytes, kind: DocumentKind) -> Document:
    pages = await _pages(data) if kind is DocumentKind.PDF else ()
    return await asyncio.to_thread(read_document, data, kind, pages)


async def _pages(data: bytes) -> tuple[str, ...]:
    """The texts of a PDF's pages, read by another process: see pdf_text.py."""
    program = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        str(Path(__file__).with_name("pdf_text.py")),
        str(MOST_PAGES),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={},
    )
    try:
        async with asyncio.timeout(PDF_SECONDS):
            output, problem = await program.communicate(data)
    except TimeoutError:
        raise InvalidInput(f"takes more than {PDF_SECONDS} s to read") from None
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()
    if program.returncode:
        said = problem.decode(errors="replace").strip() if program.returncode == 1 else ""
        raise InvalidInput(said.splitlines()[-1] if said else "cannot be read: it takes too much memory or time")
    return tuple(json.loads(output))
