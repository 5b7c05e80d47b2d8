"""For a service's own tests: Parley's stack, its simulator, time skipping, and a client in memory.

    # conftest.py
    pytest_plugins = ["parley.testing"]

This makes the fixtures of `parley.testing.fixtures` available. They need `pip install 'parley[testing]'`. `FakeClient`
is for unit tests and starts nothing.
"""

from parley.testing.fake import FakeClient
from parley.testing.fixtures import (
    parley_client,
    parley_environment,
    parley_simulator,
    parley_stack,
    parley_time_skipper,
)
from parley.testing.simulator import SimulatorAdmin
from parley.testing.stack import Stack, run_stack

__all__ = [
    "FakeClient",
    "SimulatorAdmin",
    "Stack",
    "parley_client",
    "parley_environment",
    "parley_simulator",
    "parley_stack",
    "parley_time_skipper",
    "run_stack",
]
