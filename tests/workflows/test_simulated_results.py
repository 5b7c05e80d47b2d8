"""What the simulator made is not used again once keys are set."""

import pytest
from pydantic import SecretStr

from parley import Backend, Client, Settings
from parley.client.reading import read_session
from parley.domain.session_analysis import Analysis
from tests.parts import SAMPLES, SimulatorAdmin, running_workers
from tests.workflows.test_reuse import FERRIES, analysed, held_again


@pytest.fixture
def with_keys(settings: Settings, simulator: SimulatorAdmin) -> Settings:
    """The settings once keys are set. The vendors' addresses are those of the simulator."""
    key = SecretStr("sk-of-a-vendor")
    vendors = {
        "openai": f"{simulator.url}/openai/v1",
        "anthropic": f"{simulator.url}/anthropic",
        "elevenlabs": f"{simulator.url}/elevenlabs",
    }
    changes = {f"{name}_api_key": key for name in vendors} | {f"{name}_base_url": url for name, url in vendors.items()}
    return settings.model_copy(update=changes)


async def test_what_the_simulator_made_is_not_used_once_keys_are_set(
    backend: Backend, client: Client, settings: Settings, with_keys: Settings, simulator: SimulatorAdmin
) -> None:
    session, recording = read_session(FERRIES), (SAMPLES / "gatekeeper-dental-clinic.ogg").read_bytes()

    async def of_ann(run_name: str) -> Analysis:
        report = await (await client.analyze(audio=recording, user_id="ann", run_name=run_name)).result()
        assert report.analysis is not None
        return report.analysis

    async with running_workers(backend.temporal, backend.database, settings):
        for number in range(3):
            await analysed(client, session, run_name=str(number))
        assert (await analysed(client, session)).reused is not None
        await of_ann("simulated")
        assert len(await simulator.billed()) == 5
    async with running_workers(backend.temporal, backend.database, with_keys):
        other = await analysed(client, held_again(session))
        assert other.trends.sessions == ()  # no earlier one that a vendor analysed
        same = await analysed(client, session, run_name="with keys")
        assert same.reused is None
        heard = await of_ann("with keys")
        assert not any(source.simulated for one in (other, same, heard) for source in one.provenance)
        paid = len(await simulator.billed())
        assert paid == 5 + 2 + 2
        await of_ann("again")
        assert len(await simulator.billed()) == paid + 1  # what was heard is used again
        assert (await analysed(client, session, run_name="once more")).reused is not None
