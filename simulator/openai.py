"""OpenAI's chat completions, which local OpenAI-compatible servers speak as well."""

import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from simulator.answers import Answer, Answers
from simulator.damage import chat_traits
from simulator.reading import json_object, messages, positive
from simulator.requests import worded_schema
from simulator.schema_rules import openai_problem, openai_refuses
from simulator.stored import USUAL_LIMIT, StoredCompletions, Wanted
from simulator.wire import Body, Prompt, Refusal, Reply, model_name

# status, type, code, message
ERRORS: Mapping[str, tuple[int, str, str | None, str]] = {
    "bad_request": (400, "invalid_request_error", None, "We could not parse the body of your request."),
    "context_too_long": (
        400,
        "invalid_request_error",
        "context_length_exceeded",
        "This model's maximum context length is {limit} tokens. However, your messages resulted in {tokens} "
        "tokens. Please reduce the length of the messages.",
    ),
    "auth": (
        401,
        "invalid_request_error",
        "invalid_api_key",
        "Incorrect API key provided. You can find your API key at https://platform.openai.com/account/api-keys.",
    ),
    "not_found": (404, "invalid_request_error", None, "Invalid URL ({method} {path})"),
    "rate_limit": (
        429,
        "requests",
        "rate_limit_exceeded",
        "Rate limit reached on requests per min (RPM). Please try again later.",
    ),
    "quota": (
        429,
        "insufficient_quota",
        "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing details.",
    ),
    "server_error": (
        500,
        "server_error",
        None,
        "The server had an error while processing your request. Sorry about that!",
    ),
    "overloaded": (
        503,
        "service_unavailable_error",
        None,
        "The engine is currently overloaded, please try again later.",
    ),
}
ANY_OBJECT: dict[str, Any] = {"type": "object", "properties": {"reply": {"type": "string"}}}
MOST_LISTED = 100
METADATA = re.compile(r"metadata\[(.+)\]")
NO_KEY = "You didn't provide an API key. Send it in an Authorization header: Bearer YOUR_KEY."


@dataclass(frozen=True)
class ChatCompletions:
    answers: Answers
    stored: StoredCompletions
    name: str = "openai"
    request_id_header: str = "x-request-id"

    def key(self, headers: Mapping[str, str]) -> str | None:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        found = key.strip() if scheme.lower() == "bearer" and key.strip() else None
        return "none" if found is None and self.name == "local" else found  # a local server asks for no key

    async def read(self, request: Request) -> Prompt:
        body = await json_object(request)
        asked = messages(body.get("messages"))
        schema = _schema(body) or worded_schema("\n".join(one.text for one in asked if one.role == "system"))
        store = body.get("store") is True and self.name == "openai"  # local servers know no storage
        return Prompt(
            model=_model(body),
            messages=asked,
            max_tokens=positive(body, "max_completion_tokens") or positive(body, "max_tokens"),
            schema=schema,
            stream=bool(body.get("stream")),
            include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
            store=store,
            metadata=_metadata(body, store) if self.name == "openai" else {},
        )

    def traits(self, asked: Prompt) -> frozenset[str]:
        return chat_traits(asked)

    async def answer(self, asked: Prompt, number: int, damage: str) -> Reply:
        answer = self.answers.answer(asked, damage)
        dress = _Dress(f"chatcmpl-sim{number:08d}", asked, answer, damage)
        body = Body.events(dress.events()) if asked.stream else Body.json(dress.completion())
        stored = dress.completion() | {"metadata": dict(asked.metadata)} if asked.store else None
        return Reply(body, answer.input_tokens, answer.output_tokens, stored=stored)

    def refuse(self, refusal: Refusal, request_id: str) -> tuple[int, object]:  # noqa: ARG002 (in its header)
        status, kind, code, message = ERRORS[refusal.kind]
        if refusal.facts.get("missing"):
            code, message = None, NO_KEY
        elif refusal.kind == "context_too_long":
            message = message.format(**self.answers.overflow(refusal))
        elif refusal.kind == "not_found" and not refusal.message:
            message = message.format(**refusal.facts)
        error = {
            "message": refusal.message or message,
            "type": kind,
            "param": refusal.facts.get("param"),
            "code": code,
        }
        return status, {"error": error}

    def models(self) -> object:
        model = {"id": model_name("any"), "object": "model", "created": 0, "owned_by": "simulator"}
        return {"object": "list", "data": [model]}

    def listing(self, request: Request) -> object:
        """The stored completions that the query asks for, one page of them."""
        page, more = self.stored.page(_wanted(request.query_params))
        ends = {"first_id": page[0]["id"] if page else None, "last_id": page[-1]["id"] if page else None}
        return {"object": "list", "data": page, "has_more": more} | ends

    def one_stored(self, request: Request) -> object:
        id_ = request.path_params["id"]
        found = self.stored.get(id_)
        if found is None:
            raise Refusal("not_found", f"Chat completion with id '{id_}' not found.")
        return found


@dataclass(frozen=True)
class _Dress:
    """An answer as one JSON object or as a stream of chunks."""

    id: str
    prompt: Prompt
    answer: Answer
    damage: str

    def completion(self) -> dict[str, Any]:
        message = {"role": "assistant", "content": self.answer.text, "refusal": None, "annotations": []}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self.answer.finish}
        return self._object("chat.completion") | {"choices": [choice], "usage": self._usage()}

    def events(self) -> Iterator[str]:
        yield self._chunk({"role": "assistant", "content": "", "refusal": None})
        pieces = self.answer.pieces()
        for piece in pieces[: len(pieces) // 2] if self.damage == "in_stream_error" else pieces:
            yield self._chunk({"content": piece})
        if self.damage == "in_stream_error":
            _, kind, code, message = ERRORS["server_error"]
            yield _event({"error": {"message": message, "type": kind, "param": None, "code": code}})
            return
        if self.answer.finish is None:
            return
        yield self._chunk({}, self.answer.finish)
        if self.prompt.include_usage:
            yield _event(self._object("chat.completion.chunk") | {"choices": [], "usage": self._usage()})
        yield "data: [DONE]\n\n"

    def _chunk(self, delta: Mapping[str, Any], finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        chunk = self._object("chat.completion.chunk") | {"choices": [choice]}
        return _event(chunk | {"usage": None} if self.prompt.include_usage else chunk)

    def _object(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": int(time.time()),
            "model": model_name(self.prompt.model),
            "service_tier": "default",
        }

    def _usage(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.answer.input_tokens,
            "completion_tokens": self.answer.output_tokens,
            "total_tokens": self.answer.input_tokens + self.answer.output_tokens,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        }


def _event(value: object) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def _model(body: Mapping[str, Any]) -> str:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise Refusal("bad_request", "you must provide a model parameter", param="model")
    return model


def _metadata(body: Mapping[str, Any], store: bool) -> Mapping[str, str]:
    metadata = body.get("metadata") or {}
    if metadata and not store:
        raise Refusal("bad_request", "The 'metadata' parameter is only allowed when 'store' is enabled.")
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise Refusal("bad_request", "Invalid type for 'metadata': expected strings.", param="metadata")
    return metadata


def _wanted(query: Mapping[str, str]) -> Wanted:
    limit, order, model = query.get("limit", str(USUAL_LIMIT)), query.get("order", "asc"), query.get("model")
    if not limit.isdecimal() or not 1 <= int(limit) <= MOST_LISTED:
        raise Refusal("bad_request", f"Invalid 'limit': expected 1 to {MOST_LISTED}.", param="limit")
    if order not in ("asc", "desc"):
        raise Refusal("bad_request", "Invalid 'order': expected asc or desc.", param="order")
    return Wanted(
        metadata={found[1]: value for name, value in query.items() if (found := METADATA.fullmatch(name))},
        model=model_name(model) if model else None,
        after=query.get("after"),
        limit=int(limit),
        descending=order == "desc",
    )


def _schema(body: Mapping[str, Any]) -> dict[str, Any] | None:
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_object":
        return ANY_OBJECT
    if wanted.get("type") != "json_schema":
        return None
    if openai_refuses(_model(body)):
        problem = "'response_format' of type 'json_schema' is not supported with this model."
        raise Refusal("bad_request", f"Invalid parameter: {problem}", param="response_format")
    described: Mapping[str, Any] = wanted.get("json_schema") or {}
    name, schema = described.get("name"), described.get("schema")
    if not name or not isinstance(schema, dict):
        raise Refusal(
            "bad_request",
            "Missing required parameter: 'response_format.json_schema'.",
            param="response_format",
        )
    problem = openai_problem(schema) if described.get("strict") else None
    if problem:
        raise Refusal("bad_request", f"Invalid schema for response_format '{name}': {problem}", param="response_format")
    return schema
