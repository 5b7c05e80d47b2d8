"""Summaries of conversations' beginnings: each was paid for once, and stands for the same messages in later turns."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, String, and_, any_, literal, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from parley.domain.errors import NotFound
from parley.domain.generate.condensing import Summary, told
from parley.domain.generate.contract import Kept
from parley.domain.requests import ChatReply, Provider
from parley.storage import database
from parley.storage.database import NOW
from parley.storage.tables import Attempt, JournaledReply, KeptSummary


async def find(
    tx: AsyncSession, workspace_id: str, prefixes: Sequence[str], given_by: Collection[tuple[Provider, bool]]
) -> Summary | None:
    """The summary that stands for the longest of these beginnings of one conversation.

    `given_by`: the providers whose word counts, and whether it is then a simulator's.
    """
    attempt = and_(
        col(Attempt.workspace_id) == col(KeptSummary.workspace_id),
        col(Attempt.id) == col(KeptSummary.attempt_id),
    )
    query = (
        select(col(KeptSummary.messages), col(KeptSummary.attempt_id), col(JournaledReply.payload))
        .join(Attempt, attempt)
        .join(JournaledReply, col(JournaledReply.attempt_id) == col(Attempt.id))
        .where(
            col(KeptSummary.workspace_id) == workspace_id,
            # One parameter: a conversation may have more messages than a statement may have parameters.
            col(KeptSummary.sha256) == any_(literal(list(prefixes), ARRAY(String))),
            tuple_(col(Attempt.provider), col(Attempt.simulated)).in_(
                [(provider.value, simulated) for provider, simulated in given_by]
            ),
        )
        .order_by(col(KeptSummary.messages).desc())
        .limit(1)
    )
    found = (await tx.execute(query)).first()
    if found is None:
        return None
    return _summary(Kept(attempt_id=found.attempt_id, messages=found.messages), found.payload)


async def load(tx: AsyncSession, workspace_id: str, kept: Kept) -> Summary:
    """A kept summary with its text.

    Raises:
        NotFound: the workspace has no such reply.
    """
    query = select(col(JournaledReply.payload)).where(
        col(JournaledReply.workspace_id) == workspace_id, col(JournaledReply.attempt_id) == kept.attempt_id
    )
    reply = (await tx.execute(query)).scalar()
    if reply is None:
        raise NotFound(f"no summary by {kept.attempt_id} in workspace {workspace_id!r}")
    return _summary(kept, reply)


async def keep(tx: AsyncSession, workspace_id: str, sha256: str, messages: int, attempt_id: UUID) -> None:
    """Keep whose reply condenses the conversation's beginning of that hash, in place of another one."""
    entry = {"messages": messages, "attempt_id": attempt_id, "created_at": NOW}
    statement = insert(KeptSummary).values(workspace_id=workspace_id, sha256=sha256, **entry)
    await tx.execute(statement.on_conflict_do_update(index_elements=["workspace_id", "sha256"], set_=entry))


async def purge(tx: AsyncSession, older_than: datetime, *, limit: int) -> int:
    """Forget summaries of any workspace that were made before a time; returns how many."""
    return await database.purge(tx, KeptSummary, col(KeptSummary.created_at), older_than, limit=limit)


def _summary(kept: Kept, reply: dict[str, Any]) -> Summary:
    return Summary(kept=kept, text=told(ChatReply.model_validate(reply)))
