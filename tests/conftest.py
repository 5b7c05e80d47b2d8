"""Fixtures with real services: PostgreSQL, the Temporal dev server, the vendors' SDKs against the simulator."""

import gc
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from pydantic import SecretStr
from temporalio.client import Client as TemporalClient
from temporalio.contrib.pydantic import pydantic_data_converter

from parley import Backend, Client
from parley.settings import Settings
from parley.storage.database import Database
from parley.visibility import DEFINITIONS
from starter.embedded import Addresses
from starter.embedded.stack import EmbeddedStack
from tests.databases import Databases
from tests.faults.processes import fork_processes
from tests.order import arrange
from tests.parts import (
    SAMPLES,
    TEMPLATE_DATABASE,
    SimulatorAdmin,
    allow_many_open_files,
    make_template,
    quick_settings,
    reachable_directory,
    refuse_the_network,
    running_simulator,
    running_workers,
    skip_ca_certificates,
    use_memory_for_temporary_files,
)

KEYS = (
    "OPENAI_API_KEY",
    "ANTHROPIC_API_KEY",
    "ELEVENLABS_API_KEY",
    "LOCAL_BASE_URL",
    "TWILIO_ACCOUNT_SID",
    "TWILIO_AUTH_TOKEN",
    "DATABASE_URL",
    "TEMPORAL_ADDRESS",
)


# Without bytecode, each of the processes that tests start compiles the project again, and each test process the tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Tests read histories. Those of the encryption and of the stack's own keys say so.
os.environ["PARLEY_CODEC_KEYS"] = "off"
sys.addaudithook(refuse_the_network)
use_memory_for_temporary_files()
skip_ca_certificates()
allow_many_open_files()
fork_processes()
# Collection makes few circles of objects: to look for them takes a quarter of its time.
gc.disable()


def pytest_collection_finish() -> None:
    """Search for circles again, but not among modules and tests: to scan them took a tenth of the CPU time."""
    gc.freeze()
    # What a test imports first, such as a vendor's SDK, is scanned still: seldom, by a search for every 20,000 objects.
    gc.set_threshold(20_000)
    gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the long tests, in each process of pytest-xdist."""
    items[:] = arrange(items, getattr(config, "workerinput", {}).get("workercount", 1))


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the developer's keys from the environment."""
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A directory that every account can reach."""
    with reachable_directory() as directory:
        yield directory


@pytest.fixture(scope="session")
async def stack() -> AsyncIterator[Addresses]:
    """PostgreSQL and Temporal, once for all tests of this process."""
    with reachable_directory() as directory:
        parts = EmbeddedStack(
            directory / "state",
            temporary=True,
            search_attributes=DEFINITIONS,
            simulator=None,
            worker=None,
            signals=False,
        )
        async with parts as addresses:
            yield addresses


@pytest.fixture(scope="session")
async def template(stack: Addresses) -> str:
    """The migrated template database, copied for each test. Returns the server's address."""
    await make_template(stack.database_url)
    return stack.database_url


@pytest.fixture(scope="session")
async def databases(template: str) -> AsyncIterator[Databases]:
    async with await psycopg.AsyncConnection.connect(template, autocommit=True) as server:
        yield Databases(server, template, TEMPLATE_DATABASE)


@pytest.fixture
async def database_url(databases: Databases) -> AsyncIterator[str]:
    """An empty, migrated database for one test."""
    name = await databases.take()
    yield databases.url(name)
    await databases.give_back(name)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database(SecretStr(database_url))
    yield opened
    await opened.close()


@pytest.fixture
async def simulator() -> AsyncIterator[SimulatorAdmin]:
    """A simulator for one test."""
    async with running_simulator() as admin:
        yield admin


@pytest.fixture
def settings(database_url: str, simulator: SimulatorAdmin) -> Settings:
    """Settings with the test's database and simulator, and short timeouts."""
    return quick_settings(database_url, simulator.url)


@pytest.fixture(scope="session")
async def temporal(stack: Addresses) -> TemporalClient:
    return await TemporalClient.connect(stack.temporal_address, data_converter=pydantic_data_converter)


@pytest.fixture
async def backend(temporal: TemporalClient, database: Database, settings: Settings) -> Backend:
    """Parley's connections with the test's database. It starts no worker."""
    return Backend(temporal, database, settings)


@pytest.fixture
async def client(backend: Backend) -> Client:
    """A client of a new workspace. It starts no worker."""
    return backend.client(f"workspace-{uuid4().hex[:8]}")


@pytest.fixture
async def worker(
    temporal: TemporalClient, database: Database, settings: Settings, simulator: SimulatorAdmin
) -> AsyncIterator[None]:
    async with running_workers(temporal, database, settings):
        yield
        await simulator.reset()  # a worker ends after its paid calls: none of them may wait at a gate


@pytest.fixture
def samples() -> Iterator[Path]:
    yield SAMPLES
