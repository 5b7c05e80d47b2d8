"""The labels of the same sessions by a script without a library, by Curator, DBOS and Parley, one session a request.

Each has eight requests in flight, and the simulator answers each in the same time. First a system runs undisturbed;
then it is killed with `kill -9` once half of its requests are billed, and started again. `repeated` is how many more
requests are billed than without the kill. `CPU` is of all that runs for the system beside the simulator: its own
process without its start, PostgreSQL, and Temporal for Parley.

The three others send one request for each session and know nothing else. Parley's run includes its discovery and its
comparison of labels, and its requests contain the labels that are known, so it has more requests and longer ones:
compare the figures for a request.

Parley does not depend on Curator and DBOS. They are skipped unless BENCH_PEERS_PYTHON names the Python of an
environment that has `bespokelabs-curator`, `dbos` and `openai`.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from benchmarks.chats import write_chats
from benchmarks.gateway import processes
from benchmarks.gateway.processes import ManagedProcess
from benchmarks.options import Figures, Options
from benchmarks.peers.programs import PROGRAMS, STREAMS
from benchmarks.stack import Bench, cpu_seconds, running, say
from parley.domain.auto_analyze.contract import LabelKind
from parley.domain.auto_analyze.prompts import classification_request
from parley.domain.chat import ChatSession
from starter.embedded.postgres import Postgres
from starter.embedded.services import Temporal

PYTHON = "BENCH_PEERS_PYTHON"
SESSIONS = 200
LATENCY_SECONDS = 0.3
TIMEOUT_SECONDS = 300
SCRIPT = "script"


@dataclass(frozen=True)
class Outcome:
    """What one run of a system used. `seconds`, `cpu`: without the start of its process; unknown after a kill."""

    replies: int
    requests: int
    seconds: float = 0.0
    cpu: float = 0.0


async def measure(options: Options) -> Figures:
    sessions = options.sessions or SESSIONS
    python = os.environ.get(PYTHON)
    figures: Figures = {}
    async with running(worker=None, PARLEY_STARTING_ENERGY="1000000") as bench:
        await bench.latency(seconds=LATENCY_SECONDS)
        chats = write_chats(bench.directory / "chats.jsonl", sessions)
        work = _write_work(chats, bench.directory / "work.jsonl")
        for name in PROGRAMS:
            if name != SCRIPT and python is None:
                figures[name] = {"skipped": f"{PYTHON} is not set (see benchmarks/README.md)"}
                continue
            peer = Peer(bench, sys.executable if name == SCRIPT else str(python), name, work)
            figures[name] = _figures(sessions, await peer.run(), await peer.run(kill_after=sessions // 2))
            say(f"{name}: done")
        parley = Parley(bench, chats)
        alone = await parley.run()
        figures["Parley"] = _figures(sessions, alone, await parley.run(kill_after=alone.requests // 2))
    return figures


def _write_work(chats: Path, path: Path) -> Path:
    """The requests of the other systems: those that Parley sends for one session while no label is known."""
    with path.open("w", encoding="utf-8") as file:
        for line in chats.read_text(encoding="utf-8").splitlines():
            session = ChatSession.model_validate_json(line)
            request = classification_request({session.session_id: session}, dict.fromkeys(LabelKind, ()), {})
            schema = {"name": request.schema_name, "schema": request.response_schema, "strict": True}
            asked = {
                "key": session.session_id,
                "messages": [{"role": message.role, "content": message.content} for message in request.messages],
                "max_tokens": request.max_tokens,
                "temperature": request.temperature,
                "response_format": {"type": "json_schema", "json_schema": schema},
            }
            file.write(json.dumps(asked) + "\n")
    return path


class Peer:
    """A program that sends the work, and continues when it is started again."""

    def __init__(self, bench: Bench, python: str, name: str, work: Path) -> None:
        self._bench, self._python, self._name, self._work = bench, python, name, work

    async def run(self, kill_after: int | None = None) -> Outcome:
        """Do the work in a new place; with `kill_after`, kill the program once so many requests are billed."""
        place = self._bench.directory / f"peer-{uuid4().hex[:8]}"
        place.mkdir()
        statistics, replies = place / "statistics.json", place / "replies.jsonl"
        process = await self._process(place, replies, statistics)
        before, database = len(await self._bench.billed()), self._bench.cpu()[Postgres.name]
        await process.start()
        if kill_after is not None:
            await _kill_after(self._bench, process, before + kill_after)
            await process.start()
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await process.wait()
        requests = len(await self._bench.billed()) - before
        database = self._bench.cpu()[Postgres.name] - database
        used = json.loads(statistics.read_text())
        answered = {json.loads(line)["key"] for line in replies.read_text().splitlines()}
        return Outcome(len(answered), requests, used["seconds"], used["cpu"] + database)

    async def _process(self, place: Path, replies: Path, statistics: Path) -> ManagedProcess:
        async def always_ready() -> bool:
            return True

        database = await self._bench.create_database(place.name.replace("-", "_"))
        arguments = [self._work, replies, self._bench.addresses.simulator_url, database, statistics]
        return ManagedProcess(
            [self._python, str(Path(__file__).parent / "programs.py"), self._name, *map(str, arguments)],
            {"OPENAI_API_KEY": "none", "TELEMETRY_ENABLED": "false", "CURATOR_VIEWER": "0", "HF_HUB_OFFLINE": "1"},
            place / "log",
            always_ready,
        )


class Parley:
    """A labelling run with one session in a request, whose worker is killed."""

    def __init__(self, bench: Bench, chats: Path) -> None:
        self._bench, self._chats = bench, chats

    async def run(self, kill_after: int | None = None) -> Outcome:
        """Label the sessions in a new workspace; with `kill_after`, kill the worker after so many requests."""
        worker = processes.worker(self._bench, name=f"worker-{uuid4().hex[:8]}")
        await worker.start()
        try:
            before, used = len(await self._bench.billed()), self._used(worker)
            labelling = asyncio.create_task(
                self._bench.label(self._chats, within=TIMEOUT_SECONDS, streams=STREAMS, sessions_per_stream=1)
            )
            if kill_after is not None:
                await _kill_after(self._bench, worker, before + kill_after)
                await worker.start()
            run = await labelling
            cpu = self._used(worker) - used
        finally:
            worker.kill()
        requests = len(await self._bench.billed()) - before
        return Outcome(run.statistics.sessions, requests, run.seconds, cpu)

    def _used(self, worker: ManagedProcess) -> float:
        parts = self._bench.cpu()
        return cpu_seconds(worker.pid) + parts[Temporal.name] + parts[Postgres.name]


async def _kill_after(bench: Bench, process: ManagedProcess, billed: int) -> None:
    began = time.monotonic()
    while len(await bench.billed()) < billed:
        assert time.monotonic() - began < TIMEOUT_SECONDS, "too few requests"
        await asyncio.sleep(0.02)
    process.kill()


def _figures(sessions: int, alone: Outcome, killed: Outcome) -> Mapping[str, float | str]:
    return {
        "seconds": alone.seconds,
        "over its replies, eight at a time": alone.seconds * STREAMS / alone.requests / LATENCY_SECONDS,
        "requests": alone.requests,
        "milliseconds of CPU per request": 1000 * alone.cpu / alone.requests,
        "after kill -9: sessions without a result": sessions - killed.replies,
        "after kill -9: repeated": killed.requests - alone.requests,
    }
