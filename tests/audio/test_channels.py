"""Which channels have a speaker of their own, and which words come through the line."""

import numpy as np
import pytest

from parley.channels import channel_levels, levels, own_words
from parley.domain.requests import SpokenWord
from tests.sounds import encode, tone

RATE = 16_000
SPEECH, SILENCE = tone(4.0), np.zeros(4 * RATE, np.float32)
# Each speaks for four seconds, and both for two.
LEFT = np.concatenate((SPEECH, SILENCE, SPEECH[: 2 * RATE]))
RIGHT = np.concatenate((SILENCE, 0.6 * SPEECH, 0.6 * SPEECH[: 2 * RATE]))
BOTH = 0.5 * (LEFT + RIGHT)
OFF, NOISE = np.zeros_like(LEFT), 0.001 * np.resize([1, -1], len(LEFT)).astype(np.float32)
# Says yes once, for 0.2 s, while the other one is silent.
LISTENER = np.concatenate((SILENCE, 0.6 * SPEECH[: RATE // 5], np.zeros(len(LEFT) - 4 * RATE - RATE // 5, np.float32)))


@pytest.mark.parametrize(
    ("channels", "apart"),
    [
        ((LEFT, RIGHT), True),
        ((LEFT + 0.2 * RIGHT, RIGHT + 0.2 * LEFT), True),
        ((LEFT, LISTENER), True),
        ((BOTH, OFF), False),
        ((NOISE, BOTH), False),
        ((LEFT + 0.8 * RIGHT, RIGHT + 0.8 * LEFT), False),
        ((LEFT + RIGHT, LEFT + RIGHT), False),
        ((LEFT + RIGHT, 0.9 * (LEFT + RIGHT)), False),
        ((OFF, OFF), False),
        ((LEFT + RIGHT,), False),
    ],
    ids=["apart", "bleed", "one listens", "one is off", "one has noise", "one room", "one sound", "one sound, quieter",
         "silence", "mono"],
)  # fmt: skip
def test_speakers_are_apart_where_each_is_louder_on_the_own_channel(channels, apart: bool):
    recording = encode(*channels, form="flac")
    found = channel_levels(recording)
    assert (found is not None and found.are_apart) == apart
    assert found is None or np.array_equal(found.values, levels(recording).values)


def test_a_recording_of_one_channel_is_not_decoded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("parley.channels.decode_blocks", None)
    assert channel_levels(encode(LEFT, form="flac")) is None


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


def test_a_voice_alone_has_the_label_of_its_channel_and_two_voices_keep_theirs():
    word = SpokenWord(text="yes", start=1, end=2, speaker="speaker_0", confidence=1)
    other = word.model_copy(update={"speaker": "speaker_1"})
    found = levels(encode(NOISE, BOTH, form="flac"))
    assert [one.speaker for one in own_words(found, [word, word])] == ["channel 2", "channel 2"]
    assert own_words(found, [word, other]) == [word, other]
    assert own_words(found, []) == []
    for mixed in ((BOTH, BOTH), (OFF, OFF), (LEFT, RIGHT)):
        assert own_words(levels(encode(*mixed, form="flac")), [word]) == [word]
