"""The conversations of the workspace, and one of them: its turns with what each cost, and a form for the next one."""

import asyncio
from typing import Annotated
from urllib.parse import quote, urlencode
from uuid import uuid4

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from pydantic import AwareDatetime

from gateway import sse
from gateway.answers import finished
from gateway.auth import Caller, CurrentCaller, requires
from gateway.chat import streamed
from gateway.console.pages import PREFIX
from gateway.console.sign_in import FORM, ConsoleRoute, show
from gateway.errors import problem_of
from parley.client.conversation import ConversationHandle
from parley.domain.conversation.contract import ConversationCost, ConversationState, sentence_for
from parley.domain.errors import InvalidInput, NotFound, ParleyError
from parley.domain.gateway_keys import Scope

CHAT = f"{PREFIX}/chat"
PAGE_CONVERSATIONS, PAGE_TURNS = 30, 30

router = APIRouter(prefix=PREFIX, include_in_schema=False, route_class=ConsoleRoute)


@router.get("/chat", openapi_extra=requires(Scope.READ))
async def list_conversations(
    request: Request, caller: CurrentCaller, before: AwareDatetime | None = None
) -> HTMLResponse:
    """The conversations of all users, those with the newest turns first."""
    found = await caller.client.conversations(before=before, limit=PAGE_CONVERSATIONS)
    is_full = len(found) == PAGE_CONVERSATIONS
    return show(
        request,
        "chats.html",
        conversations=found,
        chat_url=chat_url,
        is_first=before is None,
        following=f"{CHAT}?{urlencode({'before': found[-1].last_turn_at.isoformat()})}" if is_full else "",
    )


@router.get("/chat-new", openapi_extra=requires(Scope.GENERATE))
async def begin_conversation(user: Annotated[str, Query(max_length=200)]) -> RedirectResponse:
    """The page of a new conversation, which its first turn creates."""
    return RedirectResponse(chat_url(f"chat-{uuid4().hex[:12]}", user), status_code=303)


@router.get("/chat/{conversation_id}", openapi_extra=requires(Scope.READ))
async def show_conversation(
    request: Request,
    caller: CurrentCaller,
    conversation_id: str,
    user: str = "",
    through: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
) -> HTMLResponse:
    """The last turns of a conversation, or those through a turn. `user`: of a conversation without a turn."""
    return await _page(request, await _find(caller, conversation_id, user), through=through)


@router.post("/chat/{conversation_id}", openapi_extra=requires(Scope.GENERATE, FORM))
async def say(request: Request, caller: CurrentCaller, conversation_id: str) -> Response:
    """Send a turn. A script reads its stream; a browser without scripts waits for the answer, and gets the page."""
    form = await request.form()
    text, turn_id, user = (str(form.get(name, "")) for name in ("text", "turn_id", "user"))
    text = text.replace("\r\n", "\n")  # as the user typed it: forms send every line end so
    try:
        talk = caller.client.conversation(conversation_id, user_id=user)
        if sse.EVENT_STREAM in request.headers.get("accept", ""):
            return await streamed(caller, request, talk.stream(text, turn_id=turn_id))
        await finished(request.app.state.gateway, request, asyncio.ensure_future(talk.say(text, turn_id=turn_id)))
    except ParleyError as error:
        if sse.EVENT_STREAM in request.headers.get("accept", ""):
            problem = problem_of(error)
            return JSONResponse({"detail": problem.detail}, problem.status)
        if not isinstance(error, InvalidInput):
            raise
        found = await _find(caller, conversation_id, user)
        return await _page(request, found, text=text, refused=error.problem)
    return RedirectResponse(chat_url(conversation_id), status_code=303)


@router.post("/chat/{conversation_id}/close", openapi_extra=requires(Scope.GENERATE, FORM))
async def close(caller: CurrentCaller, conversation_id: str) -> RedirectResponse:
    """Close a conversation: it takes no further turn."""
    await (await caller.client.find_conversation(conversation_id)).close()
    return RedirectResponse(chat_url(conversation_id), status_code=303)


def chat_url(conversation_id: str, user: str = "") -> str:
    """The address of a conversation's page. `user`: of one without a turn."""
    return f"{CHAT}/{quote(conversation_id, safe='')}{'?' + urlencode({'user': user}) if user else ''}"


async def _page(
    request: Request,
    found: tuple[ConversationHandle, bool],
    *,
    through: int | None = None,
    text: str = "",
    refused: str = "",
) -> HTMLResponse:
    talk, is_new = found
    state = ConversationState() if is_new else await talk.state()
    last = min(through or state.turns, state.turns)
    first = max(last - PAGE_TURNS, 0)
    turns = () if is_new else await talk.history(after=first, limit=PAGE_TURNS if through else PAGE_TURNS + 1)
    return show(
        request,
        "chat.html",
        status=400 if refused else 200,
        talk=talk,
        state=state,
        cost=ConversationCost() if is_new else await talk.cost(),
        turns=turns,
        earlier=f"{chat_url(talk.id)}?{urlencode({'through': first})}" if first else "",
        is_newest=through is None,
        sentence_for=sentence_for,
        here=chat_url(talk.id),
        turn_id=uuid4().hex,
        text=text,
        refused=refused,
    )


async def _find(caller: Caller, conversation_id: str, user: str) -> tuple[ConversationHandle, bool]:
    """A conversation, and whether it is still without a turn.

    Raises:
        NotFound: there is none, and it is not known whose it would be.
    """
    try:
        return await caller.client.find_conversation(conversation_id), False
    except NotFound:
        if not user:
            raise
        return caller.client.conversation(conversation_id, user_id=user), True
