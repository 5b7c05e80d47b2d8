"""The real services that tests run on, and the guard that blocks connections to other machines."""

import asyncio
import os
import resource
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, LiteralString, TypeVar
from uuid import uuid4

import psycopg
from psycopg.rows import dict_row
from pydantic import SecretStr
from sqlalchemy.engine import make_url
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client as TemporalClient
from temporalio.client import WorkflowHandle

from activities.candidates import Candidates
from activities.parts import Parts
from activities.workspaces import Workspaces
from parley.providers.registry import Providers
from parley.settings import Settings
from parley.storage.database import Database
from parley.storage.migrate import migrate
from parley.streams.hub import PROCESS_HUB, SinkSource
from parley.testing import SimulatorAdmin
from simulator.config import Config
from simulator.server import Server
from worker import ROLES, build_workers

T = TypeVar("T")
LOOPBACK = ("127.", "::1", "localhost", "/")
ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "samples"
NOT_OURS = {".venv", "build", "node_modules", "__pycache__"}
MEMORY = Path("/dev/shm")
MEMORY_BYTES = 2 * 1024**3
# How long a test waits for a condition before it fails; generous, because the machine may be busy.
TEST_TIMEOUT_SECONDS = 60
# The migrated database of a server, of which tests get copies.
TEMPLATE_DATABASE: Final = "parley_template"


def source_files(*suffixes: str) -> list[Path]:
    """The project's own files with these suffixes, sorted; nothing that was installed, built or generated."""
    found = (path for path in ROOT.rglob("*") if path.suffix in suffixes and path.is_file())
    parts = ((path, path.relative_to(ROOT).parts) for path in found)
    return sorted(path for path, names in parts if not any(name in NOT_OURS or name[0] == "." for name in names))


class LeftLoopback(AssertionError):
    """A test tried to connect to another machine."""


def refuse_the_network(event: str, arguments: tuple[Any, ...]) -> None:
    """Audit hook: raise `LeftLoopback` for every connection of this process to another machine."""
    if event == "socket.connect":
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else address
    elif event == "socket.getaddrinfo":
        host = arguments[0] or "localhost"
    else:
        return
    host = host.decode() if isinstance(host, bytes) else str(host)
    if not host.startswith(LOOPBACK) and host != "":
        raise LeftLoopback(f"a test tried to reach {host!r}")


def use_memory_for_temporary_files() -> None:
    """Write temporary files to memory: servers make thousands of small files, and some disks take 1 ms for each.

    Temporary files stay on the disk if TMPDIR is set, or if /dev/shm is small, read-only or mounted noexec.
    """
    if "TMPDIR" in os.environ or not os.access(MEMORY, os.W_OK):
        return
    if shutil.disk_usage(MEMORY).free < MEMORY_BYTES or os.statvfs(MEMORY).f_flag & os.ST_NOEXEC:
        return
    os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)


def skip_ca_certificates() -> None:
    """No test uses TLS, and each HTTP client would take 20 ms to read the CA certificates."""
    os.environ.pop("SSL_CERT_FILE", None)
    os.environ["SSL_CERT_DIR"] = str(ROOT / "tests")


def allow_many_open_files() -> None:
    """Raise this process's limit of open files as far as its account may: hundreds of requests at once need sockets."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def reachable_directory() -> Iterator[Path]:
    """A temporary directory that every account can reach, as PostgreSQL needs it when the tests run as root."""
    with tempfile.TemporaryDirectory(prefix="parley-test-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


async def until(condition: Callable[[], Any]) -> Any:
    """What the condition, which may be asynchronous, returns once it holds."""
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        while True:
            found = condition()
            if found := (await found if isinstance(found, Awaitable) else found):
                return found
            await asyncio.sleep(0.02)


async def run_sql(url: str, statement: LiteralString, *parameters: Any) -> list[dict[str, Any]]:
    """Run one statement on a new connection, outside a transaction; return its rows."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True, row_factory=dict_row) as server:
        cursor = await server.execute(statement, parameters or None)
        return await cursor.fetchall() if cursor.description else []


async def make_template(server_url: str) -> None:
    """Make the migrated template on the server at `server_url`: each test gets a copy of it."""
    await run_sql(server_url, f"CREATE DATABASE {TEMPLATE_DATABASE}")
    url = make_url(server_url).set(database=TEMPLATE_DATABASE)
    await migrate(SecretStr(url.render_as_string(hide_password=False)))


@asynccontextmanager
async def running_simulator(config: Config | None = None) -> AsyncIterator[SimulatorAdmin]:
    server = Server(config or Config())
    running = asyncio.create_task(server.run_until_stopped())
    await server.ready.wait()
    admin = SimulatorAdmin(server.url)
    try:
        yield admin
    finally:
        await admin.close()
        server.should_exit = True
        await running


def quick_settings(database_url: str, simulator_url: str, **changes: Any) -> Settings:
    values: dict[str, Any] = {
        "database_url": database_url,
        "simulator_url": simulator_url,
        "provider_timeout_seconds": 20,
        "lease_seconds": 3,
        "openai_requests_per_second": 1000,
        "anthropic_requests_per_second": 1000,
        "elevenlabs_requests_per_second": 1000,
        "hearing": "elevenlabs",
        "collect_seconds": 0,
        # Tests of what depends on meaning use `by_meaning`: a vector takes milliseconds, and a process loads the model.
        "memory_vectors": "off",
    }
    return Settings(**{**values, **changes})


def by_meaning(settings: Settings) -> Settings:
    """The settings with which texts are compared by their vectors, of the extra `local-embeddings`."""
    return settings.model_copy(update={"memory_vectors": "local"})


async def reset_to_start(temporal: TemporalClient, job_id: str, result_type: type[T]) -> WorkflowHandle[Any, T]:
    """Reset a workflow's latest run to its first task; returns the handle of the new run."""
    workflow = temporal.get_workflow_handle(job_id)
    history = await workflow.fetch_history()
    done = EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED
    reset = await temporal.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=temporal.namespace,
            workflow_execution=WorkflowExecution(workflow_id=workflow.id, run_id=(await workflow.describe()).run_id),
            reason="test",
            workflow_task_finish_event_id=next(event.event_id for event in history.events if event.event_type == done),
            request_id=uuid4().hex,
        )
    )
    return temporal.get_workflow_handle(workflow.id, run_id=reset.run_id, result_type=result_type)


def candidates_of(database: Database, settings: Settings) -> Candidates:
    return Candidates(database, settings, Workspaces(database), Providers(settings).access)


@asynccontextmanager
async def running_workers(
    client: TemporalClient,
    database: Database,
    settings: Settings,
    roles: tuple[str, ...] = ROLES,
    *,
    sinks: SinkSource = PROCESS_HUB.sink,
) -> AsyncIterator[None]:
    """Run Parley's workers in this process. `sinks`: where their streams go; default: to readers of this process."""
    parts = Parts(database, settings, sinks=sinks)
    async with AsyncExitStack() as running:
        running.push_async_callback(parts.close)
        for worker in build_workers(client, parts, roles):
            await running.enter_async_context(worker)
        yield
