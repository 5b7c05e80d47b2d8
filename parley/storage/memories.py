"""What is remembered of users: facts with a validity, and their vectors (table `memories`).

Every statement is limited to one workspace and one user. A user has hundreds of memories, of which the index by user
finds all: a search for the nearest vectors compares them exactly, and no vector of another user is looked at.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, bindparam, case, func, null, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from parley.domain.conversation.memory import Changes, Found, Memory, checked_value
from parley.domain.errors import MemoryChanged, NotFound
from parley.storage.database import NOW, database_time, lock_name
from parley.storage.driver import Query
from parley.storage.tables import VECTOR, JournaledReply, StoredMemory

# How many of a user's memories are compared with a text: the nearest, and the newest that have no vector yet.
MOST_COMPARED = 50
MOST_LISTED = 1000
IS_VALID = and_(col(StoredMemory.valid_until).is_(None), col(StoredMemory.forgotten_at).is_(None))
EXIST = text("""
    SELECT EXISTS (SELECT FROM memories WHERE workspace_id = :workspace AND user_id = :user
                   AND valid_until IS NULL AND forgotten_at IS NULL) AS found""")
# A reply without what it said. Its usage stays: it is what was paid.
EMPTIED = text("payload || jsonb_build_object('text', '')")


async def lock(tx: AsyncSession, workspace_id: str, user_id: str) -> None:
    """Let no other transaction change what is remembered of the user, until this one ends."""
    await lock_name(tx, f"memories/{workspace_id}/{user_id}")


async def valid_about(
    tx: AsyncSession, workspace_id: str, user_id: str, subjects: Collection[str]
) -> tuple[Memory, ...]:
    """The valid memories of a user about these subjects, the oldest first."""
    about = func.lower(col(StoredMemory.subject)).in_([subject.lower() for subject in subjects])
    query = select(StoredMemory).where(_of(workspace_id, user_id), IS_VALID, about)
    rows = (await tx.execute(query.order_by(col(StoredMemory.valid_from)))).scalars()
    return tuple(map(_memory, rows))


async def apply(
    tx: AsyncSession, workspace_id: str, user_id: str, changes: Changes, attempt_id: UUID | None = None
) -> int:
    """Write what facts change; returns how many memories were added. Repeated, it changes nothing.

    attempt_id: whose reply has the facts.
    """
    rows = [
        {
            **memory.model_dump(exclude={"id"}),
            "memory_id": memory.id,
            "workspace_id": workspace_id,
            "user_id": user_id,
            "attempt_id": attempt_id,
            "embedded_by": "",
            "created_at": None,
        }
        for memory in changes.added
    ]
    for memory_id, when in changes.ended:
        ending = update(StoredMemory).where(
            _of(workspace_id, user_id), col(StoredMemory.memory_id) == memory_id, IS_VALID
        )
        await tx.execute(ending.values(valid_until=when))
    if not rows:
        return 0
    adding = insert(StoredMemory).values(rows).on_conflict_do_nothing().returning(col(StoredMemory.memory_id))
    return len((await tx.execute(adding)).all())


async def without_vector(
    tx: AsyncSession, workspace_id: str, user_id: str, model: str, *, limit: int
) -> tuple[Memory, ...]:
    """Valid memories of a user that have no vector of this model, the newest first."""
    query = select(StoredMemory).where(_of(workspace_id, user_id), IS_VALID, col(StoredMemory.embedded_by) != model)
    rows = (await tx.execute(query.order_by(col(StoredMemory.valid_from).desc()).limit(limit))).scalars()
    return tuple(map(_memory, rows))


async def store_vectors(
    tx: AsyncSession, workspace_id: str, user_id: str, model: str, vectors: Mapping[UUID, Sequence[float]]
) -> None:
    """Store the vectors of memories. One that was forgotten meanwhile gets none."""
    for memory_id, vector in vectors.items():
        row = update(StoredMemory).where(
            _of(workspace_id, user_id),
            col(StoredMemory.memory_id) == memory_id,
            col(StoredMemory.forgotten_at).is_(None),
        )
        await tx.execute(row.values(embedding=list(vector), embedded_by=model))


def exist(workspace_id: str, user_id: str) -> Query[bool]:
    """Whether a user has a valid memory."""
    return Query(EXIST, {"workspace": workspace_id, "user": user_id}, lambda rows: rows[0].found)


async def near(
    tx: AsyncSession, workspace_id: str, user_id: str, vector: Sequence[float] | None = None, model: str = ""
) -> tuple[Found, ...]:
    """Valid memories of a user, the nearest to a vector of this model first.

    Those that have no vector of the model come before them, so that what was said just now is compared as well; they,
    and all without a vector to compare, are in the order of their age, the newest first.
    """
    distance: ColumnElement[Any] = null()
    if vector is not None:
        between = col(StoredMemory.embedding).op("<=>")(bindparam("vector", list(vector), type_=VECTOR))
        distance = case((col(StoredMemory.embedded_by) == model, between), else_=null())
    query = (
        select(StoredMemory, distance.label("distance"))
        .where(_of(workspace_id, user_id), IS_VALID)
        .order_by(text("distance NULLS FIRST"), col(StoredMemory.valid_from).desc())
        .limit(MOST_COMPARED)
    )
    rows = (await tx.execute(query)).all()
    return tuple(
        Found(memory=_memory(row), similarity=None if between is None else max(0.0, 1 - between))
        for row, between in rows
    )


async def of_user(
    tx: AsyncSession,
    workspace_id: str,
    user_id: str,
    *,
    with_ended: bool,
    conversation_id: str | None = None,
    limit: int = MOST_LISTED,
) -> tuple[Memory, ...]:
    """What is remembered of a user, the newest first.

    with_ended: also what was superseded or ended. conversation_id: only what was learned there; None: everywhere.
    """
    kept = col(StoredMemory.forgotten_at).is_(None) if with_ended else IS_VALID
    query = select(StoredMemory).where(_of(workspace_id, user_id), kept)
    if conversation_id is not None:
        query = query.where(col(StoredMemory.conversation_id) == conversation_id)
    newest = query.order_by(col(StoredMemory.valid_from).desc(), col(StoredMemory.memory_id)).limit(limit)
    return tuple(map(_memory, (await tx.execute(newest)).scalars()))


async def find(tx: AsyncSession, workspace_id: str, user_id: str, memory_id: UUID) -> Memory:
    """One memory of a user.

    Raises:
        NotFound: the user has no such memory, or it was forgotten.
    """
    kept = col(StoredMemory.forgotten_at).is_(None)
    query = select(StoredMemory).where(_of(workspace_id, user_id), col(StoredMemory.memory_id) == memory_id, kept)
    row = (await tx.execute(query)).scalar()
    if row is None:
        raise NotFound(f"user {user_id!r} of workspace {workspace_id!r} has no memory {memory_id}")
    return _memory(row)


async def correct(
    tx: AsyncSession, workspace_id: str, user_id: str, memory_id: UUID, value: str, new_id: UUID
) -> Memory:
    """Replace the value of a memory by a new one, which is returned. Repeated with the same ids, it changes nothing.

    Raises:
        InvalidInput: the value is blank, too long, or not text that can be stored.
        MemoryChanged: it is not valid any more: a second value would contradict the one that replaced it.
        NotFound: the user has no such memory.
    """
    checked = checked_value(value)
    await lock(tx, workspace_id, user_id)
    made = select(StoredMemory).where(_of(workspace_id, user_id), col(StoredMemory.memory_id) == new_id)
    if (await tx.execute(made)).first() is not None:
        return await find(tx, workspace_id, user_id, new_id)
    old = await find(tx, workspace_id, user_id, memory_id)
    if old.valid_until is not None:
        raise await _changed(tx, workspace_id, user_id, old)
    now = await database_time(tx)
    new = Memory(
        id=new_id,
        subject=old.subject,
        predicate=old.predicate,
        value=checked,
        confidence=1,
        importance=old.importance,
        valid_from=now,
    )
    await apply(tx, workspace_id, user_id, Changes(added=(new,), ended=((old.id, now),)))
    return await find(tx, workspace_id, user_id, new_id)


async def _changed(tx: AsyncSession, workspace_id: str, user_id: str, old: Memory) -> MemoryChanged:
    """The error for a memory that has ended, with the value that replaced it, if one did."""
    kept = col(StoredMemory.forgotten_at).is_(None)
    query = select(col(StoredMemory.value)).where(
        _of(workspace_id, user_id),
        kept,
        col(StoredMemory.subject) == old.subject,
        col(StoredMemory.predicate) == old.predicate,
        col(StoredMemory.valid_from) == old.valid_until,
    )
    value = (await tx.execute(query)).scalar()
    replaced = "" if value is None else f", {value!r} replaced it"
    return MemoryChanged(f"memory {old.id} is not valid any more{replaced}: show the memories again")


async def forget(tx: AsyncSession, workspace_id: str, user_id: str, memory_ids: Iterable[UUID] | None = None) -> int:
    """Remove the content of memories, and of the replies that they come from; returns how many memories.

    The rows stay without content, so that a repeated extraction does not bring them back. The ledger's rows stay.
    memory_ids: default: all of the user's, also ended ones.
    """
    chosen = [_of(workspace_id, user_id), col(StoredMemory.forgotten_at).is_(None)]
    if memory_ids is not None:
        chosen.append(col(StoredMemory.memory_id).in_([*memory_ids]))
    emptied = {"subject": "", "predicate": "", "value": "", "embedding": None, "embedded_by": ""}
    forgetting = (
        update(StoredMemory)
        .where(*chosen)
        .values(**emptied, valid_until=func.coalesce(col(StoredMemory.valid_until), NOW), forgotten_at=NOW)
        .returning(col(StoredMemory.attempt_id))
    )
    attempts = (await tx.execute(forgetting)).scalars().all()
    said_by = [attempt_id for attempt_id in attempts if attempt_id is not None]
    replies = update(JournaledReply).where(
        col(JournaledReply.workspace_id) == workspace_id, col(JournaledReply.attempt_id).in_(said_by)
    )
    if said_by:
        await tx.execute(replies.values(payload=EMPTIED))
    return len(attempts)


async def forget_asked(tx: AsyncSession, workspace_id: str, user_id: str, memory_id: UUID | None) -> int:
    """Remove the content of one memory, or of all without an id, as `forget` does; returns how many memories.

    Raises:
        NotFound: the user has no such memory, or it was forgotten.
    """
    await lock(tx, workspace_id, user_id)
    if memory_id is None:
        return await forget(tx, workspace_id, user_id)
    found = await find(tx, workspace_id, user_id, memory_id)
    return await forget(tx, workspace_id, user_id, (found.id,))


def _of(workspace_id: str, user_id: str) -> ColumnElement[bool]:
    return and_(col(StoredMemory.workspace_id) == workspace_id, col(StoredMemory.user_id) == user_id)


def _memory(row: StoredMemory) -> Memory:
    known = row.model_dump(include=set(Memory.model_fields) - {"id"})
    return Memory(id=row.memory_id, **known)
