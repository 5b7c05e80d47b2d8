"""Recordings without a clear voice: nothing is claimed that was not measured."""

import math
from typing import Any

import numpy as np
import pytest

from parley.acoustics import RATE
from parley.audio import decode_blocks
from parley.domain.requests import SpokenWord
from parley.domain.speaking import Stretch
from parley.domain.voice_metrics import from_words, with_acoustics
from tests.acoustics.signals import EVERYTHING, at_level, heard, noise, silence, voice
from tests.sounds import encode

OWN, OTHERS = (Stretch(0, 4),), (Stretch(4, 8),)
TWO_SPEAKERS = np.concatenate((voice(110, 4), silence(4))), np.concatenate((silence(4), voice(220, 4)))


def music(seconds: float) -> Any:
    """Chords of three notes each, half a second long."""
    times = np.arange(round(seconds * RATE)) / RATE
    roots = 220 * 2 ** (np.floor(times * 2) % 5 / 12)
    return at_level(sum(np.sin(2 * np.pi * roots * ratio * times) for ratio in (1, 1.26, 1.5)), -20)


@pytest.mark.parametrize(
    "channels",
    [
        (silence(3),),
        (np.full(3 * RATE, 0.3),),
        (np.full(3 * RATE, np.nan),),
        (noise(3, level_db=-80),),
        (noise(3),),
        (voice(120, 0.2),),
        (silence(0.01),),
        (music(5),),
        (np.clip(voice(120, 3, level_db=6), -1, 1),),
        (voice(120, 3), silence(3)),
        (voice(120, 3), voice(120, 3)),
    ],
    ids=lambda channels: f"{len(channels)}x{len(channels[0])}",
)
def test_what_is_claimed_is_a_number_and_what_is_not_has_a_reason(channels: tuple[Any, ...]) -> None:
    found, _ = heard(*channels)
    metrics = with_acoustics(from_words([SpokenWord(text="a", start=0, end=1)], ""), found)
    for name in ("tonality", "energy", "emotional_inflection"):
        score = getattr(metrics, name)
        assert metrics.not_measured[name] if score is None else 0 <= score <= 100
    numbers = (value for value in found.model_dump().values() if isinstance(value, float))
    assert all(math.isfinite(value) for value in numbers)


@pytest.mark.parametrize("sound", [silence(3), noise(3, level_db=-80), np.full(3 * RATE, np.nan)])
def test_silence_has_neither_pitch_nor_loudness(sound: Any) -> None:
    found, curves = heard(sound)
    assert set(found.not_measured) == {"pitch", "loudness", "harmonics_to_noise"}
    assert (found.loudness_db, found.pitch_median_hz, curves) == (None, None, None)


def test_samples_that_are_not_numbers_are_silent() -> None:
    sound = voice(120, 3)
    sound[RATE : RATE + 50] = np.nan
    sound[RATE + 50 : RATE + 99] = np.inf
    assert heard(sound)[0].loudness_db == pytest.approx(-20, rel=0.02)


def test_a_user_without_turns_is_not_measured() -> None:
    found, curves = heard(voice(120, 3), own=(), others=EVERYTHING)
    assert found.not_measured["pitch"].startswith("the user is not heard")
    assert curves is None


def test_turns_beyond_the_end_of_the_recording_are_left_out() -> None:
    found, _ = heard(voice(120, 2), own=(Stretch(0, 2), Stretch(50, 90)))
    assert found.speech_seconds == pytest.approx(2, rel=0.02)


def test_a_fifth_of_a_second_is_too_short() -> None:
    found, _ = heard(voice(120, 0.2))
    assert found.not_measured["loudness"] == "the user is heard for 0.2 s; 0.5 s are needed"
    assert found.not_measured["pitch"] == "the user's speech has a pitch for 0.2 s; 0.5 s are needed"


def test_a_whisper_has_loudness_and_no_pitch() -> None:
    found, _ = heard(noise(2, level_db=-30))
    assert found.loudness_db == pytest.approx(-30, rel=0.02)
    assert found.voiced_seconds < 0.5
    assert set(found.not_measured) == {"pitch", "harmonics_to_noise"}


def test_clipping_is_measured_and_does_not_change_the_pitch() -> None:
    found, _ = heard(np.clip(voice(130, 3, level_db=-2), -1, 1))
    assert found.clipped_share > 0.01
    assert found.pitch_median_hz == pytest.approx(130, rel=0.02)
    assert heard(voice(130, 3))[0].clipped_share == 0


def test_a_channel_of_the_users_own_is_found_in_either_place() -> None:
    user, other = TWO_SPEAKERS
    for channels in ((user, other), (other, user)):
        assert heard(*channels, own=OWN, others=OTHERS)[0].pitch_median_hz == pytest.approx(110, rel=0.02)
        assert heard(*channels, own=OTHERS, others=OWN)[0].pitch_median_hz == pytest.approx(220, rel=0.02)


def test_bleed_of_the_other_speaker_is_not_measured() -> None:
    user, other = TWO_SPEAKERS
    found, _ = heard(user + 0.2 * other, other + 0.2 * user, own=OWN, others=OTHERS)
    assert found.pitch_median_hz == pytest.approx(110, rel=0.02)
    assert found.loudness_db == pytest.approx(-20, rel=0.02)


def test_where_both_speak_only_a_channel_of_the_users_own_is_measured() -> None:
    user, other = voice(110, 6), np.concatenate((silence(2), voice(220, 4)))
    own, others = (Stretch(0, 6),), (Stretch(2, 6),)
    apart, together = heard(user, other, own=own, others=others), heard(user + other, own=own, others=others)
    assert apart[0].speech_seconds == pytest.approx(6, rel=0.02)
    assert together[0].speech_seconds == pytest.approx(2, rel=0.02)
    assert together[0].pitch_median_hz == pytest.approx(110, rel=0.02)


@pytest.mark.parametrize("form", ["wav", "ogg", "mp3"])
def test_a_telephone_recording_at_8_khz_has_the_same_pitch(form: str) -> None:
    recording = encode(voice(130, 4)[::2].astype(np.float32), rate=8000, form=form)
    blocks = list(decode_blocks(recording, rate=RATE))
    found, _ = heard(np.concatenate([block.channels[0] for block in blocks]))
    assert found.pitch_median_hz == pytest.approx(130, rel=0.02)
    assert found.loudness_db == pytest.approx(-20, abs=0.5)  # encoders change it a little


def test_long_recordings_are_decoded_in_blocks() -> None:
    recording = encode(*[np.tile(voice(125, 1), 150).astype(np.float32)] * 2)
    blocks = list(decode_blocks(recording, rate=RATE))
    assert [round(block.seconds) for block in blocks] == [60, 60, 30]
    assert all(len(block.channels) == 2 for block in blocks)
