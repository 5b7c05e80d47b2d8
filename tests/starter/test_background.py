"""`parley up --detach`, `logs` and `down`, from any directory."""

import asyncio
import os
import re
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from temporalio.client import Client

from parley.connection import running_stack, stack_process
from parley.domain.generate.contract import workflow_id
from parley.settings import Settings, default_state_dir
from tests.cli.command import Ran

SECRET = "the merger with Paternoster"
Parley = Callable[..., Awaitable[Ran]]


@pytest.fixture
def home(reachable: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's state, in a directory that PostgreSQL's account can reach."""
    monkeypatch.setenv("XDG_STATE_HOME", str(reachable))
    monkeypatch.delenv("PARLEY_STATE_DIR", raising=False)
    monkeypatch.delenv("PARLEY_CODEC_KEYS")
    return reachable


async def start(where: Path, *arguments: str) -> Process:
    command = (sys.executable, "-m", "parley", *arguments)
    return await asyncio.create_subprocess_exec(*command, cwd=where, env={**os.environ}, stdout=PIPE, stderr=PIPE)


async def run(where: Path, *arguments: str) -> Ran:
    process = await start(where, *arguments)
    out, err = await process.communicate()
    assert process.returncode is not None
    return Ran(process.returncode, out.decode(), err.decode())


async def history(state_dir: Path, job_id: str) -> bytes:
    """What Temporal keeps of a workflow, as a client without Parley's keys gets it."""
    stack = running_stack(state_dir)
    assert stack is not None
    client = await Client.connect(stack.temporal_address)
    events = (await client.get_workflow_handle(job_id).fetch_history()).events
    return b"".join(event.SerializeToString() for event in events)


async def test_a_stack_in_the_background_is_found_from_any_directory_until_it_is_down(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of another server of the user, and empty, which is as if it were not set.
    for name, value in (("TEMPORAL_TLS", "true"), ("TEMPORAL_NAMESPACE", "prod"), ("PARLEY_CODEC_KEYS", "")):
        monkeypatch.setenv(name, value)
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    try:
        up = await run(here, "up", "--detach")
        assert up.code == 0, up.err
        assert "Temporal UI" in up.err
        assert "`parley down` stops everything" in up.err
        await the_gateway_answers(home / "parley", up.err)
        again = await run(there, "up", "--detach")
        assert again.code == 1
        assert "already running" in again.err
        assert "`parley down` stops everything" in up.err
        assert "Temporal UI" in (home / "parley" / "up.out").read_text()
        assert (home / "parley").stat().st_mode & 0o777 == 0o700
        assert (await run(there, "jobs")).out == "no jobs\n"
        doctor = await run(there, "doctor")
        assert (doctor.code, "payloads are encrypted with the key " in doctor.out) == (0, True)
        answered = await run(there, "generate", SECRET, "--user", "ann", "--key", "k")
        assert answered.code == 0, answered.err
        assert SECRET.encode() not in await history(home / "parley", workflow_id("default", "k"))
        shown = await run(there, "logs", "worker", "--lines", "1000")
        assert all(line.startswith("worker | ") for line in shown.out.splitlines())
        assert "polling as" in shown.out
        key = (home / "parley" / "codec-keys").read_text().partition(":")[2]
        assert key not in "".join(ran.out + ran.err for ran in (up, again, doctor, answered, shown))
    finally:
        down = await run(there, "down")
    assert (down.code, "has stopped" in down.out) == (0, True)
    assert stack_process(home / "parley") is None
    assert (await run(here, "down")).out == f"no stack runs in {home / 'parley'}\n"
    assert list(here.iterdir()) == []


async def the_gateway_answers(state_dir: Path, output: str) -> None:
    """The printed key opens the printed address, and only its owner can read it."""
    [url] = re.findall(r"^Gateway +(\S+)", output, re.MULTILINE)
    [key] = re.findall(r"^Its key +(\S+)", output, re.MULTILINE)
    async with httpx.AsyncClient(base_url=url) as http:
        assert (await http.get("/api/jobs")).status_code == 401
        answer = await http.get("/api/jobs", headers={"authorization": f"Bearer {key}"})
    assert answer.json() == {"jobs": [], "next": None}
    files = [path for path in state_dir.rglob("*") if path.is_file() and key.encode() in path.read_bytes()]
    assert {path.name for path in files} == {"gateway.key", "up.out"}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


async def test_logs_follow_what_is_written(home: Path, tmp_path: Path) -> None:
    none = await run(tmp_path, "logs")
    assert (none.code, "parley up" in none.err) == (2, True)
    logs = home / "parley" / "logs"
    logs.mkdir(parents=True)
    (logs / "worker.log").write_text("one\ntwo\x1b[31m\n")
    assert (await run(tmp_path, "logs", "-n", "1")).out == "worker | two\ufffd[31m\n"
    unknown = await run(tmp_path, "logs", "simulator")
    assert (unknown.code, "there are worker" in unknown.err) == (2, True)
    following = await start(tmp_path, "logs", "--follow")
    assert following.stdout is not None
    async with asyncio.timeout(30):
        assert await following.stdout.readline() == b"worker | one\n"
        await following.stdout.readline()
        with (logs / "worker.log").open("a") as file:
            file.write("three\n")
        assert await following.stdout.readline() == b"worker | three\n"
        (logs / "worker.log").rename(logs / "worker.previous")
        (logs / "worker.log").write_text("of the next run\n")
        assert await following.stdout.readline() == b"worker | of the next run\n"
        (logs / "gateway.log").write_text("later\n")
        assert await following.stdout.readline() == b"gateway | later\n"
    following.terminate()
    await following.wait()


async def test_a_directory_that_cannot_be_used_is_one_line(home: Path, tmp_path: Path) -> None:
    (home / "parley").write_text("a file")
    failed = await run(tmp_path, "up", "--detach")
    assert (failed.code, failed.err.count("\n")) == (2, 1)
    assert f"{home / 'parley'}: cannot be used" in failed.err


async def test_a_stack_that_does_not_start_prints_why(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARLEY_LEASE_SECONDS", "soon")
    failed = await run(tmp_path, "up", "--detach")
    assert failed.code == 2
    assert "PARLEY_LEASE_SECONDS" in failed.err


def test_a_state_directory_here_or_above_comes_first(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert default_state_dir() == home / "parley"
    (tmp_path / ".parley").mkdir()
    assert Settings().state_dir == tmp_path / ".parley"
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert Settings().state_dir == home / "parley"  # another account's would decide which servers are used


def test_a_directory_that_cannot_be_searched_has_no_state_directory(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", refuse)
    assert default_state_dir() == home / "parley"
