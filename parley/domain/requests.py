"""The paid call's vocabulary: what is asked of a provider, what comes back, and under which identity."""

import hashlib
import json
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from parley.domain.model import Model, Received


class Provider(StrEnum):
    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    ELEVENLABS = "elevenlabs"
    LOCAL = "local"


def _answers_chats(provider: Provider) -> Provider:
    if provider is Provider.ELEVENLABS:
        raise ValueError("elevenlabs answers no chat: name openai, anthropic or local")
    return provider


ChatProvider = Annotated[Provider, AfterValidator(_answers_chats)]

# Beyond a month, a job that waits is a job that was forgotten.
LONGEST_PATIENCE_SECONDS = 30 * 86400


class ByName(Model):
    """Who is asked by name, if anyone: then nobody else is."""

    provider: ChatProvider | None = None
    model: str | None = None

    @model_validator(mode="after")
    def _a_model_of_somebody(self) -> Self:
        if self.model is not None and self.provider is None:
            raise ValueError("model goes with a provider")
        return self


class Message(Model):
    role: Literal["system", "user", "assistant"]
    content: str


class ChatRequest(Model):
    """One LLM completion, independent of vendor. `response_schema`: JSON schema that the text must follow."""

    kind: Literal["chat"] = "chat"
    messages: tuple[Message, ...]
    max_tokens: int = Field(gt=0)
    temperature: float | None = Field(default=None, ge=0, le=2)
    schema_name: str = "reply"
    response_schema: dict[str, Any] | None = None


class TranscriptionRequest(Model):
    """Speech to text with word times, speakers and audio events. The bytes travel beside the contract."""

    kind: Literal["transcription"] = "transcription"
    audio_sha256: str
    audio_seconds: float = Field(gt=0)
    audio: bytes = Field(exclude=True, repr=False)


Request = ChatRequest | TranscriptionRequest


class Usage(Model):
    """What a provider counted. Input tokens include cached ones, whatever the vendor's own convention."""

    input_tokens: int = Field(default=0, ge=0)
    cached_input_tokens: int = Field(default=0, ge=0)
    cache_write_tokens: int = Field(default=0, ge=0)
    output_tokens: int = Field(default=0, ge=0)
    audio_seconds: float = Field(default=0, ge=0)

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


class Finish(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    REFUSED = "refused"


class ChatReply(Model):
    """A whole completion. `model` is the name that answered (a simulator says so here)."""

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


def request_id(job_key: str, step: str) -> str:
    """The identity of one logical step of a job: retries, replays and fallback legs share it."""
    return f"{job_key}/{step}"


def fingerprint(request: ChatRequest | TranscriptionRequest) -> str:
    """SHA-256 of the logical request. Provider and model are left out: a fallback leg asks the same thing."""
    canonical = json.dumps(request.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
