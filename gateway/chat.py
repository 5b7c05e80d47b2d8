"""The specification's endpoints: a streamed answer, a conversation's context, its optimization, performance."""

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import AwareDatetime, Field

from gateway import sse
from gateway.answers import Item, answer_to, counted, first_of, items_of, resumed
from gateway.auth import Caller, CurrentCaller, KeyedRoute, requires
from gateway.errors import problem_of
from gateway.jobs import GenerationBody, IdempotencyKey, JobId, checked_id, given_options, safe_key
from parley.client.generate import generate_input
from parley.client.optimizing import Optimized, count
from parley.client.streaming import GenerateStream
from parley.domain.errors import InvalidInput, ParleyError
from parley.domain.gateway_keys import Scope
from parley.domain.generate.contract import DEFAULT_ACTION, GenerateResult
from parley.domain.model import Model
from parley.domain.recommendations import Recommendation
from parley.domain.reports import Span
from parley.domain.requests import Message, Provider

# The id of the last delta of an answer that was not made now: nothing is missing after it.
ALL = "all"

router = APIRouter(prefix="/api", tags=["chat"], route_class=KeyedRoute)


class OptimizeBody(Model):
    """A history and the tokens that it may have. `provider`, `model`: the first to ask for the summary."""

    messages: list[dict[str, Any]]
    user_id: str
    budget_tokens: int = Field(gt=0, le=10_000_000)
    action: str = DEFAULT_ACTION
    provider: Provider | None = None
    model: str | None = None


class Context(Model):
    """What was said in a conversation: the messages of a generation, and its answer if it has one."""

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
    body: GenerationBody,  # pyright: ignore[reportInvalidTypeForm] - made from the options of the client
    idempotency_key: IdempotencyKey = None,
    last_event_id: LastEventId = None,
) -> StreamingResponse:
    """Answer as server-sent events: `start`, `delta` with text, and last `end` with the result, or `error`.

    A reader who lost the connection sends the request again, with its key and `Last-Event-ID`, or gets
    `/api/chat/stream/{id}` with the id of `start`: at this gateway or another one.
    """
    asked = generate_input(caller.client.workspace_id, **given_options(body))
    answer = answer_to(request.app.state.gateway, caller, asked, safe_key(idempotency_key), request.headers)
    return await _streamed(caller, request, answer.stream(_offset(last_event_id)))


@router.get("/chat/stream/{job_id:path}", openapi_extra=requires(Scope.READ), **STREAMED)
async def follow(
    caller: CurrentCaller, request: Request, job_id: JobId, last_event_id: LastEventId = None
) -> StreamingResponse:
    """The stream of a generation that runs or has ended, from its beginning or after an event."""
    generation = caller.client.generation(checked_id(caller, job_id))
    return await _streamed(caller, request, generation.stream(_offset(last_event_id)))


async def _streamed(caller: Caller, request: Request, answer: GenerateStream) -> StreamingResponse:
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
    """The messages of a generation with its answer: what the next request of the conversation begins with."""
    handle = caller.client.generation(checked_id(caller, job_id))
    messages, status = await handle.messages(), await handle.status()
    if status == "completed" and (answer := (await handle.result()).content):
        messages = (*messages, Message(role="assistant", content=answer))
    return Context(id=job_id, status=status, messages=messages, tokens=count(messages))


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
        error_rate=seen.requests.error_rate,
        attempt_error_rate=seen.attempts.error_rate,
        cache_hit_rate=seen.requests.cache_hit_rate,
        recommendations=advice.lines,
    )
