"""The programs of docs/migrating.md that keep their SDK and call a gateway."""

import asyncio

import pytest

from parley import Client
from parley.settings import Settings
from parley.testing import SimulatorAdmin
from samples.migrating import by_gateway
from tests.gateway.parts import Running
from tests.parts import SAMPLES

pytestmark = pytest.mark.usefixtures("worker")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"policy_file": SAMPLES / "migrating" / "policy.toml"})


@pytest.fixture(autouse=True)
def gateway_of_the_page(gateway: Running, secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_gateway, "ADDRESS", gateway.url)
    monkeypatch.setattr(by_gateway, "KEY", secret)


async def test_each_engine_gets_its_answer(client: Client, simulator: SimulatorAdmin):
    first, again = [await asyncio.to_thread(by_gateway.reply, "ann", 17, "Where is my parcel?") for _ in range(2)]
    assert first and first == again
    assert await asyncio.to_thread(by_gateway.draft, "ann", "oak table, made in a week")
    answer, cost = await asyncio.to_thread(by_gateway.topic, "My parcel is late")
    assert answer and float(cost) > 0
    assert len(await simulator.billed()) == 3
    assert await client.audit() == []
