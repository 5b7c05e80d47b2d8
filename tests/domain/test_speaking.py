import pytest

from parley.domain.requests import SpokenWord
from parley.domain.session import Word
from parley.domain.speaking import Pace, Pauses, Stretch, in_sequence, joined, pace, pauses, phrases, speech_of
from tests.domain.sessions import session, turn


def word(text: str, start: float, end: float) -> SpokenWord:
    return SpokenWord(text=text, start=start, end=end)


def times(*words: SpokenWord) -> list[tuple[str, float, float]]:
    return [(one.text, one.start, one.end) for one in in_sequence(words)]


def test_words_that_step_back_or_overlap_are_put_in_order():
    assert times(word("real", 2.6, 2.8), word("R.S.C.", 0.4, 0.6), word("Your", 0.1, 0.5)) == [
        ("Your", 0.1, 0.5),
        ("R.S.C.", 0.5, 0.6),
        ("real", 2.6, 2.8),
    ]


def test_a_word_that_ends_a_sentence_is_cut_at_its_end_where_it_is_stretched_over_a_silence():
    assert times(word("see", 0, 0.3), word("you.", 0.3, 14), word("Well", 14, 14.4)) == [
        ("see", 0, 0.3),
        ("you.", 0.3, 2.3),
        ("Well", 14, 14.4),
    ]


def test_the_first_word_of_a_sentence_is_cut_at_its_start():
    assert times(word("you.", 0, 0.4), word("Well", 0.4, 14), word("now", 14, 14.4))[1] == ("Well", 12, 14)


def test_words_inside_a_stretched_one_keep_their_times():
    spoken = [word("so", 0, 0.3), word("today", 0.3, 14), word("it", 5, 5.2), word("is", 5.2, 5.4)]
    assert phrases(spoken) == [Stretch(0, 2.3), Stretch(5, 5.4)]


@pytest.mark.parametrize(("gap", "count"), [(0.59, 1), (0.61, 2)])
def test_a_pause_divides_phrases(gap: float, count: int):
    assert len(phrases([word("one", 0, 1), word("two", 1 + gap, 2 + gap)])) == count


def test_stretches_that_overlap_or_touch_are_one():
    assert joined([Stretch(3, 4), Stretch(0, 2), Stretch(1, 3), Stretch(1.5, 1.6)]) == [Stretch(0, 4)]


def test_a_session_is_measured_by_its_words_where_every_turn_has_them():
    first, second = (Word(text="one", start=1, end=1.5),), (Word(text="two", start=9, end=9.5),)
    timed = session(turn("one", 0, 5, words=first), turn("two", 5, 10, "prospect", words=second))
    half = session(turn("one", 0, 5, words=first), turn("two", 5, 10, "prospect"))
    assert (speech_of(timed, "rep"), speech_of(timed, "prospect")) == ([Stretch(1, 1.5)], [Stretch(9, 9.5)])
    assert (speech_of(half, "rep"), speech_of(half, "prospect")) == ([Stretch(0, 5)], [Stretch(5, 10)])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("I'm well-known - isn't it?", Pace(words_per_minute=24)),
        ("您好,我是电梯公司的顾问。", Pace(characters_per_minute=66)),
        ("こんにちは、世界", Pace(characters_per_minute=42)),
        ("สวัสดี", Pace(characters_per_minute=24)),  # marks above letters are none
        ("안녕하세요 반갑습니다", Pace(words_per_minute=12)),
        ("我们用 SAP 系统做排班", Pace(characters_per_minute=66)),
        ("the sign says 电梯 here", Pace(words_per_minute=30)),
        ("…", Pace()),
        ("", Pace()),
    ],
)
def test_pace_counts_words_or_the_characters_of_languages_without_blanks(text: str, found: Pace):
    assert pace(text, 10) == found


@pytest.mark.parametrize("seconds", [0, 0.2, 0.99])
def test_too_little_speech_has_no_pace(seconds: float):
    assert pace("Yes, of course.", seconds) == Pace()


def test_pauses_are_counted_and_measured():
    own = [Stretch(0, 2), Stretch(3, 5), Stretch(7.5, 8)]
    assert pauses(own, []) == Pauses(count=2, total_seconds=3.5, mean_seconds=1.75, longest_seconds=2.5)


def test_a_gap_in_which_another_speaks_is_not_a_pause():
    own = [Stretch(0, 2), Stretch(3, 5), Stretch(7.5, 8)]
    assert pauses(own, [Stretch(5.5, 7)]) == Pauses(count=1, total_seconds=1, mean_seconds=1, longest_seconds=1)


def test_without_a_gap_there_is_no_pause():
    nothing = Pauses(count=0, total_seconds=0, mean_seconds=0, longest_seconds=0)
    assert pauses([Stretch(0, 2)], []) == pauses([], []) == nothing
