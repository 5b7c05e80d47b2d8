"""Imported chat sessions."""

from collections.abc import Iterable

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from parley.domain.auto_analyze.sampling import SessionFacts
from parley.domain.chat import ChatSession, Containment
from parley.domain.errors import NotFound
from parley.storage.tables import Dataset, StoredChat

FETCHED_ROWS = 5000


async def lock(tx: AsyncSession, workspace_id: str, dataset_id: str) -> bool:
    """Take a dataset's lock until the transaction ends; False while another import holds it."""
    key = func.hashtextextended(f"{workspace_id}/{dataset_id}", 0)
    return bool((await tx.execute(select(func.pg_try_advisory_xact_lock(key)))).scalar())


async def find_dataset(tx: AsyncSession, workspace_id: str, dataset_id: str) -> Dataset | None:
    return await tx.get(Dataset, (workspace_id, dataset_id))


async def load_dataset(tx: AsyncSession, workspace_id: str, dataset_id: str) -> Dataset:
    """A dataset.

    Raises:
        NotFound: the workspace has no such dataset.
    """
    found = await find_dataset(tx, workspace_id, dataset_id)
    if found is None:
        raise NotFound(f"workspace {workspace_id!r} has no dataset {dataset_id[:16]!r}")
    return found


async def save_chats(
    tx: AsyncSession, workspace_id: str, dataset_id: str, chats: Iterable[tuple[int, ChatSession, int]]
) -> None:
    """Store some sessions of a dataset: position, session and its tokens."""
    rows = [
        StoredChat(
            workspace_id=workspace_id,
            dataset_id=dataset_id,
            position=position,
            session_id=chat.session_id,
            user_id=chat.user_id,
            containment=chat.containment.value,
            tokens=tokens,
            started_at=chat.started_at,
            transcript_hash=chat.transcript_hash,
            payload=chat.model_dump(mode="json"),
        ).model_dump()
        for position, chat, tokens in chats
    ]
    if rows:
        await tx.execute(insert(StoredChat), rows)


async def count_copies(tx: AsyncSession, workspace_id: str, dataset_id: str) -> int:
    """How many sessions of a dataset have the transcript of another one, without the first of each."""
    query = select(func.count(col(StoredChat.transcript_hash))).where(
        col(StoredChat.workspace_id) == workspace_id, col(StoredChat.dataset_id) == dataset_id
    )
    # Grouping is several times as fast as `count(DISTINCT …)`, which sorts.
    grouped = query.group_by(col(StoredChat.transcript_hash)).subquery()
    found = select(func.coalesce(func.sum(grouped.c[0] - 1).filter(grouped.c[0] > 0), 0))
    return int((await tx.execute(found)).scalar_one())


async def session_facts(tx: AsyncSession, workspace_id: str, dataset_id: str) -> list[SessionFacts]:
    """What sampling looks at, for every session of a dataset, in the file's order."""
    query = (
        select(
            col(StoredChat.position),
            col(StoredChat.session_id),
            col(StoredChat.tokens),
            col(StoredChat.containment),
            col(StoredChat.started_at),
            col(StoredChat.transcript_hash),
        )
        .where(col(StoredChat.workspace_id) == workspace_id, col(StoredChat.dataset_id) == dataset_id)
        .order_by(col(StoredChat.position))
    )
    # In portions, so that heartbeats can be sent in between: a dataset may have a million sessions.
    rows = await tx.stream(query.execution_options(yield_per=FETCHED_ROWS))
    return [
        SessionFacts(position, session_id, tokens, Containment(containment), started_at, transcript_hash)
        async for portion in rows.partitions()
        for position, session_id, tokens, containment, started_at, transcript_hash in portion
    ]
