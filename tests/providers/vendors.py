"""Settings and requests for each vendor, and a stub server that replies with given bytes."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from parley.domain.coaching.prompts import coaching_request
from parley.domain.habits import habits
from parley.domain.requests import ChatRequest, Message, Provider, Request, TranscriptionRequest
from parley.providers.registry import Providers
from parley.settings import Settings
from tests.domain.coaching.material import SALES, TALK
from tests.parts import SAMPLES

CHAT = (Provider.OPENAI, Provider.LOCAL, Provider.ANTHROPIC)
ALL = (*CHAT, Provider.ELEVENLABS)
KEY = "sk-0123456789-very-secret"
MODEL = "model-7"
SECONDS = 54.21
AUDIO = (SAMPLES / "gatekeeper-dental-clinic.ogg").read_bytes()


def chat(**changes: Any) -> ChatRequest:
    fields: dict[str, Any] = {
        "messages": (
            Message(role="system", content="Be brief."),
            Message(role="user", content="What is a lift?"),
        ),
        "max_tokens": 200,
        "temperature": 0.1,
    }
    return ChatRequest(**(fields | changes))


# A request with a transcript, for a reply by a schema.
COACHING = coaching_request(TALK, SALES, habits(TALK), None, max_tokens=1500)
COACHING_SCHEMA = COACHING.response_schema


def question(provider: Provider) -> Request:
    """A request that the vendor can answer."""
    if provider is Provider.ELEVENLABS:
        sha256 = hashlib.sha256(AUDIO).hexdigest()
        return TranscriptionRequest(audio_sha256=sha256, audio_seconds=SECONDS, audio=AUDIO)
    return chat()


def settings(**changes: Any) -> Settings:
    return Settings(
        **{
            "local_usd_per_million_input": Decimal(0),
            "local_usd_per_million_output": Decimal(0),
            "provider_timeout_seconds": 20,
            **changes,
        }
    )


def simulated(url: str, **changes: Any) -> Settings:
    return settings(**{"simulator_url": url, "local_base_url": f"{url}/local/v1", **changes})


def real(url: str, **changes: Any) -> Settings:
    """Settings with own keys at another address."""
    reached = {f"{provider}_{name}": value for provider in ALL for name, value in (("api_key", KEY), ("base_url", url))}
    return settings(**reached, **changes)


@asynccontextmanager
async def providers(given: Settings) -> AsyncIterator[Providers]:
    opened = Providers(given)
    try:
        yield opened
    finally:
        await opened.close()


@dataclass
class ReceivedRequest:
    """One HTTP request as it was received."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)


@dataclass
class Stub:
    """A server that gives the same answer to every request."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    url: str = ""
    requests: list[ReceivedRequest] = field(default_factory=list)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        given = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await _read_body(reader, given)
        self.requests.append(ReceivedRequest(head[0].split()[1], given, body))
        headers = {"content-type": "application/json", "content-length": str(len(self.body)), **self.headers}
        lines = [f"HTTP/1.1 {self.status} Some Words", "connection: close", *(f"{k}: {v}" for k, v in headers.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + self.body)
        await writer.drain()
        writer.close()


async def _read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers.get("content-length", 0)))
    body = b""
    while size := int(await reader.readline(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readline()
    return body


@asynccontextmanager
async def answering(body: object = b"", status: int = 200, **headers: str) -> AsyncIterator[Stub]:
    """A server with one answer: bytes as they are, anything else as JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    stub = Stub(status, raw, {name.replace("_", "-"): value for name, value in headers.items()})
    server = await asyncio.start_server(stub.answer, "127.0.0.1", 0)
    stub.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield stub


# Replies in the format of the vendors, with the fields that the adapters read.


def openai_body(finish: object = "stop", *, usage: object = None, **message: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_760_000_000,
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "A lift.", "refusal": None, **message},
                "finish_reason": finish,
            }
        ],
        "usage": usage or {"prompt_tokens": 30, "completion_tokens": 5, "total_tokens": 35},
    }


def anthropic_body(stop: object = "end_turn", *, content: object = None, **usage: object) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-4-5-20251001",
        "content": [{"type": "text", "text": "A lift."}] if content is None else content,
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": {"input_tokens": 30, "output_tokens": 5, **usage},
    }


def elevenlabs_body(*words: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "language_code": "eng",
        "language_probability": 0.98,
        "text": "A lift.",
        "words": list(words),
        "transcription_id": "t-1",
        "audio_duration_secs": 54.4,
        **fields,
    }


def word(text: str = "lift", **fields: Any) -> dict[str, Any]:
    word = {"text": text, "start": 1.0, "end": 1.5, "type": "word", "speaker_id": "speaker_0", "logprob": 0.0}
    return word | fields


def good_body(provider: Provider) -> dict[str, Any]:
    match provider:
        case Provider.ANTHROPIC:
            return anthropic_body()
        case Provider.ELEVENLABS:
            return elevenlabs_body(word())
        case _:
            return openai_body()
