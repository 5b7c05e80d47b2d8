"""`parley health`: its table, its JSON and its exit code."""

import json

import pytest

from tests.cli.command import Run
from tests.parts import SimulatorAdmin

pytestmark = pytest.mark.usefixtures("worker")


async def test_each_provider_has_a_line(parley: Run) -> None:
    ran = await parley("health")
    assert ran.code == 0
    lines = {line.split()[0]: line for line in ran.out.splitlines() if line.strip()}
    for name in ("openai", "anthropic", "elevenlabs"):
        assert "up (simulated)" in lines[name]
        assert "closed" in lines[name]
    assert "not configured" in lines["local"]


async def test_a_provider_that_is_down_exits_1_with_the_reason(parley: Run, simulator: SimulatorAdmin) -> None:
    await simulator.fault("server_error", provider="openai", times=None)
    ran = await parley("health")
    assert ran.code == 1
    (line,) = [line for line in ran.out.splitlines() if "openai" in line.split()[:1]]
    assert "down" in line
    assert "500" in line


async def test_json_has_the_whole_report(parley: Run, simulator: SimulatorAdmin) -> None:
    await simulator.fault("auth", provider="elevenlabs", times=None)
    ran = await parley("health", "--json")
    states = {one["provider"]: one for one in json.loads(ran.out)["providers"]}
    assert ran.code == 1
    assert states["elevenlabs"]["state"] == "down"
    assert states["openai"]["milliseconds"] >= 0
    assert (states["openai"]["simulated"], states["openai"]["breaker_seconds"]) == (True, 0.0)
