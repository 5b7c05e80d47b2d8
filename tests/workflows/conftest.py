"""Workflows on real parts; with time skipping where a job waits for hours."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from uuid import uuid4

import pytest
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment

from parley import Backend, Client
from parley.settings import Settings
from parley.storage.database import Database
from parley.visibility import ALL
from starter.embedded.services import temporal_binary
from tests.parts import running_workers
from tests.workflows.modes import inline_client

SKIPPING = (
    "frontend.WorkflowTimeSkippingEnabled=true",
    'history.timerProcessorMaxTimeShift="20ms"',
    "history.transferProcessorMaxPollRPS=1000",
)


@pytest.fixture(autouse=True)
def mode(request: pytest.FixtureRequest) -> str:
    """How the test's client runs generations. `BOTH_MODES` sets it."""
    mode, durable_only = getattr(request, "param", "durable"), request.node.get_closest_marker("durable_only")
    if mode == "inline" and durable_only:
        pytest.skip(*durable_only.args)
    return mode


@pytest.fixture
async def client(backend: Backend, client: Client, mode: str) -> AsyncIterator[Client]:
    """A client of a new workspace, in the mode of the test."""
    async with AsyncExitStack() as running:
        if mode == "inline":
            client = await running.enter_async_context(inline_client(backend, client.workspace_id))
        yield client


@pytest.fixture(scope="session")
async def skipping() -> AsyncIterator[WorkflowEnvironment]:
    """A Temporal server whose workflows skip the time in which they only wait."""
    environment = await WorkflowEnvironment.start_time_skipping_v2(
        dev_server_existing_path=str(temporal_binary()),
        dev_server_extra_args=[part for value in SKIPPING for part in ("--dynamic-config-value", value)],
        search_attributes=ALL,
        data_converter=pydantic_data_converter,
    )
    async with environment:
        yield environment


@pytest.fixture
async def skipping_client(
    skipping: WorkflowEnvironment, database: Database, settings: Settings
) -> AsyncIterator[Client]:
    """Parley's client with its workers, on the server that skips time."""
    quick = settings.model_copy(update={"breaker_open_seconds": 0.01})
    async with running_workers(skipping.client, database, quick):
        yield Backend(skipping.client, database, quick).client(f"workspace-{uuid4().hex[:8]}")
