"""`parley phone simulate`: the simulator's program with the addresses and the token of the running stack."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from parley.cli.main import execute
from tests.simulator.phone_agent import TOKEN, Agent, serving


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    async with serving(Agent()) as agent:
        yield agent


async def simulate(*arguments: str, state: Path, **environment: str) -> tuple[int, str, str]:
    """Run the command in a process of its own, which the simulator replaces."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "parley", "phone", "simulate", *arguments),
        env={**os.environ, "PARLEY_STATE_DIR": str(state), "COLUMNS": "150", **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, out.decode(), err.decode()


async def test_it_calls_the_gateways_paths_and_prints_json(agent: Agent, tmp_path: Path):
    arguments = ("hours", "--url", agent.url, "--speed", "40", "--number", "+15550100007", "--json")
    code, out, err = await simulate(*arguments, state=tmp_path, TWILIO_AUTH_TOKEN=TOKEN)
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["simulated"], found["summary"]["turns"]) == (True, 3)
    assert [path for path, _ in agent.forms] == ["/phone/voice", "/phone/action", "/phone/status"]
    assert agent.unsigned == []
    assert agent.received("setup")[0]["to"] == "+15550100007"


async def test_another_webhook_is_named_by_its_whole_address(agent: Agent, tmp_path: Path):
    url = f"{agent.url}/phone/voice"
    code, out, _ = await simulate("hours", "--url", url, "--speed", "40", state=tmp_path, TWILIO_AUTH_TOKEN=TOKEN)
    assert code == 0
    assert "Speech-to-text and the voice are modelled" in out
    assert {path for path, _ in agent.forms} == {"/phone/voice", "/phone/action"}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "--url: is not set: start `parley up`, or name the gateway's address"),
        (("--url", "localhost:8080"), "--url: must be an address such as http://127.0.0.1:8080"),
        (("--calls", "0"), "--calls"),
    ],
)
def test_a_wrong_argument_is_one_line(
    arguments: tuple[str, ...],
    problem: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setenv("PARLEY_STATE_DIR", str(tmp_path))
    assert execute(["phone", "simulate", *arguments]) == 2
    assert problem in capsys.readouterr().err
