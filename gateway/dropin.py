"""What the paths in the vendors' formats share: headers, keys, models, and the two kinds of response."""

import hashlib
import re
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from gateway import sse
from gateway.answers import ON_DISCONNECT, Answer, Item, answer_to, counted, first_of, resumed
from gateway.auth import JSON, Caller
from gateway.errors import (
    RETRIED_BY_SDKS,
    ClientDisconnected,
    GenerationRefused,
    Problem,
    UnknownModel,
    problem_of,
)
from gateway.jobs import safe_key
from gateway.state import Gateway
from parley.client.generate import generate_input
from parley.client.jobs import provider_of
from parley.domain.errors import InvalidInput, ParleyError, UnpricedModel
from parley.domain.generate.contract import GenerateInput, GenerateResult, Meta, Prompt, job_key
from parley.domain.requests import CHAT_PROVIDERS, Provider
from parley.domain.streaming import Delta
from parley.settings import Settings

ItemT = TypeVar("ItemT", bound=Item)

PREFIX = "x-parley-"
# The headers that are arguments of `client.generate`, by their names there.
ARGUMENTS = {
    "x-parley-action": "action",
    "x-parley-user": "user_id",
    "x-parley-template": "template",
    "x-parley-experiment": "experiment",
    "x-parley-cache": "cache",
}
HEADERS = {*ARGUMENTS, "x-parley-mode", "x-parley-on-disconnect"}
# Sent by the SDKs with each try, from 0.
RETRY_COUNT = "x-stainless-retry-count"
AUTO = "parley/auto"
# The names of what a generation asks for.
ASKED = {*GenerateInput.model_fields, *Prompt.model_fields}


def body_of(*required: str) -> dict[str, Any]:
    """A body in the OpenAPI document: the vendor documents its fields."""
    schema = {"type": "object", "required": list(required), "properties": {"model": {"type": "string"}}}
    return {"requestBody": {"required": True, "content": {JSON: {"schema": schema}}}}


def answers_with(declared: dict[str, Any], *required: str) -> dict[str, Any]:
    """What a route declares that answers as a whole or as a stream. For its decorator."""
    whole_or_stream = {JSON: {"schema": {"type": "object"}}, sse.EVENT_STREAM: {}}
    return {"openapi_extra": declared | body_of(*required), "responses": {200: {"content": whole_or_stream}}}


@dataclass(frozen=True)
class ReadBody:
    """What a body asks for.

    model: as the caller named it. user: the user that the body names.
    arguments: of `client.generate`. names: the vendor's names of arguments that have another one there.
    dropped: what Parley accepts and does not do, which the response says.
    """

    model: str
    arguments: dict[str, Any]
    user: str | None = None
    stream: bool = False
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    dropped: tuple[str, ...] = ()


class Writer(Protocol):
    """Writes one answer in a vendor's format."""

    def body(self, result: GenerateResult) -> dict[str, Any]:
        """The whole answer."""
        ...

    def begin(self) -> str:
        """The first frames of a stream."""
        ...

    def delta(self, delta: Delta) -> str:
        """The frames for a delta."""
        ...

    def end(self, result: GenerateResult) -> str:
        """The last frames."""
        ...

    def error(self, problem: Problem) -> str:
        """The frames of an error after the first frames, in place of the last ones."""
        ...


class Writes(Protocol):
    """Makes a writer. `id`: 32 hexadecimal digits, the same for all requests under one key."""

    def __call__(self, id: str) -> Writer: ...


async def respond(request: Request, caller: Caller, asked: ReadBody, writes: Writes) -> Response:
    """Answer a request in a vendor's format.

    Raises:
        GenerationRefused: energy, budget, tier, context or content.
        UnknownModel: no provider has the model.
        ParleyError: as `client.generate` does, with the vendor's name of what is wrong.
    """
    gateway: Gateway = request.app.state.gateway
    generation = _generation(request, caller, asked)
    async with request_key(gateway, caller, request) as key:
        answer = answer_to(gateway, caller, generation, key, request.headers)
        return await _respond(gateway, caller, request, asked, answer, writes(job_key(answer.id)[-32:]))


@asynccontextmanager
async def request_key(gateway: Gateway, caller: Caller, request: Request) -> AsyncGenerator[str]:
    """The idempotency key of a request: the caller's, else that of the request that an SDK repeats, else a new one."""
    given = safe_key(request.headers.get("idempotency-key"))
    body = await _hash(request, caller)
    key = given or gateway.retries.begin(body, is_retry=request.headers.get(RETRY_COUNT, "0") != "0")
    is_delivered = False
    try:
        yield key
        is_delivered = True
    except ClientDisconnected:
        # What was cancelled since its caller left answers no repetition.
        is_delivered = request.headers.get(ON_DISCONNECT) == "cancel"
        raise
    except ParleyError as error:
        is_delivered = problem_of(error).status not in RETRIED_BY_SDKS
        raise
    finally:
        gateway.retries.end(body, key, is_delivered=is_delivered)


async def _respond(
    gateway: Gateway, caller: Caller, request: Request, asked: ReadBody, answer: Answer, writer: Writer
) -> Response:
    headers = {"x-parley-job-id": quote(answer.id, safe=""), "x-parley-mode": answer.mode.value}
    if not asked.stream:
        result = checked(await answer.result(request))
        return JSONResponse(writer.body(result), headers=headers | described(result.meta, asked.dropped))
    opened = counted(gateway, caller, _frames(answer, writer))
    first = await first_of(request, opened)
    return sse.response(resumed(opened, first), headers | _dropped(asked.dropped))


async def _frames(answer: Answer, writer: Writer) -> AsyncGenerator[str]:
    async with aclosing(answer.items()) as items:
        first = checked(await anext(items))
        yield writer.begin() + _frame(writer, first)
        async for frame in _rest(items, writer):
            yield frame


async def _rest(items: AsyncGenerator[Item], writer: Writer) -> AsyncGenerator[str]:
    try:
        async for item in items:
            yield _frame(writer, checked(item))
    except ParleyError as error:
        yield writer.error(problem_of(error))


def _frame(writer: Writer, item: Item) -> str:
    if item is None:
        return sse.IDLE
    return writer.end(item) if isinstance(item, GenerateResult) else writer.delta(item)


def checked(item: ItemT) -> ItemT:
    """An item, if it is not a refusal.

    Raises:
        GenerationRefused: it is one.
    """
    if isinstance(item, GenerateResult) and item.refusal is not None:
        raise GenerationRefused(item.refusal)
    return item


def described(meta: Meta, dropped: tuple[str, ...] = ()) -> dict[str, str]:
    """The response headers that say how an answer was made."""
    model = f"{meta.provider.value}/{meta.model}" if meta.provider else meta.answered_by
    return {
        "x-parley-model": _safe(model),
        "x-parley-cost-usd": f"{meta.cost_usd:f}",
        "x-parley-cached": meta.cached.value or "no",
        "x-parley-attempts": str(meta.attempts),
        **({"x-parley-warnings": _safe("; ".join(meta.warnings))[:1000]} if meta.warnings else {}),
        **_dropped((*dropped, *meta.dropped)),
    }


def about(meta: Meta) -> dict[str, Any]:
    """What the headers of a stream cannot say, since they are sent before its end: the field `parley` of its end."""
    return {name.removeprefix(PREFIX).replace("-", "_"): value for name, value in described(meta).items()}


def _dropped(names: tuple[str, ...]) -> dict[str, str]:
    return {"x-parley-dropped": ", ".join(dict.fromkeys(names))} if names else {}


def _safe(text: str) -> str:
    """Text as the value of a header."""
    return re.sub(r"[^\x20-\x7e]", "?", text)


def _generation(request: Request, caller: Caller, asked: ReadBody) -> GenerateInput:
    """What is asked, by the body and the headers. Without a user, the user is the key."""
    chosen = chosen_by_headers(request)
    settings = caller.client.settings
    arguments = {"user_id": asked.user or caller.key.key_id, **asked.arguments, **chosen}
    try:
        return generate_input(caller.client.workspace_id, **arguments, **route(asked.model, settings))
    except InvalidInput as error:
        raise renamed(error, asked.names, chosen) from None


def chosen_by_headers(request: Request) -> dict[str, str]:
    """The arguments that headers give.

    Raises:
        InvalidInput: there is no such header.
    """
    unknown = next((name for name in request.headers if name.startswith(PREFIX) and name not in HEADERS), None)
    if unknown is not None:
        raise InvalidInput(f"is not a header of this gateway: it has {', '.join(sorted(HEADERS))}", field=unknown)
    return {name: request.headers[header] for header, name in ARGUMENTS.items() if header in request.headers}


def renamed(error: InvalidInput, names: Mapping[str, str], chosen: Collection[str]) -> InvalidInput:
    """The error with the caller's name of what is wrong.

    names: the vendor's names of arguments. chosen: the arguments that headers give.
    """
    headers = {name: header for header, name in ARGUMENTS.items() if name in chosen}
    return InvalidInput(error.problem, field=_renamed(_place(error), {**names, **headers}))


def _place(error: InvalidInput) -> str:
    """The argument that is wrong. Where several disagree, the message begins with one of them."""
    named = error.problem.partition(" ")[0]
    return error.field or (error.where if error.where != "generate" else named if named in ASKED else "")


def _renamed(place: str, names: Mapping[str, str]) -> str:
    """A place in the arguments as a place in the vendor's body."""
    first, _, rest = re.sub(r"^(prompt\.)", "", place).partition(".")
    renamed = names.get(first, first)
    return f"{renamed}.{rest}" if rest else renamed


def route(model: str, settings: Settings) -> dict[str, Any]:
    """The provider and the model to try first: of `gpt-…`, `claude-…`, `PROVIDER/…`, or none for `parley/auto`.

    Raises:
        UnknownModel: no provider has it.
    """
    if model == AUTO:
        return {}
    if named := named_with_provider(model):
        provider, name = named
        return {"provider": provider, "model": name}
    try:
        return {"provider": provider_of(model, settings), "model": model}
    except UnpricedModel:
        message = f"no provider has the model {model[:100]!r}: name one of GET /v1/models, PROVIDER/MODEL, or {AUTO}"
        raise UnknownModel(message) from None


def named_with_provider(model: str) -> tuple[Provider, str] | None:
    """The provider and the model of `PROVIDER/…`, None for any other name."""
    prefix, _, rest = model.partition("/")
    is_named = rest and prefix in {provider.value for provider in CHAT_PROVIDERS}
    return (Provider(prefix), rest) if is_named else None


async def _hash(request: Request, caller: Caller) -> str:
    """What makes a repetition the same request: the caller's key, the path, the headers and the body."""
    own = sorted((name, value) for name, value in request.headers.items() if name in HEADERS)
    about = repr((caller.key.key_id, request.url.path, own)).encode()
    return hashlib.sha256(about + b"\0" + await request.body()).hexdigest()
