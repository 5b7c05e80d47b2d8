"""The words of a text as a listener hears them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.domain.speech import words_as_heard
from parley.domain.speech.heard import number_words


@pytest.mark.parametrize(
    ("written", "heard"),
    [
        ("$20", "twenty dollars"),
        ("3", "three"),
        ("It costs $1,234.50.", "it costs one thousand two hundred and thirty-four dollars and fifty cents"),
        ("105 people", "One hundred and five people"),
        ("in 2026 and 1999", "in twenty twenty-six and nineteen ninety nine"),
        ("In 2026", "in two thousand twenty six"),
        ("3 * 4 = 12", "three times four equals twelve"),
        ("**Room** 3.5, the 21st", "room three point five the twenty first"),
        ("the 2nd and 12th", "the second and twelfth"),
        ("open at 06:30 p.m.", "open at 6:30 PM"),
        ("call 555-0100", "call five five five zero one zero zero"),
        ("it’s 50%", "its fifty percent"),
    ],
)
def test_two_forms_that_sound_alike_have_the_same_words(written: str, heard: str):
    assert words_as_heard(written) == words_as_heard(heard)


def test_what_was_heard_is_the_beginning_of_what_was_sent():
    sent = words_as_heard("The plan is $1,234.50 a year, or $110 a month.")
    heard = words_as_heard("The plan is one thousand two hundred thirty four")
    assert sent[: len(heard)] == heard


@pytest.mark.parametrize(
    ("language", "text", "words"),
    [
        ("de-DE", "Am 28.11. für 1.234 €", ["am", "28", "11", "für", "1", "234"]),
        ("zh-CN", "价格是100元。", ["价", "格", "是", "100", "元"]),
        ("hi-IN", "नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("en-US", "", []),
        ("en-US", "**—** 🙂", []),
    ],
)
def test_words_of_any_language(language: str, text: str, words: list[str]):
    assert words_as_heard(text, language) == words


@given(st.text(max_size=60))
def test_any_text_has_words(text: str):
    words = words_as_heard(text)
    assert all(word == word.casefold() and " " not in word for word in words)


@given(st.integers(0, 10**15 - 1))
def test_a_number_in_words_is_found_as_the_number(number: int):
    assert words_as_heard(f"total {number:,} end") == ["total", *number_words(number), "end"]
