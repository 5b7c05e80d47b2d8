"""Texts that no model makes, in a voice of ElevenLabs: played by Twilio and paid once; else said by Twilio."""

import io
import wave
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from parley import Backend, Client, Settings
from parley.domain.phone.settings import Phrases
from parley.testing import SimulatorAdmin
from tests.gateway.parts import Running, running_gateway
from tests.gateway.phone.twilio import Session, Twilio
from tests.parts import until

pytestmark = pytest.mark.usefixtures("client")
APOLOGY = Phrases().apology


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return settings.model_copy(update={"speech_clips_dir": tmp_path})


@pytest.fixture
def number() -> dict[str, Any]:
    """No provider answers in time, so that each turn ends in an apology."""
    deadlines = {"filler": 50, "template": 60, "response_timeout": 0.05, "silence": 600}
    return {"recorded_voice": "AnyVoice1", "deadlines": deadlines, "transfer_to": "+15550100099"}


async def apology(session: Session) -> dict[str, Any]:
    """The frame by which the agent says that it has no answer."""
    await session.say("Which formats can I export?")
    return await session.frame()


async def made(gateway: Running) -> None:
    """Wait until all recordings that were begun are there, or are known to fail."""
    recordings = gateway.server.phone.recordings
    known = recordings._made.values  # pyright: ignore[reportPrivateUsage]

    async def is_made() -> bool:
        return bool(known()) and all(one.done() for one in known())

    await until(is_made)


async def test_an_apology_is_played_and_twilio_can_fetch_it_from_any_gateway(
    gateway: Running, twilio: Twilio, backend: Backend, settings: Settings, simulator: SimulatorAdmin
):
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        await made(gateway)
        paid = len(await simulator.billed())
        frame = await apology(session)
    assert frame["type"] == "play"
    source = urlsplit(frame["source"])
    assert f"{source.scheme}://{source.netloc}" == gateway.url
    async with running_gateway(backend, settings) as other:
        for running in (gateway, other):
            async with running.http() as http:
                fetched = await http.get(f"{source.path}?{source.query}")
                with wave.open(io.BytesIO(fetched.content)) as audio:
                    assert audio.getnframes() / audio.getframerate() == pytest.approx(len(APOLOGY) / 15, rel=0.05)
                for end in ("x", "%C3%A9"):
                    assert (await http.get(f"{source.path}?{source.query[:-1]}{end}")).status_code == 403
    assert len(await simulator.billed()) == paid == len(set(Phrases().model_dump().values()))


@pytest.mark.parametrize("clip", ["good", "missing", "unreadable"])
async def test_without_elevenlabs_a_recorded_sentence_is_played_and_else_twilio_says_it(
    gateway: Running, twilio: Twilio, simulator: SimulatorAdmin, tmp_path: Path, clip: str
):
    await simulator.fault("auth", provider="elevenlabs", times=None)
    if clip == "good":
        (tmp_path / "apology.txt").write_text(APOLOGY)
    elif clip == "unreadable":
        (tmp_path / "apology.txt").symlink_to("of-another-machine.txt")
    if clip != "missing":
        (tmp_path / "apology.wav").write_bytes(b"RIFF")
    for _ in range(2):  # a phone call after it meets the same
        phone = twilio.phone()
        await phone.ring()
        async with phone.session() as session:
            await made(gateway)
            frame = await apology(session)
            if clip == "good":
                assert frame["type"] == "play"
            else:
                assert (frame["type"], frame["token"]) == ("text", APOLOGY)


async def test_a_recording_that_is_not_ready_is_not_waited_for(
    gateway: Running, twilio: Twilio, simulator: SimulatorAdmin, client: Client
):
    await simulator.gate(closed=True, provider="elevenlabs")
    phone = twilio.phone()
    await phone.ring()
    async with phone.session() as session:
        assert (await apology(session))["type"] == "text"
        await simulator.gate(closed=False, provider="elevenlabs")
        await made(gateway)
        assert (await apology(session))["type"] == "play"
    turns = await client.phone.turns(phone.sid)
    assert [one.heard for one in turns] == [APOLOGY, ""]
