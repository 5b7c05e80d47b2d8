"""Analyses in an outage: a provisional result at once, which is amended later."""

from datetime import timedelta

import pytest

from parley import AnalysisHandle, Client
from parley.client.reading import read_session
from parley.domain.errors import JobFailed
from parley.domain.session import Session
from parley.domain.session_analysis import COACHING_ACTION, ENERGY, Step
from parley.testing import SimulatorAdmin
from tests.parts import SAMPLES

RECORDING = (SAMPLES / "gatekeeper-dental-clinic.ogg").read_bytes()
PROVISIONAL, AMENDED = "session_analysis_provisional", "session_analysis_amended"


@pytest.fixture
def session() -> Session:
    return read_session(SAMPLES / "cold-call-logistics.json")


def without_word_times(session: Session) -> Session:
    """A session whose voice needs speech-to-text with every strategy."""
    turns = tuple(turn.model_copy(update={"words": ()}) for turn in session.turns)
    return session.model_copy(update={"turns": turns})


async def kinds_of_events(client: Client, job: AnalysisHandle) -> list[str]:
    """The events of the job's results, the oldest first."""
    found = [event for event in await client.housekeeping.events() if event.payload.get("job_key") == job.job_key]
    return [event.kind for event in reversed(found)]


@pytest.mark.usefixtures("worker")
async def test_a_rate_limit_gives_a_provisional_result_that_is_amended(
    client: Client, simulator: SimulatorAdmin, session: Session
) -> None:
    await simulator.fault("rate_limit", times=2, retry_after=2)
    job = await client.analyze(session)
    first = await job.result()
    assert first.analysis is not None
    assert (first.status, first.analysis.pending) == ("running", (Step.COACHING,))
    coaching = first.analysis.coaching
    assert (coaching.overall_score, coaching.processed, coaching.fallback) == (50, False, True)
    assert first.costs.energy_charged == 0
    assert (await job.progress()).provisional
    assert await kinds_of_events(client, job) == [PROVISIONAL]
    last = await job.result(final=True)
    assert last.analysis is not None
    assert (last.status, last.analysis.pending, last.analysis.warnings) == ("completed", (), ())
    assert last.analysis.coaching.processed
    assert last.costs.energy_charged == ENERGY[COACHING_ACTION]
    assert len(await simulator.billed()) == 1
    assert await kinds_of_events(client, job) == [PROVISIONAL, AMENDED]
    assert await client.audit() == []


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("name", ["gatekeeper-dental-clinic", "cold-call-logistics", "demo-hospital-rostering"])
async def test_speech_to_text_that_is_out_does_not_hold_up_the_result_of_any_strategy(
    client: Client, simulator: SimulatorAdmin, name: str
) -> None:
    await simulator.fault("rate_limit", provider="elevenlabs", times=1, retry_after=2)
    session = without_word_times(read_session(SAMPLES / f"{name}.json"))
    job = await client.analyze(session, audio=RECORDING, voice_deadline_seconds=60)
    first = (await job.result()).analysis
    assert first is not None
    assert (first.pending, first.voice_metrics.source, first.coaching.processed) == ((Step.VOICE,), "transcript", True)
    last = (await job.result(final=True)).analysis
    assert last is not None
    assert (last.pending, last.voice_metrics.source) == ((), "recording")
    assert not any("computed from the transcript" in warning for warning in last.warnings)
    assert [request["provider"] for request in await simulator.billed()].count("elevenlabs") == 1
    assert await client.audit() == []


@pytest.mark.usefixtures("worker")
async def test_voice_and_coaching_that_are_both_out_amend_the_result(
    client: Client, simulator: SimulatorAdmin, session: Session
) -> None:
    await simulator.fault("rate_limit", times=3, retry_after=2)
    job = await client.analyze(session, audio=RECORDING, voice_deadline_seconds=60)
    first = (await job.result()).analysis
    assert first is not None
    assert first.pending == (Step.VOICE, Step.COACHING)
    last = (await job.result(final=True)).analysis
    assert last is not None
    assert (last.pending, last.voice_metrics.source, last.coaching.processed) == ((), "recording", True)
    assert await client.audit() == []


@pytest.mark.usefixtures("worker")
async def test_what_no_provider_would_serve_later_is_final_at_once(
    client: Client, simulator: SimulatorAdmin, session: Session
) -> None:
    await simulator.fault("bad_request", times=None)
    job = await client.analyze(session)
    report = await job.result()
    assert report.analysis is not None
    assert (report.status, report.analysis.pending) == ("completed", ())
    assert any("rule-based" in warning for warning in report.analysis.warnings)
    assert await kinds_of_events(client, job) == []


@pytest.mark.usefixtures("worker")
async def test_a_cancelled_job_keeps_its_provisional_result(
    client: Client, simulator: SimulatorAdmin, session: Session
) -> None:
    await simulator.fault("server_error", times=None)
    job = await client.analyze(session)
    assert (await job.result()).status == "running"
    await job.cancel()
    with pytest.raises(JobFailed):
        await job.result(final=True)
    report = await job.report()
    assert report.analysis is not None
    assert (report.status, report.analysis.pending, report.analysis.coaching.fallback) == ("cancelled", (), True)
    assert await client.audit() == []


async def test_an_outage_of_a_night_is_waited_for(
    skipping_client: Client, simulator: SimulatorAdmin, session: Session
) -> None:
    await simulator.fault("server_error", times=20)
    job = await skipping_client.analyze(session)
    report = await job.result(final=True)
    assert report.analysis is not None
    assert report.analysis.coaching.processed
    assert await kinds_of_events(skipping_client, job) == [PROVISIONAL, AMENDED]


async def test_the_result_is_final_when_the_wait_limit_has_passed(
    skipping_client: Client, simulator: SimulatorAdmin, session: Session
) -> None:
    await simulator.fault("server_error", times=None)
    hour = int(timedelta(hours=1).total_seconds())
    job = await skipping_client.analyze(session, wait_limit_seconds=hour)
    report = await job.result(final=True)
    assert report.analysis is not None
    assert (report.status, report.analysis.pending, report.analysis.coaching.fallback) == ("completed", (), True)
    assert any("no provider could serve" in warning for warning in report.analysis.warnings)
    assert await kinds_of_events(skipping_client, job) == [PROVISIONAL, AMENDED]
