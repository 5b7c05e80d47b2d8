"""OpenAI chat completions on OpenAI's own SDK; also any local server that speaks the same format."""

from typing import Any

import openai
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion

from parley.domain.capabilities import without_dropped
from parley.domain.errors import (
    BadRequest,
    ContextTooLong,
    MalformedReply,
    ProviderError,
    QuotaExceeded,
    TruncatedReply,
)
from parley.domain.requests import ChatReply, ChatRequest, Finish, Provider, Request, Usage
from parley.providers.protocol import (
    ATTEMPT_HEADER,
    ATTEMPT_METADATA,
    UNREADABLE,
    check_listing,
    errors_mapped,
    from_connection,
    from_status,
    vendor_text,
)

ADDRESS = "https://api.openai.com/v1"
FINISHES = {"stop": Finish.STOP, "length": Finish.LENGTH, "content_filter": Finish.REFUSED}
# OpenAI has an error code for a prompt that is too long; vLLM and llama.cpp have these messages.
CONTEXT_WORDS = ("maximum context length", "available context size")


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
            return self._reply(completion)

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

    def _reply(self, completion: ChatCompletion) -> ChatReply:
        name = self._provider.value
        # The SDK returns a body that is not JSON as a string.
        if not isinstance(completion, ChatCompletion):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise MalformedReply(name, "the body is not a chat completion")
        usage = _usage(completion.usage)
        if not completion.choices:
            raise MalformedReply(name, "the reply has no choices", usage=usage)
        choice = completion.choices[0]
        finish = FINISHES.get(choice.finish_reason or "")
        if finish is None:
            raise TruncatedReply(name, f"finish reason {choice.finish_reason!r}", usage=usage)
        if usage is None:
            raise MalformedReply(name, "the reply has no usage")
        return ChatReply(
            text=choice.message.content or "",
            finish=Finish.REFUSED if choice.message.refusal else finish,
            usage=usage,
            model=completion.model,
            provider_request_id=completion.id or "",
        )

    def _mapped(self, error: Exception) -> ProviderError:
        if isinstance(error, openai.APIStatusError):
            return self._mapped_status(error)
        if isinstance(error, (openai.APIResponseValidationError, *UNREADABLE)):
            return MalformedReply(self._provider.value, vendor_text(error))
        return from_connection(self._provider.value, error)

    def _mapped_status(self, error: openai.APIStatusError) -> ProviderError:
        name, detail = self._provider.value, vendor_text(error.message)
        if error.code == "insufficient_quota":
            return QuotaExceeded(name, detail)
        if error.code == "context_length_exceeded" or any(words in detail for words in CONTEXT_WORDS):
            return ContextTooLong(name, detail)
        return from_status(name, error.status_code, detail, error.response.headers)


def _usage(counted: CompletionUsage | None) -> Usage | None:
    """OpenAI counts cached tokens inside the prompt's."""
    if counted is None:
        return None
    details = counted.prompt_tokens_details
    return Usage(
        input_tokens=counted.prompt_tokens,
        cached_input_tokens=(details.cached_tokens or 0) if details else 0,
        output_tokens=counted.completion_tokens,
    )
