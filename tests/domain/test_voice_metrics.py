from itertools import product

import pytest

from parley.domain.requests import SpokenWord
from parley.domain.session import Word
from parley.domain.voice_metrics import VoiceMetrics, from_session, from_words, rep_speaker, spread
from tests.domain.sessions import session, turn

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
    ("wpm", "score"), [(120, 100), (140, 100), (160, 100), (80, 50), (200, 50), (40, 0), (240, 0), (20, 0)]
)
def test_pace_is_full_in_the_comfortable_range_and_loses_a_point_for_every_0_8_words_off(wpm: int, score: int):
    metrics = measured(*steady(60, 60 / wpm))
    assert (metrics.pace_wpm, metrics.pace) == (wpm, score)


def test_pauses_do_not_slow_the_pace_but_lower_the_energy():
    spoken = steady(30, 0.4), steady(30, 0.4, start=14.0)
    paused, fluent = measured(*spoken[0], *spoken[1]), measured(*steady(60, 0.4))
    assert paused.pace_wpm == fluent.pace_wpm == 150
    assert (fluent.energy, fluent.speaking_share) == (100, 1.0)
    assert (paused.energy, paused.speaking_share) == (92, 0.923)  # 24 s of words, 2 s of pause


@pytest.mark.parametrize(("gap", "share"), [(0.59, 1.0), (0.61, 0.868), (3.0, 0.571), (3.1, 1.0)])
def test_a_short_gap_is_articulation_a_longer_one_a_pause_and_a_long_one_the_others_turn(gap: float, share: float):
    metrics = measured(*steady(5, 0.4), *steady(5, 0.4, start=2.0 + gap))
    assert metrics.speaking_share == share


def test_a_monotone_voice_scores_low_in_tonality_and_a_varied_one_high():
    monotone = measured(*steady(60, 0.4))
    slow_and_fast = [word for part in range(10) for word in steady(6, (0.2, 0.6)[part % 2], start=part * 3.6)]
    varied = measured(*slow_and_fast)
    assert (monotone.rate_variation, monotone.tonality) == (0, 0)
    assert (varied.rate_variation, varied.tonality) == (0.5, 100)


def test_clarity_is_the_mean_confidence_of_words_not_of_sounds():
    words = [
        SpokenWord(text="a", start=0, end=1, speaker="A", confidence=0.9),
        SpokenWord(text="b", start=1, end=2, speaker="A", confidence=0.7),
        SpokenWord(text="(laughs)", start=2, end=3, speaker="A", confidence=0.1, kind="audio_event"),
    ]
    metrics = measured(*words)
    assert (metrics.clarity, metrics.mean_confidence) == (80, 0.8)


def test_inflection_counts_exclamations_questions_and_sounds_per_minute():
    words = [*steady(118, 0.5), *steady(1, 0.5, start=59, text="Great!"), *steady(1, 0.5, start=59.5, text='why?"')]
    laugh = SpokenWord(text="(laughs)", start=60, end=61, speaker="A", kind="audio_event")
    assert (measured(*words).expressive_per_minute, measured(*words).emotional_inflection) == (2.0, 25)
    assert measured(*words, laugh).expressive_per_minute == 3.0


def test_only_the_speakers_own_words_count():
    other = steady(50, 0.1, start=100, speaker="B", text="no!")
    assert measured(*steady(60, 0.4), *other) == measured(*steady(60, 0.4))


def test_a_transcript_is_marked_as_the_source_and_claims_no_clarity():
    metrics = from_session(session(turn("one two three four", 0, 2), turn("no no no", 2, 9, "prospect")))
    assert (metrics.source, metrics.clarity, metrics.mean_confidence) == ("transcript", None, None)
    assert metrics.clarity_note == "not measurable without a recording"
    assert metrics.pace_wpm == 120
    assert measured(*steady(3, 1)).source == "elevenlabs"


def test_word_times_are_used_where_a_turn_has_them():
    words = (Word(text="one", start=0, end=0.5), Word(text="two!", start=0.5, end=1))
    timed = from_session(session(turn("one two!", 0, 60, words=words)))
    untimed = from_session(session(turn("one two!", 0, 60)))
    assert (timed.pace_wpm, untimed.pace_wpm) == (120, 2)


def test_words_without_times_share_their_turn_by_length():
    assert [(word.text, word.start, word.end) for word in spread("a bbb", 10, 14)] == [
        ("a", 10, 11),
        ("bbb", 11, 14),
    ]


def test_overlapping_and_reversed_times_give_the_metrics_of_ordered_ones():
    tidy = steady(60, 0.4)
    overlapping = [word.model_copy(update={"start": max(word.start - 0.1, 0)}) for word in tidy]
    assert measured(*reversed(tidy)) == measured(*overlapping) == measured(*tidy)


def test_words_of_a_later_turn_that_go_back_in_time_do_not_divide_by_zero():
    early = (Word(text="back", start=0, end=1),)
    late = (Word(text="five", start=5, end=6),)
    metrics = from_session(session(turn("five", 4, 6, words=late), turn("back", 4, 6, words=early)))
    assert metrics.pace_wpm == 60


@pytest.mark.parametrize(
    ("count", "seconds", "text", "confidence"),
    list(product((0, 1, 2, 200), (0.0, 0.001, 0.4, 100.0), ("word", "wow!"), (0.0, 1.0))),
)
def test_scores_are_between_0_and_100_for_any_input(count: int, seconds: float, text: str, confidence: float):
    words = [word.model_copy(update={"confidence": confidence}) for word in steady(count, seconds, text=text)]
    metrics = measured(*words)
    assert all(
        0 <= getattr(metrics, score) <= 100 for score in SCORES if score != "clarity" or not metrics.clarity_note
    )


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


def test_no_speaker_is_the_rep_if_the_rep_does_not_speak():
    silent = session(turn("Hello?", 0, 5, "prospect"))
    assert rep_speaker(steady(5, 0.5), silent) == ""
    assert rep_speaker([], TALK) == ""
