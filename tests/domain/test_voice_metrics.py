from itertools import product
from typing import Any

import pytest

from parley.domain.requests import SpokenWord
from parley.domain.session import Word
from parley.domain.voice_metrics import (
    MOST_SOUNDS,
    Acoustics,
    SoundEvent,
    VoiceMetrics,
    as_measured,
    from_session,
    from_words,
    rep_speaker,
    with_acoustics,
)
from tests.domain.sessions import session, turn

HEARD: dict[str, Any] = {
    "speech_seconds": 30.0,
    "voiced_seconds": 20.0,
    "pitch_median_hz": 118.0,
    "pitch_variation_semitones": 2.5,
    "pitch_range_semitones": 8.25,
    "loudness_db": -31.0,
    "loudness_variation_db": 3.0,
    "harmonics_to_noise_db": 11.25,
}
SCORES = ("pace", "tonality", "clarity", "energy", "emotional_inflection")


def steady(
    count: int, seconds: float, *, start: float = 0.0, speaker: str = "A", text: str = "word"
) -> list[SpokenWord]:
    """Words of one length, one after the other."""
    return [
        SpokenWord(text=text, start=start + n * seconds, end=start + (n + 1) * seconds, speaker=speaker)
        for n in range(count)
    ]


def measured(*words: SpokenWord) -> VoiceMetrics:
    return from_words(words, "A")


@pytest.mark.parametrize(
    ("wpm", "score"), [(120, 100), (140, 100), (160, 100), (80, 50), (200, 50), (40, 0), (240, 0), (35, 0)]
)
def test_pace_is_full_in_the_comfortable_range_and_loses_a_point_for_every_0_8_words_off(wpm: int, score: int):
    metrics = measured(*steady(60, 60 / wpm))
    assert (metrics.pace_wpm, metrics.pace) == (wpm, score)


def test_pauses_do_not_slow_the_pace():
    spoken = steady(30, 0.4), steady(30, 0.4, start=14.0)
    paused, fluent = measured(*spoken[0], *spoken[1]), measured(*steady(60, 0.4))
    assert paused.pace_wpm == fluent.pace_wpm == 150
    assert paused.pauses is not None
    assert (paused.pauses.count, paused.pauses.total_seconds) == (1, 2.0)
    assert fluent.pauses is not None
    assert fluent.pauses.count == 0


def test_the_others_turn_is_not_a_pause():
    other = steady(5, 0.3, start=12.2, speaker="B")
    metrics = measured(*steady(30, 0.4), *other, *steady(30, 0.4, start=14.0))
    assert metrics.pauses is not None
    assert metrics.pauses.count == 0


def test_a_word_stretched_over_a_silence_slows_no_pace():
    stretched = [*steady(29, 0.4), SpokenWord(text="then.", start=11.6, end=60, speaker="A")]
    metrics = measured(*stretched, *steady(30, 0.4, start=60))
    assert metrics.pace_wpm == 140.6  # 60 words in 25.6 s: the stretched one counts for 2 s
    assert metrics.pauses is not None
    assert metrics.pauses.longest_seconds == 46.4


def test_clarity_is_the_mean_confidence_of_words_not_of_sounds():
    words = [
        SpokenWord(text="a", start=0, end=1, speaker="A", confidence=0.9),
        SpokenWord(text="b", start=1, end=2, speaker="A", confidence=0.7),
        SpokenWord(text="(laughs)", start=2, end=3, speaker="A", confidence=0.1, kind="audio_event"),
    ]
    metrics = measured(*words)
    assert (metrics.clarity, metrics.mean_confidence) == (80, 0.8)
    assert metrics.sounds == (SoundEvent(text="(laughs)", start=2, end=3),)


def test_of_very_many_sounds_the_first_are_kept():
    noise = [SpokenWord(text="(click)", start=n, end=n + 1, kind="audio_event") for n in range(2 * MOST_SOUNDS)]
    metrics = measured(*steady(9, 0.4), *noise)
    assert [sound.start for sound in metrics.sounds] == list(range(MOST_SOUNDS))


def test_only_the_speakers_own_words_count():
    other = steady(50, 0.1, start=100, speaker="B", text="no!")
    assert measured(*steady(60, 0.4), *other) == measured(*steady(60, 0.4))


def test_a_transcript_without_word_times_has_its_pace_alone():
    metrics = from_session(session(turn("one two three four", 0, 2), turn("no no no", 2, 9, "prospect")))
    assert (metrics.source, metrics.pace_wpm, metrics.pace) == ("transcript", 120, 100)
    assert metrics.not_measured == {
        "pauses": "the words of the transcript have no times",
        "clarity": "there is no speech-to-text of a recording",
        **dict.fromkeys(
            ("tonality", "energy", "emotional_inflection", "harmonics_to_noise"),
            "there is no recording",
        ),
    }
    assert all(getattr(metrics, name) is None for name in SCORES[1:])
    assert measured(*steady(3, 1)).source == "recording"


def test_word_times_are_used_where_a_turn_has_them():
    words = (Word(text="one", start=0, end=0.5), Word(text="two!", start=0.5, end=1))
    timed = from_session(session(turn("one two!", 0, 60, words=words)))
    untimed = from_session(session(turn("one two!", 0, 60)))
    assert (timed.pace_wpm, untimed.pace_wpm) == (120, 2)
    assert (timed.pauses is None, untimed.pauses is None) == (False, True)


def test_a_language_without_blanks_has_characters_a_minute_and_no_score():
    metrics = from_session(session(turn("您好我是电梯公司的顾问", 0, 3), language="zh"))
    assert (metrics.pace, metrics.pace_wpm, metrics.pace_cpm) == (None, None, 220)
    assert metrics.not_measured["pace"] == "there is no scale for characters a minute"
    assert as_measured(metrics)[0].measure == "220 characters a minute while speaking"


def test_overlapping_and_reversed_times_give_the_metrics_of_ordered_ones():
    tidy = steady(60, 0.4)
    overlapping = [word.model_copy(update={"start": max(word.start - 0.1, 0)}) for word in tidy]
    assert measured(*reversed(tidy)) == measured(*overlapping) == measured(*tidy)


def test_words_of_a_later_turn_that_go_back_in_time_do_not_divide_by_zero():
    early = (Word(text="back", start=0, end=1),)
    late = (Word(text="five", start=5, end=6),)
    metrics = from_session(session(turn("five", 4, 6, words=late), turn("back", 4, 6, words=early)))
    assert metrics.pace_wpm == 60


def test_scores_of_the_sound_are_linear_between_two_values():
    metrics = with_acoustics(measured(*steady(60, 0.4)), Acoustics(**HEARD))
    # (2.5 - 1) / 3 semitones; the mean of 15 / 20 dB and 2 / 4 dB; that of 4.95 / 9.9 semitones and 2 / 4 dB.
    assert (metrics.tonality, metrics.energy, metrics.emotional_inflection) == (50, 63, 50)
    assert metrics.not_measured == {}


@pytest.mark.parametrize(
    ("changes", "scores"),
    [
        ({"pitch_variation_semitones": 0.2, "pitch_range_semitones": 1.0, "loudness_variation_db": 0.5}, (0, 38, 0)),
        (
            {"pitch_variation_semitones": 7.0, "pitch_range_semitones": 20.0, "loudness_variation_db": 9.0},
            (100, 88, 100),
        ),
        ({"loudness_db": -60.0}, (50, 25, 50)),
        ({"loudness_db": -3.0}, (50, 75, 50)),
    ],
)
def test_a_score_ends_at_0_and_100(changes: dict[str, float], scores: tuple[int, int, int]):
    metrics = with_acoustics(measured(*steady(60, 0.4)), Acoustics(**HEARD | changes))
    assert (metrics.tonality, metrics.energy, metrics.emotional_inflection) == scores


def test_what_the_sound_does_not_tell_is_named_with_its_reason():
    unvoiced = HEARD | dict.fromkeys(name for name in HEARD if name.startswith(("pitch", "harmonics")))
    reasons = {"pitch": "only whispers", "harmonics_to_noise": "only whispers"}
    metrics = with_acoustics(measured(*steady(60, 0.4)), Acoustics(**unvoiced, not_measured=reasons))
    assert (metrics.tonality, metrics.energy, metrics.emotional_inflection) == (None, 63, None)
    shown = {name: measure for name, score, measure in as_measured(metrics) if score is None}
    assert shown == {
        "pauses": "0, 0.0 s in all, the longest 0.0 s",
        **dict.fromkeys(("tonality", "emotional inflection", "harmonics to noise"), "not measured: only whispers"),
    }


def test_sound_that_was_measured_later_replaces_the_reasons():
    without = measured(*steady(60, 0.4))
    assert set(without.not_measured) == {"tonality", "energy", "emotional_inflection", "harmonics_to_noise"}
    assert with_acoustics(without, Acoustics(**HEARD)).not_measured == {}


def test_every_metric_is_shown_with_its_unit():
    metrics = with_acoustics(measured(*steady(60, 0.4)), Acoustics(**HEARD))
    assert [tuple(row) for row in as_measured(metrics)] == [
        ("pace", 100, "150 words a minute while speaking"),
        ("pauses", None, "0, 0.0 s in all, the longest 0.0 s"),
        ("tonality", 50, "pitch varies by 2.5 semitones around 118 Hz"),
        ("clarity", 100, "recognised with 100% confidence"),
        ("energy", 63, "loudness 31.0 dB below full scale, varies by 3.0 dB"),
        ("emotional inflection", 50, "pitch ranges over 8.2 semitones, loudness varies by 3.0 dB"),
        ("harmonics to noise", None, "11.2 dB"),
    ]


@pytest.mark.parametrize(
    ("count", "seconds", "text", "confidence"),
    list(product((0, 1, 2, 200), (0.0, 0.001, 0.4, 100.0), ("word", "wow!"), (0.0, 1.0))),
)
def test_a_score_is_between_0_and_100_or_missing_with_a_reason(
    count: int, seconds: float, text: str, confidence: float
):
    words = [word.model_copy(update={"confidence": confidence}) for word in steady(count, seconds, text=text)]
    metrics = measured(*words)
    for name in SCORES:
        score = getattr(metrics, name)
        assert metrics.not_measured[name] if score is None else 0 <= score <= 100


TALK = session(
    turn("Hello there, I am the rep.", 0, 4),
    turn("Go on.", 4, 5, "prospect"),
    turn("Gladly, here it is.", 5, 9),
    turn("No.", 9, 20, "prospect"),
)


@pytest.mark.parametrize(("rep", "prospect"), [("A", "B"), ("B", "A"), ("speaker_1", "speaker_0")])
def test_the_rep_is_the_speaker_of_the_reps_turns_under_any_label(rep: str, prospect: str):
    words = [
        *steady(8, 0.5, start=0, speaker=rep),
        *steady(2, 0.5, start=4, speaker=prospect),
        *steady(8, 0.5, start=5, speaker=rep),
        *steady(22, 0.5, start=9, speaker=prospect),
    ]
    assert rep_speaker(words, TALK) == rep
    assert rep_speaker(words[::-1], TALK) == rep


def test_crosstalk_does_not_turn_the_prospect_into_the_rep():
    words = [*steady(7, 0.5, start=0, speaker="A"), *steady(3, 0.5, start=2.5, speaker="B")]
    assert rep_speaker(words, TALK) == "A"


def test_music_in_a_turn_of_the_rep_does_not_make_another_speaker_the_rep():
    music = SpokenWord(text="(music)", start=2.0, end=3.9, speaker="B", kind="audio_event")
    assert rep_speaker([*steady(2, 0.5, start=0, speaker="A"), music], TALK) == "A"


def test_no_speaker_is_the_rep_if_the_rep_does_not_speak():
    silent = session(turn("Hello?", 0, 5, "prospect"))
    assert rep_speaker(steady(5, 0.5), silent) == ""
    assert rep_speaker([], TALK) == ""
