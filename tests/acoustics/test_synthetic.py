"""Signals with known pitch and loudness are measured within two percent."""

from typing import Any

import numpy as np
import pytest

from parley.acoustics import RATE
from parley.domain.speaking import Stretch
from parley.domain.voice_metrics import MOST_POINTS, Acoustics
from tests.acoustics.signals import at_level, heard, noise, pulses, silence, voice

WITHIN = 0.02


def acoustics(*channels: Any, **how: Any) -> Acoustics:
    return heard(*channels, **how)[0]


def swing(hertz: float, semitones: float, seconds: float) -> Any:
    """A pitch that rises and falls evenly around one of so many Hz, by so many semitones on each side."""
    place = np.arange(round(seconds * RATE)) / RATE
    return hertz * 2 ** (semitones * (4 * np.abs(place % 1 - 0.5) - 1) / 12)


def vibrato(hertz: float, semitones: float, seconds: float) -> Any:
    """The same as a sine, twice a second."""
    return hertz * 2 ** (semitones * np.sin(4 * np.pi * np.arange(round(seconds * RATE)) / RATE) / 12)


@pytest.mark.parametrize(
    ("sound", "hertz"),
    [
        *((voice, hertz) for hertz in (65, 98.7, 120, 210, 333, 480)),
        *((pulses, hertz) for hertz in (64, 125, 200, 320)),
    ],
)
def test_pitch(sound: Any, hertz: float) -> None:
    found = acoustics(sound(hertz, 3))
    assert found.pitch_median_hz == pytest.approx(hertz, rel=WITHIN)
    assert found.pitch_variation_semitones == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize(("hertz", "semitones"), [(110, 2), (200, 4), (120, 6)])
def test_pitch_that_varies(hertz: float, semitones: float) -> None:
    found = acoustics(voice(swing(hertz, semitones, 5)))
    assert found.pitch_median_hz == pytest.approx(hertz, rel=WITHIN)
    assert found.pitch_variation_semitones == pytest.approx(0.6827 * semitones, rel=WITHIN)
    assert found.pitch_range_semitones == pytest.approx(2 * 0.9 * semitones, rel=WITHIN)


def test_vibrato() -> None:
    found = acoustics(voice(vibrato(150, 3, 5)))
    # The percentiles of a sine: the 84th is at 0.878 of its height, the 95th at 0.988.
    assert found.pitch_variation_semitones == pytest.approx(0.878 * 3, rel=WITHIN)
    assert found.pitch_range_semitones == pytest.approx(2 * 0.988 * 3, rel=WITHIN)


def test_glide() -> None:
    found = acoustics(voice(100 * 2 ** (np.arange(10 * RATE) / (10 * RATE))))
    assert found.pitch_median_hz == pytest.approx(100 * 2**0.5, rel=WITHIN)
    assert found.pitch_variation_semitones == pytest.approx(0.6827 * 12 / 2, rel=WITHIN)
    assert found.pitch_range_semitones == pytest.approx(0.9 * 12, rel=WITHIN)


@pytest.mark.parametrize("factor", [0.5, 2])
def test_octave_errors_hardly_change_the_variation(factor: float) -> None:
    """A tenth of the sound is an octave off, as where a voice creaks or a tracker errs."""
    clean = swing(150, 3, 10)
    wrong = clean.copy()
    for start in range(RATE, len(wrong), round(2.2 * RATE)):
        wrong[start : start + RATE // 5] *= factor
    right, found = acoustics(voice(clean)), acoustics(voice(wrong))
    assert found.pitch_variation_semitones == pytest.approx(right.pitch_variation_semitones, rel=WITHIN)
    assert found.pitch_range_semitones == pytest.approx(right.pitch_range_semitones, rel=WITHIN)
    assert found.pitch_median_hz == pytest.approx(150, rel=WITHIN)


@pytest.mark.parametrize("level_db", [-50.0, -26.0, -10.0])
def test_loudness(level_db: float) -> None:
    found = acoustics(np.concatenate((silence(2), voice(140, 5, level_db=level_db), silence(3))))
    assert found.loudness_db == pytest.approx(level_db, rel=WITHIN)
    assert found.speech_seconds == pytest.approx(5, rel=WITHIN)


@pytest.mark.parametrize("step_db", [4.0, 8.0, 12.0])
def test_loudness_steps(step_db: float) -> None:
    second = voice(140, 1)
    steps = [np.tile(at_level(second, level), 20) for level in (-20.0, -20.0 - step_db)]
    found = acoustics(np.concatenate(steps))
    assert found.loudness_variation_db == pytest.approx(step_db / 2, rel=WITHIN)


@pytest.mark.parametrize("decibels", [5.0, 10.0, 15.0])
def test_harmonics_to_noise(decibels: float) -> None:
    found = acoustics(voice(150, 5) + noise(5, level_db=-20 - decibels))
    assert found.harmonics_to_noise_db == pytest.approx(decibels, abs=0.5)


def test_pauses_do_not_count_as_speech() -> None:
    phrase, pause = voice(140, 2), noise(1, level_db=-60)
    found = acoustics(np.concatenate([phrase, pause] * 4))
    assert found.speech_seconds == pytest.approx(8, rel=WITHIN)


@pytest.mark.parametrize("blocks", [2, 7])
def test_a_recording_in_blocks_is_measured_as_in_one_piece(blocks: int) -> None:
    sound = np.concatenate([voice(swing(130, 2, 3)), silence(1.3), voice(90, 2.2, level_db=-30)] * 2)
    whole, pieces = heard(sound), heard(sound, blocks=blocks)
    for name in ("pitch_median_hz", "pitch_variation_semitones", "loudness_db", "speech_seconds"):
        assert getattr(pieces[0], name) == pytest.approx(getattr(whole[0], name), rel=WITHIN)


def test_curves_follow_pitch_and_loudness() -> None:
    sound = np.concatenate((voice(100, 2), silence(1), noise(1, level_db=-25), voice(200, 2, level_db=-30)))
    _, curves = heard(sound)
    assert curves is not None
    at = [round(seconds / curves.step_seconds) for seconds in (1, 2.5, 3.5, 5)]
    pitch, loudness = [curves.pitch_hz[place] for place in at], [curves.loudness_db[place] for place in at]
    assert (pitch[0], pitch[1], pitch[3]) == (pytest.approx(100, rel=WITHIN), None, pytest.approx(200, rel=WITHIN))
    assert loudness == [
        pytest.approx(-20, rel=WITHIN),
        None,
        pytest.approx(-25, rel=WITHIN),
        pytest.approx(-30, rel=WITHIN),
    ]


def test_curves_of_a_long_recording_have_a_bounded_number_of_points() -> None:
    second = voice(100, 1)
    _, curves = heard(np.tile(second, 220))
    assert curves is not None
    assert len(curves.pitch_hz) == len(curves.loudness_db) <= MOST_POINTS
    assert len(curves.pitch_hz) * curves.step_seconds == pytest.approx(220, rel=WITHIN)


def test_only_the_users_turns_are_measured() -> None:
    sound = np.concatenate((voice(100, 3), voice(220, 3), voice(100, 3)))
    own, others = (Stretch(0, 3), Stretch(6, 9)), (Stretch(3, 6),)
    assert acoustics(sound, own=own, others=others).pitch_median_hz == pytest.approx(100, rel=WITHIN)
    assert acoustics(sound, own=others, others=own).pitch_median_hz == pytest.approx(220, rel=WITHIN)
