"""Anthropic messages on Anthropic's own SDK."""

from typing import Any

import anthropic
from anthropic.types import Message as AnthropicMessage
from anthropic.types import Usage as AnthropicUsage

from parley.domain.capabilities import without_dropped
from parley.domain.errors import (
    BadRequest,
    Billed,
    ContextTooLong,
    MalformedReply,
    ProviderError,
    ProviderUnavailable,
    QuotaExceeded,
    RateLimited,
    TruncatedReply,
)
from parley.domain.requests import ChatReply, ChatRequest, Finish, Provider, Request, Usage
from parley.providers.protocol import (
    ATTEMPT_HEADER,
    UNREADABLE,
    check_listing,
    errors_mapped,
    from_connection,
    from_status,
    retry_after,
    vendor_text,
)

NAME = Provider.ANTHROPIC.value
ADDRESS = "https://api.anthropic.com"
FINISHES = {
    "end_turn": Finish.STOP,
    "stop_sequence": Finish.STOP,
    "max_tokens": Finish.LENGTH,
    "model_context_window_exceeded": Finish.LENGTH,
    "refusal": Finish.REFUSED,
}
# Anthropic distinguishes these errors only by their message.
CONTEXT_WORDS = ("prompt is too long", "exceed context limit", "context window")
QUOTA_WORDS = ("credit balance is too low",)


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
        if not isinstance(request, ChatRequest):
            raise BadRequest(NAME, f"cannot serve a {request.kind}")
        request = without_dropped(Provider.ANTHROPIC, model, request)
        messages: Any = [message.model_dump() for message in request.messages if message.role != "system"]
        with errors_mapped(anthropic.APIError, _mapped, self._key):
            message = await self._client.messages.create(
                model=model,
                max_tokens=request.max_tokens,
                messages=messages,
                extra_headers={ATTEMPT_HEADER: attempt_id},
                **_options(request),
            )
            return _reply(message)

    async def recover(self, attempt_id: str) -> None:  # noqa: ARG002 - Anthropic stores no replies
        return None

    async def ping(self) -> None:
        with errors_mapped(anthropic.APIError, _mapped, self._key):
            check_listing((await self._client.models.list(limit=1)).data)

    async def close(self) -> None:
        await self._client.close()


def _options(request: ChatRequest) -> dict[str, Any]:
    options: dict[str, Any] = {}
    system = "\n\n".join(message.content for message in request.messages if message.role == "system")
    if system:
        options["system"] = system
    if request.response_schema is not None:
        options["output_config"] = {"format": {"type": "json_schema", "schema": request.response_schema}}
    return options


def _reply(message: AnthropicMessage) -> ChatReply:
    # The SDK returns a body that is not JSON as a string. A refusal may have no content.
    if not isinstance(message, AnthropicMessage):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise MalformedReply(NAME, "the body is not a message")
    usage = _usage(message.usage)
    finish = FINISHES.get(message.stop_reason or "")
    if finish is None:
        raise TruncatedReply(NAME, f"stop reason {message.stop_reason!r}", usage=usage)
    return ChatReply(
        text="".join(block.text for block in message.content if block.type == "text"),
        finish=finish,
        usage=usage,
        model=message.model,
        provider_request_id=message.id,
    )


def _usage(counted: AnthropicUsage) -> Usage:
    """Anthropic counts cached tokens apart from input tokens."""
    read, written = counted.cache_read_input_tokens or 0, counted.cache_creation_input_tokens or 0
    return Usage(
        input_tokens=counted.input_tokens + read + written,
        cached_input_tokens=read,
        cache_write_tokens=written,
        output_tokens=counted.output_tokens,
    )


def _mapped(error: Exception) -> ProviderError:
    if isinstance(error, anthropic.APIStatusError):
        return _mapped_status(error)
    if isinstance(error, (anthropic.APIResponseValidationError, *UNREADABLE)):
        return MalformedReply(NAME, vendor_text(error))
    return from_connection(NAME, error)


def _mapped_status(error: anthropic.APIStatusError) -> ProviderError:
    """By the type in the body first: an error inside a stream has status 200."""
    detail, words = vendor_text(error.message), error.message.lower()
    if any(word in words for word in CONTEXT_WORDS):
        return ContextTooLong(NAME, detail)
    if any(word in words for word in QUOTA_WORDS) or error.type == "billing_error":
        return QuotaExceeded(NAME, detail)
    if error.type == "overloaded_error":
        return ProviderUnavailable(NAME, detail, billed=Billed.NO)
    if error.type == "rate_limit_error":
        return RateLimited(NAME, detail, retry_after=retry_after(error.response.headers))
    if error.status_code == 200:
        return ProviderUnavailable(NAME, detail)
    return from_status(NAME, error.status_code, detail, error.response.headers)
