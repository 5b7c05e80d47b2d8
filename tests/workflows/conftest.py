"""Workflows on real parts; with time skipping where a job waits for hours."""

from collections.abc import AsyncIterator
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

SKIPPING = (
    "frontend.WorkflowTimeSkippingEnabled=true",
    'history.timerProcessorMaxTimeShift="20ms"',
    "history.transferProcessorMaxPollRPS=1000",
)


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
    quick = settings.model_copy(update={"breaker_open_seconds": 0.1})
    async with running_workers(skipping.client, database, quick):
        yield Backend(skipping.client, database, quick).client(f"workspace-{uuid4().hex[:8]}")
