"""OpenAI chat completions on OpenAI's own SDK; also any local server that speaks the same format."""

from typing import Any

import httpx2
import openai
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion

from domain.calls import ChatReply, ChatRequest, Finish, Provider, Request, Usage
from domain.errors import (
    BadRequest,
    Billed,
    ContextTooLong,
    MalformedReply,
    ProviderError,
    ProviderUnavailable,
    QuotaExceeded,
    TruncatedReply,
)
from domain.routing import takes_temperature
from providers.protocol import ATTEMPT_HEADER, UNREADABLE, from_status, redacted, short

FINISHES = {"stop": Finish.STOP, "length": Finish.LENGTH, "content_filter": Finish.REFUSED}
NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
# OpenAI has a code for it; vLLM and llama.cpp have these words.
CONTEXT_WORDS = ("maximum context length", "available context size")


class OpenAIAdapter:
    """Chat completions of OpenAI, or of a compatible server at `base_url`."""

    def __init__(self, provider: Provider, *, api_key: str, base_url: str | None, timeout: float) -> None:
        self._provider, self._key = provider, api_key
        self._client = openai.AsyncOpenAI(api_key=api_key, base_url=base_url, timeout=timeout, max_retries=0)

    async def call(self, request: Request, model: str, attempt_id: str) -> ChatReply:
        if not isinstance(request, ChatRequest):
            raise BadRequest(self._provider.value, f"cannot serve a {request.kind}")
        messages: Any = [message.model_dump() for message in request.messages]
        try:
            completion = await self._client.chat.completions.create(
                model=model,
                messages=messages,
                extra_headers={ATTEMPT_HEADER: attempt_id},
                **self._options(request, model),
            )
            return self._reply(completion)
        except (openai.APIError, httpx2.HTTPError, *UNREADABLE) as error:
            raise redacted(self._mapped(error), self._key) from error

    async def close(self) -> None:
        await self._client.close()

    def _options(self, request: ChatRequest, model: str) -> dict[str, Any]:
        # Compatible servers know only the older name of the limit.
        limit = "max_completion_tokens" if self._provider is Provider.OPENAI else "max_tokens"
        options: dict[str, Any] = {limit: request.max_tokens}
        if request.temperature is not None and takes_temperature(self._provider, model):
            options["temperature"] = request.temperature
        if request.response_schema is not None:
            schema = {"name": request.schema_name, "schema": request.response_schema, "strict": True}
            options["response_format"] = {"type": "json_schema", "json_schema": schema}
        return options

    def _reply(self, completion: ChatCompletion) -> ChatReply:
        name = self._provider.value
        # A body that is not JSON comes through the SDK as a plain string.
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
            raise MalformedReply(name, "the reply does not say what it used")
        return ChatReply(
            text=choice.message.content or "",
            finish=Finish.REFUSED if choice.message.refusal else finish,
            usage=usage,
            model=completion.model,
            provider_request_id=completion.id or "",
        )

    def _mapped(self, error: Exception) -> ProviderError:
        name = self._provider.value
        if isinstance(error, openai.APIStatusError):
            return self._mapped_status(error)
        if isinstance(error, (openai.APIResponseValidationError, *UNREADABLE)):
            return MalformedReply(name, short(error))
        cause = error.__cause__ or error
        slow = isinstance(error, openai.APITimeoutError)
        detail = "no answer within the timeout" if slow else short(f"connection: {cause}")
        return ProviderUnavailable(name, detail, billed=Billed.NO if isinstance(cause, NEVER_SENT) else None)

    def _mapped_status(self, error: openai.APIStatusError) -> ProviderError:
        name, detail = self._provider.value, short(error.message)
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
