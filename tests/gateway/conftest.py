"""A gateway on a free port of this process, on the test's servers."""

from collections.abc import AsyncIterator

import httpx
import pytest

from parley import Backend, Client, Settings
from tests.gateway.parts import Running, running_gateway


@pytest.fixture
async def gateway(backend: Backend, settings: Settings) -> AsyncIterator[Running]:
    """A gateway with a small limit of bodies."""
    limits = {"gateway_port": 0, "gateway_body_bytes": 100_000}
    async with running_gateway(backend, settings.model_copy(update=limits)) as running:
        yield running


@pytest.fixture
async def impatient(backend: Backend, settings: Settings) -> AsyncIterator[Running]:
    """A gateway that waits a second for the rest of a request."""
    limits = {"gateway_port": 0, "gateway_read_seconds": 1}
    async with running_gateway(backend, settings.model_copy(update=limits)) as running:
        yield running


@pytest.fixture
async def secret(client: Client) -> str:
    """The secret of a key of the test's workspace."""
    return (await client.gateway_keys.create("app", requests_per_minute=100_000)).secret


@pytest.fixture
async def http(gateway: Running, client: Client) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client with a key of the test's workspace."""
    key = await client.gateway_keys.create("tests", requests_per_minute=100_000)
    async with gateway.http(key.secret) as opened:
        yield opened
