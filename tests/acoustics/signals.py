"""Sound with known pitch, loudness and noise: what a voice is measured against."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from parley.acoustics import RATE, measured
from parley.audio import Sound
from parley.domain.speaking import Stretch
from parley.domain.voice_metrics import Acoustics, Curves

EVERYTHING = (Stretch(0, 24 * 3600),)


def voice(hertz: Any, seconds: float | None = None, *, level_db: float = -20.0) -> Any:
    """A periodic sound with the harmonics of a voice below 3.8 kHz, at a level relative to full scale.

    hertz: its pitch, or one for each sample.
    """
    pitch = np.full(round((seconds or 0) * RATE), hertz) if seconds is not None else np.asarray(hertz)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    harmonics = range(1, int(3800 / pitch.max()) + 1)
    return at_level(sum(np.sin(number * phase) / number for number in harmonics), level_db)


def pulses(hertz: float, seconds: float, *, level_db: float = -20.0) -> Any:
    """A train of pulses, one in each period."""
    places = np.round(np.arange(0, seconds, 1 / hertz) * RATE).astype(int)
    train = np.zeros(round(seconds * RATE))
    train[places[places < len(train)]] = 1.0
    return at_level(train, level_db)


def noise(seconds: float, *, level_db: float = -20.0, seed: int = 7) -> Any:
    return at_level(np.random.default_rng(seed).normal(size=round(seconds * RATE)), level_db)


def silence(seconds: float) -> Any:
    return np.zeros(round(seconds * RATE))


def at_level(samples: Any, level_db: float) -> Any:
    """The sound at a level: 0 dB is the mean square of a constant 1."""
    return samples * 10 ** (level_db / 20) / np.sqrt(np.mean(np.square(samples)))


def heard(
    *channels: Any, own: Sequence[Stretch] = EVERYTHING, others: Sequence[Stretch] = (), blocks: int = 1
) -> tuple[Acoustics, Curves | None]:
    """What is measured on a recording of these channels, given in so many blocks."""
    pieces = zip(*(np.array_split(np.asarray(channel, dtype=np.float32), blocks) for channel in channels), strict=True)
    sound = [Sound(RATE, tuple(piece)) for piece in pieces]
    return measured(lambda: sound, own, others)
