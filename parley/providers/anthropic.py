"""Anthropic messages on Anthropic's own SDK."""

from typing import Any

import anthropic
from anthropic.types import Message as AnthropicMessage
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
)
from parley.domain.requests import (
    ChatReply,
    ChatRequest,
    Finish,
    Message,
    Provider,
    Request,
    Usage,
    joined_turns,
)
from parley.providers.protocol import (
    ATTEMPT_HEADER,
    UNREADABLE,
    ErrorTable,
    check_listing,
    errors_mapped,
    finish_of,
    from_connection,
    usage_kept,
    usage_of,
    vendor_text,
    with_text,
)

NAME = Provider.ANTHROPIC.value
ADDRESS = "https://api.anthropic.com"
# https://platform.claude.com/docs/en/build-with-claude/handling-stop-reasons
FINISHES = {
    "end_turn": Finish.STOP,
    "stop_sequence": Finish.STOP,
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
        if not isinstance(request, ChatRequest):
            raise BadRequest(NAME, f"cannot serve a {request.kind}")
        request = without_dropped(Provider.ANTHROPIC, model, request)
        messages: Any = [message.model_dump() for message in _turns(request.messages)]
        with errors_mapped(anthropic.APIError, _mapped, self._key):
            message = await self._client.messages.create(
                model=model,
                max_tokens=request.max_tokens,
                messages=messages,
                extra_headers={ATTEMPT_HEADER: attempt_id},
                **_options(request),
            )
            return _reply(message, request.max_tokens)

    async def recover(self, attempt_id: str) -> None:  # noqa: ARG002 - Anthropic stores no replies
        return None

    async def ping(self) -> None:
        with errors_mapped(anthropic.APIError, _mapped, self._key):
            check_listing((await self._client.models.list(limit=1)).data)

    async def close(self) -> None:
        await self._client.close()


def _turns(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The turns that Anthropic accepts: none is blank, and a last one of the assistant's has no blanks at its end."""
    turns = joined_turns(message for message in messages if message.role != "system" and message.content.strip())
    if turns and turns[-1].role == "assistant":
        turns[-1] = turns[-1].model_copy(update={"content": turns[-1].content.rstrip()})
    return tuple(turns)


def _options(request: ChatRequest) -> dict[str, Any]:
    options: dict[str, Any] = {}
    system = "\n\n".join(
        message.content for message in request.messages if message.role == "system" and message.content.strip()
    )
    if system:
        options["system"] = system
    if request.response_schema is not None:
        options["output_config"] = {"format": {"type": "json_schema", "schema": request.response_schema}}
    return options


def _reply(message: AnthropicMessage, max_tokens: int) -> ChatReply:
    # The SDK returns a body that is not JSON as a string. A refusal may have no content.
    if not isinstance(message, AnthropicMessage):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise MalformedReply(NAME, "the body is not a message")
    usage = usage_of(lambda: _usage(message.usage))
    error = (message.model_extra or {}).get("error")
    if error:
        raise ERRORS.error(NAME, 200, error, None, usage=usage)
    with usage_kept(NAME, usage):
        reply = ChatReply(
            text="".join(block.text for block in message.content if block.type == "text"),
            finish=finish_of(NAME, message.stop_reason, FINISHES, usage, max_tokens),
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


def _mapped(error: Exception) -> ProviderError:
    if isinstance(error, anthropic.APIStatusError):
        return ERRORS.error(NAME, error.status_code, error.body or error.message, error.response.headers)
    if isinstance(error, (anthropic.APIResponseValidationError, *UNREADABLE)):
        return MalformedReply(NAME, vendor_text(error))
    return from_connection(NAME, error)
