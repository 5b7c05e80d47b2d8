"""`parley codec-server`: Temporal's command line shows decrypted payloads, and of all web pages only the UI."""

import asyncio
import base64
import json
import os
import sys
from collections.abc import AsyncIterator
from uuid import uuid4

import httpx2
import pytest
from pydantic import SecretStr

from parley.connection import connect
from starter.embedded import Addresses
from starter.embedded.services import temporal_binary
from tests.cli.command import Run

KEYS = ",".join(f"{name}:{base64.b64encode(name[:1].encode() * 32).decode()}" for name in ("new", "old"))
UI = "http://127.0.0.1:8080"
SECRET = "the merger with Paternoster"
PAYLOAD = {
    "metadata": {"encoding": base64.b64encode(b"json/plain").decode()},
    "data": base64.b64encode(b'"x"').decode(),
}


@pytest.fixture(scope="module")
async def url() -> AsyncIterator[str]:
    """A codec server as a process, which ends with Ctrl-C."""
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "parley", "codec-server", "--port", "0", "--origin", f"{UI}/"),
        env={**os.environ, "PARLEY_CODEC_KEYS": KEYS},
        stderr=asyncio.subprocess.PIPE,
    )
    assert server.stderr is not None
    async with asyncio.timeout(60):
        line = (await server.stderr.readline()).decode()
    yield line.removeprefix("codec server: ").strip()
    server.terminate()
    _, rest = await server.communicate()
    assert b"Traceback" not in rest
    assert KEYS.partition(":")[2].encode() not in rest


@pytest.fixture
async def http(url: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=url) as client:
        yield client


async def test_temporal_s_command_line_shows_what_is_encrypted(url: str, stack: Addresses) -> None:
    job_id = f"shown-{uuid4().hex[:8]}"
    own = await connect(stack.temporal_address, codec_keys=SecretStr(KEYS.partition(",")[2]))
    await own.start_workflow("Anything", SECRET, id=job_id, task_queue="unserved", static_summary=SECRET)
    for codec, shown in (([], False), (["--codec-endpoint", url], True)):
        process = await asyncio.create_subprocess_exec(
            *(str(temporal_binary()), "workflow", "show", "--workflow-id", job_id, "--output", "json"),
            *("--address", stack.temporal_address, *codec),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        data = base64.b64encode(json.dumps(SECRET).encode())
        assert (process.returncode, data in output) == (0, shown)


async def test_what_it_encodes_it_decodes(http: httpx2.AsyncClient) -> None:
    encoded = await http.post("/encode", json={"payloads": [PAYLOAD]}, headers={"X-Namespace": "default"})
    assert encoded.status_code == 200
    assert encoded.headers["content-type"] == "application/json"
    assert encoded.json()["payloads"][0]["metadata"]["encryption-key-id"] == base64.b64encode(b"new").decode()
    decoded = await http.post("/decode", json=encoded.json())
    assert decoded.json() == {"payloads": [PAYLOAD]}


async def test_only_the_ui_may_use_it(http: httpx2.AsyncClient) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,x-namespace"}
    preflight = await http.options("/decode", headers={"Origin": UI, **asked})
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == UI
    assert "X-Namespace" in preflight.headers["access-control-allow-headers"]
    body = json.dumps({"payloads": [PAYLOAD]})
    answer = await http.post("/decode", content=body, headers={"Origin": UI})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, UI)
    for origin in ("https://elsewhere.example", "null", f"{UI}.elsewhere.example"):
        for refused in (
            await http.options("/decode", headers={"Origin": origin, **asked}),
            await http.post("/decode", content=body, headers={"Origin": origin}),
        ):
            assert refused.status_code == 403
            assert "access-control-allow-origin" not in refused.headers


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"no JSON", "payloads as JSON"),
        (b"\xff", "payloads as JSON"),
        (b'{"payloads": 1}', "payloads as JSON"),
        (
            json.dumps(
                {"payloads": [{"metadata": {"encoding": base64.b64encode(b"binary/encrypted").decode()}}]}
            ).encode(),
            "no key of PARLEY_CODEC_KEYS decrypts",
        ),
    ],
)
async def test_a_body_that_cannot_be_decoded_is_refused(body: bytes, said: str, http: httpx2.AsyncClient) -> None:
    answer = await http.post("/decode", content=body, headers={"Origin": UI})
    assert (answer.status_code, said in answer.text) == (400, True)


@pytest.mark.parametrize("origin", ["localhost:8080", "http://", "http://localhost:8080/path", "*"])
async def test_an_origin_that_a_browser_never_sends_is_refused(origin: str, parley: Run) -> None:
    ran = await parley("codec-server", "--origin", origin)
    assert (ran.code, "--origin" in ran.err) == (2, True)


async def test_a_port_that_is_taken_is_one_line(url: str, parley: Run) -> None:
    ran = await parley("codec-server", "--port", url.rpartition(":")[2])
    assert (ran.code, ran.err.count("\n"), "cannot listen" in ran.err) == (2, 1, True)
