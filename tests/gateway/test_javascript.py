"""The gateway as the official JavaScript SDKs use it. Their packages are installed on the first run."""

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from parley.settings import Settings
from tests.gateway.parts import Running, with_open_models

DIRECTORY = Path(__file__).parent / "js"
INSTALL = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")

pytestmark = pytest.mark.usefixtures("worker")


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return with_open_models(settings, tmp_path)


async def run(*command: str, **more: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=DIRECTORY,
        env={**os.environ, **more},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return said.decode()


@pytest.fixture
async def packages() -> None:
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are needed: install Node.js 20 or later")
    installed = DIRECTORY / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < (DIRECTORY / "package-lock.json").stat().st_mtime:
        await run(*INSTALL)


@pytest.mark.usefixtures("packages")
async def test_the_javascript_sdks_answer_stream_and_call_tools(gateway: Running, secret: str):
    found: Any = json.loads(await run("node", "sdks.mjs", GATEWAY_URL=gateway.url, GATEWAY_KEY=secret))
    for sdk in ("openai", "anthropic"):
        for model in ("gpt-4o-mini", "claude-haiku-4-5"):
            seen = found[f"{sdk} {model}"]
            assert seen["text"] and seen["streamed"] == seen["text"]
            assert seen["call"]["name"] == "get_order"
    assert float(found["openai gpt-4o-mini"]["cost"]) > 0
    assert found["openai gpt-4o-mini"]["usage"].keys() >= {"prompt_tokens", "completion_tokens"}
    assert found["anthropic gpt-4o-mini"]["stop"] == "tool_use"
    assert found["anthropic gpt-4o-mini"]["usage"].keys() >= {"input_tokens", "output_tokens"}
    assert found["refused"] == [
        {"status": 400, "param": "n", "kind": "BadRequestError"},
        {"status": 400, "param": None, "kind": "BadRequestError"},
    ]
    assert found["embedded"]["lengths"] == [8, 8] and found["embedded"]["usage"]["prompt_tokens"] > 0
    assert found["models"][0] == "parley/auto"
