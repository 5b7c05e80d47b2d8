"""Voice metrics from timed words: pace, tonality, clarity, energy, emotional inflection.

They are measured on words, times, confidences and audio events, because a speech-to-text service returns no pitch or
loudness. Each score from 0 to 100 is a documented function of such a measure, so that it can be checked and recomputed.
The scales are specific to Parley.
"""

import math
import statistics
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from parley.domain.model import Model
from parley.domain.requests import SpokenWord
from parley.domain.session import Session

# Conversational English has 120 to 160 words a minute. The score falls outside of this range.
COMFORTABLE_WPM = (120.0, 160.0)
WPM_PER_POINT = 0.8
# A gap of this length between two words of one speaker is a pause.
PAUSE_SECONDS = 0.6
OWN_PAUSE_SECONDS = 3.0
# The coefficient of variation of the speech rate that counts as lively.
LIVELY_VARIATION = 0.35
PHRASE_WORDS = 6
EXPRESSIVE_PER_MINUTE = 8.0
# Why clarity has no score: a transcript does not show how clearly it was spoken.
NO_RECORDING, NO_WORDS = "not measurable without a recording", "no word was recognised"


class VoiceMetrics(Model):
    """Scores from 0 to 100 and the measures behind them.

    source: where the words and times come from. clarity_note: why clarity is None; empty where it is measured.
    """

    source: Literal["elevenlabs", "transcript"]
    pace: int
    pace_wpm: float
    tonality: int
    rate_variation: float
    clarity: int | None
    clarity_note: str = ""
    mean_confidence: float | None
    energy: int
    speaking_share: float
    emotional_inflection: int
    expressive_per_minute: float


def from_words(words: Sequence[SpokenWord], speaker: str) -> VoiceMetrics:
    """Metrics of one speaker from a transcription."""
    own = [word for word in words if word.speaker == speaker]
    spoken = [word for word in own if word.kind == "word"]
    events = sum(word.kind == "audio_event" for word in own)
    confidence = statistics.fmean(word.confidence for word in spoken) if spoken else None
    return _metrics("elevenlabs", spoken, events, confidence)


def from_session(session: Session) -> VoiceMetrics:
    """Metrics of the rep from the words of the transcript, or from its turns if words have no times."""
    spoken: list[SpokenWord] = []
    for turn in session.turns:
        if turn.role == "rep":
            spoken += [SpokenWord(text=word.text, start=word.start, end=word.end) for word in turn.words]
            spoken += [] if turn.words else spread(turn.text, turn.start, turn.end)
    return _metrics("transcript", spoken, 0, None)


def spread(text: str, start: float, end: float) -> list[SpokenWord]:
    """Give the words of a text times within its turn, in proportion to their length."""
    parts = text.split()
    seconds_per_character = (end - start) / max(sum(len(part) for part in parts), 1)
    spoken: list[SpokenWord] = []
    for part in parts:
        until = start + len(part) * seconds_per_character
        spoken.append(SpokenWord(text=part, start=start, end=until))
        start = until
    return spoken


def rep_speaker(words: Sequence[SpokenWord], session: Session) -> str:
    """The speaker label of the rep in a transcription: the one that talks most during the rep's turns.

    Empty if no speaker talks during the rep's turns.
    """
    starts = [turn.start for turn in session.turns]
    talked: dict[str, float] = {}
    for word in words:
        middle = (word.start + word.end) / 2
        turn = session.turns[max(bisect_right(starts, middle) - 1, 0)]
        if turn.role == "rep" and turn.start <= middle <= turn.end:
            talked[word.speaker] = talked.get(word.speaker, 0.0) + word.end - word.start
    return max(sorted(talked), key=lambda speaker: talked[speaker], default="")


def _metrics(
    source: Literal["elevenlabs", "transcript"],
    spoken: Sequence[SpokenWord],
    events: int,
    confidence: float | None,
) -> VoiceMetrics:
    phrases = _phrases(_in_sequence(spoken))
    articulating = sum(phrase[-1].end - phrase[0].start for phrase in phrases)
    minutes = articulating / 60
    wpm = len(spoken) / minutes if minutes else 0.0
    variation = _rate_variation(phrases)
    share = _speaking_share(phrases, articulating)
    expressive = (
        (events + sum(word.text.rstrip("\"'”’").endswith(("!", "?")) for word in spoken)) / minutes if minutes else 0.0
    )
    return VoiceMetrics(
        source=source,
        pace=_pace_score(wpm),
        pace_wpm=round(wpm, 1),
        tonality=_percent(variation / LIVELY_VARIATION),
        rate_variation=round(variation, 3),
        clarity=None if confidence is None else _percent(confidence),
        clarity_note="" if confidence is not None else NO_RECORDING if source == "transcript" else NO_WORDS,
        mean_confidence=None if confidence is None else round(confidence, 3),
        energy=_percent(share),
        speaking_share=round(share, 3),
        emotional_inflection=_percent(expressive / EXPRESSIVE_PER_MINUTE),
        expressive_per_minute=round(expressive, 1),
    )


def _in_sequence(spoken: Sequence[SpokenWord]) -> list[SpokenWord]:
    """Words in order of time, without overlaps: diarisation and transcripts may contain them."""
    ordered: list[SpokenWord] = []
    at = 0.0
    for word in sorted(spoken, key=lambda word: word.start):
        start = max(word.start, at)
        at = max(word.end, start)
        ordered.append(word.model_copy(update={"start": start, "end": at}))
    return ordered


def _phrases(spoken: Sequence[SpokenWord]) -> list[list[SpokenWord]]:
    """Words cut into phrases at pauses."""
    phrases: list[list[SpokenWord]] = []
    for word in spoken:
        if phrases and word.start - phrases[-1][-1].end < PAUSE_SECONDS:
            phrases[-1].append(word)
        else:
            phrases.append([word])
    return phrases


def _rate_variation(phrases: Sequence[Sequence[SpokenWord]]) -> float:
    """Coefficient of variation of the words per second, over stretches of a few words each."""
    rates: list[float] = []
    for phrase in phrases:
        for at in range(0, len(phrase) - PHRASE_WORDS + 1, PHRASE_WORDS):
            stretch = phrase[at : at + PHRASE_WORDS]
            seconds = stretch[-1].end - stretch[0].start
            if seconds > 0:
                rates.append(PHRASE_WORDS / seconds)
    return statistics.pstdev(rates) / statistics.fmean(rates) if len(rates) > 1 else 0.0


def _speaking_share(phrases: Sequence[Sequence[SpokenWord]], articulating: float) -> float:
    """Time spent on words over that time plus the pauses. A gap over `OWN_PAUSE_SECONDS` is another's turn."""
    gaps = [after[0].start - before[-1].end for before, after in pairwise(phrases)]
    pausing = sum(gap for gap in gaps if gap <= OWN_PAUSE_SECONDS)
    return articulating / (articulating + pausing) if articulating else 0.0


def _pace_score(wpm: float) -> int:
    low, high = COMFORTABLE_WPM
    off = max(low - wpm, wpm - high, 0.0)
    return _percent(1 - off / WPM_PER_POINT / 100)


def _percent(share: float) -> int:
    return math.floor(100 * min(max(share, 0.0), 1.0) + 0.5)
