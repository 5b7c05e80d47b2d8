"""OpenAI chat completions on OpenAI's own SDK; also any local server that speaks the same format."""

from typing import Any, cast

import openai
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion

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
from parley.domain.requests import ChatReply, ChatRequest, Finish, Provider, Request, Usage
from parley.providers.protocol import (
    ATTEMPT_HEADER,
    ATTEMPT_METADATA,
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

ADDRESS = "https://api.openai.com/v1"
# OpenAI's reasons (https://platform.openai.com/docs/api-reference/chat/object), and the names that compatible servers
# have for them.
FINISHES = {
    "stop": Finish.STOP,
    "stop_sequence": Finish.STOP,
    "end_turn": Finish.STOP,
    "eos": Finish.STOP,
    "eos_token": Finish.STOP,
    "length": Finish.LENGTH,
    "max_tokens": Finish.LENGTH,
    "max_length": Finish.LENGTH,
    "model_length": Finish.LENGTH,
    "content_filter": Finish.REFUSED,
    "safety": Finish.REFUSED,
    "refusal": Finish.REFUSED,
    # The server gave up in the middle of the reply.
    "error": None,
    "abort": None,
    "cancelled": None,
}
# Classes of service without a price of their own.
STANDARD_TIERS = ("auto", "default", "standard")
# OpenAI: https://platform.openai.com/docs/guides/error-codes and .../docs/guides/rate-limits. Azure's filter:
# https://learn.microsoft.com/azure/ai-foundry/openai/concepts/content-filter. Compatible servers have no common list.
ERRORS = ErrorTable(
    codes={
        "insufficient_quota": QuotaExceeded,
        "billing_not_active": QuotaExceeded,
        "billing_hard_limit_reached": QuotaExceeded,
        "billing_limit_user_error": QuotaExceeded,
        "insufficient_balance": QuotaExceeded,
        "insufficient_credits": QuotaExceeded,
        "context_length_exceeded": ContextTooLong,
        "exceed_context_size_error": ContextTooLong,  # llama.cpp
        "request_too_large": ContextTooLong,
        "content_filter": ContentFiltered,
        "content_policy_violation": ContentFiltered,
        "responsibleaipolicyviolation": ContentFiltered,  # Azure
        "invalid_api_key": AuthenticationFailed,
    },
    words={
        "request too large": ContextTooLong,  # larger than the allowance of a minute
        "maximum context length": ContextTooLong,  # vLLM
        "available context size": ContextTooLong,  # llama.cpp, before its code
        "exceeds the context window": ContextTooLong,
        "billing hard limit": QuotaExceeded,
        "check your billing": QuotaExceeded,
        "insufficient balance": QuotaExceeded,
        "insufficient credit": QuotaExceeded,
        "content management policy": ContentFiltered,
        "flagged as potentially violating": ContentFiltered,
    },
    general={
        "rate_limit_exceeded": RateLimited,
        "tokens": RateLimited,
        "requests": RateLimited,
        "invalid_request_error": BadRequest,
        "server_error": ProviderUnavailable,
        "service_unavailable_error": ProviderUnavailable,
    },
)


class OpenAIAdapter:
    """Chat completions of OpenAI, or of a compatible server at `base_url`."""

    def __init__(
        self,
        provider: Provider,
        *,
        api_key: str,
        base_url: str | None,
        timeout: float,
        with_account: bool = False,
        store: bool = False,
    ) -> None:
        """Connect to the API.

        with_account: send the account headers that the SDK reads in the environment; only with the key from there.
        store: OpenAI stores each reply under its attempt's id, so that a lost reply can be recovered.
        """
        self._provider, self._key, self._store = provider, api_key, store
        # Without an address the SDK uses the environment's, even an empty one.
        self._client = openai.AsyncOpenAI(api_key=api_key, base_url=base_url or ADDRESS, timeout=timeout, max_retries=0)
        if not with_account:
            self._client.organization = self._client.project = self._client.admin_api_key = None
            self._client._custom_headers = {}  # OPENAI_CUSTOM_HEADERS; no option keeps the SDK from reading it

    async def call(self, request: Request, model: str, attempt_id: str) -> ChatReply:
        if not isinstance(request, ChatRequest):
            raise BadRequest(self._provider.value, f"cannot serve a {request.kind}")
        request = without_dropped(self._provider, model, request)
        messages: Any = [message.model_dump() for message in request.messages]
        stored: dict[str, Any] = {"store": True, "metadata": {ATTEMPT_METADATA: attempt_id}} if self._store else {}
        with errors_mapped(openai.APIError, self._mapped, self._key):
            completion = await self._client.chat.completions.create(
                model=model,
                messages=messages,
                extra_headers={ATTEMPT_HEADER: attempt_id},
                **self._options(request),
                **stored,
            )
            return self._reply(completion, request.max_tokens)

    async def recover(self, attempt_id: str) -> ChatReply | None:
        """Look by attempt id, not by model: OpenAI lists a completion under the dated name of its model."""
        if not self._store:
            return None
        wanted = {ATTEMPT_METADATA: attempt_id}
        with errors_mapped(openai.APIError, self._mapped, self._key):
            page = await self._client.chat.completions.list(metadata=wanted)
            # A server that ignores the filter lists every reply: only one with this attempt's id may be used.
            found = [one for one in page.data if (one.metadata or {}).get(ATTEMPT_METADATA) == attempt_id]
            return self._reply(found[0]) if found else None

    async def ping(self) -> None:
        with errors_mapped(openai.APIError, self._mapped, self._key):
            check_listing((await self._client.models.list()).data)

    async def close(self) -> None:
        await self._client.close()

    def _options(self, request: ChatRequest) -> dict[str, Any]:
        # Compatible servers accept only the older name of the limit.
        limit = "max_completion_tokens" if self._provider is Provider.OPENAI else "max_tokens"
        options: dict[str, Any] = {limit: request.max_tokens}
        if request.temperature is not None:
            options["temperature"] = request.temperature
        if request.response_schema is not None:
            schema = {"name": request.schema_name, "schema": request.response_schema, "strict": True}
            options["response_format"] = {"type": "json_schema", "json_schema": schema}
        return options

    def _reply(self, completion: ChatCompletion, max_tokens: int | None = None) -> ChatReply:
        name = self._provider.value
        # The SDK returns a body that is not JSON as a string.
        if not isinstance(completion, ChatCompletion):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise MalformedReply(name, "the body is not a chat completion")
        usage = usage_of(lambda: self._usage(completion))
        error = (completion.model_extra or {}).get("error")
        if error:
            raise ERRORS.error(name, 200, error, None, usage=usage)
        if not completion.choices:
            raise MalformedReply(name, "the reply has no choices", usage=usage)
        with usage_kept(name, usage):
            choice = completion.choices[0]
            finish = finish_of(name, choice.finish_reason, FINISHES, usage, max_tokens)
            reply = ChatReply(
                text=_text(choice.message.content),
                finish=Finish.REFUSED if choice.message.refusal else finish,
                usage=usage or Usage(is_known=False),
                model=completion.model,
                provider_request_id=completion.id or "",
            )
        return with_text(name, reply)

    def _usage(self, completion: ChatCompletion) -> Usage:
        """OpenAI counts cached tokens inside the prompt's. The operator's price of a local server has no classes.

        Raises:
            AttributeError, TypeError: the reply has no counts.
        """
        counted: Any = completion.usage
        details, tier = counted.prompt_tokens_details, completion.service_tier
        own_prices = self._provider is Provider.LOCAL
        return Usage(
            input_tokens=counted.prompt_tokens,
            cached_input_tokens=(details.cached_tokens or 0) if details else 0,
            output_tokens=_output_tokens(counted),
            price_class="" if own_prices or tier in STANDARD_TIERS else vendor_text(tier or ""),
        )

    def _mapped(self, error: Exception) -> ProviderError:
        if isinstance(error, openai.APIStatusError):
            return self._mapped_status(error)
        if isinstance(error, (openai.APIResponseValidationError, *UNREADABLE)):
            return MalformedReply(self._provider.value, vendor_text(error))
        return from_connection(self._provider.value, error)

    def _mapped_status(self, error: openai.APIStatusError) -> ProviderError:
        return ERRORS.error(
            self._provider.value, error.status_code, error.body or error.message, error.response.headers
        )


def _text(content: object) -> str:
    """The text of a message. Some servers send it in parts, between parts of other kinds.

    Raises:
        TypeError: it is neither text nor a list of parts.
    """
    if isinstance(content, list):
        return "".join(_part_text(part) for part in cast(list[object], content))
    if content is None or isinstance(content, str):
        return content or ""
    raise TypeError(f"the content is a {type(content).__name__}")


def _part_text(part: object) -> str:
    """The text of a part; empty for another kind of part, such as thinking."""
    if isinstance(part, str):
        return part
    fields = cast(dict[str, Any], part) if isinstance(part, dict) else {}
    text = fields.get("text") if fields.get("type") in ("text", "output_text") else ""
    return text if isinstance(text, str) else ""


def _output_tokens(counted: CompletionUsage) -> int:
    """The tokens of the reply with its reasoning, which some servers count beside the completion.

    The total shows which: nothing is added where prompt and completion make the total. Where the total agrees with
    neither reading, the larger number is right: too much is noticed on a bill, too little is not. A negative count
    is returned as it is: it makes the usage unknown.
    """
    prompt, completion, total = counted.prompt_tokens, counted.completion_tokens, counted.total_tokens
    details = counted.completion_tokens_details
    reasoning = (details.reasoning_tokens or 0) if details else 0
    if completion < 0 or reasoning < 0:
        return min(completion, reasoning)
    inside, beside = completion, completion + reasoning
    if not total:
        return inside if reasoning <= completion else beside
    if total - prompt in (inside, beside):
        return total - prompt
    return max(beside, total - prompt)
