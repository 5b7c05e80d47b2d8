"""OpenAI's chat completions. Local OpenAI-compatible servers have the same wire format."""

import json
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request

from simulator.answers import Answer, Answers, Call, pieces
from simulator.chat_rules import openai_choice, openai_messages, openai_tools
from simulator.faults import chat_traits
from simulator.prefixes import Prefixes
from simulator.records import DEFAULT_LIMIT, StoredCompletions, StoredQuery
from simulator.schema_rules import openai_problem, openai_supports_schemas
from simulator.schemas import ANY_OBJECT, schema_in_text
from simulator.wire import Body, Prompt, Refusal, Reply, TokenEvent, model_name, read_json_object, read_positive

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
    "too_large_for_minute": (
        429,
        "tokens",
        "rate_limit_exceeded",
        "Request too large for gpt-4o in organization org-sim on tokens per min (TPM): Limit 30000, Requested 41250. "
        "The input or output tokens must be reduced in order to run successfully.",
    ),
    "spend_limit": (
        400,
        "invalid_request_error",
        "billing_hard_limit_reached",
        "Billing hard limit has been reached.",
    ),
    "billing_inactive": (
        429,
        "billing_not_active",
        "billing_not_active",
        "Your account is not active, please check your billing details on our website.",
    ),
    "content_filter": (
        400,
        "invalid_request_error",
        "content_filter",
        "The response was filtered due to the prompt triggering the content management policy.",
    ),
    "unknown_parameter": (400, "invalid_request_error", "unknown_parameter", "Unknown parameter."),
    "no_embeddings": (
        403,
        "invalid_request_error",
        None,
        "You are not allowed to generate embeddings from this model",
    ),
    "error_in_200": (200, "server_error", "server_error", "The server had an error while processing your request."),
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
# https://platform.openai.com/docs/api-reference/chat/create
PARAMETERS = frozenset(
    """
    audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens messages
    metadata modalities model moderation n parallel_tool_calls prediction presence_penalty prompt_cache_key
    prompt_cache_options prompt_cache_retention reasoning_effort response_format safety_identifier seed service_tier
    stop store stream stream_options temperature tool_choice tools top_logprobs top_p user verbosity
    web_search_options
    """.split()  # noqa: SIM905 - a list would take a line for each name
)
MAX_LIMIT = 100
MAX_COUNT, MAX_STOPS = 128, 4
REASONING_MODELS = ("o1", "o3", "o4")
REFUSED_BY_REASONING = ("stop", "parallel_tool_calls")
METADATA = re.compile(r"metadata\[(.+)\]")
NO_KEY = "You didn't provide an API key. Send it in an Authorization header: Bearer YOUR_KEY."


@dataclass(frozen=True)
class ChatCompletions:
    """The chat completions of OpenAI (`name` "openai") or of a local server ("local")."""

    answers: Answers
    stored: StoredCompletions
    prefixes: Prefixes
    name: str = "openai"
    request_id_header: str = "x-request-id"

    def api_key(self, headers: Mapping[str, str]) -> str | None:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        found = key.strip() if scheme.lower() == "bearer" and key.strip() else None
        return "none" if found is None and self.name == "local" else found  # a local server needs no key

    async def read(self, request: Request) -> Prompt:
        return self.parse(await read_json_object(request))

    def parse(self, body: Mapping[str, Any]) -> Prompt:
        """Parse the body of a request. Raises Refusal for what the vendor refuses."""
        if self.name == "openai":  # local servers ignore what they do not know
            refuse_unknown(body, PARAMETERS)
            _refuse_unsupported(body)
        messages = openai_messages(body.get("messages"))
        tools = openai_tools(body)
        system = "\n".join(message.text for message in messages if message.role == "system")
        store = body.get("store") is True and self.name == "openai"  # local servers do not store completions
        prompt = Prompt(
            model=read_model(body),
            messages=messages,
            max_tokens=read_positive(body, "max_completion_tokens") or read_positive(body, "max_tokens"),
            schema=_schema(body) or schema_in_text(system),
            tools=tools,
            choice=openai_choice(body, tools),
            stop=_stop(body),
            seed=_integer(body, "seed") or 0,
            count=_integer(body, "n", 1, MAX_COUNT) or 1,
            stream=bool(body.get("stream")),
            include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
            store=store,
            metadata=_metadata(body, store) if self.name == "openai" else {},
        )
        return replace(prompt, cache_read=self.prefixes.use_automatic(prompt)) if self.name == "openai" else prompt

    def traits(self, parsed: Prompt) -> frozenset[str]:
        return chat_traits(parsed) | ({"chunks"} if parsed.stream else set())

    async def answer(self, parsed: Prompt, number: int, damage: str) -> Reply:
        answers = [self.answers.answer(parsed, damage, choice) for choice in range(parsed.count)]
        formatted = _FormattedAnswer(f"chatcmpl-sim{number:08d}", parsed, answers, damage)
        body = Body.events(formatted.events()) if parsed.stream else Body.json(formatted.completion())
        stored = formatted.completion() | {"metadata": dict(parsed.metadata)} if parsed.store else None
        return Reply(
            body,
            answers[0].input_tokens,
            sum(answer.output_tokens for answer in answers),
            cache_read=parsed.cache_read,
            stored=stored,
        )

    def error(self, refusal: Refusal, request_id: str) -> tuple[int, object]:  # noqa: ARG002 (it is in the header)
        status, kind, code, message = ERRORS[refusal.kind]
        if refusal.facts.get("missing"):
            code, message = None, NO_KEY
        elif refusal.kind == "context_too_long":
            message = message.format(**self.answers.overflow_facts(refusal))
        elif refusal.kind == "not_found" and not refusal.message:
            message = message.format(**refusal.facts)
        error = {
            "message": refusal.message or message,
            "type": kind,
            "param": refusal.facts.get("param"),
            "code": refusal.facts.get("code", code),
        }
        return status, {"error": error}

    def models(self) -> object:
        model = {"id": model_name("any"), "object": "model", "created": 0, "owned_by": "simulator"}
        return {"object": "list", "data": [model]}

    def list_stored(self, request: Request) -> object:
        """Return one page of the stored completions that match the query."""
        page, more = self.stored.page(_stored_query(request.query_params))
        ends = {"first_id": page[0]["id"] if page else None, "last_id": page[-1]["id"] if page else None}
        return {"object": "list", "data": page, "has_more": more} | ends

    def get_stored(self, request: Request) -> object:
        id_ = request.path_params["id"]
        found = self.stored.get(id_)
        if found is None:
            raise Refusal("not_found", f"Chat completion with id '{id_}' not found.")
        return found


@dataclass(frozen=True)
class _FormattedAnswer:
    """An answer, or several, as one JSON object or as a stream of chunks."""

    id: str
    prompt: Prompt
    answers: Sequence[Answer]
    damage: str

    def completion(self) -> dict[str, Any]:
        choices = [
            {"index": index, "message": self._message(answer), "logprobs": None, "finish_reason": answer.finish}
            for index, answer in enumerate(self.answers)
        ]
        return self._object("chat.completion") | {"choices": choices, "usage": self._usage()}

    def _message(self, answer: Answer) -> dict[str, Any]:
        message = {"role": "assistant", "content": self._content(answer), "refusal": None, "annotations": []}
        if not answer.calls:
            return message
        calls = [self._call(place, call) for place, call in enumerate(answer.calls)]
        return message | {"content": self._content(answer) if answer.text else None, "tool_calls": calls}

    def _call(self, place: int, call: Call) -> dict[str, Any]:
        function = {"name": call.name, "arguments": call.arguments}
        return {"id": f"call_{self.id}_{place}", "type": "function", "function": function}

    def _content(self, answer: Answer) -> object:
        """The text; with the fault in parts, as some compatible servers send the thinking of a model."""
        if self.damage != "content_parts":
            return answer.text
        half = len(answer.text) // 2
        texts = [{"type": "text", "text": part} for part in (answer.text[:half], answer.text[half:])]
        return [{"type": "thinking", "thinking": [{"type": "text", "text": "Let me see."}]}, *texts]

    def events(self) -> Iterator[str]:
        for index in range(len(self.answers)):
            yield self._chunk(index, {"role": "assistant", "content": "", "refusal": None})
        tokens = [(index, delta) for index, answer in enumerate(self.answers) for delta in self._deltas(answer)]
        sent = tokens[: len(tokens) // 2] if self.damage == "in_stream_error" else tokens
        for number, (index, delta) in enumerate(sent, start=1):
            yield TokenEvent(self._chunk(index, delta, so_far=number / len(tokens)))
        if self.damage == "in_stream_error":
            _, kind, code, message = ERRORS["server_error"]
            yield self._event({"error": {"message": message, "type": kind, "param": None, "code": code}})
            return
        if any(answer.finish is None for answer in self.answers):
            return
        for index, answer in enumerate(self.answers):
            yield self._chunk(index, {}, answer.finish)
        if self.prompt.include_usage and self.damage not in ("usage_beside_choice", "no_usage"):
            yield self._event(self._object("chat.completion.chunk") | {"choices": [], "usage": self._usage()})
        yield "data: [DONE]\n\n"

    def _deltas(self, answer: Answer) -> Iterator[Mapping[str, Any]]:
        """The pieces of an answer: its text, or for each call its name first, and then its arguments."""
        for piece in pieces(answer.text, self.damage):
            yield {"content": piece}
        for place, call in enumerate(answer.calls):
            start = self._call(place, Call(call.name, ""))
            yield {"tool_calls": [{"index": place, **start}]}
            for piece in pieces(call.arguments, self.damage):
                yield {"tool_calls": [{"index": place, "function": {"arguments": piece}}]}

    def _chunk(
        self, index: int, delta: Mapping[str, Any], finish: str | None = None, so_far: float | None = None
    ) -> str:
        """A chunk. `so_far`: the share of the answer that is sent with it."""
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        chunk = self._object("chat.completion.chunk") | {"choices": [choice]}
        if not self.prompt.include_usage:
            return self._event(chunk)
        usage = self._usage() if self.damage == "usage_beside_choice" and finish else None
        if self.damage == "usage_in_every_chunk":
            usage = self._usage(1.0 if finish else so_far or 0.0)
        return self._event(chunk | {"usage": usage})

    def _event(self, value: object) -> str:
        return f"data: {json.dumps(value, ensure_ascii=self.damage == 'split_escapes')}\n\n"

    def _object(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": int(time.time()),
            "model": model_name(self.prompt.model),
            "service_tier": "priority" if self.damage == "price_class" else "default",
            "system_fingerprint": "fp_simulator",
        }

    def _usage(self, share: float = 1.0) -> dict[str, Any]:
        """The usage, or that of a share of the answer."""
        # OpenAI counts reasoning inside the completion; the fault counts it beside, as some compatible servers do.
        reasoning = sum(answer.reasoning_tokens for answer in self.answers)
        beside = reasoning if self.damage == "reasoning_beside" else 0
        given, made = self.answers[0].input_tokens, sum(answer.output_tokens for answer in self.answers)
        made = int(made * share)
        return {
            "prompt_tokens": given,
            "completion_tokens": made - beside,
            "total_tokens": given + made,
            "prompt_tokens_details": {"cached_tokens": self.prompt.cache_read, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": reasoning, "audio_tokens": 0},
        }


def refuse_unknown(body: Mapping[str, Any], known: Collection[str]) -> None:
    for name in body:
        if name not in known:
            raise Refusal("unknown_parameter", f"Unknown parameter: '{name}'.", param=name)


def _refuse_unsupported(body: Mapping[str, Any]) -> None:
    """Refuse what the model, or the prompt, makes impossible."""
    if read_model(body).startswith(REASONING_MODELS):
        for name in REFUSED_BY_REASONING:
            if body.get(name) is not None:
                message = f"Unsupported parameter: '{name}' is not supported with this model."
                raise Refusal("bad_request", message, param=name, code="unsupported_parameter")
    asks_for_object = (body.get("response_format") or {}).get("type") == "json_object"
    if asks_for_object and "json" not in json.dumps(body.get("messages"), ensure_ascii=False).lower():
        message = (
            "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'."
        )
        raise Refusal("bad_request", message, param="messages")
    if not isinstance(body.get("user", ""), str):
        raise Refusal("bad_request", "Invalid type for 'user': expected a string.", param="user")


def _stop(body: Mapping[str, Any]) -> tuple[str, ...]:
    stop = body.get("stop")
    texts = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise Refusal("bad_request", "Invalid type for 'stop': expected a string or an array of strings.", param="stop")
    if len(texts) > MAX_STOPS:
        message = f"Invalid 'stop': array too long. Expected an array with maximum length {MAX_STOPS}."
        raise Refusal("bad_request", message, param="stop")
    return tuple(texts)


def _integer(body: Mapping[str, Any], name: str, low: int = -(2**63), high: int = 2**63 - 1) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise Refusal("bad_request", f"Invalid '{name}': expected an integer from {low} to {high}.", param=name)
    return value


def read_model(body: Mapping[str, Any]) -> str:
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


def _stored_query(query: Mapping[str, str]) -> StoredQuery:
    limit, order, model = query.get("limit", str(DEFAULT_LIMIT)), query.get("order", "asc"), query.get("model")
    if not limit.isdecimal() or not 1 <= int(limit) <= MAX_LIMIT:
        raise Refusal("bad_request", f"Invalid 'limit': expected 1 to {MAX_LIMIT}.", param="limit")
    if order not in ("asc", "desc"):
        raise Refusal("bad_request", "Invalid 'order': expected asc or desc.", param="order")
    return StoredQuery(
        metadata={found[1]: value for name, value in query.items() if (found := METADATA.fullmatch(name))},
        model=model_name(model) if model else None,
        after=query.get("after"),
        limit=int(limit),
        descending=order == "desc",
    )


def _schema(body: Mapping[str, Any]) -> dict[str, Any] | None:
    reply_format = body.get("response_format") or {}
    if reply_format.get("type") == "json_object":
        return ANY_OBJECT
    if reply_format.get("type") != "json_schema":
        return None
    if not openai_supports_schemas(read_model(body)):
        problem = "'response_format' of type 'json_schema' is not supported with this model."
        raise Refusal("bad_request", f"Invalid parameter: {problem}", param="response_format")
    described: Mapping[str, Any] = reply_format.get("json_schema") or {}
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
