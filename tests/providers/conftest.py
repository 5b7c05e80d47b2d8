"""One simulator for all of these tests, reset before each."""

from collections.abc import AsyncIterator

import pytest

from tests.parts import SimulatorAdmin, running_simulator


@pytest.fixture(scope="session")
async def one_simulator() -> AsyncIterator[SimulatorAdmin]:
    async with running_simulator() as admin:
        yield admin


@pytest.fixture
async def simulator(one_simulator: SimulatorAdmin) -> SimulatorAdmin:
    await one_simulator.post("reset")
    return one_simulator
