"""A recording alone becomes a session, through the typed client on real parts."""

import sys
import threading

import numpy as np
import pytest

from activities.candidates import Candidates
from parley import Backend, Client
from parley.client import session_analysis
from parley.client.reading import read_session, recording_seconds
from parley.domain.errors import InvalidInput, JobFailed
from parley.domain.requests import Provider
from parley.domain.session_analysis import COACHING_ACTION, ENERGY, VOICE_ACTION, Step
from tests.pages import reply, serving
from tests.parts import SAMPLES, SimulatorAdmin
from tests.sounds import encode, tone, wav

RECORDING = (SAMPLES / "gatekeeper-dental-clinic.ogg").read_bytes()
COACHING, VOICE = ENERGY[COACHING_ACTION], ENERGY[VOICE_ACTION]

pytestmark = pytest.mark.usefixtures("worker")


async def test_a_recording_alone_is_heard_once(client: Client, simulator: SimulatorAdmin):
    job = await client.analyze(audio=RECORDING, user_id="ann")
    report = await job.result()
    assert report.analysis is not None
    first, *others = [source.step for source in report.analysis.provenance]
    assert (first, set(others)) == (Step.HEAR, {Step.VOICE, Step.COACHING})  # the others are made at the same time
    assert [request["provider"] for request in await simulator.billed()] == ["elevenlabs", "anthropic"]
    assert report.costs.energy_charged == COACHING + VOICE
    assert report.analysis.voice_metrics.source != "transcript"
    session = await job.session()
    spoken = read_session(SAMPLES / "gatekeeper-dental-clinic.json")
    assert session.user_id == "ann"
    assert " ".join(turn.text for turn in session.turns) == " ".join(turn.text for turn in spoken.turns)
    assert {turn.role for turn in session.turns} == {"rep", "prospect"}
    assert any("is taken for the user" in warning for warning in report.analysis.warnings)


async def test_a_recording_by_its_url_is_the_same_job_as_its_content(backend: Backend, client: Client):
    async with serving({"/call": reply("200 OK", RECORDING)}) as (host, asked):
        settings = backend.settings.model_copy(update={"audio_hosts": f"files.example:443, {host}"})
        trusting = Client(Backend(backend.temporal, backend.database, settings), client.workspace_id)
        url = f"http://{host}/call?signature=1"
        job = await trusting.analyze(audio_url=url, user_id="ann")
        assert job.id == (await client.analyze(audio=RECORDING, user_id="ann")).id
        await job.result()
        assert (await job.recording()).content == RECORDING
        with pytest.raises(InvalidInput, match="audio_url: is a second recording"):
            await trusting.analyze(audio=RECORDING, audio_url=url)
        with pytest.raises(InvalidInput, match="http:// is not fetched"):
            await client.analyze(audio_url=url)
        assert asked == ["/call?signature=1"]


async def test_the_user_is_corrected_without_hearing_again(client: Client, simulator: SimulatorAdmin):
    first = await client.analyze(audio=RECORDING)
    await first.result()
    guessed = (await first.session()).turns
    other = next(turn.speaker for turn in guessed if turn.role == "prospect")
    second = await client.analyze(audio=RECORDING, user_speaker=other)
    report = await second.result()
    assert second.id != first.id
    corrected = (await second.session()).turns
    assert [turn.role for turn in corrected] == ["prospect" if turn.role == "rep" else "rep" for turn in guessed]
    assert [request["provider"] for request in await simulator.billed()] == ["elevenlabs", "anthropic", "anthropic"]
    assert report.costs.energy_charged == COACHING
    assert report.analysis is not None
    assert not any("is taken for the user" in warning for warning in report.analysis.warnings)


async def test_what_was_heard_by_another_provider_is_used_again(
    client: Client, simulator: SimulatorAdmin, monkeypatch: pytest.MonkeyPatch
):
    """The first job falls back to the model of this machine, which the second job does not have."""
    hears = [Provider.ELEVENLABS, Provider.WHISPER]
    monkeypatch.setattr(Candidates, "hearing_options", lambda self, workspace: self.options(workspace, hears))
    await simulator.fault("bad_request", provider="elevenlabs", times=1)
    for name in ("first", "second"):
        report = await (await client.analyze(audio=RECORDING, run_name=name)).result()
        assert report.analysis is not None
        heard = {one.step: one.provider for one in report.analysis.provenance if one.step is not Step.COACHING}
        assert heard == {Step.HEAR: "whisper", Step.VOICE: "whisper"}
        hears[:] = [Provider.ELEVENLABS]
    assert [request["provider"] for request in await simulator.billed()] == ["anthropic", "anthropic"]


async def test_an_unknown_user_fails_the_job_and_names_the_speakers(client: Client):
    with pytest.raises(JobFailed, match="'Zed' is not a speaker of it: "):
        await (await client.analyze(audio=RECORDING, user_speaker="Zed")).result()


async def test_a_speaker_on_each_channel_is_heard_in_one_request(client: Client, simulator: SimulatorAdmin):
    """The simulator does not know the words of these tones."""
    speech, silence = tone(1.5), np.zeros(24_000, np.float32)
    left, right = np.concatenate((speech, silence)), np.concatenate((silence, speech))
    for channels in ((left, right), (left + right, left + right), (left + right, 0 * left)):
        with pytest.raises(JobFailed, match="no speech was recognised"):
            await (await client.analyze(audio=encode(*channels, form="flac"))).result()
    assert [round(request["audio_seconds"]) for request in await simulator.billed()] == [6, 3, 3]


async def test_a_worker_without_a_decoder_hears_a_recording_as_mono(client: Client, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "av", None)
    report = await (await client.analyze(audio=RECORDING)).result()
    assert report.analysis is not None
    assert report.analysis.voice_metrics.source != "transcript"
    [warning] = [one for one in report.analysis.warnings if "channels" in one]
    assert warning == "channels are not heard apart: the worker has no decoder: install 'parley[acoustics]'"


async def test_silence_is_said_to_be_silence(client: Client):
    with pytest.raises(JobFailed, match="no speech was recognised"):
        await (await client.analyze(audio=wav(bytes(32_000)))).result()


async def test_a_recording_is_measured_beside_the_event_loop(client: Client, monkeypatch: pytest.MonkeyPatch):
    """A long or a damaged one takes seconds, in which a gateway would answer no one else."""
    threads: list[int] = []

    def measured(audio: bytes) -> float:
        threads.append(threading.get_ident())
        return recording_seconds(audio)

    monkeypatch.setattr(session_analysis, "recording_seconds", measured)
    await (await client.analyze(audio=RECORDING)).cancel()
    assert len(threads) == 1
    assert threading.get_ident() not in threads


async def test_without_a_recording_or_a_session_nothing_starts(client: Client):
    with pytest.raises(InvalidInput, match="give a session, a transcript, or a recording"):
        await client.analyze()


async def test_options_of_a_recording_are_refused_for_a_session(client: Client):
    with pytest.raises(InvalidInput, match="user_speaker: is of a recording or a transcript"):
        await client.analyze(read_session(SAMPLES / "gatekeeper-dental-clinic.json"), user_speaker="B")


async def test_of_each_user_it_is_heard_apart_so_that_one_is_forgotten_alone(client: Client, simulator: SimulatorAdmin):
    ann = await client.analyze(audio=RECORDING, user_id="ann")
    await ann.result()
    await client.forget_user("ann")
    bob = await client.analyze(audio=RECORDING, user_id="bob")
    assert (await bob.result()).status == "completed"
    providers = [request["provider"] for request in await simulator.billed()]
    assert providers == ["elevenlabs", "anthropic"] * 2


async def test_two_users_have_an_analysis_each_of_one_recording(client: Client, simulator: SimulatorAdmin):
    """Also while that of the first one runs."""
    await simulator.gate(closed=True)
    ann = await client.analyze(audio=RECORDING, user_id="ann")
    await simulator.requests(at_least=1, state="in_flight")
    bob = await client.analyze(audio=RECORDING, user_id="bob")
    of_dan = await client.analyze(audio=RECORDING, user_id="bob", prospect_id="dan")
    again = await client.analyze(audio=RECORDING, user_id="ann")
    await simulator.gate(closed=False)
    assert (again.id, again.job_key) == (ann.id, ann.job_key)
    assert len({ann.job_key, bob.job_key, of_dan.job_key}) == 3
    reports = [await job.result() for job in (ann, bob, of_dan)]
    assert [report.user_id for report in reports] == ["ann", "bob", "bob"]
    assert [(await job.session()).prospect_id for job in (ann, bob, of_dan)] == [None, None, "dan"]


async def test_a_recording_is_heard_again_after_its_user_was_forgotten(client: Client, simulator: SimulatorAdmin):
    await (await client.analyze(audio=RECORDING, user_id="ann")).result()
    for name in ("again", "and again"):
        await client.forget_user("ann")
        assert (
            await (await client.analyze(audio=RECORDING, user_id="ann", run_name=name)).result()
        ).status == "completed"
    # What is not forgotten is used again.
    await (await client.analyze(audio=RECORDING, user_id="ann", run_name="once more")).result()
    providers = [request["provider"] for request in await simulator.billed()]
    assert providers.count("elevenlabs") == 3


async def test_silence_is_heard_once(client: Client, simulator: SimulatorAdmin):
    for name in ("first", "second"):
        with pytest.raises(JobFailed, match="no speech was recognised"):
            await (await client.analyze(audio=wav(bytes(32_000)), run_name=name)).result()
    assert len(await simulator.billed()) == 1


async def test_hearing_waits_for_a_provider_also_for_a_caller_who_does_not(client: Client, simulator: SimulatorAdmin):
    await simulator.fault("rate_limit", provider="elevenlabs", times=1, retry_after=1)
    report = await (await client.analyze(audio=RECORDING)).result()
    assert report.analysis is not None
    assert report.analysis.coaching.processed
