"""The knowledge base (tables `knowledge_documents` and `knowledge_chunks`): documents, passages, hybrid search.

A search ranks by words, with BM25 on PostgreSQL's lexemes, and by the cosine of vectors. Vectors are compared exactly:
an index over the vectors of all workspaces finds the nearest of all of them first.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID, uuid5

from sqlalchemy import Row, bindparam, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, delete

from parley.domain.errors import NotFound
from parley.domain.knowledge import Chunk, Document, KnowledgeDocument, KnowledgePassage
from parley.domain.knowledge.ranking import ChunkKey, WordHit, asked_text, fused, searchable
from parley.storage.database import NOW, lock_name
from parley.storage.tables import VECTOR, KnowledgeChunk, StoredDocument

NAMES = UUID("6f1d7a56-4a0f-5a52-9f0b-0d4f5a1c7d11")
# How many passages each ranking gives to the fusion, and how many of those with a word are ranked by all of them.
MOST_RANKED, MOST_WITH_WORDS = 30, 200
MOST_LEXEMES = 64
ADD_CHUNK = text("""
    INSERT INTO knowledge_chunks (workspace_id, document_id, number, heading, text, words, embedding, embedded_by)
    VALUES (:workspace_id, :document_id, :number, :heading, :text,
            setweight(to_tsvector('english', :named), 'A') || setweight(to_tsvector('english', :said), 'D'),
            :embedding, :embedded_by)""").bindparams(bindparam("embedding", type_=VECTOR))
# The last ones of the text, where its question is. A lexeme is where it occurs last.
LEXEMES = text("""
    SELECT lexeme FROM unnest(to_tsvector('english', :asked))
    ORDER BY positions[cardinality(positions)] DESC, lexeme LIMIT :most""")
# BM25 without the length of a passage, because passages are about equally long. A lexeme that few passages of the
# workspace have weighs more.
BY_WORDS = text("""
    WITH total AS (SELECT count(*) AS chunks FROM knowledge_chunks WHERE workspace_id = :workspace_id),
    asked AS (
        SELECT lexeme, ln(1 + (total.chunks - has_it.chunks + 0.5) / (has_it.chunks + 0.5)) AS weight
        FROM total, unnest(CAST(:lexemes AS text[]), CAST(:queries AS text[])) AS one(lexeme, query),
             LATERAL (SELECT count(*) AS chunks FROM knowledge_chunks
                      WHERE workspace_id = :workspace_id AND words @@ CAST(one.query AS tsquery)) AS has_it),
    near AS (
        SELECT document_id, number, words FROM knowledge_chunks
        WHERE workspace_id = :workspace_id AND words @@ CAST(:query AS tsquery)
        ORDER BY ts_rank(words, CAST(:query AS tsquery)) DESC, document_id, number LIMIT :with_words),
    scored AS (
        SELECT near.document_id, near.number, sum(asked.weight) AS covered,
               sum(asked.weight * cardinality(one.positions) * 2.2 / (cardinality(one.positions) + 1.2)) AS score
        FROM near, unnest(near.words) AS one(lexeme, positions, weights) JOIN asked ON asked.lexeme = one.lexeme
        GROUP BY 1, 2)
    SELECT document_id, number, covered / (SELECT sum(weight) FROM asked) AS coverage
    FROM scored ORDER BY score DESC, document_id, number LIMIT :limit""")


def document_id(workspace_id: str, name: str) -> UUID:
    """The id of the document with a name: the same each time that it is added."""
    return uuid5(NAMES, f"{workspace_id}/{name}")


async def lock(tx: AsyncSession, workspace_id: str, name: str) -> None:
    """Let no other transaction change the document with this name, until this one ends."""
    await lock_name(tx, f"knowledge/{workspace_id}/{name}")


async def find(tx: AsyncSession, workspace_id: str, name: str) -> KnowledgeDocument | None:
    """The document with a name."""
    query = select(StoredDocument).where(
        col(StoredDocument.workspace_id) == workspace_id, col(StoredDocument.name) == name
    )
    row = (await tx.execute(query)).scalar()
    return None if row is None else _document(row)


async def exists(tx: AsyncSession, workspace_id: str) -> bool:
    """Whether the workspace has a document."""
    query = select(col(StoredDocument.document_id)).where(col(StoredDocument.workspace_id) == workspace_id)
    return (await tx.execute(query.limit(1))).first() is not None


async def documents(
    tx: AsyncSession, workspace_id: str, *, after: str = "", limit: int = 1000
) -> tuple[KnowledgeDocument, ...]:
    """Documents by their names. `after`: the last name of the page before."""
    query = select(StoredDocument).where(
        col(StoredDocument.workspace_id) == workspace_id, col(StoredDocument.name) > after
    )
    rows = (await tx.execute(query.order_by(col(StoredDocument.name)).limit(limit))).scalars()
    return tuple(map(_document, rows))


async def put(
    tx: AsyncSession,
    workspace_id: str,
    name: str,
    sha256: str,
    document: Document,
    chunks: Sequence[Chunk],
    vectors: tuple[str, Sequence[Sequence[float]]] | None = None,
) -> KnowledgeDocument:
    """Store a document; its passages replace those of the document that had its name.

    vectors: the model, and a vector for each passage; None: the passages are found by their words alone.
    """
    made_id = document_id(workspace_id, name)
    known: dict[str, Any] = {
        "title": document.title or name,
        "kind": document.kind.value,
        "sha256": sha256,
        "characters": document.characters,
        "chunks": len(chunks),
        "vectors": len(chunks) if vectors else 0,
    }
    row = {"workspace_id": workspace_id, "document_id": made_id, "name": name, "created_at": None, "updated_at": None}
    storing = insert(StoredDocument).values(**row, **known)
    changing = storing.on_conflict_do_update(
        index_elements=["workspace_id", "document_id"], set_={**known, "updated_at": NOW}
    )
    await tx.execute(changing)
    await _remove_chunks(tx, workspace_id, made_id)
    model, numbers = vectors or ("", [None] * len(chunks))
    rows = [
        {
            "workspace_id": workspace_id,
            "document_id": made_id,
            "number": chunk.number,
            "heading": chunk.heading,
            "text": chunk.text,
            "embedding": None if vector is None else list(vector),
            "embedded_by": model,
            "named": searchable(f"{known['title']} {chunk.heading}"),
            "said": searchable(chunk.text),
        }
        for chunk, vector in zip(chunks, numbers, strict=True)
    ]
    await tx.execute(ADD_CHUNK, rows)
    stored = await find(tx, workspace_id, name)
    assert stored is not None  # noqa: S101 - it was stored by this transaction
    return stored


async def remove(tx: AsyncSession, workspace_id: str, document: UUID) -> None:
    """Remove a document with its passages.

    Raises:
        NotFound: the workspace has no such document.
    """
    removing = (
        delete(StoredDocument)
        .where(col(StoredDocument.workspace_id) == workspace_id, col(StoredDocument.document_id) == document)
        .returning(col(StoredDocument.name))
    )
    if (await tx.execute(removing)).first() is None:
        raise NotFound(f"workspace {workspace_id!r} has no document {document}: see `parley knowledge list`")
    # After the document, for which it has waited: an addition that was under way has committed its passages.
    await _remove_chunks(tx, workspace_id, document)


async def search(
    tx: AsyncSession,
    workspace_id: str,
    asked: str,
    vector: Sequence[float] | None,
    limit: int,
    *,
    model: str = "",
) -> tuple[KnowledgePassage, ...]:
    """The passages that are about a text, the best first.

    vector: of the text, by `model`; None: words alone decide.
    """
    by_words = await rank_by_words(tx, workspace_id, asked)
    by_vectors = {} if vector is None else await rank_by_vectors(tx, workspace_id, vector, model)
    return await passages(tx, workspace_id, dict(fused(by_words, by_vectors, limit)))


async def rank_by_words(tx: AsyncSession, workspace_id: str, asked: str) -> list[WordHit]:
    """The passages with words of a text, the best first."""
    lexemes = [*(await tx.execute(LEXEMES, {"asked": asked_text(asked), "most": MOST_LEXEMES})).scalars()]
    if not lexemes:
        return []
    queries = ["'" + lexeme.replace("\\", "\\\\").replace("'", "''") + "'" for lexeme in lexemes]
    given = {"workspace_id": workspace_id, "lexemes": lexemes, "queries": queries, "query": " | ".join(queries)}
    rows = await tx.execute(BY_WORDS, {**given, "with_words": MOST_WITH_WORDS, "limit": MOST_RANKED})
    return [WordHit((row.document_id, row.number), float(row.coverage)) for row in rows]


async def rank_by_vectors(
    tx: AsyncSession, workspace_id: str, vector: Sequence[float], model: str
) -> dict[ChunkKey, float]:
    """The cosine of the passages whose vectors of a model are nearest to a vector, the nearest first."""
    distance = col(KnowledgeChunk.embedding).op("<=>")(bindparam("vector", list(vector), type_=VECTOR))
    query = (
        select(col(KnowledgeChunk.document_id), col(KnowledgeChunk.number), distance.label("distance"))
        .where(col(KnowledgeChunk.workspace_id) == workspace_id, col(KnowledgeChunk.embedded_by) == model)
        .order_by(text("distance"))
        .limit(MOST_RANKED)
    )
    return {(row.document_id, row.number): 1 - row.distance for row in await tx.execute(query)}


async def passages(
    tx: AsyncSession, workspace_id: str, scores: Mapping[ChunkKey, float]
) -> tuple[KnowledgePassage, ...]:
    """The passages with these keys, in their order. One that was removed meanwhile is left out."""
    if not scores:
        return ()
    query = (
        select(KnowledgeChunk, col(StoredDocument.name), col(StoredDocument.title))
        .join(
            StoredDocument,
            (col(StoredDocument.workspace_id) == col(KnowledgeChunk.workspace_id))
            & (col(StoredDocument.document_id) == col(KnowledgeChunk.document_id)),
        )
        .where(
            col(KnowledgeChunk.workspace_id) == workspace_id,
            func.row(col(KnowledgeChunk.document_id), col(KnowledgeChunk.number)).in_([*scores]),
        )
    )
    found = {(row[0].document_id, row[0].number): row for row in await tx.execute(query)}
    return tuple(_passage(found[key], score) for key, score in scores.items() if key in found)


async def _remove_chunks(tx: AsyncSession, workspace_id: str, document: UUID) -> None:
    await tx.execute(
        delete(KnowledgeChunk).where(
            col(KnowledgeChunk.workspace_id) == workspace_id, col(KnowledgeChunk.document_id) == document
        )
    )


def _document(row: StoredDocument) -> KnowledgeDocument:
    known = row.model_dump(include=set(KnowledgeDocument.model_fields) - {"id"})
    return KnowledgeDocument(id=row.document_id, **known)


def _passage(row: Row[KnowledgeChunk, str, str], score: float) -> KnowledgePassage:
    chunk, name, title = row
    return KnowledgePassage(
        document_id=chunk.document_id,
        name=name,
        title=title,
        chunk=chunk.number,
        heading=chunk.heading,
        text=chunk.text,
        score=score,
    )
