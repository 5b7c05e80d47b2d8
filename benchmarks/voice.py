"""How exactly voice metrics are measured on sound and words with known values, and what a minute of sound costs."""

import asyncio
import resource
import time
from collections.abc import Iterator
from itertools import repeat

import numpy as np

from benchmarks.options import Figures, Options
from parley.acoustics import RATE, measured
from parley.audio import BLOCK_SECONDS, Sound
from parley.domain.requests import SpokenWord
from parley.domain.speaking import Stretch
from parley.domain.voice_metrics import from_words
from tests.acoustics.signals import at_level, heard, pulses, silence, voice
from tests.acoustics.test_synthetic import swing

HOURS = 3


async def measure(_: Options) -> Figures:
    """Errors in percent of the known value: the largest of several signals."""
    return await asyncio.to_thread(_measure)


def _measure() -> Figures:
    return {
        "largest error, percent": {
            "pitch": max(_pitch_errors()),
            "pitch variation": max(_variation_errors("pitch_variation_semitones", 0.6827)),
            "pitch range": max(_variation_errors("pitch_range_semitones", 1.8)),
            "loudness": max(_loudness_errors()),
            "loudness variation": max(_step_errors()),
            **_word_errors(),
        },
        f"{HOURS} hours of two channels": _long(),
    }


def _error(found: float | None, known: float) -> float:
    return 100.0 if found is None else abs(found - known) / abs(known) * 100


def _pitch_errors() -> Iterator[float]:
    for hertz in (65, 80, 98.7, 120, 165, 210, 280, 333, 480):
        yield _error(heard(voice(hertz, 3))[0].pitch_median_hz, hertz)
    for hertz in (64, 125, 200, 320):
        yield _error(heard(pulses(hertz, 3))[0].pitch_median_hz, hertz)


def _variation_errors(name: str, share: float) -> Iterator[float]:
    """share: of the height of an even swing."""
    for hertz, semitones in ((90, 1), (110, 2), (150, 3), (200, 4), (120, 6)):
        yield _error(getattr(heard(voice(swing(hertz, semitones, 10)))[0], name), share * semitones)


def _loudness_errors() -> Iterator[float]:
    for level in (-60.0, -40.0, -26.0, -10.0):
        sound = np.concatenate((silence(1), voice(140, 4, level_db=level), silence(2)))
        yield _error(heard(sound)[0].loudness_db, level)


def _step_errors() -> Iterator[float]:
    second = voice(140, 1)
    for step in (2.0, 4.0, 8.0, 12.0):
        sound = np.concatenate([np.tile(at_level(second, level), 20) for level in (-20.0, -20.0 - step)])
        yield _error(heard(sound)[0].loudness_variation_db, step / 2)


def _word_errors() -> dict[str, float]:
    """Words of 0.4 s, with a pause of 1.3 s after each tenth."""
    starts = [at * 0.4 + at // 10 * 1.3 for at in range(200)]
    words = [SpokenWord(text="word", start=start, end=start + 0.4, speaker="A") for start in starts]
    found = from_words(words, "A")
    assert found.pauses is not None
    return {"pace": _error(found.pace_wpm, 150), "pauses": _error(found.pauses.total_seconds, 19 * 1.3)}


def _long() -> dict[str, float]:
    """CPU and memory for a recording that comes in blocks, as `decode_blocks` gives it."""
    count = round(HOURS * 3600 / BLOCK_SECONDS)
    minute = np.tile(voice(swing(130, 3, 1)), round(BLOCK_SECONDS)).astype(np.float32)
    block = Sound(RATE, (minute, minute * np.float32(0.1)))
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    measured(lambda: repeat(block, count), [Stretch(0, HOURS * 3600.0)], [])
    return {
        "CPU seconds per minute": (time.process_time() - began) / (HOURS * 60),
        "added to the peak of memory, MB": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
    }
