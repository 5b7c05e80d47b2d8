"""A short outage of the database at the worst moment of a paid step does not fail the job."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from temporalio.client import Client as TemporalClient

from parley import Client
from parley.client.reading import read_session
from parley.domain.auto_analyze.contract import DiscoveryTerms
from parley.domain.requests import Provider
from parley.settings import Settings
from tests.activities.proxy import DatabaseProxy
from tests.parts import SAMPLES, SimulatorAdmin, running_workers

# Longer than a step's three attempts, which are one and two seconds apart.
AWAY_SECONDS = 5


@pytest.fixture
async def proxy(temporal: TemporalClient, database_url: str, settings: Settings) -> AsyncIterator[DatabaseProxy]:
    """The proxy through which the workers reach the database."""
    lasting = settings.model_copy(update={"lease_seconds": 60, "breaker_failures": 100})
    async with DatabaseProxy(database_url) as way, running_workers(temporal, way.database, lasting):
        yield way


@pytest.fixture
async def held(simulator: SimulatorAdmin) -> None:
    """Hold the replies of every provider."""
    for provider in ("anthropic", "openai"):
        await simulator.gate(closed=True, provider=provider)


async def away(proxy: DatabaseProxy) -> None:
    await proxy.refused.wait()
    await asyncio.sleep(AWAY_SECONDS)
    proxy.restore()


async def away_after_the_settle(proxy: DatabaseProxy, simulator: SimulatorAdmin) -> None:
    await simulator.requests(at_least=1, billed="true")
    proxy.cut_after_the_next_commit()
    for provider in ("anthropic", "openai"):
        await simulator.gate(closed=False, provider=provider)
    await away(proxy)


async def test_a_stored_prompt_is_read_after_the_outage(client: Client, proxy: DatabaseProxy) -> None:
    proxy.cut_after_the_next_commit()  # that of `prepare`
    asked = asyncio.create_task(client.generate("How do I sound? " * 200, user_id="ann", provider=Provider.OPENAI))
    await away(proxy)
    assert (await asked).success


@pytest.mark.usefixtures("held")
async def test_an_answer_settled_by_the_last_attempt_is_returned(
    client: Client, proxy: DatabaseProxy, simulator: SimulatorAdmin
) -> None:
    await simulator.fault("server_error", times=2)
    asked = asyncio.create_task(client.generate("How do I sound?", user_id="ann", provider=Provider.OPENAI))
    await away_after_the_settle(proxy, simulator)
    assert (await asked).success
    assert (await client.energy("ann")).charged == 1


@pytest.mark.usefixtures("held")
async def test_settled_coaching_is_stored(client: Client, proxy: DatabaseProxy, simulator: SimulatorAdmin) -> None:
    job = await client.analyze(read_session(SAMPLES / "cold-call-logistics.json"))
    await away_after_the_settle(proxy, simulator)
    report = await job.result()
    assert report.analysis and report.analysis.coaching.processed


@pytest.mark.usefixtures("held")
async def test_a_labelling_run_continues(
    client: Client, proxy: DatabaseProxy, simulator: SimulatorAdmin, tmp_path: Path
) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text("".join((SAMPLES / "chats" / "support.jsonl").read_text().splitlines(keepends=True)[:40]))
    imported = await client.import_chats(path)
    terms = DiscoveryTerms(min_sessions=5, max_sessions=5)
    job = await client.auto_analyze(imported.dataset_id, user_id="operator", discovery=terms)
    await away_after_the_settle(proxy, simulator)
    report = await job.result()
    assert report.statistics and report.statistics.fallbacks == 0
