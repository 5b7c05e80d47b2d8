"""Recordings are decoded whole, whatever their format and whatever their headers claim."""

import numpy as np
import pytest

from parley.audio import decode
from parley.client.reading import recording_seconds
from parley.domain.errors import InvalidInput
from parley.domain.recording import seconds_by_size
from tests.sounds import CODECS, encode, tone, wav

PCM = (tone(2.0, rate=8_000) * 32767).astype("<i2").tobytes()


def loudness(samples) -> float:
    return float(np.sqrt(np.mean(np.square(samples))))


@pytest.mark.parametrize("form", CODECS)
def test_every_format_is_decoded(form: str):
    audio = encode(tone(1.5), form=form)
    sound = decode(audio, rate=16_000)
    assert sound.rate == 16_000
    assert sound.seconds == pytest.approx(1.5, abs=0.15)
    assert loudness(sound.mixed()) == pytest.approx(0.354, abs=0.03)
    assert recording_seconds(audio) == pytest.approx(1.5, abs=0.15)
    assert 1.5 <= seconds_by_size(audio) <= 1.8


@pytest.mark.parametrize("form", CODECS)
def test_channels_stay_apart(form: str):
    left, right = decode(encode(tone(1.0), tone(1.0, level=0.0), form=form), rate=16_000).channels
    assert loudness(left) > 0.3
    assert loudness(right) < 0.02


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFFFDB, 10**9])
def test_a_wav_header_without_a_usable_length(size: int):
    audio = wav(PCM, size=size)
    assert decode(audio).seconds == 2.0
    assert recording_seconds(audio) == 2.0


@pytest.mark.parametrize(("codec", "silence"), [(7, b"\xff"), (6, b"\xd5")])
def test_telephone_codecs_without_a_fact_chunk(codec: int, silence: bytes):
    audio = wav(silence * 16_000, codec=codec, bits=8)
    assert recording_seconds(audio) == 2.0
    sound = decode(audio)
    assert sound.seconds == 2.0
    assert loudness(sound.mixed()) < 0.001


def test_chunks_after_the_sound_are_not_sound():
    audio = wav(PCM) + b"LIST\x08\0\0\0INFOabcd"
    assert decode(audio).seconds == 2.0
    assert recording_seconds(audio) == 2.0


def test_a_truncated_mp3_ends_early():
    whole = encode(tone(4.0), form="mp3")
    audio = whole[: len(whole) // 2 + 7]
    assert decode(audio).seconds == pytest.approx(2.0, abs=0.3)
    assert recording_seconds(audio) == pytest.approx(2.0, abs=0.3)


def test_eight_kilohertz_become_sixteen():
    sound = decode(wav(PCM), rate=16_000)
    assert len(sound.channels[0]) == 32_000
    assert loudness(sound.mixed()) == pytest.approx(0.354, abs=0.01)


def test_silence_is_sound():
    assert loudness(decode(wav(bytes(16_000))).mixed()) == 0.0


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no audio at all",
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        wav(b""),
        b"fLaC" + bytes(100),
        b"\x1a\x45\xdf\xa3" + bytes(100),
    ],
)
def test_what_is_not_sound_is_refused(content: bytes):
    with pytest.raises(InvalidInput, match="WAV, MP3, OGG, FLAC, M4A or WebM"):
        decode(content)
