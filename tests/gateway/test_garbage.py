"""Bodies, headers and connections that no client of goodwill sends, on every path that reads one."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.gateway.parts import Running, sent
from tests.parts import TEST_TIMEOUT_SECONDS

BODIES = (
    "/api/jobs/generate",
    "/api/jobs/session-analysis",
    "/api/jobs/auto-analyze",
    "/api/chat/stream",
    "/api/chat/optimize",
    "/v1/chat/completions",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/embeddings",
)
GARBAGE = {
    "truncated": b'{"model": "gpt-4o-mini", "messages": [{"role": "us',
    "empty": b"",
    "no object": b"[1, 2]",
    "not UTF-8": b'{"model": "\xff\xfe"}',
    "half a surrogate": b'{"model": "\\ud800", "messages": "\\udfff", "user_id": "\\ud800"}',
    "deep": b'{"messages":' + b"[" * 40_000 + b"]" * 40_000 + b"}",
    "a huge number": b'{"model": "m", "max_tokens": 1' + b"0" * 5000 + b', "messages": []}',
    "not a number": b'{"temperature": NaN, "messages": "hi", "user_id": "u", "model": "gpt-4o-mini"}',
    "the same key twice": b'{"messages": "a", "messages": 7, "model": "gpt-4o-mini"}',
}
SILENT_CONNECTIONS = 1000


@pytest.mark.parametrize("path", BODIES)
async def test_a_body_that_is_garbage_is_refused(path: str, http: httpx.AsyncClient):
    for name, garbage in GARBAGE.items():
        answer = await http.post(path, content=garbage, headers={"content-type": "application/json"})
        assert answer.status_code == 400, (name, answer.text)
        assert "Traceback" not in answer.text
        assert refusal(path, answer.json())


@pytest.mark.parametrize("path", BODIES)
async def test_a_body_of_another_type_and_another_method_are_refused(path: str, http: httpx.AsyncClient):
    typed = await http.post(path, content=b"a,b", headers={"content-type": "text/csv"})
    assert typed.status_code == 415
    assert (await http.put(path, json={})).status_code == 405


@pytest.mark.parametrize("path", BODIES)
async def test_a_body_without_an_end_is_cut_at_the_limit(path: str, http: httpx.AsyncClient, gateway: Running):
    pieces = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal pieces
        while pieces < 50_000:
            pieces += 1
            yield b" " * 1000

    if path.startswith("/api/jobs/") and not path.endswith("generate"):
        return  # an upload has another limit
    try:
        answer = await http.post(path, content=endless(), headers={"content-type": "application/json"})
    except httpx.TransportError:  # the gateway has closed the connection before the client read its answer
        pass
    else:
        assert answer.status_code == 413
    assert pieces < 50_000


@pytest.mark.parametrize(
    "line",
    [
        b"X-Request-Id: a\x00b",
        b"X-Request-Id: a\rSet-Cookie: s=1",
        b"X-Request-Id: a\nSet-Cookie: s=1",
        b"X-Request-Id : a",
        b"Content-Length: 5, 6",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: xchunked",
    ],
)
async def test_a_header_that_could_smuggle_another_is_refused_or_not_repeated(line: bytes, gateway: Running):
    request = b"POST /healthz HTTP/1.1\r\nHost: localhost\r\n" + line + b"\r\nConnection: close\r\n\r\n12345"
    answer = await sent(gateway, request)
    head = answer.partition(b"\r\n\r\n")[0].lower()
    assert head.startswith(b"http/1.1 4")
    assert b"set-cookie" not in head
    assert answer.count(b"HTTP/1.1") == 1


async def test_a_thousand_connections_that_say_nothing_disturb_no_request(impatient: Running):
    silent = await asyncio.gather(*(asyncio.open_connection(*impatient.address) for _ in range(SILENT_CONNECTIONS)))
    try:
        async with impatient.http() as http:
            assert (await http.get("/healthz")).status_code == 200
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            assert {await reader.read() for reader, _ in silent} == {b""}
    finally:
        for _, writer in silent:
            writer.close()


def refusal(path: str, body: dict[str, Any]) -> object:
    """What says why, in the shape of the path."""
    return body["error"]["message"] if path.startswith("/v1/") else body["detail"]
