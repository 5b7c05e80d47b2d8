"""The estimate of the time that a labelling run still takes."""

import asyncio
from pathlib import Path

import pytest
from temporalio.client import Client as TemporalClient

from parley import AutoAnalyzeHandle, Client
from parley.domain.auto_analyze import batching
from parley.domain.auto_analyze.contract import AutoAnalyzeProgress, Phase
from parley.domain.errors import JobFailed
from parley.settings import Settings
from parley.storage.database import Database
from tests.parts import SimulatorAdmin
from tests.workflows.test_auto_analyze import chats, start
from tests.workflows.test_auto_analyze_limits import labelling_with

STREAMS = 8


async def progress_in(job: AutoAnalyzeHandle, phase: Phase, *, at_least: int) -> AutoAnalyzeProgress:
    """The first progress of the phase with so many sessions done."""
    async with asyncio.timeout(60):
        while True:
            progress = await job.progress()
            if progress.phase is phase and progress.sessions_done >= at_least:
                return progress
            assert progress.phase in (Phase.PREPARE, Phase.DISCOVERY, phase)
            await asyncio.sleep(0.05)


@pytest.mark.usefixtures("worker")
async def test_seconds_left_accounts_for_streams_and_ends_with_labelling(
    client: Client, tmp_path: Path, simulator: SimulatorAdmin
) -> None:
    await simulator.fault("slow", provider="openai", times=None, hold=1)
    # The run reads its progress every two seconds: the streams must work for several of them.
    job = await start(client, tmp_path / "chats.jsonl", chats(200), streams=STREAMS)
    early = await progress_in(job, Phase.DISCOVERY, at_least=2)
    in_discovery = early.discovery_total - early.sessions_done
    rest = early.sessions_total - early.discovery_total
    assert early.seconds_left is not None
    assert early.seconds_left * early.rate <= (in_discovery + rest / STREAMS) * 1.05
    late = await progress_in(job, Phase.PARALLEL, at_least=early.discovery_total + 1)
    assert late.seconds_left is not None
    assert 0 < late.seconds_left * late.rate < (late.sessions_total - late.sessions_done) * 1.05
    await job.result()
    assert (await job.progress()).seconds_left is None


async def test_a_limit_that_makes_streams_idle_is_said_while_they_work(
    tmp_path: Path,
    simulator: SimulatorAdmin,
    temporal: TemporalClient,
    database: Database,
    settings: Settings,
) -> None:
    limits = {"openai_requests_per_second": 20, "anthropic_requests_per_second": 20}
    async with labelling_with(temporal, database, settings, **limits) as client:
        await simulator.fault("slow", provider="anthropic", times=None, hold=0.2)
        job = await start(client, tmp_path / "chats.jsonl", chats(40), streams=30)
        progress = await progress_in(job, Phase.PARALLEL, at_least=6)
        warning = "with 20 requests a second, some of 30 streams are idle while replies take less than 1.5 s"
        assert warning in progress.note
        statistics = (await job.result()).statistics
        assert statistics is not None
        assert any(warning in one for one in statistics.warnings)
        assert (await job.progress()).note == ""


@pytest.mark.usefixtures("worker")
async def test_labels_without_room_in_a_request_are_counted_and_warned_of(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "LABEL_SHARE", 0.0002)
    report = await (await start(client, tmp_path / "chats.jsonl", chats(60), streams=2)).result()
    assert report.statistics is not None
    assert report.statistics.labels_left_out > 0
    assert any("has no room for" in warning for warning in report.statistics.warnings)


@pytest.mark.usefixtures("worker")
async def test_a_cancelled_run_has_no_seconds_left(client: Client, tmp_path: Path, simulator: SimulatorAdmin) -> None:
    await simulator.fault("slow", provider="openai", times=None, hold=0.2)
    job = await start(client, tmp_path / "chats.jsonl", chats(100))
    assert (await progress_in(job, Phase.DISCOVERY, at_least=2)).seconds_left is not None
    await job.cancel()
    with pytest.raises(JobFailed, match="cancelled"):
        await job.result()
    assert (await job.progress()).seconds_left is None
