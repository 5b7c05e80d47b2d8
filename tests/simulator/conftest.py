"""One simulator for all of these tests, reset before each, and the clients of the vendors' SDKs."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from elevenlabs.client import AsyncElevenLabs

from simulator.config import Config
from simulator.server import Server
from tests.simulator.material import wav

SESSION = {
    "session_id": "known",
    "user_id": "rep-1",
    "language": "en",
    "duration_seconds": 4.5,
    "turns": [
        {
            "role": "prospect",
            "start": 0.5,
            "end": 1.1,
            "text": "Who's there?",
            "words": [
                {"text": "Who's", "start": 0.5, "end": 0.8},
                {"text": "there?", "start": 0.8, "end": 1.1},
            ],
        },
        {"role": "rep", "start": 2.0, "end": 3.0, "text": "Dev here."},
    ],
}


class Admin:
    """A client of the simulator's admin endpoints."""

    def __init__(self, url: str) -> None:
        self.http = httpx2.AsyncClient(base_url=url, timeout=15)

    async def post(self, path: str, **body: Any) -> Any:
        response = await self.http.post(f"/admin/{path}", json=body)
        assert response.status_code == 200, response.text
        return response.json()

    async def get(self, path: str, **query: Any) -> Any:
        response = await self.http.get(f"/admin/{path}", params=query)
        assert response.status_code == 200, response.text
        return response.json()

    async def only_request(self, **query: Any) -> dict[str, Any]:
        """Wait for the one request that matches, and return it."""
        [request] = await self.get("requests", at_least=1, **query)
        return request


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("recordings")
    (directory / "known.json").write_text(json.dumps(SESSION))
    (directory / "known.wav").write_bytes(wav((0.5, 0.0), (0.6, 0.5), (3.4, 0.1)))
    (directory / "notes.json").write_text('{"not": "a session"}')
    (directory / "notes.wav").write_bytes(wav((0.1, 0.2)))
    return directory


@pytest.fixture(scope="session")
async def server(recordings: Path) -> AsyncIterator[Server]:
    server = Server(Config(seed=7, transcripts=(recordings,)))
    running = asyncio.create_task(server.run_until_stopped())
    await server.ready.wait()
    yield server
    server.should_exit = True
    await running


@pytest.fixture(scope="session")
async def session_admin(server: Server) -> AsyncIterator[Admin]:
    admin = Admin(server.url)
    yield admin
    await admin.post("reset")
    await admin.http.aclose()


@pytest.fixture(autouse=True)
async def admin(session_admin: Admin) -> Admin:
    await session_admin.post("reset")
    return session_admin


@pytest.fixture(scope="session")
async def openai_client(server: Server) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{server.url}/openai/v1", api_key="any", max_retries=0, timeout=10
    ) as client:
        yield client


@pytest.fixture(scope="session")
async def local_client(server: Server) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{server.url}/local/v1", api_key="any", max_retries=0, timeout=10
    ) as client:
        yield client


@pytest.fixture(scope="session")
async def anthropic_client(server: Server) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(
        base_url=f"{server.url}/anthropic", api_key="any", max_retries=0, timeout=10
    ) as client:
        yield client


@pytest.fixture(scope="session")
async def elevenlabs_client(server: Server) -> AsyncElevenLabs:
    return AsyncElevenLabs(base_url=f"{server.url}/elevenlabs", api_key="any", timeout=10)
