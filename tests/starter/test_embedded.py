"""The embedded stack, with the real PostgreSQL and the real Temporal server."""

import asyncio
import contextlib
import errno
import json
import os
import pwd
import shutil
import signal
import socket
import stat
import sys
import textwrap
import urllib.request
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest
from temporalio.client import Client

from parley.codec import EncryptionCodec, new_keys
from parley.domain.errors import InvalidInput
from parley.visibility import DEFINITIONS
from starter.embedded import Addresses, PartFailed, StackRunning, ports, postgres, process, running_stack
from starter.embedded import stack as stack_module
from starter.embedded.process import Command, Process, is_alive, until
from starter.embedded.services import SIMULATED_ACCOUNT, _servers
from starter.embedded.stack import EmbeddedStack
from starter.embedded.state import ProcessRecord, StackRecord, StateDir
from tests.parts import ROOT, TEST_TIMEOUT_SECONDS, run_sql

PACKAGES = Path(psutil.__file__).parents[1]
ATTRIBUTES = [*DEFINITIONS]

# A program that runs a stack until a stop signal, as `parley up` does.
PARENT = """
import asyncio, json, signal, sys
from pathlib import Path
from starter.embedded import postgres
from starter.embedded.stack import EmbeddedStack

async def main():
    attributes = ["ParleyWorkspace=Keyword"]
    async with EmbeddedStack(Path(sys.argv[1]), search_attributes=attributes, simulator=None, worker=worker):
        print("up", flush=True)
        await asyncio.sleep(3600)

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where the tests run under nohup
postgres.SYSTEM_BASES = (Path(sys.argv[2]),)
worker = sys.argv[3] if len(sys.argv) > 3 else None
asyncio.run(main())
"""

# The beginning of a worker that is ready at once.
READY = """
import os, pathlib, signal, subprocess, sys, time
pathlib.Path(os.environ["PARLEY_READY_FILE"]).touch()
"""
CHILD = """
import subprocess
subprocess.Popen(["sleep", "600"])
"""
GATEWAY = """
import http.server, os

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

where = os.environ["PARLEY_GATEWAY_HOST"], int(os.environ["PARLEY_GATEWAY_PORT"])
http.server.HTTPServer(where, Answer).serve_forever()
"""


WriteWorker = Callable[[str], None]


@pytest.fixture
def write_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteWorker:
    """Writes the program of `stub_worker`, a module that a stack can run as its worker."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def write(program: str) -> None:
        (tmp_path / "stub_worker.py").write_text(program)

    return write


def stack(state_dir: Path, **options) -> EmbeddedStack:
    """A stack of only PostgreSQL and Temporal, unless the options add parts."""
    defaults = {"search_attributes": ATTRIBUTES, "simulator": None, "worker": None, "signals": False}
    return EmbeddedStack(state_dir, **defaults | options)


@contextlib.asynccontextmanager
async def parent(state_dir: Path, base: Path, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that runs a stack."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT, str(state_dir), str(base), *arguments),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


def recorded(state_dir: Path) -> dict[str, ProcessRecord]:
    """The processes on record."""
    return StateDir(state_dir).read_stack().processes


async def nothing_left(processes: dict[str, ProcessRecord]) -> bool:
    """Whether the recorded processes, and all in their sessions, are gone."""
    leaders = {record.pid for record in processes.values()}

    def gone() -> bool:
        return not any(map(is_alive, processes.values())) and not _in_sessions(leaders)

    return await until(gone, within=TEST_TIMEOUT_SECONDS)


def _in_sessions(leaders: set[int]) -> list[int]:
    found = []
    for candidate in psutil.process_iter(["status"]):
        with contextlib.suppress(OSError):
            if os.getsid(candidate.pid) in leaders and candidate.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(candidate.pid)
    return found


async def write(addresses: Addresses, name: str) -> None:
    """Put a row into PostgreSQL and a workflow into Temporal."""
    await run_sql(addresses.database_url, "CREATE TABLE IF NOT EXISTS note (text text)")
    await run_sql(addresses.database_url, "INSERT INTO note VALUES (%s)", name)
    client = await Client.connect(addresses.temporal_address)
    await client.start_workflow("Anything", id=name, task_queue="unserved")


async def read(addresses: Addresses) -> tuple[list[str], list[str]]:
    """The rows and workflow ids stored in both."""
    [found] = await run_sql(addresses.database_url, "SELECT to_regclass('note') IS NOT NULL AS exists")
    notes = await run_sql(addresses.database_url, "SELECT text FROM note") if found["exists"] else []
    rows = [row["text"] for row in notes]
    client = await Client.connect(addresses.temporal_address)
    workflows = [execution.id async for execution in client.list_workflows("WorkflowType = 'Anything'")]
    return rows, workflows


async def test_every_server_answers_and_the_password_is_not_shown(state_dir: Path) -> None:
    """Both servers work: the schema's extension, the search attributes, the web UI."""
    said: list[str] = []
    async with stack(state_dir, on_progress=said.append) as addresses:
        await run_sql(addresses.database_url, "CREATE EXTENSION vector")
        distance = "SELECT '[1,2]'::vector <-> '[1,4]'::vector AS distance"
        assert await run_sql(addresses.database_url, distance) == [{"distance": 2.0}]
        assert await run_sql(addresses.database_url, "SHOW fsync") == [{"fsync": "on"}]
        client = await Client.connect(addresses.temporal_address)
        query = " AND ".join(f"{name.partition('=')[0]} IS NOT NULL" for name in ATTRIBUTES)
        assert (await client.count_workflows(query)).count == 0
        page = await asyncio.to_thread(urllib.request.urlopen, addresses.ui_url, timeout=10)
        assert page.status == 200

        password = addresses.database_url.split(":")[2].split("@")[0]
        commands = [" ".join(record.argv) for record in recorded(state_dir).values()]
        logs = [log.read_text() for log in (state_dir / "logs").iterdir()]
        assert not any(password in text for text in [repr(addresses), *commands, *logs, *said])
        wrong = addresses.database_url.replace(password, "guess")
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            await run_sql(wrong, "SELECT 1")
        assert (state_dir / "postgres.json").stat().st_mode & 0o777 == 0o600
    assert any("PostgreSQL is up" in line for line in said)


async def test_a_restart_keeps_data_and_addresses_and_fresh_empties(state_dir: Path) -> None:
    async with stack(state_dir) as first:
        await write(first, "one")
        processes = recorded(state_dir)
    assert len(processes) == 2
    assert await nothing_left(processes)
    async with stack(state_dir) as second:
        assert second == first
        assert await read(second) == (["one"], ["one"])
    (state_dir / "spool").mkdir()
    (state_dir / "simulator-billed.stored.jsonl").touch()
    async with stack(state_dir, fresh=True) as third:
        assert not (state_dir / "spool").exists()
        assert not (state_dir / "simulator-billed.stored.jsonl").exists()
        assert third.ui_url == first.ui_url
        assert third.database_url != first.database_url
        assert await read(third) == ([], [])


async def test_a_copy_of_a_state_directory_has_data_of_its_own(state_dir: Path) -> None:
    async with stack(state_dir) as first:
        await write(first, "one")
    copy = state_dir.with_name("copy")
    shutil.copytree(state_dir, copy)
    if json.loads((state_dir / "postgres.json").read_text())["home"] != str(state_dir / "postgres"):
        with pytest.raises(PartFailed, match="for another state directory"):
            await stack(copy, fresh=True).__aenter__()
    else:
        if os.geteuid() == 0:  # a copy belongs to who copies
            shutil.chown(copy / "postgres", "nobody")
            for path in (copy / "postgres").rglob("*"):
                shutil.chown(path, "nobody")
        async with stack(copy) as copied:
            assert await read(copied) == (["one"], ["one"])
            await write(copied, "two")
        async with stack(copy, fresh=True) as empty:
            assert await read(empty) == ([], [])
    async with stack(state_dir) as again:
        assert await read(again) == (["one"], ["one"])


async def test_a_terminal_that_is_closed_does_not_keep_the_stack_from_ending(state_dir: Path) -> None:
    closed = asyncio.Event()

    def report(line: str) -> None:
        if closed.is_set():
            raise OSError(errno.EIO, "Input/output error")

    running = stack(state_dir, on_progress=report, signals=True)
    async with running:
        processes = recorded(state_dir)
        closed.set()
        os.kill(os.getpid(), signal.SIGHUP)
        assert await running.wait() is signal.SIGHUP
    assert await nothing_left(processes)


@pytest.mark.parametrize(("part", "name"), [("PostgreSQL", "postgres"), ("Temporal", "temporal")])
async def test_a_killed_part_is_named_and_its_data_kept(state_dir: Path, part: str, name: str) -> None:
    """kill -9 loses no acknowledged write."""
    running, processes = stack(state_dir), {}
    with pytest.raises(PartFailed, match=f"{part} died: it was ended by SIGKILL.*{name}.*log"):
        async with running as addresses:
            await write(addresses, "one")
            processes = recorded(state_dir)
            os.kill(processes[part].pid, signal.SIGKILL)
            await running.wait()
    assert await nothing_left(processes)
    _reuse_server_id(state_dir)
    async with stack(state_dir) as addresses:
        assert await read(addresses) == (["one"], ["one"])


def _reuse_server_id(state_dir: Path) -> None:
    """Write the id of a live process to the lock file of a killed server, as after a reboot."""
    record = StateDir(state_dir).read_postgres()
    lock = record.home / "data" / "postmaster.pid" if record else state_dir
    if lock.exists():
        lock.write_text("\n".join([str(os.getpid()), *lock.read_text().splitlines()[1:]]))


async def test_a_dead_part_stops_a_body_that_does_not_wait(state_dir: Path) -> None:
    with pytest.raises(PartFailed, match="Temporal died"):
        async with stack(state_dir):
            os.kill(recorded(state_dir)["Temporal"].pid, signal.SIGKILL)
            await asyncio.sleep(60)


async def test_a_killed_parent_leaves_no_process_and_loses_nothing(state_dir: Path, system_base: Path) -> None:
    async with parent(state_dir, system_base) as process:
        assert process.stdout
        assert await process.stdout.readline() == b"up\n"
        addresses, processes = running_stack(state_dir), recorded(state_dir)
        assert addresses
        await write(addresses, "one")
        process.kill()
        await process.wait()
    if sys.platform == "linux":
        assert await nothing_left(processes)
    assert running_stack(state_dir) is None
    async with stack(state_dir) as addresses:
        assert await nothing_left(processes)
        assert await read(addresses) == (["one"], ["one"])


async def test_the_next_start_ends_leftovers_but_no_other_process(state_dir: Path) -> None:
    """The record finds children that survived their parent; process ids may be reused."""
    state = StateDir(state_dir)
    state.create()
    nap = [sys.executable, "-c", "import time; time.sleep(600)"]
    leftover, stranger = [
        await Process.start(Command(name, nap, os.environ, state.log(name))) for name in ("leftover", "stranger")
    ]
    record = state.read_stack()
    record.processes = {
        "worker": leftover.record,
        "simulator": stranger.record.model_copy(update={"created": stranger.record.created - 60}),
        "Temporal": ProcessRecord(pid=os.getpid(), created=0.0, argv=["temporal"], stop_signal=15),
    }
    state.write_stack(record)
    async with stack(state_dir):
        assert leftover.exited.done()
        assert not stranger.exited.done()
    await stranger.stop(asyncio.Event())


async def test_a_search_attribute_that_is_new_reaches_an_older_database(state_dir: Path) -> None:
    async with stack(state_dir, search_attributes=ATTRIBUTES[:2]):
        pass
    async with stack(state_dir) as addresses:
        client = await Client.connect(addresses.temporal_address)
        assert (await client.count_workflows("ParleyScore > 0.5 AND ParleyStatus = 'completed'")).count == 0


async def test_the_keys_of_the_histories_are_made_once_and_kept_private(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PARLEY_CODEC_KEYS")
    said: list[str] = []
    async with stack(state_dir, on_progress=said.append) as first:
        assert EncryptionCodec(first.codec_keys).key_ids
        assert first.codec_keys not in repr(first) + "".join(said)
    file = state_dir / "codec-keys"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    added = f"{new_keys()},{first.codec_keys}"
    file.write_text(f"{added}\n")
    async with stack(state_dir) as again:
        assert again.codec_keys == added
    async with stack(state_dir, fresh=True) as fresh:
        assert fresh.codec_keys not in (added, first.codec_keys)


async def test_the_token_of_simulated_phone_calls_is_made_once_and_kept_private(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TWILIO_AUTH_TOKEN", raising=False)
    said: list[str] = []
    async with stack(state_dir, on_progress=said.append) as first:
        token = first.twilio_auth_token
        assert token
        assert token not in repr(first) + "".join(said)
        environment = _servers(first)
        assert (environment["TWILIO_AUTH_TOKEN"], environment["TWILIO_ACCOUNT_SID"]) == (token, SIMULATED_ACCOUNT)
    assert stat.S_IMODE((state_dir / "twilio.token").stat().st_mode) == 0o600
    async with stack(state_dir) as again:
        assert again.twilio_auth_token == token
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", "an-account's-own")
    async with stack(state_dir) as real:
        assert real.twilio_auth_token is None
        assert real.twilio == {}
        assert "TWILIO_ACCOUNT_SID" not in _servers(real)


async def test_the_keys_of_the_environment_come_first(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = new_keys()
    for keys in ("off", given):
        monkeypatch.setenv("PARLEY_CODEC_KEYS", keys)
        async with stack(state_dir) as addresses:
            assert addresses.codec_keys == keys
    assert not (state_dir / "codec-keys").exists()


async def test_keys_that_are_not_valid_stop_the_start(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for given, file in (("mine", None), ("", b"mine"), ("", b"\xff")):
        monkeypatch.setenv("PARLEY_CODEC_KEYS", given)
        if file is not None:
            (state_dir / "codec-keys").write_bytes(file)
        with pytest.raises(InvalidInput, match="codec-keys" if file else "PARLEY_CODEC_KEYS") as refused:
            await stack(state_dir).__aenter__()
        assert "mine" not in str(refused.value)


async def test_a_second_stack_is_refused_with_the_addresses_of_the_first(state_dir: Path) -> None:
    assert running_stack(state_dir) is None
    async with stack(state_dir) as addresses:
        assert running_stack(state_dir) == addresses
        with pytest.raises(StackRunning) as refusal:
            await stack(state_dir).__aenter__()
        assert addresses.ui_url in str(refusal.value)
        assert str(os.getpid()) in str(refusal.value)
        assert "\n" not in str(refusal.value)
        assert (await read(addresses)) == ([], [])
    assert running_stack(state_dir) is None


async def test_two_stacks_side_by_side_even_when_they_want_the_same_ports(
    state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both find the ports free, as stacks that start together do: the second uses other ports."""
    monkeypatch.setattr(ports, "_is_free", lambda _: True)
    other_dir = tmp_path / "other"
    async with contextlib.AsyncExitStack() as both:
        one = await both.enter_async_context(stack(state_dir))
        wanted = StateDir(state_dir).read_stack().ports
        StateDir(other_dir).create()
        StateDir(other_dir).write_stack(StackRecord(state_dir=other_dir, ports=wanted))
        other = await both.enter_async_context(stack(other_dir))
        assert {one.temporal_address, one.ui_url}.isdisjoint({other.temporal_address, other.ui_url})
        await write(one, "one")
        assert await read(other) == ([], [])


async def test_a_port_that_is_in_use_is_not_taken(state_dir: Path) -> None:
    async with stack(state_dir) as first:
        pass
    host, port = first.temporal_address.split(":")
    with socket.create_server((host, int(port))):
        async with stack(state_dir) as second:
            assert second.temporal_address != first.temporal_address
            assert second.ui_url == first.ui_url


async def test_damaged_data_is_named_with_its_log(state_dir: Path) -> None:
    async with stack(state_dir):
        pass
    record = StateDir(state_dir).read_postgres()
    assert record
    (record.home / "data" / "global" / "pg_control").write_bytes(b"")
    with pytest.raises(PartFailed) as failure:
        await stack(state_dir).__aenter__()
    assert str(failure.value).startswith("PostgreSQL did not come up: it ")
    assert "PANIC:  could not read file" in str(failure.value)
    assert str(state_dir / "logs" / "postgresql.log") in str(failure.value)
    assert "\n" not in str(failure.value)


async def test_a_lost_password_is_not_a_reason_to_remove_data(state_dir: Path) -> None:
    async with stack(state_dir):
        pass
    (state_dir / "postgres.json").unlink()
    with pytest.raises(PartFailed, match="its password is lost; --fresh removes it"):
        await stack(state_dir).__aenter__()
    async with stack(state_dir, fresh=True) as addresses:
        assert await read(addresses) == ([], [])


async def test_a_failing_worker_or_migration_ends_what_was_started(state_dir: Path) -> None:
    said: list[str] = []
    with pytest.raises(PartFailed, match=r"worker did not come up: it exited with code 1: .*No module named"):
        await stack(state_dir, worker="no_such_module", on_progress=said.append).__aenter__()
    assert any("Temporal is up" in line for line in said)

    async def migrate(database_url: str) -> None:
        raise RuntimeError(f"cannot migrate {database_url}")

    with pytest.raises(PartFailed, match=r"migrations failed: RuntimeError: cannot migrate postgresql://parley:\*"):
        await stack(state_dir, migrate=migrate).__aenter__()
    assert recorded(state_dir) == {}
    assert running_stack(state_dir) is None


async def test_the_worker_drains_before_the_servers_end(
    state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts get their addresses, migrations come before the worker, and the servers end after it."""
    worker = """
        def drain(*_):
            import psycopg, socket
            host, port = os.environ["TEMPORAL_ADDRESS"].split(":")
            socket.create_connection((host, int(port))).close()
            with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
                [text] = connection.execute("SELECT text FROM migrated").fetchone()
            print("saw", text, os.environ["PARLEY_SIMULATOR_URL"], flush=True)
            sys.exit(0)
        signal.signal(signal.SIGTERM, drain)
        signal.pause()
    """
    simulator = """
        import http.server, sys
        port = int(sys.argv[sys.argv.index("--port") + 1])
        assert sys.argv[sys.argv.index("--latency") + 1] == "0.5"
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200 if self.path == "/admin/requests" else 404)
                self.end_headers()
        http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
    """
    (tmp_path / "stub_worker.py").write_text(READY + textwrap.dedent(worker))
    (tmp_path / "stub_simulator.py").write_text(textwrap.dedent(simulator))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    async def migrate(database_url: str) -> None:
        await run_sql(database_url, "CREATE TABLE migrated AS SELECT 'yes' AS text")

    parts = {"worker": "stub_worker", "simulator": "stub_simulator", "simulator_latency": 0.5}
    async with stack(state_dir, migrate=migrate, **parts) as addresses:
        processes = recorded(state_dir)
        assert running_stack(state_dir) == addresses
    assert set(processes) == {"PostgreSQL", "Temporal", "simulator", "worker"}
    assert await nothing_left(processes)
    log = (state_dir / "logs" / "worker.log").read_text()
    assert log == f"saw yes {addresses.simulator_url}\n"


async def test_a_second_signal_kills_a_draining_worker_with_its_children(
    state_dir: Path, write_worker: WriteWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    stubborn = """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        time.sleep(600)
    """
    write_worker(READY + textwrap.dedent(stubborn))
    monkeypatch.setattr(process, "HURRIED", 0.1)
    running = stack(state_dir, worker="stub_worker", drain=120, signals=True)
    async with running:
        processes = recorded(state_dir)
        asyncio.get_running_loop().call_later(0.01, os.kill, os.getpid(), signal.SIGTERM)
        await running.wait()
        asyncio.get_running_loop().call_later(0.1, os.kill, os.getpid(), signal.SIGTERM)
    assert await nothing_left(processes)


async def test_a_worker_that_dies_starts_again(
    state_dir: Path, write_worker: WriteWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_worker(READY + "time.sleep(600)")
    monkeypatch.setattr(stack_module, "SHORTEST_LIFE_SECONDS", 0)
    running = stack(state_dir, worker="stub_worker", restart_worker=True)
    async with running:
        waiting = asyncio.ensure_future(running.wait())
        first = recorded(state_dir)["worker"].pid
        os.kill(first, signal.SIGKILL)
        assert await until(lambda: recorded(state_dir)["worker"].pid != first, within=TEST_TIMEOUT_SECONDS)
        processes = recorded(state_dir)
        assert not waiting.done()
        waiting.cancel()
    assert await nothing_left(processes)


async def test_children_of_a_worker_that_dies_end_before_it_starts_again(
    state_dir: Path, write_worker: WriteWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_worker(CHILD + READY + "time.sleep(600)")
    monkeypatch.setattr(stack_module, "SHORTEST_LIFE_SECONDS", 0)
    running = stack(state_dir, worker="stub_worker", restart_worker=True)
    async with running:
        waiting = asyncio.ensure_future(running.wait())
        first = recorded(state_dir)["worker"].pid
        assert len(_in_sessions({first})) == 2
        os.kill(first, signal.SIGKILL)
        assert await until(lambda: recorded(state_dir)["worker"].pid != first, within=TEST_TIMEOUT_SECONDS)
        assert _in_sessions({first}) == []
        waiting.cancel()


async def test_a_gateway_that_starts_again_elsewhere_is_found_there(
    state_dir: Path, write_worker: WriteWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_worker(GATEWAY)
    monkeypatch.setattr(stack_module, "SHORTEST_LIFE_SECONDS", 0)
    running = stack(state_dir, gateway="stub_worker", restart_worker=True)
    async with running as first:
        waiting = asyncio.ensure_future(running.wait())
        taken, is_free = int((first.gateway_url or "").rpartition(":")[2]), ports._is_free
        monkeypatch.setattr(ports, "_is_free", lambda port: port != taken and is_free(port))
        os.kill(recorded(state_dir)["gateway"].pid, signal.SIGKILL)
        assert await until(lambda: running_stack(state_dir) != first, within=TEST_TIMEOUT_SECONDS)
        found = running_stack(state_dir)
        assert found is not None
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"{found.gateway_url}/healthz")).status_code == 200
        waiting.cancel()


async def test_a_worker_that_cannot_start_again_ends_the_stack(
    state_dir: Path, write_worker: WriteWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_worker(READY + "time.sleep(600)")
    monkeypatch.setattr(stack_module, "SHORTEST_LIFE_SECONDS", 0)
    running = stack(state_dir, worker="stub_worker", restart_worker=True)
    with pytest.raises(PartFailed, match=r"worker cannot start again: .*No such file"):
        async with running:
            shutil.rmtree(state_dir / "logs")
            os.kill(recorded(state_dir)["worker"].pid, signal.SIGKILL)
            await running.wait()


async def test_a_worker_that_dies_at_once_ends_the_stack(state_dir: Path, write_worker: WriteWorker) -> None:
    write_worker(READY + "time.sleep(600)")
    running = stack(state_dir, worker="stub_worker", restart_worker=True)
    with pytest.raises(PartFailed, match="worker died"):
        async with running:
            os.kill(recorded(state_dir)["worker"].pid, signal.SIGKILL)
            await running.wait()


async def test_a_dead_database_does_not_wait_for_the_worker(
    state_dir: Path, write_worker: WriteWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_worker(READY + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)")
    monkeypatch.setattr(process, "HURRIED", 0.1)
    running = stack(state_dir, worker="stub_worker", drain=10 * TEST_TIMEOUT_SECONDS)
    with pytest.raises(PartFailed, match="PostgreSQL died"):
        async with running:
            os.kill(recorded(state_dir)["PostgreSQL"].pid, signal.SIGINT)
            await running.wait()


async def test_a_stop_signal_ends_everything_in_order(tmp_path: Path, system_base: Path) -> None:
    async def stop_with(number: int) -> None:
        state_dir = tmp_path / str(number)
        async with parent(state_dir, system_base) as running:
            assert running.stdout
            assert await running.stdout.readline() == b"up\n"
            processes = recorded(state_dir)
            running.send_signal(number)
            _, errors = await running.communicate()
            assert (running.returncode, errors) == (128 + number, b"")
        assert await nothing_left(processes)
        assert "database system is shut down" in (state_dir / "logs" / "postgresql.log").read_text()

    await asyncio.gather(*map(stop_with, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)))


async def test_a_stop_signal_while_starting_ends_everything(
    state_dir: Path, write_worker: WriteWorker, system_base: Path
) -> None:
    write_worker("import time; time.sleep(600)")
    async with parent(state_dir, system_base, "stub_worker") as process:
        assert await until(lambda: "worker" in recorded(state_dir), within=TEST_TIMEOUT_SECONDS)
        processes = recorded(state_dir)
        assert running_stack(state_dir) is None  # not yet
        process.send_signal(signal.SIGINT)
        await process.communicate()
        assert process.returncode == 128 + signal.SIGINT
    assert await nothing_left(processes)


async def test_wait_returns_the_signal_and_a_cancelled_body_stays_cancelled(state_dir: Path) -> None:
    running = stack(state_dir, signals=True)
    handler = signal.getsignal(signal.SIGTERM)
    async with running:
        asyncio.get_running_loop().call_later(0.01, os.kill, os.getpid(), signal.SIGTERM)
        assert await running.wait() is signal.SIGTERM
        processes = recorded(state_dir)
    assert await nothing_left(processes)
    assert signal.getsignal(signal.SIGTERM) is handler

    entered = asyncio.Event()

    async def body() -> None:
        async with stack(state_dir):
            entered.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(body())
    await entered.wait()
    processes = recorded(state_dir)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await nothing_left(processes)


async def test_an_unusable_state_directory_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="cannot be used as state directory"):
        await stack(tmp_path / "file" / "state").__aenter__()


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run as another account")


@needs_root
async def test_root_copies_binaries_that_the_account_cannot_reach(
    state_dir: Path, system_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a virtualenv below a 0700 home: data and binaries are in a directory of root."""
    monkeypatch.setattr(postgres, "_is_passable", lambda _: False)
    async with stack(state_dir) as addresses:
        await write(addresses, "one")
        server = psutil.Process(recorded(state_dir)["PostgreSQL"].pid)
        assert Path(server.exe()).is_relative_to(system_base)
        assert server.username() == "nobody"
        record = StateDir(state_dir).read_postgres()
        assert record
        assert record.home.parent == system_base
        assert record.home.stat().st_mode & 0o777 == 0o700
    shutil.rmtree(state_dir)
    async with stack(state_dir) as addresses:  # a deleted state directory starts with empty data
        assert await read(addresses) == ([], [])


@needs_root
async def test_root_keeps_data_in_a_state_directory_that_the_account_can_reach(reachable: Path) -> None:
    async with stack(reachable / "state"):
        assert (reachable / "state/postgres/data/PG_VERSION").exists()


def interpreter() -> str | None:
    """An interpreter of this version that every account can run."""
    candidates = (sys.executable, shutil.which(f"python3.{sys.version_info.minor}", path=os.defpath))
    reachable = (path for path in candidates if path and postgres._is_passable(Path(path).resolve().parent))
    return next(reachable, None)


@needs_root
@pytest.mark.skipif(interpreter() is None, reason="no other account can reach the interpreter")
@pytest.mark.skipif(not postgres._is_passable(PACKAGES), reason="no other account can reach the packages")
async def test_an_ordinary_user_can_run_it(reachable: Path) -> None:
    for package in ("starter", "parley"):
        shutil.copytree(ROOT / package, reachable / package, ignore=shutil.ignore_patterns("__pycache__"))
    user = pwd.getpwnam("nobody")
    os.chown(reachable, user.pw_uid, user.pw_gid)
    state_dir = reachable / ".parley"
    process = await asyncio.create_subprocess_exec(
        *(interpreter() or "", "-c", PARENT, str(state_dir), str(reachable)),
        cwd=reachable,
        env={"PYTHONPATH": f"{reachable}:{PACKAGES}"},
        user=user.pw_uid,
        group=user.pw_gid,
        extra_groups=[],
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout
    assert await process.stdout.readline() == b"up\n"
    processes = recorded(state_dir)
    assert {psutil.Process(record.pid).username() for record in processes.values()} == {"nobody"}
    process.send_signal(signal.SIGINT)
    await process.communicate()
    assert process.returncode == 128 + signal.SIGINT
    assert await nothing_left(processes)
