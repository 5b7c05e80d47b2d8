"""OpenAI's embeddings. They run in this process: a caller that lost its response repeats the request with its key."""

import asyncio
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from gateway.answers import MODE, ON_DISCONNECT, finished
from gateway.auth import Caller, CurrentCaller, KeyedRoute, requires
from gateway.dropin import body_of, chosen_by_headers, described, named_with_provider, renamed, request_key
from gateway.errors import VENDOR_ERRORS, UnknownModel
from gateway.fields import Fields, fields_of
from gateway.state import Gateway
from parley.client.reading import first_problem
from parley.domain.capabilities import is_embedding_model
from parley.domain.embedding import EmbeddingInput, EmbeddingResult
from parley.domain.errors import InvalidInput
from parley.domain.gateway_keys import Scope
from parley.domain.generate.contract import CachePolicy, Mode
from parley.domain.requests import Provider
from parley.domain.vectors import unpacked

router = APIRouter(prefix="/v1", tags=["openai"], route_class=KeyedRoute, responses=VENDOR_ERRORS)

# The one value of a header that embeddings have; None where the header has no meaning for them.
ONLY = {
    MODE: Mode.INLINE.value,
    ON_DISCONNECT: "finish",
    "x-parley-cache": CachePolicy.OFF.value,
    "x-parley-template": None,
    "x-parley-experiment": None,
}
NAMES = {"inputs": "input", "user_id": "user"}
INPUT = "must be a text, a list of texts, a list of tokens, or a list of lists of tokens; none may be empty"


@router.post("/embeddings", openapi_extra=requires(Scope.GENERATE) | body_of("input", "model"))
async def create_embeddings(caller: CurrentCaller, request: Request) -> Response:
    """Make a vector for each input, in OpenAI's format."""
    gateway: Gateway = request.app.state.gateway
    fields = await fields_of(request)
    asked, form = read(fields, caller, _chosen(request))
    async with request_key(gateway, caller, request) as key:
        running = asyncio.ensure_future(gateway.inline.embed(asked, key))
        result = await finished(gateway, request, running)
    # In a thread: the numbers of many vectors take most of a second to write.
    return await asyncio.to_thread(_response, result, packed=form == "base64")


def read(fields: Fields, caller: Caller, chosen: Mapping[str, str]) -> tuple[EmbeddingInput, str]:
    """What a body asks for, and the form of its vectors. `chosen`: the arguments that headers give.

    Raises:
        InvalidInput: it is not valid; the error names the field.
        UnknownModel: no provider has the model.
    """
    inputs = _inputs(fields)
    dimensions, user = fields.take("dimensions", int), fields.take("user", str)
    form = fields.one_of("encoding_format", ("float", "base64")) if fields.has("encoding_format") else "float"
    provider, model = _model(fields.need("model", str))
    fields.end()
    arguments: dict[str, Any] = {"user_id": user or caller.key.key_id, **chosen}
    try:
        asked = EmbeddingInput(
            workspace_id=caller.client.workspace_id,
            inputs=inputs,
            dimensions=dimensions,
            provider=provider,
            model=model,
            **arguments,
        )
    except ValidationError as error:
        raise renamed(first_problem(error), NAMES, chosen) from None
    return asked, form


def _chosen(request: Request) -> dict[str, str]:
    """The arguments that headers give."""
    chosen = chosen_by_headers(request)
    for header, value in ONLY.items():
        if request.headers.get(header, value) != value:
            must = f"must be {value} for embeddings" if value else "has no meaning for embeddings"
            raise InvalidInput(f"{must}: leave it out", field=header)
    return {name: value for name, value in chosen.items() if name in EmbeddingInput.model_fields}


def _inputs(fields: Fields) -> tuple[Any, ...]:
    """The inputs, each a text or a list of tokens. A list of numbers is one input."""
    given: Any = fields.need("input", str if fields.is_text("input") else list)
    kinds = {type(one) for one in given}
    if kinds == {int} or (given and isinstance(given, str)):
        return (given,)
    if len(kinds) != 1 or not kinds <= {str, list}:
        raise InvalidInput(INPUT, field="input")
    return tuple(given)


def _model(name: str) -> tuple[Provider, str]:
    provider, model = named_with_provider(name) or (Provider.OPENAI, name)
    if provider is Provider.LOCAL or is_embedding_model(provider, model):
        return provider, model
    message = f"no provider makes embeddings with the model {name[:100]!r}: name text-embedding-3-small or local/MODEL"
    raise UnknownModel(message)


def _response(result: EmbeddingResult, *, packed: bool) -> Response:
    data = [
        {"object": "embedding", "index": index, "embedding": vector if packed else unpacked(vector)}
        for index, vector in enumerate(result.vectors)
    ]
    tokens = result.meta.usage.input_tokens
    body = {
        "object": "list",
        "data": data,
        "model": result.meta.answered_by or result.meta.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return JSONResponse(body, headers={MODE: Mode.INLINE.value} | described(result.meta))
