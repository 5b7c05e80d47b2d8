"""How well two voices on one channel are separated by what can be computed without a model of voices.

It measures a method that Parley does not have, and is the reason for that. The conditions are better than real ones:
the borders of the sentences and the number of speakers are given. Each sentence has the cepstrum (13 coefficients of 28
mel bands, mean and deviation) and the median pitch; two-means sorts the sentences of two voices. Pitch counts as much
as the means, and as the deviations.

The voices: two people of Debian's pocketsphinx-testdata, and five of espeak-ng with different pitch and formants.
"""

import asyncio
import itertools
import subprocess
from typing import Any

import numpy as np

from benchmarks.hearing import sentences
from benchmarks.options import Figures, Options
from parley.audio import decode
from parley.domain.errors import InvalidInput

RATE = 16_000
WINDOW, STEP, TRANSFORM = 400, 160, 512
BANDS, COEFFICIENTS = 28, 13
SHORTEST_PERIOD, LONGEST_PERIOD = RATE // 400, RATE // 60
LEAST_PERIODICITY = 0.5
SYNTHETIC = ("en-us", "en-us+m3", "en-us+m7", "en-us+f2", "en-us+f4")
TEXTS = (
    "How many lifts do you have in the building today?",
    "We use a spreadsheet, and it takes all morning.",
    "I understand. What would it have to save for you?",
    "Honestly, your tool is too expensive for us at the moment.",
    "Could we set up a demo on Thursday at ten?",
    "Send me the numbers, and I will talk to my manager.",
)


async def measure(options: Options) -> Figures:  # noqa: ARG001 - it has no options
    return await asyncio.to_thread(_measured)


def _measured() -> Figures:
    people = {name: [one.samples for one in spoken] for name, spoken in zip(("a", "b"), sentences(), strict=True)}
    voices = people | {voice: [_synthesised(voice, text) for text in TEXTS] for voice in SYNTHETIC}
    pairs = {pair: _separated(*(voices[name] for name in pair)) for pair in itertools.combinations(voices, 2)}
    shares = list(pairs.values())
    return {
        "time that is given to its speaker": {
            "two people": pairs["a", "b"],
            f"mean of {len(pairs)} pairs": float(np.mean(shares)),
            "worst pair": min(shares),
            "pairs with 90% or more": float(np.mean([share >= 0.9 for share in shares])),
        }
    }


def _synthesised(voice: str, text: str) -> Any:
    try:
        spoken = subprocess.run(["espeak-ng", "-v", voice, "--stdout", text], capture_output=True, check=True)
    except FileNotFoundError:
        raise InvalidInput("is not installed: apt-get install espeak-ng", where="the synthesiser") from None
    return decode(spoken.stdout, rate=RATE).channels[0]


def _separated(first: list[Any], second: list[Any]) -> float:
    """The share of the time whose sentence is put with those of its voice, by the better of both namings."""
    speech = [*first, *second]
    rows = np.array([_features(samples) for samples in speech])
    scaled = (rows - rows.mean(axis=0)) / (rows.std(axis=0) + 1e-9)
    scaled[:, :-1] /= np.sqrt(COEFFICIENTS)
    found = _two_means(scaled)
    right = found == (np.arange(len(speech)) >= len(first))
    share = float(np.average(right, weights=[len(samples) for samples in speech]))
    return max(share, 1 - share)


def _features(samples: Any) -> Any:
    cepstrum = _cepstrum(samples)
    return np.concatenate((cepstrum.mean(axis=0), cepstrum.std(axis=0), [_pitch(samples)]))


def _cepstrum(samples: Any) -> Any:
    """A row for each window that is not silent."""
    windows = np.lib.stride_tricks.sliding_window_view(np.diff(samples), WINDOW)[::STEP] * np.hamming(WINDOW)
    power = np.abs(np.fft.rfft(windows, TRANSFORM)) ** 2
    energy = power.sum(axis=1)
    bands = np.log(power[energy > 0.02 * np.percentile(energy, 95)] @ _mel_bands().T + 1e-10)
    order, band = np.arange(1, COEFFICIENTS + 1)[:, None], np.arange(BANDS)
    return bands @ np.cos(np.pi / BANDS * order * (band + 0.5)).T


def _mel_bands() -> Any:
    """Triangles of equal width in mel, a row each, over the frequencies of a spectrum."""
    borders = 700 * (10 ** (np.linspace(np.log10(1 + 50 / 700), np.log10(1 + 7600 / 700), BANDS + 2)) - 1)
    low, middle, high = borders[:-2, None], borders[1:-1, None], borders[2:, None]
    frequency = np.fft.rfftfreq(TRANSFORM, 1 / RATE)
    return np.maximum(0, np.minimum((frequency - low) / (middle - low), (high - frequency) / (high - middle)))


def _pitch(samples: Any) -> float:
    """The median in octaves, by the autocorrelation of the windows that are periodic."""
    windows = np.lib.stride_tricks.sliding_window_view(samples, 2 * WINDOW)[::STEP]
    windows = windows - windows.mean(axis=1, keepdims=True)
    correlation = np.fft.irfft(np.abs(np.fft.rfft(windows, 4 * TRANSFORM)) ** 2)
    possible = correlation[:, SHORTEST_PERIOD:LONGEST_PERIOD]
    periodic = possible.max(axis=1) > LEAST_PERIODICITY * correlation[:, 0]
    return float(np.median(np.log2(RATE / (possible[periodic].argmax(axis=1) + SHORTEST_PERIOD))))


def _two_means(rows: Any) -> Any:
    """The group of each row: the tightest grouping of those that begin with any two of the rows."""
    groupings = [_grouped(rows, rows[list(pair)]) for pair in itertools.combinations(range(len(rows)), 2)]
    return min(groupings, key=lambda groups: _spread(rows, groups))


def _grouped(rows: Any, centres: Any) -> Any:
    groups = None
    for _ in range(20):
        groups = ((rows[:, None] - centres[None]) ** 2).sum(axis=2).argmin(axis=1)
        centres = np.stack([rows[groups == number].mean(axis=0) for number in (0, 1)])
    return groups


def _spread(rows: Any, groups: Any) -> float:
    return sum(float(((part - part.mean(axis=0)) ** 2).sum()) for part in (rows[groups == 0], rows[groups == 1]))
