"""OpenAI chat completions and embeddings on OpenAI's own SDK; also any local server that speaks the same format."""

import json
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from typing import Any, TypeVar, cast

import openai
from openai.types import CompletionUsage, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.chat_completion_chunk import ChoiceDelta, ChoiceDeltaToolCall

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
from parley.domain.requests import (
    ChatReply,
    ChatRequest,
    EmbeddingReply,
    EmbeddingRequest,
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
    ToolChoice,
    Usage,
)
from parley.domain.streaming import Delta
from parley.providers.embeddings import embedding_arguments, embedding_reply
from parley.providers.protocol import (
    ATTEMPT_HEADER,
    ATTEMPT_METADATA,
    UNREADABLE,
    ErrorTable,
    check_listing,
    errors_mapped,
    finish_of,
    finish_with,
    from_connection,
    new_call_id,
    tool_call,
    usage_kept,
    usage_of,
    vendor_text,
    with_text,
)
from parley.providers.streaming import StreamedCall, StreamedReply, interruption_counted

BodyT = TypeVar("BodyT", ChatCompletion, CreateEmbeddingResponse)

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
    "tool_calls": Finish.TOOL_CALLS,
    "function_call": Finish.TOOL_CALLS,
    "tool_use": Finish.TOOL_CALLS,
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
        "max_tokens_per_request": ContextTooLong,  # of all texts to embed
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
    """Chat completions and embeddings of OpenAI, or of a compatible server at `base_url`."""

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

    async def call(self, request: Request, model: str, attempt_id: str) -> Reply:
        if isinstance(request, EmbeddingRequest):
            return await self._embed(request, model, attempt_id)
        body = self._body(request, model, attempt_id)
        with errors_mapped(openai.APIError, self._mapped, self._key):
            completion = await self._client.chat.completions.create(**_sent(body, attempt_id))
            return self._reply(completion, body[self._limit])

    async def _embed(self, request: EmbeddingRequest, model: str, attempt_id: str) -> EmbeddingReply:
        with errors_mapped(openai.APIError, self._mapped, self._key):
            response = await self._client.embeddings.create(
                **embedding_arguments(self._provider, request, model), extra_headers={ATTEMPT_HEADER: attempt_id}
            )
            usage = self._checked(response, CreateEmbeddingResponse, self._embedding_usage)
            return embedding_reply(self._provider.value, request, response, usage)

    async def stream(self, request: Request, model: str, attempt_id: str) -> AsyncGenerator[Delta | Reply]:
        options: dict[str, Any] = {"stream_options": {"include_usage": True}}
        body = self._body(request, model, attempt_id) | options
        reply = _StreamedCompletion(self._provider.value)
        with (
            interruption_counted(reply, lambda: usage_of(lambda: self._usage(reply.completion))),
            errors_mapped(openai.APIError, self._mapped, self._key),
        ):
            async with await self._client.chat.completions.create(**_sent(body, attempt_id), stream=True) as chunks:
                async for chunk in chunks:
                    for delta in reply.add(chunk):
                        yield delta
            for delta in reply.end():
                yield delta
            yield self._reply(reply.completion, body[self._limit])

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

    @property
    def _limit(self) -> str:
        """The name of the token limit. Compatible servers accept only the older one."""
        return "max_completion_tokens" if self._provider is Provider.OPENAI else "max_tokens"

    def _body(self, request: Request, model: str, attempt_id: str) -> dict[str, Any]:
        """The body of a request for a completion.

        Raises:
            BadRequest: it is not a chat request.
        """
        if not isinstance(request, ChatRequest):
            raise BadRequest(self._provider.value, f"cannot serve a request of the kind {request.kind}")
        request = without_dropped(self._provider, model, request)
        stored: dict[str, Any] = {"store": True, "metadata": {ATTEMPT_METADATA: attempt_id}} if self._store else {}
        return {
            "model": model,
            "messages": [self._message(message) for message in request.messages],
            self._limit: request.max_tokens,
            **_options(request),
            **stored,
        }

    def _message(self, message: Message) -> dict[str, Any]:
        """A message on the wire. Chat templates of local models know no developer, and some no message without text."""
        own_server = self._provider is Provider.LOCAL
        sent: dict[str, Any] = {"role": message.role, "content": message.text}
        if message.role == "developer" and own_server:
            sent["role"] = "system"
        if message.images:
            sent["content"] = [_part(part) for part in message.parts]
        if message.tool_calls:
            sent["content"] = message.text or ("" if own_server else None)
            sent["tool_calls"] = [_call(call) for call in message.tool_calls]
        return sent | ({"tool_call_id": message.tool_call_id} if message.tool_call_id else {})

    def _reply(self, completion: ChatCompletion, max_tokens: int | None = None) -> ChatReply:
        name = self._provider.value
        usage = self._checked(completion, ChatCompletion, self._usage)
        if not completion.choices:
            raise MalformedReply(name, "the reply has no choices", usage=usage)
        with usage_kept(name, usage):
            choice = completion.choices[0]
            finish = finish_of(name, choice.finish_reason, FINISHES, usage, max_tokens)
            calls = tuple(map(_read_call, choice.message.tool_calls or ()))
            reply = ChatReply(
                text=_text(choice.message.content),
                tool_calls=calls,
                finish=Finish.REFUSED if choice.message.refusal else finish_with(finish, calls),
                usage=usage or Usage(is_known=False),
                model=completion.model,
                provider_request_id=completion.id or "",
            )
        return with_text(name, reply)

    def _checked(self, body: BodyT, kind: type[BodyT], counts: Callable[[BodyT], Usage]) -> Usage | None:
        """What a body counts, if it is of its kind and no error.

        Raises:
            ProviderError: it is not.
        """
        name = self._provider.value
        # The SDK returns a body that is not JSON as a string.
        if not isinstance(body, kind):
            raise MalformedReply(name, f"the body is not a {kind.__name__}")
        usage = usage_of(lambda: counts(body))
        error = (body.model_extra or {}).get("error")
        if error:
            raise ERRORS.error(name, 200, error, None, usage=usage)
        return usage

    def _embedding_usage(self, response: CreateEmbeddingResponse) -> Usage:
        """Raises: AttributeError, TypeError: the reply has no counts."""
        return Usage(input_tokens=response.usage.prompt_tokens)

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
        if isinstance(error, openai.APIError) and not isinstance(error, openai.APIConnectionError):
            # In the middle of a stream, whose status is 200.
            return ERRORS.error(self._provider.value, 200, error.body or error.message, None)
        return from_connection(self._provider.value, error)

    def _mapped_status(self, error: openai.APIStatusError) -> ProviderError:
        return ERRORS.error(
            self._provider.value, error.status_code, error.body or error.message, error.response.headers
        )


def _sent(body: Mapping[str, Any], attempt_id: str) -> dict[str, Any]:
    """The arguments of the SDK's call.

    The body is in `extra_body`, which the SDK sends as it is. It compares other arguments value by value with their
    types, which takes more time than to send them: for 30 messages 4 ms. The body replaces `messages`, which it needs.
    """
    headers = {ATTEMPT_HEADER: attempt_id}
    return {"model": body["model"], "messages": (), "extra_body": body, "extra_headers": headers}


class _StreamedCompletion(StreamedReply):
    """A completion from the chunks of a stream: what OpenAI documents, and what compatible servers make of it.

    Usage is in any chunk, in several, or in none: the last one is the count. A chunk without choices ends nothing.
    """

    def __init__(self, provider: str) -> None:
        super().__init__()
        self._provider = provider
        self._known: dict[str, Any] = {"id": "", "model": "", "service_tier": None, "usage": None}
        self._finish: str | None = None
        self._refusal = ""
        self._chunks = 0
        # By the index on the wire, which compatible servers leave out or use twice.
        self._current: dict[int | None, StreamedCall] = {}

    def add(self, chunk: ChatCompletionChunk) -> Iterator[Delta]:
        """Raises: ProviderError, where the chunk is an error; vLLM names it in `object`."""
        self._chunks += 1
        if chunk.object == "error":  # pyright: ignore[reportUnnecessaryComparison]
            raise ERRORS.error(self._provider, 200, chunk.to_dict(), None)
        self._known |= {name: value for name in self._known if (value := getattr(chunk, name, None))}
        for choice in chunk.choices or ():
            if not choice.index:  # some servers leave it out
                self._finish = choice.finish_reason or self._finish
                yield from self._add_delta(choice.delta)

    def _add_delta(self, delta: ChoiceDelta | None) -> Iterator[Delta]:
        if delta is None:  # pyright: ignore[reportUnnecessaryComparison]
            return
        self._refusal += delta.refusal or ""
        yield from self.add_text(_text(delta.content))
        for piece in delta.tool_calls or ():
            yield from self._add_call(piece)

    def _add_call(self, piece: ChoiceDeltaToolCall) -> Iterator[Delta]:
        index, id, function = piece.index, piece.id, piece.function
        name, arguments = (function.name, function.arguments) if function else (None, None)
        call = self._current.get(index)
        if call is None or (name and id and self._is_another(call, id, name)):
            yield from self.start_call(id or new_call_id(), name or "")
            call = self._current[index] = self.calls[-1]
        text = arguments if isinstance(arguments, str) or not arguments else json.dumps(arguments)
        yield from self.add_arguments(call, text or "")

    def _is_another(self, call: StreamedCall, id: str, name: str) -> bool:
        """Whether a piece with this id and name begins another call than the one with its index.

        Ollama and others give every call the index 0; vLLM has given every piece of one call an id of its own.
        """
        return id != call.id and (name != call.name or _is_json(call.arguments.text))

    @property
    def completion(self) -> ChatCompletion:
        """The completion so far, as a reply that is not streamed has it."""
        calls = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments.text}}
            for call in self.calls
        ]
        message = {"role": "assistant", "content": self.text, "refusal": self._refusal or None, "tool_calls": calls}
        choice = {"index": 0, "message": message, "finish_reason": self._finish}
        return ChatCompletion.construct(None, object="chat.completion", choices=[choice], **self._known)

    def end(self) -> Iterator[Delta]:
        """Raises: TruncatedReply: the stream ended before the reply."""
        if not self._chunks:
            raise MalformedReply(self._provider, "the stream has no events")
        if not self._finish:
            raise TruncatedReply(self._provider, "the stream ended without a finish reason")
        yield from super().end()


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _options(request: ChatRequest) -> dict[str, Any]:
    given = {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stop": list(request.stop) or None,
        "seed": request.seed,
        "response_format": _response_format(request),
    }
    if request.tools:
        given |= {
            "tools": [_tool(tool) for tool in request.tools],
            "tool_choice": _tool_choice(request.tool_choice),
            "parallel_tool_calls": request.parallel_tool_calls,
        }
    return {name: value for name, value in given.items() if value is not None}


def _response_format(request: ChatRequest) -> dict[str, Any] | None:
    if request.response_schema is not None:
        schema = {"name": request.schema_name, "schema": request.response_schema, "strict": True}
        return {"type": "json_schema", "json_schema": schema}
    return {"type": "json_object"} if request.json_object else None


def _part(part: TextPart | ImagePart) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    url = part.url or f"data:{part.media_type};base64,{part.data}"
    return {"type": "image_url", "image_url": {"url": url, **({"detail": part.detail} if part.detail else {})}}


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.parameters}
    described = {"description": tool.description} if tool.description else {}
    return {"type": "function", "function": function | described | ({"strict": True} if tool.strict else {})}


def _tool_choice(choice: ToolChoice | None) -> object:
    return {"type": "function", "function": {"name": choice.name}} if isinstance(choice, NamedTool) else choice


def _read_call(call: Any) -> ToolCall:
    return tool_call(call.id, call.function.name, call.function.arguments)


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
