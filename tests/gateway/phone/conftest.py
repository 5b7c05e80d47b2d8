"""A gateway that takes phone calls, and a small Twilio."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import SecretStr

from parley import Backend, Client, Settings
from tests.gateway.parts import Running, running_gateway
from tests.gateway.phone.twilio import NUMBER, TOKEN, Twilio


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"gateway_port": 0, "twilio_auth_token": SecretStr(TOKEN)})


@pytest.fixture
async def gateway(backend: Backend, settings: Settings) -> AsyncIterator[Running]:
    async with running_gateway(backend, settings) as running:
        yield running


@pytest.fixture
async def twilio(gateway: Running) -> Twilio:
    return Twilio(gateway)


@pytest.fixture
def number() -> dict[str, Any]:
    """Settings of the number, which a test may change: deadlines that a busy machine keeps."""
    return {"deadlines": {"worker": 60, "filler": 30, "template": 31, "response_timeout": 60, "silence": 600}}


@pytest.fixture
async def client(client: Client, number: dict[str, Any]) -> AsyncIterator[Client]:
    """A workspace with the number. Whatever a test does, the ledger agrees with itself afterwards."""
    await client.phone.set_number(NUMBER, number)
    yield client
    assert await client.audit() == []
