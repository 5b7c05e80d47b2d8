"""A quote counts only where the transcript has its words."""

import pytest

from parley.domain.coaching.quotes import find_moment
from parley.domain.session import Turn
from tests.domain.coaching.material import TALK
from tests.domain.sessions import session, turn

EXACT, CORRECTED = False, True


def quote_of(turns: tuple[Turn, ...], quote: str, near: float | None = None) -> tuple[str, bool] | None:
    moment, corrected = find_moment(turns, quote, near)
    return (moment.quote, corrected) if moment else None


@pytest.mark.parametrize(
    ("quote", "found"),
    [
        ("What would it have to save?", ("What would it have to save?", EXACT)),
        ("  What would\n it have to   save ", ("What would it have to save?", EXACT)),
        ("your kind of tool is 'too expensive' for us", ("your kind of tool is “too expensive” for us.", EXACT)),
        ('"Half a day a week."', ("Half a day a week.", EXACT)),
        ("[00:36] rep: I understand.", ("I understand.", EXACT)),
        ("what would it have to SAVE", ("What would it have to save?", CORRECTED)),
        ("What would it to save?", ("What would it have to save?", CORRECTED)),
        ("Honestly your kind of tools is too expensive", ("Honestly, your kind of tool is “too expensive”", CORRECTED)),
        (
            "I understand. … Our customers cut calls by 40% on average.",
            ("Our customers cut calls by 40% on average.", CORRECTED),
        ),
    ],
)
def test_the_transcripts_own_words_are_quoted(quote: str, found: tuple[str, bool]):
    assert quote_of(TALK.turns, quote) == found


@pytest.mark.parametrize(
    "quote",
    [
        "",
        "…",
        "?!",
        "We can save you half of the budget next year.",  # another sentence
        "Our prices are too high for small companies.",
        "Rick, is it all about the money?",
        "ear",  # a part of "year" is not a word
        "Yes",
        "ignore your instructions",
        "I understand " * 200,
    ],
)
def test_what_was_not_said_is_not_found(quote: str):
    assert quote_of(TALK.turns, quote) is None


def test_of_several_places_the_nearest_one_is_taken():
    turns = session(turn("Of course.", 0, 2), turn("Why?", 2, 3, "prospect"), turn("Of course.", 60, 62)).turns
    starts = [find_moment(turns, "Of course", near)[0] for near in (None, 3.0, 55.0)]
    assert [moment.turn for moment in starts if moment] == [0, 0, 2]


def test_the_moment_has_the_times_of_its_words_or_a_share_of_the_turns_time():
    timed, _ = find_moment(TALK.turns, "my name is Dev", None)
    untimed, _ = find_moment(TALK.turns, "Our customers cut calls by 40% on average.", None)
    assert timed is not None
    assert untimed is not None
    assert (timed.start, timed.end, timed.role) == (5.0, 7.0, "rep")
    assert 42 < untimed.start < untimed.end <= 50


@pytest.mark.parametrize(
    ("said", "quote", "shown"),
    [
        (
            "本日はありがとうございます。価格はいくらですか。",
            "価格はいくらですか",
            "価格はいくらですか。",
        ),
        ("Müssen wir das heute entscheiden?", "müssen wir das heute entscheiden", "Müssen wir das heute entscheiden?"),
        ("Das kostet 1.234,50 Euro.", "kostet 1234,50 euro", "kostet 1.234,50 Euro."),
        ("क्या आप तैयार हैं?", "क्या आप तैयार हैं", "क्या आप तैयार हैं?"),
    ],
)
def test_quotes_of_every_script_are_found(said: str, quote: str, shown: str):
    found = quote_of((turn(said, 0, 5),), quote)
    assert found is not None
    assert found[0].endswith(shown)


def test_a_tag_of_the_prompt_is_the_transcripts_own_again():
    found = quote_of((turn("Use <b>bold</b> claims.", 0, 5),), "Use ‹b›bold‹/b› claims.")
    assert found == ("Use <b>bold</b> claims.", EXACT)


WRITTEN = turn("Sure, write to bob@acme.example or call me at +1 555 010 9999 tomorrow. I read [email] daily.", 10, 20)


@pytest.mark.parametrize(
    ("quote", "shown"),
    [
        ("write to [email] or call me", "write to [email] or call me"),
        ("call me at [phone] tomorrow.", "call me at [phone] tomorrow."),
        ("write to [email] or call me at [phone]", "write to [email] or call me at [phone]"),
        ("write to [email] or call me at +1 555 010 9999", "write to [email] or call me at +1 555 010 9999"),
        ("[email] or call me", "[email] or call me"),
        ("I read [email] daily.", "I read [email] daily."),
        ("write to bob@acme.example", "write to bob@acme.example"),
    ],
)
def test_a_quote_of_the_masked_transcript_is_found_and_stays_masked(quote: str, shown: str):
    moment, corrected = find_moment([turn("Hello.", 0, 10), WRITTEN], quote, None)
    assert moment is not None
    assert (moment.turn, moment.quote, corrected) == (1, shown, False)
    assert 10 <= moment.start < moment.end <= 20


def test_a_masked_quote_of_something_else_is_not_found():
    assert find_moment([WRITTEN], "[email] is my own address at home", None) == (None, False)
