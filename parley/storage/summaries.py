"""Summaries of the first messages of conversations: paid for once and reused in later turns."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, String, and_, any_, literal, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from parley.domain.errors import NotFound
from parley.domain.generate.condensing import StoredSummary, summary_text
from parley.domain.generate.contract import SummaryReference
from parley.domain.requests import ChatReply, Provider
from parley.storage import database
from parley.storage.database import NOW
from parley.storage.tables import Attempt, ConversationSummary, JournaledReply


async def find(
    tx: AsyncSession, workspace_id: str, prefixes: Sequence[str], given_by: Collection[tuple[Provider, bool]]
) -> StoredSummary | None:
    """The summary of the longest of these prefixes of one conversation.

    `given_by`: the providers whose summaries may be used, each with whether it is simulated.
    """
    attempt = and_(
        col(Attempt.workspace_id) == col(ConversationSummary.workspace_id),
        col(Attempt.id) == col(ConversationSummary.attempt_id),
    )
    query = (
        select(col(ConversationSummary.messages), col(ConversationSummary.attempt_id), col(JournaledReply.payload))
        .join(Attempt, attempt)
        .join(JournaledReply, col(JournaledReply.attempt_id) == col(Attempt.id))
        .where(
            col(ConversationSummary.workspace_id) == workspace_id,
            # One parameter: a conversation may have more messages than a statement may have parameters.
            col(ConversationSummary.sha256) == any_(literal(list(prefixes), ARRAY(String))),
            tuple_(col(Attempt.provider), col(Attempt.simulated)).in_(
                [(provider.value, simulated) for provider, simulated in given_by]
            ),
        )
        .order_by(col(ConversationSummary.messages).desc())
        .limit(1)
    )
    found = (await tx.execute(query)).first()
    if found is None:
        return None
    return _summary(SummaryReference(attempt_id=found.attempt_id, messages=found.messages), found.payload)


async def load(tx: AsyncSession, workspace_id: str, reference: SummaryReference) -> StoredSummary:
    """A stored summary with its text.

    Raises:
        NotFound: the workspace has no such reply.
    """
    query = select(col(JournaledReply.payload)).where(
        col(JournaledReply.workspace_id) == workspace_id, col(JournaledReply.attempt_id) == reference.attempt_id
    )
    reply = (await tx.execute(query)).scalar()
    if reply is None:
        raise NotFound(f"no summary by {reference.attempt_id} in workspace {workspace_id!r}")
    return _summary(reference, reply)


async def store(tx: AsyncSession, workspace_id: str, sha256: str, messages: int, attempt_id: UUID) -> None:
    """Store which attempt's reply condenses the prefix with that hash, replacing an earlier one."""
    entry = {"messages": messages, "attempt_id": attempt_id, "created_at": NOW}
    statement = insert(ConversationSummary).values(workspace_id=workspace_id, sha256=sha256, **entry)
    await tx.execute(statement.on_conflict_do_update(index_elements=["workspace_id", "sha256"], set_=entry))


async def purge(tx: AsyncSession, older_than: datetime, *, limit: int) -> int:
    """Delete summaries of any workspace that were created before `older_than`. Returns how many."""
    return await database.purge(tx, ConversationSummary, col(ConversationSummary.created_at), older_than, limit=limit)


def _summary(reference: SummaryReference, reply: dict[str, Any]) -> StoredSummary:
    return StoredSummary(reference=reference, text=summary_text(ChatReply.model_validate(reply)))
