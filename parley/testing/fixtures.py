"""Pytest fixtures: the stack once per run, a client of a new workspace and a reset simulator for each test."""

import os
from collections.abc import AsyncIterator, Iterator, Mapping
from uuid import uuid4

import pytest
import pytest_asyncio
from temporalio.testing import TimeSkipper

from parley.client.client import Client
from parley.testing.simulator import SimulatorAdmin
from parley.testing.stack import Stack, environment_of, isolated, run_stack


@pytest.fixture(scope="session")
def parley_environment() -> Mapping[str, str]:
    """Variables for the worker of the stack. Override it in `conftest.py`, for example to set `PARLEY_POLICY_FILE`."""
    return {}


@pytest.fixture(scope="session")
def parley_stack(parley_environment: Mapping[str, str]) -> Iterator[Stack]:
    """Temporal, PostgreSQL, the simulator and a worker, once per run.

    Until its end, this process has no provider's key and no other address in its environment: the service's code that
    connects without arguments reaches this stack.
    """
    with run_stack(parley_environment) as stack, pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - isolated(os.environ).keys():
            patch.delenv(name)
        for name, value in environment_of(stack).items():
            patch.setenv(name, value)
        yield stack


@pytest_asyncio.fixture
async def parley_client(parley_stack: Stack) -> AsyncIterator[Client]:
    """A client of a new workspace."""
    async with await parley_stack.connect() as backend:
        yield backend.client(f"workspace-{uuid4().hex[:8]}")


@pytest_asyncio.fixture
async def parley_simulator(parley_stack: Stack) -> AsyncIterator[SimulatorAdmin]:
    """The simulator's faults, gate and requests. It is reset before and after the test."""
    admin = SimulatorAdmin(parley_stack.addresses.simulator_url or "")
    await admin.reset()
    yield admin
    await admin.reset()
    await admin.close()


@pytest.fixture
def parley_time_skipper(parley_client: Client) -> TimeSkipper:
    """Starts workflows that skip the time in which they only wait: those of `parley_time_skipper.client`.

    Their child workflows skip it too. The service's worker uses `parley_client.temporal`, as usual.
    """
    return TimeSkipper(parley_client.temporal)
