"""The services of a benchmark: PostgreSQL, Temporal, the simulator and a worker, as processes.

They listen on loopback, use a temporary directory and end with the benchmark. Provider keys in the environment are
removed, so that only the simulator answers.
"""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal
from unittest import mock
from uuid import uuid4

import httpx2
import psutil
import psycopg
from psycopg import sql
from pydantic import SecretStr
from sqlalchemy import make_url, text

from benchmarks.phases import Phases, Request
from parley import Client
from parley.client.auto_analyze import AutoAnalyzeHandle
from parley.domain.auto_analyze.contract import Statistics
from parley.settings import Settings
from parley.storage.migrate import migrate
from parley.visibility import DEFINITIONS
from starter.embedded import Addresses
from starter.embedded.postgres import Postgres
from starter.embedded.services import Gateway, Simulator, Temporal, Worker
from starter.embedded.stack import EmbeddedStack
from starter.embedded.state import StateDir

# Rate limits so high that they do not affect the figures.
WORKER_ENVIRONMENT = {
    "OPENAI_REQUESTS_PER_SECOND": "1000",
    "ANTHROPIC_REQUESTS_PER_SECOND": "1000",
    "ELEVENLABS_REQUESTS_PER_SECOND": "1000",
}
SPANS = "spans.jsonl"
PARTS = (Gateway.name, Worker.name, Temporal.name, Postgres.name, Simulator.name)
MEBIBYTE = 2**20
REMOVED_PREFIXES = ("OPENAI_", "ANTHROPIC_", "ELEVENLABS_", "LOCAL_", "TEMPORAL_", "DATABASE_", "PARLEY_")
STREAMS = text("SELECT ordinal, stream FROM auto_sessions WHERE workspace_id = :workspace AND job_key = :job")
ATTEMPTS = text("SELECT id, request_id FROM attempts WHERE workspace_id = :workspace")


@dataclass(frozen=True)
class Run:
    """A finished labelling run. `seconds`: by Temporal's clock, from start to close, without the import."""

    client: Client
    job: AutoAnalyzeHandle
    seconds: float
    import_seconds: float
    statistics: Statistics
    phases: Phases


class Bench:
    """A running stack."""

    def __init__(
        self, addresses: Addresses, http: httpx2.AsyncClient, directory: Path, cleanup: AsyncExitStack
    ) -> None:
        self.directory, self.addresses, self._http, self._cleanup = directory, addresses, http, cleanup

    async def latency(self, **terms: float) -> None:
        """Set the latency of the simulator: `seconds`, or `median` and `sigma` of a lognormal."""
        (await self._http.post("/admin/latency", json=terms)).raise_for_status()

    async def reset(self) -> None:
        """Return the simulator to its start, so that a lognormal latency has the same values again."""
        (await self._http.post("/admin/reset")).raise_for_status()

    async def limit(self, provider: str, requests: int, window_seconds: float) -> None:
        """Set how many requests the simulator of a provider admits in any so many seconds."""
        terms = {"provider": provider, "requests": requests, "window_seconds": window_seconds}
        (await self._http.post("/admin/limits", json=terms)).raise_for_status()

    async def requests(self, provider: str) -> list[dict[str, Any]]:
        """The requests that a provider received, with their times, states and costs."""
        response = await self._http.get("/admin/requests", params={"provider": provider})
        return response.raise_for_status().json()

    @property
    def spans(self) -> Path:
        """The file in which a traced worker records the times of its steps."""
        return self.directory / SPANS

    def cpu(self) -> dict[str, float]:
        """Seconds of CPU that each part of the stack has used so far, with its child processes."""
        started = StateDir(self.directory / "state").read_stack().processes
        return {name: cpu_seconds(started[name].pid) for name in PARTS if name in started}

    def memory(self, kind: Literal["pss", "rss"] = "pss") -> dict[str, float]:
        """MiB of memory of each part, with its child processes. `pss`: what they share counts once; `rss`: for each."""
        started = StateDir(self.directory / "state").read_stack().processes
        return {name: _mebibytes(started[name].pid, kind) for name in PARTS if name in started}

    async def billed(self) -> list[dict[str, Any]]:
        """The requests that a provider would have billed."""
        response = await self._http.get("/admin/requests", params={"billed": "true"})
        return response.raise_for_status().json()

    async def label(self, path: Path, *, within: float, **terms: Any) -> Run:
        """Import a file into a new workspace, label it, and return the times and statistics.

        Raises:
            TimeoutError: labelling took longer than `within` seconds.
        """
        client = await self.client(f"bench-{uuid4().hex[:8]}")
        began = time.monotonic()
        imported = await client.import_chats(path)
        import_seconds = time.monotonic() - began
        say(f"{imported.sessions} sessions imported in {import_seconds:.1f} s")
        job = await client.auto_analyze(imported.dataset_id, user_id="bench", budget_usd=Decimal(1000), **terms)
        async with asyncio.timeout(within):
            report = await job.result()
        assert report.statistics
        requests = await self._requests(client, report.job_key)
        seconds = await self._seconds(client, job.id, report.job_key)
        say(f"labelled in {seconds:.1f} s with {len(requests)} requests")
        phases = Phases.of(requests)
        return Run(client, job, seconds, import_seconds, report.statistics, phases)

    async def create_database(self, name: str) -> str:
        """Create an empty database on the stack's server, and return its address."""
        url = make_url(self.addresses.database_url)
        async with await psycopg.AsyncConnection.connect(self.addresses.database_url, autocommit=True) as server:
            await server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return url.set(database=name).render_as_string(hide_password=False)

    async def client(self, workspace: str) -> Client:
        """A client for a workspace, closed with the stack."""
        settings = Settings(
            database_url=SecretStr(self.addresses.database_url), codec_keys=SecretStr(self.addresses.codec_keys)
        )
        client = await Client.connect(
            workspace_id=workspace, settings=settings, temporal_address=self.addresses.temporal_address
        )
        return await self._cleanup.enter_async_context(client)

    async def _seconds(self, client: Client, job_id: str, first_run: str) -> float:
        """The time from the start of the job's first run to the end of its last run."""
        first = await client.temporal.get_workflow_handle(job_id, run_id=first_run).describe()
        last = await client.temporal.get_workflow_handle(job_id).describe()
        assert last.close_time
        return (last.close_time - first.start_time).total_seconds()

    async def _requests(self, client: Client, job_key: str) -> list[Request]:
        """The run's answered requests, with times from the simulator and steps from the ledger."""
        async with client.database.transaction() as tx:
            rows = (await tx.execute(ATTEMPTS, {"workspace": client.workspace_id})).all()
            streams = dict((await tx.execute(STREAMS, {"workspace": client.workspace_id, "job": job_key})).all())
        steps = {str(row[0]): str(row[1]).removeprefix(f"{job_key}/") for row in rows}
        response = await self._http.get("/admin/requests", params={"state": "answered"})
        return [
            Request(step, sent["received_at"], sent["ended_at"], streams.get(Phases.first_session(step)))
            for sent in response.raise_for_status().json()
            if (step := steps.get(sent["attempt_id"]))
        ]


def _mebibytes(pid: int, kind: str) -> float:
    parent, used = psutil.Process(pid), 0.0
    for one in (parent, *parent.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # a child process has ended meanwhile
            used += getattr(one.memory_full_info(), kind)
    return used / MEBIBYTE


def cpu_seconds(pid: int) -> float:
    """Seconds of CPU that a process has used so far, with its child processes."""
    parent = psutil.Process(pid)
    times = [process.cpu_times() for process in (parent, *parent.children(recursive=True))]
    return sum(spent.user + spent.system for spent in times) + times[0].children_user + times[0].children_system


@asynccontextmanager
async def running(
    worker: str | None = "worker", *, gateway: str | None = None, **environment: str
) -> AsyncIterator[Bench]:
    """Start the services, and end them after the block.

    Args:
        worker: the module to run as the worker, None for no worker.
        gateway: the module to run as the gateway, None for no gateway.
        environment: further environment variables of the worker and the gateway.
    """
    with own_environment(), tempfile.TemporaryDirectory(prefix="parley-bench-") as directory:
        os.environ.update(environment | {"BENCH_SPANS": str(Path(directory) / SPANS)})
        stack = EmbeddedStack(
            Path(directory) / "state",
            temporary=True,
            search_attributes=DEFINITIONS,
            migrate=_migrate,
            simulator_latency=0.0,
            worker=worker,
            gateway=gateway,
            drain=10,
        )
        async with stack as addresses, AsyncExitStack() as cleanup:
            http = httpx2.AsyncClient(base_url=addresses.simulator_url or "", timeout=60)
            yield Bench(addresses, await cleanup.enter_async_context(http), Path(directory), cleanup)


@contextmanager
def own_environment() -> Iterator[None]:
    """The environment without provider keys and addresses of other services during the block, with high rate limits."""
    with mock.patch.dict(os.environ):
        for name in [name for name in os.environ if name.startswith(REMOVED_PREFIXES)]:
            del os.environ[name]
        os.environ.update(WORKER_ENVIRONMENT)
        yield


async def _migrate(url: str) -> None:
    await migrate(SecretStr(url))


def say(line: str) -> None:
    """Print a progress message to stderr."""
    print(f"  {line}", file=sys.stderr, flush=True)
