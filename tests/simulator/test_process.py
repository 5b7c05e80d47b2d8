"""The command `python -m simulator`: start, log, restart after a kill, clean stop, invalid options."""

import asyncio
import json
import signal
import sys
from pathlib import Path

import httpx2
import pytest

ROOT = Path(__file__).resolve().parents[2]
ASK = {"model": "m", "messages": [{"role": "user", "content": "Hello?"}]}
HEADERS = {"authorization": "Bearer any", "x-parley-attempt-id": "attempt-1"}


async def start(*options: str) -> tuple[asyncio.subprocess.Process, str]:
    """Start a simulator. Return the process and the address that it prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "simulator", "--port", "0", *options),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    assert "simulator" in line
    assert "no model" in line
    return process, next(word for word in line.split() if word.startswith("http://"))


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
async def test_it_stops_cleanly_and_logs_the_replies_in_flight(tmp_path: Path, stop: signal.Signals):
    log, port_file = tmp_path / "requests.jsonl", tmp_path / "port"
    process, url = await start("--log", str(log), "--port-file", str(port_file))
    async with httpx2.AsyncClient(base_url=url, timeout=20) as client:
        hanging = asyncio.create_task(
            client.post("/openai/v1/chat/completions", json=ASK, headers=HEADERS | {"x-simulator-fault": "hang"})
        )
        await client.get("/admin/requests", params={"at_least": 1, "billed": "true"})
        assert url.endswith(f":{port_file.read_text()}")
        process.send_signal(stop)
        with pytest.raises(httpx2.TransportError):
            await hanging
    out, err = await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 0
    assert (out, err) == (b"", b"")
    last = json.loads(log.read_text().splitlines()[-1])
    assert (last["attempt_id"], last["billed"], last["state"]) == ("attempt-1", True, "gone")


async def test_the_next_simulator_knows_what_a_killed_one_billed(tmp_path: Path):
    log = tmp_path / "requests.jsonl"
    process, url = await start("--log", str(log))
    async with httpx2.AsyncClient(base_url=url, timeout=20) as client:
        await client.post("/admin/gate", json={"closed": True})
        held = asyncio.create_task(client.post("/openai/v1/chat/completions", json=ASK, headers=HEADERS))
        await client.get("/admin/requests", params={"at_least": 1, "billed": "true"})
        process.kill()
        with pytest.raises(httpx2.TransportError):
            await held
        await process.wait()
    process, url = await start("--log", str(log), "--rate-limit", "openai=1")
    async with httpx2.AsyncClient(base_url=url, timeout=20) as client:
        [request] = (await client.get("/admin/requests", params={"attempt_id": "attempt-1"})).json()
        assert (request["billed"], request["state"]) == (True, "lost")
        answers = [
            (await client.post("/openai/v1/chat/completions", json=ASK, headers=HEADERS)).status_code for _ in range(2)
        ]
        assert answers == [200, 429]
    process.terminate()
    assert await process.wait() == 0


@pytest.mark.parametrize(
    "options",
    [
        ("--host", "0.0.0.0"),
        ("--rate-limit", "acme=3"),
        ("--latency", "-1"),
        ("--port", "99999"),
        ("--label-reuse", "2"),
    ],
)
async def test_invalid_options_print_one_line(options: tuple[str, str]):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "simulator", *options),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 2
    assert b"Traceback" not in err
    assert err.decode().splitlines()[-1].startswith(("simulator: ", "simulator: error: "))
