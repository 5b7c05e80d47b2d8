"""The voices on one channel are separated, and one voice is not taken for two."""

from itertools import cycle, islice
from typing import Any

import numpy as np
import pytest

from parley.audio import decode
from parley.client.reading import read_session
from parley.domain.requests import SpokenWord
from parley.voices import RATE, Voices
from tests.parts import SAMPLES

SAMPLE = read_session(SAMPLES / "gatekeeper-dental-clinic.json")
SOUND = decode((SAMPLES / "gatekeeper-dental-clinic.ogg").read_bytes(), rate=RATE).channels[0]
# A voice whose pitch and formants are higher or lower by so much is another person's.
HIGHER, LOWER = 1.3, 0.75


def spoken(*voices: float) -> tuple[Any, list[SpokenWord]]:
    """The user's turns one after the other, each by a voice, and their words, whose label is the voice."""
    turns = islice(cycle(turn for turn in SAMPLE.turns if turn.role == "rep"), len(voices))
    parts, words, at = [], [], 0.0
    for turn, factor in zip(turns, voices, strict=True):
        samples = SOUND[round(turn.start * RATE) : round(turn.end * RATE)]
        parts.append(np.interp(np.arange(0, len(samples) - 1, factor), np.arange(len(samples)), samples))
        words += [
            SpokenWord(
                text=word.text,
                start=at + (word.start - turn.start) / factor,
                end=at + (word.end - turn.start) / factor,
                speaker=str(factor),
                confidence=0.9,
            )
            for word in turn.words
        ]
        at += len(parts[-1]) / RATE
    return np.concatenate(parts).astype(np.float32), words


def named(sound: Any, words: list[SpokenWord], *, pieces: int = 1, before: float = 0.0) -> list[str]:
    """The speakers of the words. The sound comes in pieces, and begins after so many seconds."""
    voices = Voices()
    later = [word.model_copy(update={"start": word.start + before, "end": word.end + before}) for word in words]
    for number in range(pieces):
        first, last = (len(sound) * place // pieces for place in (number, number + 1))
        own = [word for word in later if first <= (word.start - before) * RATE < last]
        voices.hear(sound[first:last], own, start=before + first / RATE)
    return [word.speaker for word in voices.named()]


@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("order", [(1.0, HIGHER, 1.0, HIGHER), (HIGHER, 1.0, HIGHER, 1.0)])
def test_two_voices_are_separated_and_numbered_as_they_come(order: tuple[float, ...], pieces: int) -> None:
    sound, words = spoken(*order)
    label = {str(order[0]): "speaker 1", str(order[1]): "speaker 2"}
    found = named(sound, words, pieces=pieces, before=7.0)
    right = [one == label[word.speaker] for one, word in zip(found, words, strict=True)]
    assert np.mean(right) >= 0.95


def test_three_voices_are_three_speakers() -> None:
    sound, words = spoken(1.0, HIGHER, LOWER, HIGHER, 1.0, LOWER, LOWER, HIGHER, 1.0)
    label = {"1.0": "speaker 1", str(HIGHER): "speaker 2", str(LOWER): "speaker 3"}
    right = [one == label[word.speaker] for one, word in zip(named(sound, words), words, strict=True)]
    assert np.mean(right) >= 0.95


@pytest.mark.parametrize("voice", [1.0, HIGHER])
def test_one_voice_is_one_speaker(voice: float) -> None:
    assert set(named(*spoken(voice, voice, voice, voice))) == {"speaker 1"}


def test_a_voice_that_changes_once_is_one_speaker() -> None:
    assert set(named(*spoken(1.0, 1.0, HIGHER, HIGHER))) == {"speaker 1"}


def test_a_few_words_are_one_speaker_and_none_are_none() -> None:
    sound, words = spoken(1.0, HIGHER, 1.0, HIGHER)
    assert named(sound, words[:2]) == ["speaker 1"] * 2
    assert named(sound, []) == []


def test_silence_has_a_vector_too() -> None:
    silence = np.zeros(10 * RATE, np.float32)
    words = [SpokenWord(text="So.", start=n, end=n + 0.1, speaker="", confidence=0.1) for n in range(9)]
    assert set(named(silence, words)) == {"speaker 1"}
