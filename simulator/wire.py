"""The vocabulary that the vendors' endpoints share: what is asked, what is answered, what is refused."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Protocol

from starlette.requests import Request

PROVIDERS = ("openai", "anthropic", "elevenlabs", "local")
ATTEMPT_HEADER = "x-parley-attempt-id"
BYTES_PER_TOKEN = 4


def tokens(text: str) -> int:
    """The simulator's token count: one for every four bytes of UTF-8, rounded up. No vendor's tokenizer."""
    return ceil(len(text.encode()) / BYTES_PER_TOKEN)


def model_name(requested: str) -> str:
    """No reply may be taken for a real model's."""
    return f"simulator/{requested}"


@dataclass(frozen=True)
class Message:
    role: str
    text: str


@dataclass(frozen=True)
class Prompt:
    """A chat completion that was asked for, whatever the vendor. `tool`: the name of a tool it must call.

    `store`: keep the completion, under this metadata, for those who list what is stored.
    """

    model: str
    messages: tuple[Message, ...]
    max_tokens: int | None = None
    schema: dict[str, Any] | None = None
    tool: str | None = None
    stream: bool = False
    include_usage: bool = False
    store: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def text(self) -> str:
        return "\n".join(message.text for message in self.messages)

    @property
    def input_tokens(self) -> int:
        schema = json.dumps(self.schema) if self.schema else ""
        return tokens(self.text) + tokens(schema)

    def said_by(self, *roles: str) -> list[str]:
        return [message.text for message in self.messages if message.role in roles]


@dataclass(frozen=True)
class Body:
    """The bytes of a reply: one part, or the events of a stream, which are sent one by one."""

    parts: tuple[bytes, ...]
    content_type: str = "application/json"
    stream: bool = False

    @classmethod
    def json(cls, value: object) -> "Body":
        return cls((json.dumps(value, ensure_ascii=False).encode(),))

    @classmethod
    def events(cls, events: Iterable[str]) -> "Body":
        return cls(tuple(event.encode() for event in events), "text/event-stream; charset=utf-8", stream=True)


@dataclass(frozen=True)
class Reply:
    """A computed answer, and what it costs. `stored`: the completion that is kept, where that was asked for."""

    body: Body
    input_tokens: int = 0
    output_tokens: int = 0
    audio_seconds: float = 0.0
    stored: dict[str, Any] | None = None


class Refusal(Exception):
    """An error reply that bills nothing. `kind` picks the vendor's error, `facts` fill its message."""

    def __init__(self, kind: str, message: str = "", *, retry_after: float | None = None, **facts: Any) -> None:
        super().__init__(message or kind)
        self.kind, self.message, self.retry_after, self.facts = kind, message, retry_after, facts


class Vendor(Protocol):
    """One endpoint in one vendor's dialect. `damage` names the fault that the reply itself must show."""

    @property
    def name(self) -> str: ...
    @property
    def request_id_header(self) -> str: ...
    def key(self, headers: Mapping[str, str]) -> str | None: ...
    async def read(self, request: Request) -> Any: ...
    def traits(self, asked: Any) -> frozenset[str]: ...
    async def answer(self, asked: Any, number: int, damage: str) -> Reply: ...
    def refuse(self, refusal: Refusal, request_id: str) -> tuple[int, object]: ...
    def models(self) -> object: ...
