"""Speech-to-text on this machine, with the model that its wheel ships."""

import asyncio
import re
import threading
from typing import Any

import numpy as np
import pytest

from parley.audio import Sound, decode
from parley.channels import levels, own_words
from parley.domain.errors import BadRequest
from parley.domain.requests import Provider, SpokenWord, TranscriptionReply, TranscriptionRequest
from parley.providers import local_speech
from parley.providers.registry import Providers
from parley.settings import Settings
from tests.parts import SAMPLES
from tests.sounds import encode, tone

RATE = 16_000
CALL = (SAMPLES / "recordings" / "two-channels.ogg").read_bytes()


async def heard(audio: bytes, channels: int = 1) -> TranscriptionReply:
    adapter = Providers(Settings()).adapter(Provider.WHISPER)
    request = TranscriptionRequest(audio_sha256="not looked at", audio_seconds=1, channels=channels, audio=audio)
    reply = await adapter.call(request, local_speech.SHIPPED_MODEL, "attempt")
    assert isinstance(reply, TranscriptionReply)
    return reply


def said(reply: TranscriptionReply, speaker: str) -> str:
    return " ".join(re.findall(r"\w+", " ".join(word.text for word in reply.words if word.speaker == speaker).lower()))


@pytest.fixture(scope="module")
def call():
    """The end of the call, 47 s to 54 s: both speak."""
    left, right = decode(CALL, rate=RATE).channels
    return left[43 * RATE :], right[43 * RATE :]


async def test_each_channel_is_a_speaker_with_word_times(call):
    reply = await heard(encode(*call, form="flac"), channels=2)
    assert "thank you" in said(reply, "channel 1")
    assert "thank you" not in said(reply, "channel 2")
    assert "book" in said(reply, "channel 2")
    assert {word.speaker for word in reply.words} == {"channel 1", "channel 2"}
    starts = [word.start for word in reply.words]
    assert starts == sorted(starts)
    assert all(0 <= word.start <= word.end <= 11.5 and 0 < word.confidence <= 1 for word in reply.words)
    assert (reply.model, reply.language) == ("faster-whisper tiny.en", "en")
    assert reply.usage.audio_seconds == pytest.approx(len(call[0]) / RATE, abs=0.1)


async def test_a_voice_on_one_channel_is_one_speaker(call):
    left, _ = call
    reply = await heard(encode(left, 0.9 * left, form="flac"))
    assert {word.speaker for word in reply.words} == {"speaker 1"}
    assert "thank you" in said(reply, "speaker 1")


async def test_words_on_one_channel_have_the_speakers_of_their_voices(call, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("parley.voices.voice_groups", lambda vectors, _: [n % 2 for n in range(len(vectors))])
    left, right = call
    reply = await heard(encode(left + right, form="flac"))
    assert {word.speaker for word in reply.words} == {"speaker 1", "speaker 2"}
    assert [word.start for word in reply.words] == sorted(word.start for word in reply.words)


async def test_a_voice_that_is_heard_through_the_line_is_not_written_twice(call):
    left, right = call
    recording = encode(left, right + 0.05 * left, form="flac")
    reply = await heard(recording, channels=2)
    own = reply.model_copy(update={"words": tuple(own_words(levels(recording), reply.words))})
    assert "thank you" in said(own, "channel 1")
    assert "thank you" not in said(own, "channel 2")


async def test_a_recording_whose_caller_has_left_is_not_transcribed_on(call, monkeypatch: pytest.MonkeyPatch):
    word, made, has_begun = local_speech._word, list[str](), threading.Event()

    def counted(*given: Any) -> SpokenWord:
        made.append("word")
        has_begun.set()
        return word(*given)

    monkeypatch.setattr(local_speech, "_word", counted)
    waiting = asyncio.create_task(heard(CALL))
    await asyncio.to_thread(has_begun.wait)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    until_then = len(made)
    reply = await heard(encode(*call, form="flac"))
    assert len(made) == until_then + len(reply.words)


@pytest.mark.parametrize("sound", [np.zeros(2 * RATE, np.float32), tone(2.0), tone(2.0) * tone(2.0, hertz=3)])
async def test_nothing_is_heard_where_there_is_no_speech(sound):
    assert (await heard(encode(sound))).words == ()


async def test_what_is_not_sound_is_refused():
    with pytest.raises(BadRequest, match="is not audio that can be decoded"):
        await heard(b"no audio")


async def test_a_long_recording_is_heard_in_pieces_that_end_where_it_is_quiet(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(local_speech, "PIECE_SECONDS", 10)
    monkeypatch.setattr(local_speech, "SEARCH_SECONDS", 4)
    sound = tone(25.0)
    sound[8 * RATE : 8 * RATE + 3200] = 0
    blocks = [Sound(RATE, (sound[at : at + 7 * RATE],)) for at in range(0, len(sound), 7 * RATE)]
    pieces = [piece.channels[0] for piece in local_speech._pieces(blocks)]
    assert len(pieces[0]) / RATE == pytest.approx(8.1, abs=0.1)
    assert max(map(len, pieces)) <= 10 * RATE
    assert np.array_equal(np.concatenate(pieces), sound)


def test_it_is_there_only_with_its_model(tmp_path):
    assert local_speech.is_installed(local_speech.SHIPPED_MODEL)
    assert not local_speech.is_installed(str(tmp_path))
    (tmp_path / "model.bin").touch()
    assert local_speech.is_installed(str(tmp_path))
    assert Providers(Settings(whisper_model="/nowhere")).access(Provider.WHISPER) is None
