"""The same sound in Praat: for development only, because its Python package is under the GPL.

`pip install --group praat` (pip 25.1 or later), and Debian's package pocketsphinx-testdata for real speech.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parley.acoustics import PITCH_HZ, RANGE_OF_QUARTILES, RATE
from parley.audio import decode
from tests.acoustics.signals import heard
from tests.parts import SAMPLES

praat = pytest.importorskip("parselmouth", reason="is not installed: pip install --group praat")

REAL = Path("/usr/share/pocketsphinx/test/data/librivox")
RECORDINGS = [SAMPLES / "gatekeeper-dental-clinic.ogg", *sorted(REAL.glob("*.wav"))]


def by_praat(samples: Any) -> tuple[float, float]:
    """The median pitch in Hz, and half the distance of the 16th from the 84th percentile in semitones.

    In two passes, the second within the speaker's range.
    """
    sound = praat.Sound(samples.astype(np.float64), RATE)
    floor, ceiling = PITCH_HZ
    for _ in range(2):
        contour = sound.to_pitch_ac(0.01, floor, 15, False, 0.03, 0.45, 0.01, 0.35, 0.14, ceiling)
        hertz = contour.selected_array["frequency"]
        hertz = hertz[hertz > 0]
        low, high = np.percentile(hertz, (25, 75)) * RANGE_OF_QUARTILES
        floor, ceiling = max(low, PITCH_HZ[0]), min(high, PITCH_HZ[1])
    sixteenth, eighty_fourth = np.percentile(12 * np.log2(hertz), (15.866, 84.134))
    return float(np.median(hertz)), float(eighty_fourth - sixteenth) / 2


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.stem[-12:])
def test_pitch_is_as_in_praat(recording: Path) -> None:
    samples = decode(recording.read_bytes(), rate=RATE).channels[0]
    median, variation = by_praat(samples)
    found, _ = heard(samples)
    assert found.pitch_median_hz == pytest.approx(median, rel=0.05)
    assert found.pitch_variation_semitones == pytest.approx(variation, abs=0.5)
