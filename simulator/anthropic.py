"""Anthropic's Messages API."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from simulator.answers import Answer, Answers, pieces
from simulator.chat_rules import anthropic_choice, anthropic_messages, anthropic_tools
from simulator.faults import chat_traits
from simulator.prefixes import Prefixes
from simulator.schema_rules import anthropic_problem, anthropic_supports_schemas
from simulator.schemas import schema_in_text
from simulator.wire import (
    Body,
    Message,
    Prompt,
    Refusal,
    Reply,
    TokenEvent,
    content_text,
    model_name,
    read_json_object,
    read_messages,
    read_positive,
)

# status, type, message
ERRORS: Mapping[str, tuple[int, str, str]] = {
    "bad_request": (400, "invalid_request_error", "The request body is not valid."),
    "context_too_long": (
        400,
        "invalid_request_error",
        "prompt is too long: {tokens} tokens > {limit} maximum",
    ),
    # The API reports an exhausted credit balance with this status and type, not with 402.
    "quota": (
        400,
        "invalid_request_error",
        "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade "
        "or purchase credits.",
    ),
    "too_large_for_minute": (
        429,
        "rate_limit_error",
        "Extra usage is required for long context requests.",
    ),
    "spend_limit": (
        400,
        "invalid_request_error",
        "You have reached your specified API usage limits. You will regain access on 2026-12-01 at 00:00 UTC.",
    ),
    "billing_inactive": (402, "billing_error", "There is an issue with your billing or payment information."),
    "content_filter": (400, "invalid_request_error", "Output blocked by content filtering policy"),
    "error_in_200": (200, "api_error", "Internal server error"),
    "auth": (401, "authentication_error", "invalid x-api-key"),
    "not_found": (404, "not_found_error", "Not Found"),
    "rate_limit": (429, "rate_limit_error", "This request would exceed your organization's rate limit."),
    "server_error": (500, "api_error", "Internal server error"),
    "overloaded": (529, "overloaded_error", "Overloaded"),
}
EPOCH = "1970-01-01T00:00:00Z"
STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "error": "pause_turn"}
# https://platform.claude.com/docs/en/api/messages/create
PARAMETERS = frozenset(
    """
    cache_control container diagnostics inference_geo max_tokens messages metadata model output_config service_tier
    speed stop_sequences stream system temperature thinking tool_choice tools top_k top_p user_profile_id
    workspace_id
    """.split()  # noqa: SIM905 - a list would take a line for each name
)


@dataclass(frozen=True)
class Messages:
    answers: Answers
    prefixes: Prefixes
    name: str = "anthropic"
    request_id_header: str = "request-id"

    def api_key(self, headers: Mapping[str, str]) -> str | None:
        bearer = headers.get("authorization", "").removeprefix("Bearer ").strip()
        return headers.get("x-api-key") or bearer or None

    async def read(self, request: Request) -> Prompt:
        if "anthropic-version" not in request.headers:
            raise Refusal("bad_request", "anthropic-version: header is required")
        return self.parse(await read_json_object(request))

    def parse(self, body: Mapping[str, Any]) -> Prompt:
        """Parse the body of a request. Raises Refusal for what the vendor refuses."""
        for name in body:
            if name not in PARAMETERS:
                raise Refusal("bad_request", f"{name}: Extra inputs are not permitted")
        system = content_text(body.get("system"))
        tools = anthropic_tools(body)
        choice = anthropic_choice(body, tools)
        model, messages = _required(body, "model", str), _messages(body, bool(tools))
        cache_read, cache_written = self.prefixes.use_marked(body)
        forced = next((dict(tool.schema) for tool in tools if tool.name == choice.name), None)
        return Prompt(
            model=model,
            messages=(*([Message("system", system)] if system else []), *messages),
            max_tokens=read_positive(body, "max_tokens"),
            schema=forced or _schema(body) or schema_in_text(system),
            tools=tools,
            choice=choice,
            stop=_stop_sequences(body),
            stream=bool(body.get("stream")),
            cache_read=cache_read,
            cache_written=cache_written,
        )

    def traits(self, parsed: Prompt) -> frozenset[str]:
        return chat_traits(parsed)

    async def answer(self, parsed: Prompt, number: int, damage: str) -> Reply:
        answer = self.answers.answer(parsed, damage)
        formatted = _FormattedAnswer(f"msg_sim{number:08d}", parsed, answer, damage)
        body = Body.events(formatted.events()) if parsed.stream else Body.json(formatted.message())
        return Reply(body, answer.input_tokens, answer.output_tokens, parsed.cache_read, parsed.cache_written)

    def models(self) -> object:
        model = {"type": "model", "id": model_name("any"), "display_name": "Simulator", "created_at": EPOCH}
        return {"data": [model], "has_more": False, "first_id": model["id"], "last_id": model["id"]}

    def error(self, refusal: Refusal, request_id: str) -> tuple[int, object]:
        status, kind, message = ERRORS[refusal.kind]
        if refusal.kind == "context_too_long":
            message = message.format(**self.answers.overflow_facts(refusal))
        elif refusal.facts.get("missing"):
            message = "x-api-key header is required"
        return status, _error(kind, refusal.message or message) | {"request_id": request_id}


@dataclass(frozen=True)
class _FormattedAnswer:
    """An answer as one message or as its stream of events."""

    id: str
    prompt: Prompt
    answer: Answer
    damage: str

    def message(self) -> dict[str, Any]:
        blocks = [*self._thinking(), *(block | _whole(block, text) for block, text in self._blocks())]
        whole = self._message(blocks, self.stop_reason, self.answer.output_tokens)
        return whole | {"stop_sequence": self.answer.stopped_by}

    def events(self) -> Iterator[str]:
        yield self._event("message_start", message=self._message([], None, 1))
        for index, (block, text) in enumerate(self._blocks()):
            yield self._event("content_block_start", index=index, content_block=block)
            yield self._event("ping")
            found = pieces(text, self.damage)
            for piece in found[: len(found) // 2] if self.damage == "in_stream_error" else found:
                delta = self._delta(block, piece)
                yield TokenEvent(self._event("content_block_delta", index=index, delta=delta))
            if self.damage == "in_stream_error":
                _, kind, message = ERRORS["overloaded"]
                yield self._event("error", error=_error(kind, message)["error"])
                return
            yield self._event("content_block_stop", index=index)
        if self.answer.finish is None:
            return
        end = {"stop_reason": self.stop_reason, "stop_sequence": self.answer.stopped_by}
        yield self._event("message_delta", delta=end, usage={"output_tokens": self.answer.output_tokens})
        yield self._event("message_stop")

    @property
    def stop_reason(self) -> str | None:
        if self.answer.stopped_by:
            return "stop_sequence"
        return STOP_REASONS.get(self.answer.finish or "", self.answer.finish)

    def _message(self, content: list[Any], stop_reason: str | None, output_tokens: int) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": model_name(self.prompt.model),
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": None,
            "usage": {
                "input_tokens": self.answer.input_tokens - self.prompt.cache_read - self.prompt.cache_written,
                "cache_creation_input_tokens": self.prompt.cache_written,
                "cache_read_input_tokens": self.prompt.cache_read,
                "output_tokens": output_tokens,
                "service_tier": "priority" if self.damage == "price_class" else "standard",
            },
        }

    def _blocks(self) -> list[tuple[dict[str, Any], str]]:
        """The empty blocks of the answer, each with its text or the JSON text of its input."""
        words = [({"type": "text", "text": ""}, self.answer.text)] if self.answer.text or not self.answer.calls else []
        calls = [
            ({"type": "tool_use", "id": f"toolu_{self.id}_{place}", "name": call.name, "input": {}}, call.arguments)
            for place, call in enumerate(self.answer.calls)
        ]
        return [*words, *calls]

    def _event(self, kind: str, **fields: Any) -> str:
        data = json.dumps({"type": kind, **fields}, ensure_ascii=self.damage == "split_escapes")
        return f"event: {kind}\ndata: {data}\n\n"

    def _thinking(self) -> list[Any]:
        """The block of a fault: a client must pass it over."""
        thinks = self.damage == "content_parts"
        return [{"type": "thinking", "thinking": "Let me see.", "signature": "sim"}] if thinks else []

    def _delta(self, block: Mapping[str, Any], piece: str) -> dict[str, str]:
        if block["type"] == "tool_use":
            return {"type": "input_json_delta", "partial_json": piece}
        return {"type": "text_delta", "text": piece}


def _whole(block: Mapping[str, Any], text: str) -> dict[str, Any]:
    """What fills an empty block."""
    return {"input": _tool_input(text)} if block["type"] == "tool_use" else {"text": text}


def _tool_input(text: str) -> object:
    """Return the input of a tool call. The wire format has only objects, so malformed JSON becomes an empty one."""
    try:
        return json.loads(text)
    except ValueError:
        return {}


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}}


def _required(body: Mapping[str, Any], field: str, kind: type) -> Any:
    value = body.get(field)
    if not isinstance(value, kind) or not value:
        raise Refusal("bad_request", f"{field}: Field required")
    return value


def _messages(body: Mapping[str, Any], has_tools: bool) -> tuple[Message, ...]:
    _required(body, "max_tokens", int)
    messages = read_messages(body.get("messages"))
    for number, message in enumerate(messages):
        if message.role not in ("user", "assistant"):
            raise Refusal("bad_request", f'messages.{number}: role must be "user" or "assistant"')
        _refuse_blank(body["messages"][number].get("content"))
    if messages[-1].role == "assistant" and messages[-1].text != messages[-1].text.rstrip():
        raise Refusal("bad_request", "messages: final assistant content cannot end with trailing whitespace")
    return anthropic_messages(body["messages"], has_tools)


def _refuse_blank(content: object) -> None:
    blocks = content if isinstance(content, list) else [{"type": "text", "text": content}]
    for text in [block.get("text") or "" for block in blocks if block.get("type") == "text"]:
        if not text:
            raise Refusal("bad_request", "messages: text content blocks must be non-empty")
        if not text.strip():
            raise Refusal("bad_request", "messages: text content blocks must contain non-whitespace text")


def _schema(body: Mapping[str, Any]) -> dict[str, Any] | None:
    reply_format = (body.get("output_config") or {}).get("format")
    if not reply_format:
        return None
    if not anthropic_supports_schemas(_required(body, "model", str)):
        raise Refusal("bad_request", f"'{body['model']}' does not support output format.")
    schema = reply_format.get("schema")
    if reply_format.get("type") != "json_schema" or not isinstance(schema, dict):
        raise Refusal("bad_request", "output_config.format.schema: Field required")
    problem = anthropic_problem(schema)
    if problem:
        raise Refusal("bad_request", f"output_config.format.schema: {problem}")
    return schema


def _stop_sequences(body: Mapping[str, Any]) -> tuple[str, ...]:
    sequences = body.get("stop_sequences") or []
    if not isinstance(sequences, list) or not all(isinstance(one, str) for one in sequences):
        raise Refusal("bad_request", "stop_sequences: Input should be a valid list of strings")
    if not all(one.strip() for one in sequences):
        raise Refusal("bad_request", "stop_sequences: each stop sequence must contain non-whitespace")
    return tuple(sequences)
