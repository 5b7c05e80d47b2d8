"""The conversations of a workspace: find one by its id, and list those with the newest turns."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from parley.client.backend import Backend
from parley.client.conversation import ConversationHandle
from parley.client.reading import check_conversation_id
from parley.domain.errors import NotFound
from parley.domain.model import Model
from parley.storage import conversations
from parley.storage.tables import StoredConversation


class ListedConversation(Model):
    """A conversation in a list. `turns`: those whose answer was begun."""

    id: str
    user_id: str
    status: Literal["open", "closed"]
    turns: int
    created_at: datetime
    last_turn_at: datetime


async def find_conversation(backend: Backend, workspace_id: str, conversation_id: str) -> ConversationHandle:
    """The handle of a conversation that exists, for its user.

    Raises:
        InvalidInput: the id is not one of a conversation.
        NotFound: the workspace has no such conversation.
    """
    check_conversation_id(conversation_id)
    async with backend.database.reads() as tx:
        found = await conversations.find(tx, workspace_id, conversation_id)
    if found is None:
        raise NotFound(f"there is no conversation {conversation_id!r}")
    return ConversationHandle(backend, workspace_id, conversation_id, found.user_id)


async def list_conversations(
    backend: Backend, workspace_id: str, *, before: datetime | None, limit: int
) -> list[ListedConversation]:
    """The conversations of a workspace. `Client.conversations` documents it."""
    async with backend.database.reads() as tx:
        rows = await conversations.newest(tx, workspace_id, before=before, limit=limit)
    return [_listed(row) for row in rows]


def _listed(row: StoredConversation) -> ListedConversation:
    return ListedConversation(
        id=row.conversation_id,
        user_id=row.user_id,
        status="open" if row.closed_at is None else "closed",
        turns=row.turns,
        created_at=row.created_at,
        last_turn_at=row.last_turn_at,
    )
