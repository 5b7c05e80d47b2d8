"""Conversations over HTTP: what was said, and their end. A turn is sent by `POST /api/chat/stream`."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from gateway.auth import CurrentCaller, KeyedRoute, requires
from parley.domain.conversation.contract import ConversationExport, ConversationState, TurnReport
from parley.domain.gateway_keys import Scope
from parley.domain.model import Model

router = APIRouter(prefix="/api/conversations", tags=["conversations"], route_class=KeyedRoute)

ConversationId = Annotated[str, Path(description="The id of the conversation, percent-encoded.")]


class ClosedConversation(Model):
    """A conversation that takes no further turn."""

    id: str
    user_id: str
    state: ConversationState


class History(Model):
    """Turns of a conversation in their order. `next`: `after` of the next page; None on the last one."""

    id: str
    user_id: str
    turns: tuple[TurnReport, ...]
    next: int | None


@router.get("/{conversation_id}/history", openapi_extra=requires(Scope.READ))
async def history(
    caller: CurrentCaller,
    conversation_id: ConversationId,
    after: Annotated[int, Query(ge=0, le=2**31 - 1, description="The number of the turn before the first one.")] = 0,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> History:
    """The turns with their answers, how they ended, and what each cost."""
    talk = await caller.client.find_conversation(conversation_id)
    turns = await talk.history(after=after, limit=limit)
    following = turns[-1].number if len(turns) == limit else None
    return History(id=talk.id, user_id=talk.user_id, turns=turns, next=following)


@router.get("/{conversation_id}/export", openapi_extra=requires(Scope.READ))
async def export(caller: CurrentCaller, conversation_id: ConversationId) -> ConversationExport:
    """Everything that is stored of a conversation: turns, summary, what was learned of the user in it, and its cost."""
    return await (await caller.client.find_conversation(conversation_id)).export()


@router.post("/{conversation_id}/close", openapi_extra=requires(Scope.GENERATE))
async def close(caller: CurrentCaller, conversation_id: ConversationId) -> ClosedConversation:
    """Close a conversation, after the turns that wait. It takes no further turn; what was said stays."""
    talk = await caller.client.find_conversation(conversation_id)
    await talk.close()
    return ClosedConversation(id=talk.id, user_id=talk.user_id, state=await talk.state())
