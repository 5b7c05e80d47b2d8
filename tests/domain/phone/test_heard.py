"""What was heard of an answer is its beginning, up to the word at which it was interrupted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.domain.phone.heard import CHARACTERS_PER_SECOND, heard_of

SENT = "You can export CSV and PDF. The export takes a minute. The export is in your files."


@pytest.mark.parametrize(
    ("utterance", "milliseconds", "heard"),
    [
        ("", 0, ""),
        ("You can export", 900, "You can export"),
        ("you can export csv and pdf", 1800, "You can export CSV and PDF."),
        (SENT, 9000, SENT),
        ("The export takes", 2900, "You can export CSV and PDF. The export takes"),
        # The same words twice: the time decides.
        ("The export", 2600, "You can export CSV and PDF. The export"),
        ("The export", 4500, "You can export CSV and PDF. The export takes a minute. The export"),
        # In the middle of a word.
        ("You can expo", 700, "You can export"),
        ("You can e", 500, "You can"),
        # A recogniser's mistake.
        ("You can export CVS and PDF", 1800, "You can export CSV and PDF."),
        # Words that were never sent: the time decides.
        ("Completely different words here", 1000, "You can export"),
        ("", 1000, "You can export"),
    ],
)
def test_an_interruption_cuts_the_answer(utterance: str, milliseconds: float, heard: str):
    assert heard_of(SENT, utterance, milliseconds) == heard


@pytest.mark.parametrize(
    ("played", "milliseconds", "heard"),
    [
        # Before the first word after a breath: the sentences before it were heard.
        ("You can export CSV and PDF.", 0, "You can export CSV and PDF."),
        ("You can export CSV and PDF.", 120.5, "You can export CSV and PDF."),
        (
            "You can export CSV and PDF. The export takes a minute.",
            0,
            SENT.removesuffix(" The export is in your files."),
        ),
        # Something else was spoken: the time decides.
        ("Completely different words here", 1000, "You can export"),
    ],
)
def test_without_a_word_since_the_last_breath_what_was_played_was_heard(played: str, milliseconds: float, heard: str):
    assert heard_of(SENT, "", milliseconds, played) == heard
    # A word that is reported decides alone.
    assert heard_of(SENT, "You can", 400, played) == "You can"


def test_a_sum_that_is_said_in_words_is_cut_by_the_time():
    sent = "It costs $20 and ships today."
    heard = heard_of(sent, "It costs twenty dollars", 12 / CHARACTERS_PER_SECOND * 1000)
    assert heard.startswith("It costs $20")
    assert "today" not in heard


def test_nothing_is_heard_of_nothing():
    assert heard_of("", "Hello", 1000) == heard_of("  \n", "Hello", 1000) == ""


@given(st.text(), st.text(), st.floats(min_value=0, max_value=1e9))
def test_what_was_heard_is_always_a_beginning(sent: str, utterance: str, milliseconds: float):
    heard = heard_of(sent, utterance, milliseconds)
    assert sent.startswith(heard)
    assert heard == heard.rstrip()


@given(st.lists(st.sampled_from(["alpha", "beta", "gamma", "delta"]), min_size=1, max_size=30), st.data())
def test_words_from_the_beginning_are_found_again(words: list[str], data: st.DataObject):
    count = data.draw(st.integers(min_value=1, max_value=len(words)))
    sent, said = " ".join(words), " ".join(words[:count])
    assert heard_of(sent, said, len(said) / CHARACTERS_PER_SECOND * 1000) == said
