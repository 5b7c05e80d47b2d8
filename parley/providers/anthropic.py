"""Anthropic messages on Anthropic's own SDK."""

import json
import re
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import anthropic
from anthropic.types import Message as AnthropicMessage
from anthropic.types import RawMessageStreamEvent
from anthropic.types import Usage as AnthropicUsage

from parley.domain.capabilities import without_dropped
from parley.domain.errors import (
    AuthenticationFailed,
    BadRequest,
    ContentFiltered,
    ContextTooLong,
    MalformedReply,
    ProviderError,
    ProviderUnavailable,
    QuotaExceeded,
    RateLimited,
    TruncatedReply,
)
from parley.domain.reply_json import read_written_json
from parley.domain.requests import (
    ChatReply,
    ChatRequest,
    Finish,
    ImagePart,
    Message,
    NamedTool,
    Provider,
    Reply,
    Request,
    TextPart,
    Tool,
    ToolCall,
    Usage,
)
from parley.domain.streaming import Delta
from parley.providers.protocol import (
    ATTEMPT_HEADER,
    UNREADABLE,
    ErrorTable,
    check_listing,
    errors_mapped,
    finish_of,
    finish_with,
    from_connection,
    tool_call,
    usage_kept,
    usage_of,
    vendor_text,
    with_text,
)
from parley.providers.streaming import StreamedCall, StreamedReply, interruption_counted

NAME = Provider.ANTHROPIC.value
ADDRESS = "https://api.anthropic.com"
# The least that any model caches are 4,096 tokens, at about four bytes. Some cache 1,024; a mark below a model's least
# costs nothing.
LEAST_CACHED_BYTES, LEAST_SHARED_BYTES = 16_384, 4_096
# https://platform.claude.com/docs/en/build-with-claude/handling-stop-reasons
FINISHES = {
    "end_turn": Finish.STOP,
    "stop_sequence": Finish.STOP,
    "tool_use": Finish.TOOL_CALLS,
    "max_tokens": Finish.LENGTH,
    "model_context_window_exceeded": Finish.LENGTH,
    "refusal": Finish.REFUSED,
    "pause_turn": None,
}
STANDARD_TIERS = ("standard",)
STANDARD_PLACES = ("global", "not_available")
# https://platform.claude.com/docs/en/api/errors and .../docs/en/api/rate-limits. A spend limit and a prompt that is too
# long have the type of any invalid request, so that only their message separates them.
ERRORS = ErrorTable(
    codes={
        "billing_error": QuotaExceeded,
        "authentication_error": AuthenticationFailed,
        "permission_error": AuthenticationFailed,
        "request_too_large": ContextTooLong,
        "overloaded_error": ProviderUnavailable,
    },
    words={
        "prompt is too long": ContextTooLong,
        "exceed context limit": ContextTooLong,
        "context window": ContextTooLong,
        "long context": ContextTooLong,  # a rate limit that no wait cures
        "credit balance is too low": QuotaExceeded,
        "usage limits": QuotaExceeded,
        "spend limit": QuotaExceeded,
        "content filtering policy": ContentFiltered,
    },
    general={
        "rate_limit_error": RateLimited,
        "invalid_request_error": BadRequest,
        "not_found_error": BadRequest,
        "api_error": ProviderUnavailable,
        "timeout_error": ProviderUnavailable,
    },
)


class AnthropicAdapter:
    """Messages of Anthropic, or of a compatible server at `base_url`."""

    def __init__(self, *, api_key: str, base_url: str | None, timeout: float, with_account: bool = False) -> None:
        """`with_account`: send the headers that the SDK reads in the environment; only with the key from there."""
        self._key = api_key
        # Without an address the SDK uses the environment's, even an empty one.
        self._client = anthropic.AsyncAnthropic(
            api_key=api_key, base_url=base_url or ADDRESS, timeout=timeout, max_retries=0
        )
        if not with_account:
            self._client._custom_headers = {}  # ANTHROPIC_CUSTOM_HEADERS; no option keeps the SDK from reading it

    async def call(self, request: Request, model: str, attempt_id: str) -> ChatReply:
        sent = sent_arguments(request, model, attempt_id)
        with errors_mapped(anthropic.APIError, mapped_error, self._key):
            return read_message(await self._client.messages.create(**sent), sent["max_tokens"])

    async def stream(self, request: Request, model: str, attempt_id: str) -> AsyncGenerator[Delta | Reply]:
        sent = sent_arguments(request, model, attempt_id)
        reply = _StreamedMessage()
        with (
            interruption_counted(reply, lambda: reply.usage),
            errors_mapped(anthropic.APIError, mapped_error, self._key),
        ):
            async with await self._client.messages.create(**sent, stream=True) as events:
                async for event in events:
                    for delta in reply.add(event):
                        yield delta
            for delta in reply.end():
                yield delta
            yield read_message(reply.message, sent["max_tokens"])

    async def recover(self, attempt_id: str) -> None:  # noqa: ARG002 - Anthropic stores no replies
        return None

    async def ping(self) -> None:
        with errors_mapped(anthropic.APIError, mapped_error, self._key):
            check_listing((await self._client.models.list(limit=1)).data)

    async def close(self) -> None:
        await self._client.close()


def sent_arguments(request: Request, model: str, attempt_id: str) -> dict[str, Any]:
    """The arguments of the SDK's call.

    Raises:
        BadRequest: it is not a chat request.
    """
    if not isinstance(request, ChatRequest):
        raise BadRequest(NAME, f"cannot serve a request of the kind {request.kind}")
    request = without_dropped(Provider.ANTHROPIC, model, request)
    return {
        "model": model,
        "max_tokens": request.max_tokens,
        "messages": _turns(request.messages, begins_like_others=request.begins_like_others),
        "extra_headers": {ATTEMPT_HEADER: attempt_id},
        **_options(request),
    }


def _turns(messages: tuple[Message, ...], *, begins_like_others: bool = False) -> list[dict[str, Any]]:
    """The turns that Anthropic accepts: roles alternate, none is blank, and a last text has no blanks at its end.

    The results of tool calls are a user's turn, together with what the user says next.
    """
    if begins_like_others:
        return _sharing(messages)
    turns: list[tuple[str, list[dict[str, Any]]]] = []
    for message in messages:
        blocks = [] if message.is_system else list(_blocks(message))
        role = "assistant" if message.role == "assistant" else "user"
        if blocks and turns and turns[-1][0] == role:
            turns[-1][1].extend(blocks)
        elif blocks:
            turns.append((role, blocks))
    if turns and turns[-1][0] == "assistant" and turns[-1][1][-1]["type"] == "text":
        turns[-1][1][-1]["text"] = turns[-1][1][-1]["text"].rstrip()
    sent = [{"role": role, "content": _content(blocks)} for role, blocks in turns]
    size = sum(len(block.get("text", "").encode()) for _, blocks in turns[:-1] for block in blocks)
    if len(turns) > 2 and size >= LEAST_CACHED_BYTES:
        sent[-2]["content"] = _marked(sent[-2]["content"])
    return sent


def _sharing(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """The turn of a request that begins like others, marked where its own part begins."""
    *before, own = [part.text for part in messages[-1].parts if isinstance(part, TextPart)]
    shared = "".join(before)
    if len(shared.encode()) < LEAST_SHARED_BYTES:
        return _turns(messages)
    return [{"role": "user", "content": [*_marked(shared), {"type": "text", "text": own}]}]


def _marked(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The content of the turn before the last one, up to which a long chat is cached: the next request begins so too.

    To write to the cache costs a quarter more, to read from it a tenth.
    """
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return [*blocks[:-1], {**blocks[-1], "cache_control": {"type": "ephemeral"}}]


def _content(blocks: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """Text alone as one text."""
    return "\n\n".join(block["text"] for block in blocks) if {block["type"] for block in blocks} == {"text"} else blocks


def _blocks(message: Message) -> Iterator[dict[str, Any]]:
    if message.role == "tool":
        yield _tool_result(message)
        return
    parts = message.parts if message.images else (TextPart.model_construct(text=message.text),)
    for part in parts:
        if isinstance(part, ImagePart):
            yield _image(part)
        elif part.text.strip():
            yield {"type": "text", "text": part.text}
    for call in message.tool_calls:
        yield {"type": "tool_use", "id": _accepted_id(call.id), "name": call.name, "input": _input(call)}


def _image(part: ImagePart) -> dict[str, Any]:
    if part.url:
        return {"type": "image", "source": {"type": "url", "url": part.url}}
    return {"type": "image", "source": {"type": "base64", "media_type": part.media_type, "data": part.data}}


def _tool_result(message: Message) -> dict[str, Any]:
    result = {"type": "tool_result", "tool_use_id": _accepted_id(message.tool_call_id or "")}
    return result | ({"content": message.text} if message.text.strip() else {})


def _accepted_id(id: str) -> str:
    """The id of a call as Anthropic accepts it: another vendor may have made it, with other characters."""
    return re.sub("[^A-Za-z0-9_-]", "_", id)


def _input(call: ToolCall) -> dict[str, Any]:
    """The arguments as an object. What a model wrote by mistake, for example half of it, is sent as text in one."""
    try:
        value = read_written_json(call.arguments)
    except ValueError:
        value = call.arguments
    return value if isinstance(value, dict) else {"arguments": value}


def _options(request: ChatRequest) -> dict[str, Any]:
    system = [message.text for message in request.messages if message.is_system and message.text.strip()]
    options: dict[str, Any] = {
        "system": "\n\n".join(system),
        "stop_sequences": list(request.stop),
        "tools": [_tool(tool) for tool in request.tools],
    }
    if request.response_schema is not None:
        options["output_config"] = {"format": {"type": "json_schema", "schema": request.response_schema}}
    if request.tools:
        options["tool_choice"] = _tool_choice(request)
    return {name: value for name, value in options.items() if value}


def _tool(tool: Tool) -> dict[str, Any]:
    described = {"description": tool.description} if tool.description else {}
    strict = {"strict": True} if tool.strict else {}
    return {"name": tool.name, "input_schema": tool.parameters, **described, **strict}


def _tool_choice(request: ChatRequest) -> dict[str, Any]:
    """The choice; empty for the vendor's default."""
    one = {"disable_parallel_tool_use": True} if request.parallel_tool_calls is False else {}
    match request.tool_choice:
        case NamedTool(name=name):
            return {"type": "tool", "name": name, **one}
        case "required":
            return {"type": "any", **one}
        case "none":
            return {"type": "none"}
        case "auto":
            return {"type": "auto", **one}
        case None:
            return {"type": "auto", **one} if one else {}


class _StreamedMessage(StreamedReply):
    """A message from the events of a stream: https://platform.claude.com/docs/en/build-with-claude/streaming."""

    def __init__(self) -> None:
        super().__init__()
        self._message: dict[str, Any] = {}
        self._counted: dict[str, Any] = {}
        self._stop_reason: str | None = None
        self._is_counted = False
        self._by_block: dict[int, StreamedCall] = {}

    def add(self, event: RawMessageStreamEvent) -> Iterator[Delta]:
        match event.type:
            case "message_start":
                self._message = event.message.to_dict()
                self._count(self._message.get("usage"))
            case "content_block_start":
                yield from self._start_block(event.index, event.content_block)
            case "content_block_delta":
                yield from self._add_delta(event.index, event.delta)
            case "message_delta":
                self._stop_reason = event.delta.stop_reason or self._stop_reason
                self._count(event.usage.to_dict() if event.usage else None)  # pyright: ignore[reportUnnecessaryComparison]
                self._is_counted = True
            case _:
                return

    def _count(self, counted: Any) -> None:
        """Counts are of the whole message so far: the last one of each kind is right."""
        self._counted |= {name: value for name, value in (counted or {}).items() if value is not None}

    def _start_block(self, index: int, block: Any) -> Iterator[Delta]:
        if block.type == "text":
            yield from self.add_text(block.text or "")
        elif block.type == "tool_use":
            yield from self.start_call(block.id, block.name)
            call = self._by_block[index] = self.calls[-1]
            yield from self.add_arguments(call, json.dumps(block.input, ensure_ascii=False) if block.input else "")

    def _add_delta(self, index: int, delta: Any) -> Iterator[Delta]:
        if delta.type == "text_delta":
            yield from self.add_text(delta.text or "")
        elif delta.type == "input_json_delta" and index in self._by_block:
            yield from self.add_arguments(self._by_block[index], delta.partial_json or "")

    @property
    def usage(self) -> Usage | None:
        """What the vendor counted; None before its last event: the output is not counted at the start."""
        return _usage(AnthropicUsage.construct(None, **self._counted)) if self._is_counted else None

    @property
    def message(self) -> AnthropicMessage:
        """The message so far, as a reply that is not streamed has it; the input of a call is its JSON text."""
        calls = [
            {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments.text} for call in self.calls
        ]
        known = {
            "content": [{"type": "text", "text": self.text}, *calls],
            "stop_reason": self._stop_reason,
            "usage": self._counted,
        }
        return AnthropicMessage.construct(None, **(self._message | known))

    def end(self) -> Iterator[Delta]:
        """Raises: TruncatedReply: the stream ended before the reply."""
        if not self._message:
            raise MalformedReply(NAME, "the stream has no message")
        if self._stop_reason is None:
            raise TruncatedReply(NAME, "the stream ended without a stop reason")
        yield from super().end()


def read_message(message: AnthropicMessage, max_tokens: int | None) -> ChatReply:
    """The reply in a message. `max_tokens`: of the request, where they are known.

    Raises:
        ProviderError: it is not a reply, or it cannot be used.
    """
    # The SDK returns a body that is not JSON as a string. A refusal may have no content.
    if not isinstance(message, AnthropicMessage):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise MalformedReply(NAME, "the body is not a message")
    usage = usage_of(lambda: _usage(message.usage))
    error = (message.model_extra or {}).get("error")
    if error:
        raise ERRORS.error(NAME, 200, error, None, usage=usage)
    with usage_kept(NAME, usage):
        finish = finish_of(NAME, message.stop_reason, FINISHES, usage, max_tokens)
        calls = [tool_call(block.id, block.name, block.input) for block in message.content if block.type == "tool_use"]
        reply = ChatReply(
            text="".join(block.text for block in message.content if block.type == "text"),
            tool_calls=tuple(calls),
            finish=finish_with(finish, calls),
            usage=usage or Usage(is_known=False),
            model=message.model,
            provider_request_id=message.id,
        )
    return with_text(NAME, reply)


def _usage(counted: AnthropicUsage) -> Usage:
    """Anthropic counts cached tokens apart from input tokens."""
    read, written = counted.cache_read_input_tokens or 0, counted.cache_creation_input_tokens or 0
    return Usage(
        input_tokens=counted.input_tokens + read + written,
        cached_input_tokens=read,
        cache_write_tokens=written,
        output_tokens=counted.output_tokens,
        price_class=_price_class(counted),
    )


def _price_class(counted: AnthropicUsage) -> str:
    """What changes the price: https://platform.claude.com/docs/en/about-claude/pricing; empty for the usual price."""
    tier, place, speed = counted.service_tier, counted.inference_geo, counted.speed
    named = (
        "" if tier in STANDARD_TIERS else tier,
        "" if speed == "standard" else speed,
        "" if place in STANDARD_PLACES else place,
    )
    return vendor_text("+".join(part for part in named if part))


def mapped_error(error: Exception) -> ProviderError:
    """The error that the SDK's error means."""
    if isinstance(error, anthropic.APIStatusError):
        return ERRORS.error(NAME, error.status_code, error.body or error.message, error.response.headers)
    if isinstance(error, (anthropic.APIResponseValidationError, *UNREADABLE)):
        return MalformedReply(NAME, vendor_text(error))
    return from_connection(NAME, error)
