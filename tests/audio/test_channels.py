"""Which channels have a speaker of their own, and which words come through the line."""

import numpy as np
import pytest

from parley.channels import levels, own_words, speakers_apart
from parley.domain.requests import SpokenWord
from tests.sounds import encode, tone

RATE = 16_000
SPEECH, SILENCE = tone(4.0), np.zeros(4 * RATE, np.float32)
# Each speaks for four seconds, and both for two.
LEFT = np.concatenate((SPEECH, SILENCE, SPEECH[: 2 * RATE]))
RIGHT = np.concatenate((SILENCE, 0.6 * SPEECH, 0.6 * SPEECH[: 2 * RATE]))


@pytest.mark.parametrize(
    ("channels", "apart"),
    [
        ((LEFT, RIGHT), True),
        ((LEFT + 0.2 * RIGHT, RIGHT + 0.2 * LEFT), True),
        ((LEFT, np.concatenate((SILENCE, 0.6 * SPEECH[:RATE], SILENCE, SPEECH[:RATE]))), True),
        ((LEFT + RIGHT, np.zeros_like(LEFT)), False),
        ((LEFT + RIGHT, 0.001 * tone(10.0)), False),
        ((LEFT + 0.8 * RIGHT, RIGHT + 0.8 * LEFT), False),
        ((LEFT + RIGHT, LEFT + RIGHT), False),
        ((LEFT + RIGHT, 0.9 * (LEFT + RIGHT)), False),
        ((np.zeros_like(LEFT), np.zeros_like(LEFT)), False),
        ((LEFT + RIGHT,), False),
    ],
    ids=[
        "apart",
        "bleed",
        "one speaks more",
        "a dead channel",
        "a hum",
        "one room",
        "one sound",
        "one sound, quieter",
        "silence",
        "mono",
    ],
)
def test_speakers_are_apart_where_each_is_louder_on_the_own_channel(channels, apart: bool):
    recording = encode(*channels, form="flac")
    found = speakers_apart(recording)
    assert (found is not None) == apart
    assert found is None or np.array_equal(found.values, levels(recording).values)


def test_a_recording_of_one_channel_is_not_decoded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("parley.channels.decode_blocks", None)
    assert speakers_apart(encode(LEFT, form="flac")) is None


def test_levels_are_those_of_the_whole_recording_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch):
    recording = encode(LEFT, RIGHT, form="flac")
    whole = levels(recording).values
    monkeypatch.setattr("parley.audio.BLOCK_SECONDS", 0.33)
    assert np.array_equal(levels(recording).values, whole)
    assert whole.shape == (2, 200)
    assert whole[0, 40] == pytest.approx(0.5 / 2**0.5, rel=0.02)


def test_words_through_the_line_are_left_out():
    found = levels(encode(LEFT + 0.1 * RIGHT, RIGHT, form="flac"))
    mine, theirs = (SpokenWord(text="yes", start=1, end=2, speaker=f"channel {n}", confidence=1) for n in (1, 2))
    echo, answer = (word.model_copy(update={"start": 5.0, "end": 6.0}) for word in (mine, theirs))
    unplaced = mine.model_copy(update={"speaker": "speaker_0"})
    late = mine.model_copy(update={"start": 11.0, "end": 12.0})
    assert own_words(found, [mine, theirs, echo, answer, unplaced, late]) == [mine, answer, unplaced, late]
