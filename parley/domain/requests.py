"""What a paid request consists of: the provider, the request, the reply, and its id."""

import hashlib
import json
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Any, Literal, Self, cast, get_args

from pydantic import AfterValidator, Field, model_validator

from parley.domain.model import Model, Received, Text


class Provider(StrEnum):
    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    ELEVENLABS = "elevenlabs"
    LOCAL = "local"


# The providers that answer chats, in the order in which they are tried where nothing else decides.
ChatProviderName = Literal["anthropic", "openai", "local"]
CHAT_PROVIDERS = tuple(Provider(name) for name in get_args(ChatProviderName))


def _check_chat_provider(provider: Provider) -> Provider:
    if provider not in CHAT_PROVIDERS:
        raise ValueError(f"{provider.value} does not answer chats: use {', '.join(CHAT_PROVIDERS)}")
    return provider


ChatProvider = Annotated[Provider, AfterValidator(_check_chat_provider)]

# 30 days: a job that waits longer has probably been forgotten.
MAX_WAIT_LIMIT_SECONDS = 30 * 86400


class ByName(Model):
    """The only provider, and its only model, that may serve a job; None for any."""

    provider: ChatProvider | None = None
    model: str | None = None

    @model_validator(mode="after")
    def _model_needs_provider(self) -> Self:
        if self.model is not None and self.provider is None:
            raise ValueError("model needs a provider: set both, or neither")
        return self


class Message(Model):
    role: Literal["system", "user", "assistant"]
    content: Text


def joined_turns(messages: Iterable[Message]) -> list[Message]:
    """The messages with neighbours of one role joined: vendors require alternating roles."""
    turns: list[Message] = []
    for message in messages:
        if turns and turns[-1].role == message.role:
            joined = f"{turns.pop().content}\n\n{message.content}"
            message = message.model_copy(update={"content": joined})  # noqa: PLW2901
        turns.append(message)
    return turns


class ChatRequest(Model):
    """A vendor-independent request for one LLM completion. `response_schema`: JSON schema that the reply follows."""

    kind: Literal["chat"] = "chat"
    messages: tuple[Message, ...]
    max_tokens: int = Field(gt=0)
    temperature: float | None = Field(default=None, ge=0, le=2)
    schema_name: str = "reply"
    response_schema: dict[str, Any] | None = None


class TranscriptionRequest(Model):
    """Speech to text with word times, speakers and audio events. `audio` is not part of the serialized request."""

    kind: Literal["transcription"] = "transcription"
    audio_sha256: str
    audio_seconds: float = Field(gt=0)
    audio: bytes = Field(exclude=True, repr=False)


Request = ChatRequest | TranscriptionRequest


# No context window is as large and no recording as long: a greater count is an error of the provider.
MOST_TOKENS, MOST_AUDIO_SECONDS = 100_000_000, 1_000_000
MOST_COUNTED = {
    "input_tokens": MOST_TOKENS,
    "cached_input_tokens": MOST_TOKENS,
    "cache_write_tokens": MOST_TOKENS,
    "output_tokens": MOST_TOKENS,
    "audio_seconds": MOST_AUDIO_SECONDS,
}


class Usage(Model):
    """Units that a provider counted. Input tokens include cached ones, also where the vendor counts them apart.

    `price_class`: what the vendor names as a reason for another price, such as `priority`; empty for the usual price.
    `is_known`: False where counts are missing or cannot be true (negative, not a number, absurdly large). All are 0
    then, and the cost is uncertain: the reply is paid for and must not be lost because of them.
    """

    input_tokens: int = Field(default=0, ge=0)
    cached_input_tokens: int = Field(default=0, ge=0)
    cache_write_tokens: int = Field(default=0, ge=0)
    output_tokens: int = Field(default=0, ge=0)
    audio_seconds: float = Field(default=0, ge=0)
    price_class: Received = ""
    is_known: bool = True

    @model_validator(mode="before")
    @classmethod
    def _drop_impossible_counts(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        counts = cast("dict[str, Any]", given)
        limits = {name: most for name, most in MOST_COUNTED.items() if name in counts}
        if all(_is_possible(counts[name], most) for name, most in limits.items()):
            return counts
        return {name: value for name, value in counts.items() if name not in limits} | {"is_known": False}

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


def _is_possible(count: object, most: int) -> bool:
    """Whether a provider can have counted this. NaN is not possible: every comparison with it is false."""
    if isinstance(count, bool) or not isinstance(count, (int, float)):
        return False
    return 0 <= count <= most and (most != MOST_TOKENS or count == int(count))


class Finish(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    REFUSED = "refused"


class ChatReply(Model):
    """A whole completion. `model`: the name that the reply gives; the simulator's begins with `simulator/`."""

    kind: Literal["chat"] = "chat"
    text: Received
    finish: Finish
    usage: Usage
    model: Received
    provider_request_id: Received = ""


class SpokenWord(Model):
    """One word of a transcription: times in seconds from the start, `confidence` between 0 and 1."""

    text: Received
    start: float
    end: float
    speaker: Received = ""
    confidence: float = Field(default=1.0, ge=0, le=1)
    kind: Literal["word", "audio_event"] = "word"


class TranscriptionReply(Model):
    kind: Literal["transcription"] = "transcription"
    words: tuple[SpokenWord, ...]
    language: Received = ""
    usage: Usage
    model: Received
    provider_request_id: Received = ""


Reply = Annotated[ChatReply | TranscriptionReply, Field(discriminator="kind")]


def request_id(job_key: str, *parts: str) -> str:
    """The id of one logical step of a job: `{job_key}/{step}`, with further parts separated by `/`.

    A pure function of the step's place in the job, so that retries, replays and fallback attempts share the id.
    """
    return "/".join((job_key, *parts))


def fingerprint(request: ChatRequest | TranscriptionRequest) -> str:
    """SHA-256 of the logical request. Provider and model are left out: a fallback sends the same request."""
    canonical = json.dumps(request.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
