"""Speech over HTTP: real audio, paid once, cached by what is said, with a recorded sentence where no voice answers."""

import io
import wave
from decimal import Decimal
from pathlib import Path

import httpx
import pytest

from parley import Client, Settings
from tests.parts import SimulatorAdmin

PATH = "/api/speech"
BODY = {"text": "**Hello**, it costs $20.", "user_id": "ann"}
SAID = "Hello, it costs 20 dollars."


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return settings.model_copy(update={"speech_clips_dir": tmp_path})


def seconds_of(content: bytes) -> float:
    with wave.open(io.BytesIO(content)) as audio:
        assert (audio.getnchannels(), audio.getsampwidth(), audio.getframerate()) == (1, 2, 16_000)
        assert any(audio.readframes(audio.getnframes()))
        return audio.getnframes() / audio.getframerate()


async def test_a_text_is_said_as_playable_audio_and_its_characters_are_paid(
    http: httpx.AsyncClient, client: Client, simulator: SimulatorAdmin
):
    answer = await http.post(PATH, json=BODY)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "audio/wav")
    assert 1 < seconds_of(answer.content) < 3
    price = Decimal("0.10") * len(SAID) / 1000
    assert Decimal(answer.headers["x-parley-cost-usd"]) == price
    [request] = await simulator.requests()
    assert (request["model"], request["input_tokens"], request["billed"]) == ("eleven_multilingual_v2", len(SAID), True)
    [line] = (await client.costs()).lines
    assert (line.action, line.confirmed_usd) == ("ai_speech", price)
    assert await client.audit() == []


async def test_the_same_text_with_the_same_voice_and_settings_is_paid_once(
    http: httpx.AsyncClient, simulator: SimulatorAdmin
):
    first = await http.post(PATH, json=BODY)
    again = await http.post(PATH, json={**BODY, "user_id": "bob", "text": "Hello, it costs $20."})
    assert again.content == first.content
    assert len(await simulator.requests()) == 1
    for changed in ({"voice": "AnotherVoice1"}, {"stability": 0.9}, {"text": "Hello."}):
        assert (await http.post(PATH, json={**BODY, **changed})).status_code == 200
    assert len(await simulator.requests()) == 4


@pytest.mark.parametrize(
    "changed", [{"text": ""}, {"text": "x" * 1001}, {"voice": "../models"}, {"stability": 2}, {"user_id": ""}]
)
async def test_bad_input_is_refused_before_anything_is_paid(
    changed: dict[str, object], http: httpx.AsyncClient, simulator: SimulatorAdmin
):
    assert (await http.post(PATH, json={**BODY, **changed})).status_code in (400, 422)
    assert await simulator.requests() == []


async def test_where_no_voice_answers_a_recorded_sentence_is_given_else_none(
    http: httpx.AsyncClient, simulator: SimulatorAdmin, tmp_path: Path
):
    (tmp_path / "price.txt").write_text("hello, it costs twenty dollars")
    (tmp_path / "price.wav").write_bytes(b"RIFF recorded")
    await simulator.fault("auth", provider="elevenlabs", times=None)
    clip = await http.post(PATH, json=BODY)
    assert (clip.status_code, clip.content) == (200, b"RIFF recorded")
    none = await http.post(PATH, json={**BODY, "text": "Something else."})
    assert (none.status_code, none.content) == (204, b"")
