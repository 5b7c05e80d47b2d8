"""A running gateway, and how tests talk to it."""

import asyncio
import json
import os
import re
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from gateway.app import create_app
from gateway.server import GatewayServer
from parley import Backend, Settings
from starter.embedded import Addresses
from tests.parts import TEST_TIMEOUT_SECONDS


@dataclass(frozen=True)
class Running:
    """A gateway of this process."""

    server: GatewayServer
    serving: asyncio.Task[None]

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def address(self) -> tuple[str, int]:
        url = httpx.URL(self.url)
        return url.host, url.port or 0

    def http(self, secret: str | None = None, **options: Any) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {secret}"} if secret else {}
        headers |= options.pop("headers", {})
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=TEST_TIMEOUT_SECONDS, **options)


@asynccontextmanager
async def running_gateway(backend: Backend, settings: Settings) -> AsyncIterator[Running]:
    server = GatewayServer(create_app(backend, settings), settings)
    serving = asyncio.create_task(server.run_until_stopped())
    try:
        yield Running(server, serving)
    finally:
        server.stop()
        server.stop()
        await serving


async def started(stack: Addresses, database_url: str, port: int) -> Process:
    environment = {
        **os.environ,
        "DATABASE_URL": database_url,
        "TEMPORAL_ADDRESS": stack.temporal_address,
        "PARLEY_GATEWAY_PORT": str(port),
    }
    command = (sys.executable, "-m", "parley", "gateway")
    return await asyncio.create_subprocess_exec(*command, env=environment, stdout=PIPE, stderr=STDOUT)


async def listening(process: Process) -> str:
    """The address of a gateway's process, as soon as it serves."""
    assert process.stdout is not None
    while not (found := re.search(rb"listening on (\S+)", line := await process.stdout.readline())):
        assert line, "it ended"
    return found[1].decode()


@asynccontextmanager
async def gateway_process(stack: Addresses, database_url: str) -> AsyncIterator[str]:
    """The address of a gateway in a process of its own."""
    process = await started(stack, database_url, 0)
    try:
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            address = await listening(process)
        yield address
    finally:
        process.kill()
        await process.wait()


async def sent(gateway: Running, data: bytes) -> bytes:
    """What the gateway sends until it closes the connection, after these bytes."""
    reader, writer = await asyncio.open_connection(*gateway.address)
    try:
        writer.write(data)
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            return await reader.read()
    finally:
        writer.close()


async def read_events(stream: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The server-sent events of a response."""
    fields: dict[str, str] = {}
    async for line in stream.aiter_lines():
        name, _, value = line.partition(": ")
        if line:
            fields[name] = value
        elif "data" in fields:
            yield {**fields, "data": json.loads(fields["data"])}
            fields = {}


OPEN_MODELS = """
[[route]]
provider = "openai"
priority = 1

[[route]]
provider = "openai"
model = "gpt-4o"
priority = 2

[[route]]
provider = "anthropic"
priority = 3
"""


def with_open_models(settings: Settings, tmp_path: Path) -> Settings:
    """Settings with a policy whose models are open to every user."""
    path = tmp_path / "policy.toml"
    path.write_text(OPEN_MODELS)
    return settings.model_copy(update={"policy_file": path})
