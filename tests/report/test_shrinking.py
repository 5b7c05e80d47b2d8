"""A recording that is too large for a page becomes small, and stays as long as it was."""

import pytest

from parley.audio import decode
from parley.report.media import media_type
from parley.report.shrinking import LEAST_BITS, smaller
from tests.sounds import encode, tone


@pytest.mark.parametrize("channels", [1, 2])
def test_a_recording_becomes_small_and_keeps_its_length_and_its_level(channels: int):
    made = smaller(encode(*[tone(130.0)] * channels), 130.0, 400_000)
    assert made is not None
    assert len(made) < 400_000
    assert media_type(made) == "audio/webm"
    heard = decode(made)
    assert len(heard.channels) == 1
    assert heard.seconds == pytest.approx(130.0, abs=0.1)


def test_what_is_too_long_for_the_size_is_not_made():
    assert smaller(b"", 3600.0, 3600 * LEAST_BITS // 8) is None
