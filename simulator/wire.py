"""What the vendors' endpoints share: the parsed request, the reply, the refusal, and the reading of JSON bodies."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any, Protocol

from starlette.requests import Request

from simulator.images import TOKENS as IMAGE_TOKENS
from simulator.tools import Tool, ToolChoice

PROVIDERS = ("openai", "anthropic", "elevenlabs", "local")
ATTEMPT_HEADER = "x-parley-attempt-id"
BYTES_PER_TOKEN = 4
# ASCII, or the first byte of another character, or the rest of it.
SPLIT = re.compile(rb"[\x00-\x7f]+[\xc0-\xff]?|[\x80-\xbf]+[\x00-\x7f]*[\xc0-\xff]?|[\xc0-\xff]")


def count_tokens(text: str) -> int:
    """Count tokens the simulator's way: one for every four bytes of UTF-8, rounded up. No vendor counts like this."""
    return ceil(len(text.encode()) / BYTES_PER_TOKEN)


def model_name(requested: str) -> str:
    """Return the model name of a reply. The prefix shows that no real model wrote it."""
    return f"simulator/{requested}"


@dataclass(frozen=True)
class Message:
    """A message. `images`: how many it has. `called`: the names and arguments of its tool calls."""

    role: str
    text: str
    images: int = 0
    called: str = ""


@dataclass(frozen=True)
class Prompt:
    """A request for a chat completion, independent of the vendor.

    Attributes:
        schema: the JSON schema of the reply; None for plain text.
        choice: whether the reply calls one of the `tools`.
        stop: texts before which the reply ends.
        seed: varies the wording.
        count: how many replies to give.
        store: store the completion, with `metadata`, so that it can be listed later.
        cache_read, cache_written: the tokens of the prompt that the vendor's prompt cache has, and takes.
    """

    model: str
    messages: tuple[Message, ...]
    max_tokens: int | None = None
    schema: dict[str, Any] | None = None
    tools: tuple[Tool, ...] = ()
    choice: ToolChoice = field(default_factory=ToolChoice)
    stop: tuple[str, ...] = ()
    seed: int = 0
    count: int = 1
    stream: bool = False
    include_usage: bool = False
    store: bool = False
    cache_read: int = 0
    cache_written: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def text(self) -> str:
        return "\n".join(message.text for message in self.messages)

    @property
    def input_tokens(self) -> int:
        schema = json.dumps(self.schema) if self.schema else ""
        images = sum(message.images for message in self.messages) * IMAGE_TOKENS
        others = [*(tool.text for tool in self.tools), *(message.called for message in self.messages)]
        return count_tokens(self.text) + count_tokens(schema) + sum(map(count_tokens, others)) + images

    def texts(self, role: str) -> list[str]:
        """Return the texts of the messages of one role."""
        return [message.text for message in self.messages if message.role == role]


class TokenEvent(str):
    """An event of a stream that carries a part of the answer."""


@dataclass(frozen=True)
class Body:
    """The bytes of a reply: one part, or the events of a stream, which are sent one by one.

    `tokens`: the positions of the parts that carry the answer.
    """

    parts: tuple[bytes, ...]
    content_type: str = "application/json"
    stream: bool = False
    tokens: tuple[int, ...] = ()

    @classmethod
    def json(cls, value: object) -> "Body":
        return cls((json.dumps(value, ensure_ascii=False).encode(),))

    @classmethod
    def events(cls, events: Iterable[str]) -> "Body":
        listed = list(events)
        tokens = tuple(place for place, event in enumerate(listed) if isinstance(event, TokenEvent))
        parts = tuple(event.encode() for event in listed)
        return cls(parts, "text/event-stream; charset=utf-8", stream=True, tokens=tokens)

    def share(self, parts_sent: int) -> float:
        """Return the share of the answer that is in the first parts."""
        places = self.tokens or range(len(self.parts))
        return sum(place < parts_sent for place in places) / len(places)

    def until(self, token: float) -> tuple[bytes, ...]:
        """Return the parts until a token: 0 the first, 0.5 the middle one, 1 the last."""
        if not self.tokens:
            return self.parts[: max(1, len(self.parts) // 2)]
        return self.parts[: self.tokens[int((len(self.tokens) - 1) * token)] + 1]

    def in_bytes(self) -> "Body":
        """Return the same body in parts that end inside of every character that has several bytes."""
        pieces = (piece for part in self.parts for piece in SPLIT.findall(part))
        return replace(self, parts=tuple(pieces), tokens=())


@dataclass(frozen=True)
class Reply:
    """A computed reply and its billed usage.

    Attributes:
        cache_read, cache_written: of the input tokens, those that the vendor's prompt cache has, and takes.
        stored: the completion to store, if the request asked for it.
    """

    body: Body
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read: int = 0
    cache_written: int = 0
    audio_seconds: float = 0.0
    stored: dict[str, Any] | None = None


class Refusal(Exception):
    """An error reply that is not billed.

    `kind` chooses the vendor's error, `facts` fill in its message, and `message` replaces the message if not empty.
    """

    def __init__(self, kind: str, message: str = "", *, retry_after: float | None = None, **facts: Any) -> None:
        super().__init__(message or kind)
        self.kind, self.message, self.retry_after, self.facts = kind, message, retry_after, facts


class Vendor(Protocol):
    """One endpoint in one vendor's wire format.

    `read` parses a request, `traits` names the kinds of fault that it can show, `answer` computes the reply. `damage`
    is the name of the fault that the completion must show, or an empty string. `error` formats a refusal.
    """

    @property
    def name(self) -> str: ...
    @property
    def request_id_header(self) -> str: ...
    def api_key(self, headers: Mapping[str, str]) -> str | None: ...
    async def read(self, request: Request) -> Any: ...
    def traits(self, parsed: Any) -> frozenset[str]: ...
    async def answer(self, parsed: Any, number: int, damage: str) -> Reply: ...
    def error(self, refusal: Refusal, request_id: str) -> tuple[int, object]: ...
    def models(self) -> object: ...


# Reading JSON bodies. Each function raises Refusal for a body that the vendors refuse.


async def read_json_object(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body())
    except ValueError as problem:
        raise Refusal("bad_request", "We could not parse the JSON body of your request.") from problem
    if not isinstance(body, dict):
        raise Refusal("bad_request", "The body of your request must be a JSON object.")
    return body


def read_messages(value: object) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise Refusal("bad_request", "messages: at least one message is required", param="messages")
    messages: list[Message] = []
    for number, message in enumerate(value):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise Refusal("bad_request", f"messages.{number}.role: Field required", param="messages")
        messages.append(Message(message["role"], content_text(message.get("content"))))
    return tuple(messages)


def content_text(content: object) -> str:
    """Return the text of a message whose content is a string or a list of blocks."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "\n".join(block.get("text", "") for block in content if isinstance(block, dict))


def read_positive(body: Mapping[str, Any], field: str) -> int | None:
    value = body.get(field)
    if value is None:
        return None
    if not isinstance(value, int) or value < 1:
        raise Refusal("bad_request", f"{field}: must be greater than or equal to 1", param=field)
    return value
