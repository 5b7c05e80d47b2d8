"""An isolated environment for fault tests: namespace, database, simulator, and workers as processes."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import pytest
from google.protobuf.duration_pb2 import Duration
from pydantic import SecretStr
from sqlalchemy.engine import make_url
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, RegisterNamespaceRequest
from temporalio.client import Client as TemporalClient
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.service import RPCError
from temporalio.testing import ActivityEnvironment

from activities.failpoints import HELD
from activities.sweep import SweepActivities
from parley import Backend, Client
from parley.domain.housekeeping import SweepInput
from parley.storage.database import Database
from parley.visibility import ALL
from starter.embedded import Addresses
from tests.faults.processes import AnyProcess, start
from tests.parts import TEST_TIMEOUT_SECONDS, SimulatorAdmin, quick_settings, run_sql, running_simulator, until

T = TypeVar("T")


@dataclass
class Scene:
    """The environment of one fault test."""

    client: Client
    simulator: SimulatorAdmin
    database: Database
    environment: dict[str, str]
    directory: Path
    processes: list[AnyProcess] = field(default_factory=list)

    async def start_worker(
        self, failpoints: str = "", roles: tuple[str, ...] = (), *, fresh: bool = False, **environment: str
    ) -> AnyProcess:
        """A worker process that polls. It reads its failpoints from the environment, as in production.

        fresh: it begins with the interpreter, see tests/faults/processes.py.
        """
        ready = self.directory / f"ready-{len(self.processes)}"
        log = self.directory / f"worker-{len(self.processes)}.log"
        given = {"PARLEY_FAILPOINTS": failpoints, "PARLEY_READY_FILE": str(ready)}
        process = await self.start(
            "worker",
            *(word for role in roles for word in ("--role", role)),
            environment=environment | given,
            log=log,
            fresh=fresh,
        )
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            while not ready.exists():
                assert process.returncode is None, log.read_text()
                await asyncio.sleep(0.05)
        return process

    async def start(
        self, module: str, *arguments: str, environment: Mapping[str, str], log: Path | None = None, fresh: bool = False
    ) -> AnyProcess:
        """A process of the scene: `python -m module`, with the environment of the scene and this one."""
        log = log or self.directory / f"process-{len(self.processes)}.log"
        given = {**self.environment, **environment}
        process = await start(module, *arguments, environment=given, log=log, fresh=fresh)
        self.processes.append(process)
        return process

    async def query(self, sql: str) -> list[dict[str, object]]:
        return await run_sql(self.environment["DATABASE_URL"], sql)

    def in_workspace(self, workspace_id: str) -> Client:
        """The client of another workspace."""
        own = self.client
        return Backend(own.temporal, own.database, own.settings).client(workspace_id)

    async def holding(self, point: str, count: int, *, worker: int = 0) -> None:
        """Wait until a worker logs that it holds `count` paid calls at a failpoint."""
        log = self.directory / f"worker-{worker}.log"
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            while log.read_text().count(f"{HELD} {point}") < count:
                await asyncio.sleep(0.05)

    async def attempts(self) -> list[str]:
        """The states of the ledger's attempts, in order."""
        rows = await self.query("SELECT state FROM attempts ORDER BY request_id, number")
        return [str(row["state"]) for row in rows]

    async def sweep(self) -> None:
        """Sweep until no attempt is open: what a process that was killed has asked for is open until its lease ends."""
        sweeper = SweepActivities(self.database, self.client.temporal)

        async def nothing_is_open() -> bool:
            await ActivityEnvironment().run(sweeper.sweep, SweepInput())
            return "open" not in await self.attempts()

        await until(nothing_is_open)

    async def stop(self) -> None:
        for process in self.processes:
            if process.returncode is None:
                process.kill()
                await process.wait()


@asynccontextmanager
async def scene(
    stack: Addresses, template: str, directory: Path, simulator: SimulatorAdmin | None = None
) -> AsyncIterator[Scene]:
    """A scene. `simulator`: a running simulator to use; None starts one."""
    directory.mkdir(parents=True, exist_ok=True)
    name = f"scene-{uuid4().hex[:8]}"
    url = await _create_database(template, name.replace("-", "_"))
    temporal = await _create_namespace(stack.temporal_address, name)
    async with AsyncExitStack() as running:
        simulator = simulator or await running.enter_async_context(running_simulator())
        database = Database(SecretStr(url))
        settings = quick_settings(url, simulator.url)
        environment = {
            **{key: value for key, value in os.environ.items() if not key.endswith("_API_KEY")},
            "DATABASE_URL": url,
            "TEMPORAL_ADDRESS": stack.temporal_address,
            "TEMPORAL_NAMESPACE": name,
            "PARLEY_SIMULATOR_URL": simulator.url,
            "PARLEY_CODEC_KEYS": "off",  # the client of the scene encrypts nothing
            "PARLEY_LEASE_SECONDS": "3",
            "PARLEY_PROVIDER_TIMEOUT_SECONDS": "40",
        }
        client = Backend(temporal, database, settings).client()
        made = Scene(client, simulator, database, environment, directory)
        try:
            yield made
        finally:
            await made.stop()
            await database.close()


async def at_each(
    points: Collection[str],
    play: Callable[[str, Scene], Awaitable[T]],
    stack: Addresses,
    template: str,
    directories: pytest.TempPathFactory,
) -> dict[str, T]:
    """What happens at each point, all at once, each in a scene of its own."""

    async def played(point: str) -> T:
        async with scene(stack, template, directories.mktemp(point)) as place:
            return await play(point, place)

    return dict(zip(points, await asyncio.gather(*map(played, points)), strict=True))


async def _create_database(template: str, name: str) -> str:
    await run_sql(template, f"CREATE DATABASE {name} TEMPLATE parley_template")
    return make_url(template).set(database=name).render_as_string(hide_password=False)


async def _create_namespace(address: str, name: str) -> TemporalClient:
    """A new namespace, so that scenes can run concurrently with the same task queues."""
    client = await TemporalClient.connect(address, namespace=name, data_converter=pydantic_data_converter)
    await client.workflow_service.register_namespace(
        RegisterNamespaceRequest(namespace=name, workflow_execution_retention_period=Duration(seconds=86400))
    )
    attributes = {key.name: IndexedValueType.ValueType(key.indexed_value_type) for key in ALL}
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        while True:
            try:
                await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=name))
                await client.operator_service.add_search_attributes(
                    AddSearchAttributesRequest(namespace=name, search_attributes=attributes)
                )
            except RPCError:
                await asyncio.sleep(0.2)
            else:
                return client


async def exited(process: AnyProcess, number: signal.Signals) -> None:
    """Wait until that signal has ended the process."""
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        code = await process.wait()
    assert code == -number, f"the process ended with {code} in place of {-number}"


async def frozen(process: AnyProcess) -> None:
    """Wait until the process has stopped itself."""
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            await asyncio.sleep(0.05)
