"""`hybrid`: the analysis waits for the voice until a deadline, and is amended when the voice arrives."""

import asyncio

import pytest

from parley import AnalysisReport, Client, InvalidInput
from parley.client.reading import read_session
from parley.domain.errors import JobFailed
from parley.domain.session import Session
from parley.domain.session_analysis import COACHING_ACTION, ENERGY, VOICE_ACTION, Analysis, Step, Strategy
from tests.parts import SAMPLES, SimulatorAdmin

pytestmark = pytest.mark.usefixtures("worker")

RECORDING = (SAMPLES / "gatekeeper-dental-clinic.ogg").read_bytes()


@pytest.fixture
def session() -> Session:
    return read_session(SAMPLES / "cold-call-logistics.json")


def analysis_of(report: AnalysisReport) -> Analysis:
    assert report.analysis is not None
    assert report.analysis.strategy is Strategy.HYBRID
    return report.analysis


async def test_a_voice_after_the_deadline_amends_the_result(
    client: Client, simulator: SimulatorAdmin, session: Session
) -> None:
    await simulator.gate(closed=True, provider="elevenlabs")
    job = await client.analyze(session, audio=RECORDING, voice_deadline_seconds=0.2)
    report = await job.result()
    first = analysis_of(report)
    assert (report.status, first.pending, first.voice_metrics.source) == ("running", (Step.VOICE,), "transcript")
    assert first.coaching.processed
    assert not first.coaching.knows_voice
    assert [source.step for source in first.provenance] == [Step.COACHING]
    assert report.costs.energy_charged == ENERGY[COACHING_ACTION]
    assert (await job.progress()).provisional
    await simulator.gate(closed=False, provider="elevenlabs")
    report = await job.result(final=True)
    last = analysis_of(report)
    assert (report.status, last.pending, last.voice_metrics.source) == ("completed", (), "recording")
    assert last.coaching.skills == first.coaching.skills
    assert {source.step for source in last.provenance} == {Step.COACHING, Step.VOICE}
    assert report.costs.energy_charged == ENERGY[COACHING_ACTION] + ENERGY[VOICE_ACTION]
    assert [request["provider"] for request in await simulator.billed()].count("elevenlabs") == 1
    kinds = [event.kind for event in await client.housekeeping.events() if event.payload.get("job_key") == job.job_key]
    assert sorted(kinds) == ["session_analysis_amended", "session_analysis_provisional"]
    assert await client.audit() == []


async def test_a_voice_before_the_deadline_is_in_the_prompt_and_nothing_is_provisional(
    client: Client, session: Session
) -> None:
    job = await client.analyze(session, audio=RECORDING, voice_deadline_seconds=60)
    analysis = analysis_of(await job.result())
    assert analysis.coaching.knows_voice
    assert analysis.voice_metrics.source == "recording"
    kinds = [event.kind for event in await client.housekeeping.events() if event.payload.get("job_key") == job.job_key]
    assert kinds == []


async def test_a_late_voice_that_cannot_be_paid_leaves_the_result(
    client: Client, simulator: SimulatorAdmin, session: Session
) -> None:
    await simulator.fault("rate_limit", provider="elevenlabs", times=1, retry_after=2)
    await simulator.fault("bad_request", provider="elevenlabs", times=None)
    job = await client.analyze(session, audio=RECORDING, voice_deadline_seconds=0.2)
    assert analysis_of(await job.result()).pending == (Step.VOICE,)
    report = await job.result(final=True)
    assert report.status == "completed"
    analysis = analysis_of(report)
    assert (analysis.pending, analysis.voice_metrics.source) == ((), "transcript")
    assert any("computed from the transcript" in warning for warning in analysis.warnings)


async def test_a_job_that_is_cancelled_while_it_waits_for_the_voice_keeps_its_result(
    client: Client, simulator: SimulatorAdmin, session: Session
) -> None:
    await simulator.gate(closed=True, provider="elevenlabs")
    job = await client.analyze(session, audio=RECORDING, voice_deadline_seconds=0.2)
    first = analysis_of(await job.result())
    await job.cancel()
    with pytest.raises(JobFailed):
        await job.result(final=True)
    await simulator.gate(closed=False, provider="elevenlabs")
    report = await job.report()
    assert report.status == "cancelled"
    assert analysis_of(report) == first.model_copy(update={"pending": ()})
    async with asyncio.timeout(30):
        while VOICE_ACTION not in {line.action for line in (await job.report()).costs.lines}:
            await asyncio.sleep(0.05)
    assert await client.audit() == []


@pytest.mark.parametrize("terms", [{"voice_deadline_seconds": 0.0}, {"transcript_tokens": 10}], ids=str)
async def test_terms_that_are_not_valid_are_refused(client: Client, session: Session, terms: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(terms))):
        await client.analyze(session, **terms)
