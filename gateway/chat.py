"""Chat: a streamed answer, the context of a conversation, a shorter history, and the performance of a workspace."""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import AwareDatetime, Field, create_model

from gateway import sse
from gateway.answers import Item, answer_to, counted, first_of, items_of, resumed, turn_stream
from gateway.auth import Caller, CurrentCaller, KeyedRoute, requires
from gateway.errors import problem_of
from gateway.jobs import GenerationBody, IdempotencyKey, JobId, checked_id, given_options, safe_key
from parley.client.conversation import ConversationHandle
from parley.client.generate import generate_input
from parley.client.optimizing import Optimized
from parley.client.streaming import GenerateStream
from parley.domain.conversation.contract import Ended, WhenBusy, turn_of
from parley.domain.errors import InvalidInput, NotFound, ParleyError
from parley.domain.gateway_keys import Scope
from parley.domain.generate.contract import DEFAULT_ACTION, GenerateResult
from parley.domain.model import Model
from parley.domain.recommendations import Recommendation
from parley.domain.reports import Span
from parley.domain.requests import Message, Provider
from parley.domain.tokens import count_messages

# The id of the last delta of an answer that was not made now: nothing is missing after it.
ALL = "all"

router = APIRouter(prefix="/api", tags=["chat"], route_class=KeyedRoute)


ChatBody: Any = create_model(
    "ChatBody",
    __base__=GenerationBody,
    __doc__="""A generation: the arguments of `client.generate`. Or a turn of a conversation.

    With `conversation_id`, which the first turn creates, `messages` is the text of the turn, `turn_id` its idempotency
    key, and `when_busy` says whether it waits for the turns before it, which is the default, or is refused.
    """,
    conversation_id=(str | None, None),
    turn_id=(str | None, None),
    when_busy=(WhenBusy | None, None),
)
OF_TURNS = ("turn_id", "when_busy")


class OptimizeBody(Model):
    """A history and the tokens that it may have. `provider`, `model`: the first to ask for the summary."""

    messages: list[dict[str, Any]]
    user_id: str
    budget_tokens: int = Field(gt=0, le=10_000_000)
    action: str = DEFAULT_ACTION
    provider: Provider | None = None
    model: str | None = None


class Context(Model):
    """What was said in a conversation: the messages of its last turn or of a generation, and the answer if it has one.

    `status`: of the generation; of a conversation `open` or `closed`. `tokens`: of the messages, about, with their tool
    calls and images, as `POST /api/chat/optimize` counts them.
    """

    id: str
    status: str
    messages: tuple[Message, ...]
    tokens: int


class Performance(Model):
    """How a workspace's requests were served in a time. Seconds are of attempts, milliseconds of requests.

    `cache_hit_rate`, `error_rate`: shares from 0 to 1; None without a request. `requests_per_minute`: over the time.
    """

    span: Span
    requests: int
    requests_per_minute: float
    average_ms: float | None
    p95_ms: float | None
    attempt_average_seconds: float | None
    attempt_p95_seconds: float | None
    tokens_prompt: int
    tokens_completion: int
    confirmed_usd: Decimal
    uncertain_usd: Decimal
    saved_usd: Decimal
    prompt_cache_saved_usd: Decimal
    error_rate: float | None
    attempt_error_rate: float | None
    cache_hit_rate: float | None
    recommendations: tuple[Recommendation, ...]


LastEventId = Annotated[str | None, Header(max_length=100, description="Continue after this event.")]
STREAMED: dict[str, Any] = {
    "response_class": StreamingResponse,
    "responses": {200: {"content": {sse.EVENT_STREAM: {}}}},
}


@router.post("/chat/stream", openapi_extra=requires(Scope.GENERATE), **STREAMED)
async def stream(
    caller: CurrentCaller,
    request: Request,
    body: ChatBody,  # pyright: ignore[reportInvalidTypeForm] - made from the options of the client
    idempotency_key: IdempotencyKey = None,
    last_event_id: LastEventId = None,
) -> StreamingResponse:
    """Answer as server-sent events: `start`, `delta` with text, and last `end` with the result, or `error`.

    With `conversation_id` it is the next turn of that conversation. A reader who lost the connection sends the request
    again, with its key (or `turn_id`) and `Last-Event-ID`, or gets `/api/chat/stream/{id}` with the id of `start`: at
    this gateway or another one.
    """
    key, offset, given = safe_key(idempotency_key), _offset(last_event_id), given_options(body)
    if "conversation_id" in given:
        return await streamed(caller, request, _turn(caller, request, given, key, offset))
    for name in OF_TURNS:
        if name in given:
            raise InvalidInput("is of a turn: name its `conversation_id` too", where="body", field=name)
    asked = generate_input(caller.client.workspace_id, **given)
    answer = answer_to(request.app.state.gateway, caller, asked, key, request.headers)
    return await streamed(caller, request, answer.stream(offset))


def _turn(
    caller: Caller, request: Request, given: dict[str, Any], key: str | None, offset: int | None
) -> GenerateStream:
    """The stream of a turn. Its id is `turn_id`, else the idempotency key."""
    turn_id = given.pop("turn_id", key)
    if key not in (None, turn_id):
        raise InvalidInput("differs from `turn_id`: send one of the two", field="Idempotency-Key")
    talk = caller.client.conversation(given.pop("conversation_id"), user_id=given.pop("user_id"))
    text = _text_of(given.pop("messages"))
    return turn_stream(talk, text, request.headers, turn_id=turn_id, offset=offset, **given)


def _text_of(messages: Any) -> str:
    match messages:
        case str():
            return messages
        case [{"role": "user", "content": str(text), **others}] if not others:
            return text
        case _:
            problem = "must be the text of the turn, or one message of the user: the conversation has what was said"
            raise InvalidInput(problem, where="body", field="messages")


@router.get("/chat/stream/{job_id:path}", openapi_extra=requires(Scope.READ), **STREAMED)
async def follow(
    caller: CurrentCaller, request: Request, job_id: JobId, last_event_id: LastEventId = None
) -> StreamingResponse:
    """The stream of a generation, or of a turn, that runs or has ended, from its beginning or after an event."""
    offset, turn = _offset(last_event_id), turn_of(checked_id(caller, job_id))
    if turn is None:
        return await streamed(caller, request, caller.client.generation(job_id).stream(offset))
    workspace_id, conversation_id, turn_id = turn
    if workspace_id != caller.client.workspace_id:
        raise NotFound(f"there is no conversation {conversation_id!r}")
    talk = await caller.client.find_conversation(conversation_id)
    return await streamed(caller, request, talk.follow(turn_id, offset=offset))


async def streamed(caller: Caller, request: Request, answer: GenerateStream) -> StreamingResponse:
    """The response that sends an answer as server-sent events."""
    opened = counted(request.app.state.gateway, caller, _frames(answer))
    first = await first_of(request, opened)
    return sse.response(resumed(opened, first))


async def _frames(answer: GenerateStream) -> AsyncGenerator[str]:
    async with answer, aclosing(items_of(answer)) as items:
        first = await anext(items)
        yield sse.frame({"id": answer.id}, "start")
        yield _item(first, answer)
        async for frame in _rest(items, answer):
            yield frame


async def _rest(items: AsyncGenerator[Item], answer: GenerateStream) -> AsyncGenerator[str]:
    try:
        async for item in items:
            yield _item(item, answer)
    except ParleyError as error:
        yield sse.frame(problem_of(error).model_dump(mode="json", exclude_none=True), "error")


def _item(item: Item, answer: GenerateStream) -> str:
    if item is None:
        return sse.IDLE
    if isinstance(item, GenerateResult):
        return sse.frame(item.model_dump(mode="json"), "end")
    return sse.frame(item.model_dump(mode="json"), "delta", ALL if answer.offset is None else str(answer.offset))


def _offset(last_event_id: str | None) -> int | None:
    """The number of deltas that a reader has; None: all of them."""
    if last_event_id in (None, ""):
        return 0
    if last_event_id == ALL:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", last_event_id):
        raise InvalidInput("must be the id of an event of this stream", field="Last-Event-ID")
    return int(last_event_id)


@router.post("/chat/optimize", openapi_extra=requires(Scope.GENERATE))
async def optimize(caller: CurrentCaller, body: OptimizeBody) -> Optimized:
    """Bring a history within a number of tokens, by a summary of its earlier part, and say what was saved."""
    given = body.model_dump(exclude_unset=True)
    return await caller.client.optimize(given.pop("messages"), **given)


@router.get("/conversation/context/{job_id:path}", openapi_extra=requires(Scope.READ))
async def context(caller: CurrentCaller, job_id: JobId) -> Context:
    """What the next request begins with: the messages and the answer of a generation, or of a conversation."""
    if "/" not in checked_id(caller, job_id):
        return await _context_of(await caller.client.find_conversation(job_id))
    handle = caller.client.generation(checked_id(caller, job_id))
    messages, status = await handle.messages(), await handle.status()
    if status == "completed":
        messages = (*messages, *_answered(await handle.result()))
    return await _context(job_id, status, messages)


def _answered(result: GenerateResult) -> tuple[Message, ...]:
    """The answer as a message; none where there is no answer."""
    if not result.content and not result.tool_calls:
        return ()
    return (Message(role="assistant", content=result.content, tool_calls=result.tool_calls),)


async def _context_of(talk: ConversationHandle) -> Context:
    """The messages that the last turn was answered with, and its answer."""
    state, messages = await talk.state(), await talk.context()
    last = await talk.history(after=max(state.turns - 1, 0), limit=1)
    if last and last[0].outcome is Ended.COMPLETED and last[0].answer:
        messages = (*messages, Message(role="assistant", content=last[0].answer))
    return await _context(talk.id, state.status, messages)


async def _context(id: str, status: str, messages: tuple[Message, ...]) -> Context:
    tokens = await asyncio.to_thread(count_messages, messages)
    return Context(id=id, status=status, messages=messages, tokens=tokens)


@router.get("/metrics/performance", openapi_extra=requires(Scope.READ))
async def performance(
    caller: CurrentCaller,
    since: Annotated[AwareDatetime | None, Query(description="Default: thirty days before `until`.")] = None,
    until: Annotated[AwareDatetime | None, Query(description="Default: now.")] = None,
) -> Performance:
    """Latency, tokens, cost, errors, cache hits, throughput and recommendations over a time."""
    if since is not None and since >= (until or datetime.now(UTC)):
        raise InvalidInput("must be before `until`", where="query", field="since")
    reports = caller.client.reports
    seen, advice = await reports.summary(since, until), await reports.recommendations(since, until)
    minutes = (seen.span.until - seen.span.since).total_seconds() / 60
    return Performance(
        span=seen.span,
        requests=seen.requests.total,
        requests_per_minute=round(seen.requests.total / minutes, 4) if minutes > 0 else 0.0,
        average_ms=seen.requests.average_ms,
        p95_ms=seen.requests.p95_ms,
        attempt_average_seconds=seen.attempts.average_seconds,
        attempt_p95_seconds=seen.attempts.p95_seconds,
        tokens_prompt=seen.total.tokens_prompt,
        tokens_completion=seen.total.tokens_completion,
        confirmed_usd=seen.total.confirmed_usd,
        uncertain_usd=seen.total.uncertain_usd,
        saved_usd=seen.requests.saved_usd,
        prompt_cache_saved_usd=seen.total.prompt_cache_saved_usd,
        error_rate=seen.requests.error_rate,
        attempt_error_rate=seen.attempts.error_rate,
        cache_hit_rate=seen.requests.cache_hit_rate,
        recommendations=advice.lines,
    )
