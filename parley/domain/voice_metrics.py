"""Voice metrics of the rep: pace, tonality, clarity, energy and emotional inflection, each from 0 to 100.

A score is a linear function of a measure with a unit, between the two values of its `Scale`. The measures come from
timed words (`parley.domain.speaking`) and from the sound of the recording (`Acoustics`, by `parley.acoustics`). What
cannot be measured is None, and `not_measured` says why. docs/voice-metrics.md has all of them with their sources.
"""

import math
import statistics
from bisect import bisect_right
from collections.abc import Sequence
from typing import Literal, NamedTuple

from pydantic import Field

from parley.domain.model import Model
from parley.domain.requests import SpokenWord
from parley.domain.session import Session
from parley.domain.speaking import (
    LEAST_PACE_SECONDS,
    Pace,
    Pauses,
    Stretch,
    joined,
    pace,
    pauses,
    phrases,
    seconds_of,
    speech_of,
    timed_words,
)

MOST_POINTS = 2000
# A recording with more sounds is one of music or of noise.
MOST_SOUNDS = 100

NO_RECORDING = "there is no recording"
NO_SPEECH_TO_TEXT = "there is no speech-to-text of a recording"
NO_WORDS = "no word was recognised"
NO_WORD_TIMES = "the words of the transcript have no times"
TOO_LITTLE_SPEECH = f"the user speaks for less than {LEAST_PACE_SECONDS:g} s"
NO_SCALE = "there is no scale for characters a minute"


class Scale(NamedTuple):
    """The values of a measure that score 0 and 100. Values beyond them score the same."""

    zero: float
    full: float

    def score(self, value: float | None) -> float | None:
        """The score of a value; None for None."""
        return None if value is None else 100 * min(max((value - self.zero) / (self.full - self.zero), 0.0), 1.0)


# Conversational English has 120 to 160 words a minute. The score falls on both sides of this range.
SLOW_WPM, FAST_WPM = Scale(40.0, 120.0), Scale(240.0, 160.0)
# Hincks (2004): presenters vary by 1.8 (the least lively) to 3.7 semitones (the most lively).
PITCH_VARIATION = Scale(1.0, 4.0)
# Five to ninety-five percent of a normal distribution are 3.3 standard deviations.
PITCH_RANGE = Scale(3.3, 13.2)
# ITU-T G.191 and P.56 level speech to 26 dB below full scale.
LOUDNESS = Scale(-46.0, -26.0)
# Parley's own: a speech synthesiser has 1.8 dB, readers of audiobooks have 2.7 to 3.9.
LOUDNESS_VARIATION = Scale(1.0, 5.0)
CONFIDENCE = Scale(0.0, 1.0)


class Acoustics(Model):
    """What is measured on the sound of the user's speech. None: not measured; `not_measured` says why, by its name.

    speech_seconds, voiced_seconds: how long the user is heard, and with a pitch.
    pitch_median_hz: the median of the pitch.
    pitch_variation_semitones: half the distance of the 16th from the 84th percentile, which is the standard deviation
        of normal values, and hardly changes with octave errors.
    pitch_range_semitones: from the 5th to the 95th percentile.
    loudness_db: the mean level of speech; 0 dB is the mean square of a constant at full scale.
    loudness_variation_db: the standard deviation of the level of the speech within 400 ms.
    harmonics_to_noise_db: the median of the voiced frames.
    clipped_share: the share of the user's samples that are at full scale, from 0 to 1.
    """

    speech_seconds: float = 0.0
    voiced_seconds: float = 0.0
    pitch_median_hz: float | None = None
    pitch_variation_semitones: float | None = None
    pitch_range_semitones: float | None = None
    loudness_db: float | None = None
    loudness_variation_db: float | None = None
    harmonics_to_noise_db: float | None = None
    clipped_share: float = 0.0
    not_measured: dict[str, str] = Field(default_factory=dict)


class Curves(Model):
    """Pitch and loudness of the user's speech over a session, in steps of `step_seconds` from its start.

    A step is None where the user does not speak, and in `pitch_hz` where the speech has no pitch.
    """

    step_seconds: float
    pitch_hz: tuple[float | None, ...] = Field(max_length=MOST_POINTS)
    loudness_db: tuple[float | None, ...] = Field(max_length=MOST_POINTS)


class SoundEvent(Model):
    """What speech-to-text heard beside words, in its own words: laughter, music. Times in seconds."""

    text: str
    start: float
    end: float


class VoiceMetrics(Model):
    """Scores from 0 to 100 and the measures behind them.

    source: where the words and times come from.
    pauses: the pauses between the user's words.
    mean_confidence: how surely speech-to-text recognised the user's words, from 0 to 1.
    acoustics: what was measured on the sound.
    sounds: the first `MOST_SOUNDS` that were heard beside words, of whatever speaker; ElevenLabs names them.
    not_measured: why a score or measure is None, by its name.
    """

    source: Literal["recording", "transcript"]
    pace: int | None
    pace_wpm: float | None
    pace_cpm: float | None = None
    pauses: Pauses | None = None
    tonality: int | None = None
    clarity: int | None = None
    mean_confidence: float | None = None
    energy: int | None = None
    emotional_inflection: int | None = None
    acoustics: Acoustics | None = None
    sounds: tuple[SoundEvent, ...] = ()
    not_measured: dict[str, str] = Field(default_factory=dict)


class Measured(NamedTuple):
    """A metric as a person reads it. `score`: None if it has none. `measure`: with its unit, or why it is missing."""

    name: str
    score: int | None
    measure: str


def from_words(words: Sequence[SpokenWord], speaker: str) -> VoiceMetrics:
    """Metrics of one speaker from a transcription of a recording."""
    spoken = [word for word in words if word.kind == "word"]
    own = [word for word in spoken if word.speaker == speaker]
    speech = _Speech(
        source="recording",
        text=" ".join(word.text for word in own),
        own=phrases(own),
        others=phrases(word for word in spoken if word.speaker != speaker),
        timed=bool(own),
        confidence=statistics.fmean(word.confidence for word in own) if own else None,
    )
    sounds = [
        SoundEvent(text=word.text, start=word.start, end=word.end) for word in words if word.kind == "audio_event"
    ]
    return _from_speech(speech).model_copy(update={"sounds": tuple(sounds[:MOST_SOUNDS])})


def from_session(session: Session) -> VoiceMetrics:
    """Metrics of the rep from the words of the transcript, or from its turns if words have no times."""
    turns = [turn for turn in session.turns if turn.role == "rep"]
    whole = [Stretch(*piece) for turn in turns if not turn.words for piece in turn.spoken]
    speech = _Speech(
        source="transcript",
        text=" ".join(turn.text for turn in turns),
        own=joined((*phrases(timed_words(turns)), *whole)),
        others=speech_of(session, "prospect"),
        timed=bool(turns) and not whole,
        confidence=None,
    )
    return _from_speech(speech)


def with_acoustics(metrics: VoiceMetrics, acoustics: Acoustics | None, reason: str = NO_RECORDING) -> VoiceMetrics:
    """The metrics with those of the sound.

    Args:
        metrics: the metrics from words.
        acoustics: None: nothing was measured on the sound.
        reason: why not.
    """
    sound = acoustics or Acoustics(not_measured=dict.fromkeys(("pitch", "loudness", "harmonics_to_noise"), reason))
    variation = LOUDNESS_VARIATION.score(sound.loudness_variation_db)
    no_pitch, no_loudness, no_harmonics = (
        sound.not_measured.get(name, "") for name in ("pitch", "loudness", "harmonics_to_noise")
    )
    unknown = {
        "tonality": no_pitch,
        "energy": no_loudness,
        "emotional_inflection": no_pitch or no_loudness,
        "harmonics_to_noise": no_harmonics,
    }
    return metrics.model_copy(
        update={
            "acoustics": acoustics,
            "tonality": _mean(PITCH_VARIATION.score(sound.pitch_variation_semitones)),
            "energy": _mean(LOUDNESS.score(sound.loudness_db), variation),
            "emotional_inflection": _mean(PITCH_RANGE.score(sound.pitch_range_semitones), variation),
            "not_measured": _named({**metrics.not_measured, **unknown}),
        }
    )


def as_measured(metrics: VoiceMetrics) -> tuple[Measured, ...]:
    """Every metric with its score and its measure, as people and prompts read it."""
    sound = metrics.acoustics or Acoustics()
    rows = {
        "pace": (metrics.pace, _pace_text(metrics)),
        "pauses": (None, _pauses_text(metrics.pauses)),
        "tonality": (metrics.tonality, _pitch_text(sound)),
        "clarity": (metrics.clarity, _worded("recognised with {:.0%} confidence", metrics.mean_confidence)),
        "energy": (metrics.energy, _loudness_text(sound)),
        "emotional_inflection": (metrics.emotional_inflection, _inflection_text(sound)),
        "harmonics_to_noise": (None, _worded("{:.1f} dB", sound.harmonics_to_noise_db)),
    }
    reasons = metrics.not_measured
    return tuple(
        Measured(name.replace("_", " "), score, text or f"not measured: {reasons.get(name, NO_RECORDING)}")
        for name, (score, text) in rows.items()
    )


def rep_speaker(words: Sequence[SpokenWord], session: Session) -> str:
    """The speaker label of the rep in a transcription: the one that talks most during the rep's turns.

    Other sounds do not count: music in a turn may have the label of another speaker. Empty if no speaker
    talks during the rep's turns.
    """
    starts = [turn.start for turn in session.turns]
    talked: dict[str, float] = {}
    for word in words:
        middle = (word.start + word.end) / 2
        turn = session.turns[max(bisect_right(starts, middle) - 1, 0)]
        if word.kind == "word" and turn.role == "rep" and turn.start <= middle <= turn.end:
            talked[word.speaker] = talked.get(word.speaker, 0.0) + word.end - word.start
    return max(sorted(talked), key=lambda speaker: talked[speaker], default="")


class _Speech(NamedTuple):
    """What is known of the rep's speech from words. `timed`: whether the words have times."""

    source: Literal["recording", "transcript"]
    text: str
    own: Sequence[Stretch]
    others: Sequence[Stretch]
    timed: bool
    confidence: float | None


def _from_speech(speech: _Speech) -> VoiceMetrics:
    found = pace(speech.text, seconds_of(speech.own))
    recognised = speech.source != "transcript"
    unknown = {
        "pace": NO_SCALE if found.characters_per_minute else "" if found.words_per_minute else TOO_LITTLE_SPEECH,
        "pauses": "" if speech.timed else NO_WORD_TIMES,
        "clarity": "" if speech.confidence is not None else NO_WORDS if recognised else NO_SPEECH_TO_TEXT,
    }
    metrics = VoiceMetrics(
        source=speech.source,
        pace=_pace_score(found),
        pace_wpm=found.words_per_minute,
        pace_cpm=found.characters_per_minute,
        pauses=pauses(speech.own, speech.others) if speech.timed else None,
        clarity=_mean(CONFIDENCE.score(speech.confidence)),
        mean_confidence=None if speech.confidence is None else round(speech.confidence, 3),
        not_measured=_named(unknown),
    )
    return with_acoustics(metrics, None)


def _pace_score(found: Pace) -> int | None:
    """The lower of the scores for a slow and for a fast speaker: within the comfortable range both are 100."""
    slow, fast = SLOW_WPM.score(found.words_per_minute), FAST_WPM.score(found.words_per_minute)
    return None if slow is None or fast is None else _mean(min(slow, fast))


def _mean(*scores: float | None) -> int | None:
    """The rounded mean; None if one of the scores is."""
    known = [score for score in scores if score is not None]
    return math.floor(statistics.fmean(known) + 0.5) if len(known) == len(scores) else None


def _named(unknown: dict[str, str]) -> dict[str, str]:
    return {name: reason for name, reason in unknown.items() if reason}


def _pace_text(metrics: VoiceMetrics) -> str:
    if metrics.pace_cpm is not None:
        return f"{metrics.pace_cpm:.0f} characters a minute while speaking"
    return _worded("{:.0f} words a minute while speaking", metrics.pace_wpm)


def _pauses_text(found: Pauses | None) -> str:
    if found is None:
        return ""
    return f"{found.count}, {found.total_seconds:.1f} s in all, the longest {found.longest_seconds:.1f} s"


def _pitch_text(sound: Acoustics) -> str:
    varies = _worded("pitch varies by {:.1f} semitones", sound.pitch_variation_semitones)
    return varies and f"{varies} around {sound.pitch_median_hz:.0f} Hz"


def _loudness_text(sound: Acoustics) -> str:
    varies = _worded("varies by {:.1f} dB", sound.loudness_variation_db)
    return varies and f"loudness {sound.loudness_db:.1f} dB below full scale, {varies}".replace(" -", " ", 1)


def _inflection_text(sound: Acoustics) -> str:
    ranged = _worded("pitch ranges over {:.1f} semitones", sound.pitch_range_semitones)
    return ranged and _worded(ranged + ", loudness varies by {:.1f} dB", sound.loudness_variation_db)


def _worded(form: str, value: float | None) -> str:
    """A value in words; empty where it is not measured."""
    return "" if value is None else form.format(value)
