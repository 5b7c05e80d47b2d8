"""Text for the ear: what a voice says for a text, however its tokens are cut."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from parley.domain.speech import SpokenText, spoken

HOURS = """**Opening hours** 🛗

1. Mon–Fri: `07:00`–21:30
2. Sun: closed ❌

| day | price |
|---|---|
| Sat | $2,345.60 |

Read [our page](https://example.com/a?b=1&c=2) — 5 * 6 = 30, or call +1 (555) 010-0003.
"""


@pytest.mark.parametrize(
    ("text", "speech"),
    [
        # Markdown
        ("**Bold**, *light* and __both__ of `code`", "Bold, light and both of code"),
        ("# Title\n\nText", "Title.\nText"),
        ("- one\n- two\n* three\n+ four\n", "one.\ntwo.\nthree.\nfour."),
        ("1. first\n2) second", "1, first.\n2, second"),
        ("- [ ] open\n- [x] done", "open.\ndone"),
        ("> quoted\n\n---\nafter", "quoted.\nafter"),
        ("Heading\n===\nafter", "Heading.\nafter"),
        ("~~old~~ new", "old new"),
        ("See [the page](https://example.com/x_(y)?a=1) and ![a chart](c.png).", "See the page and a chart."),
        ("As known[1] and noted.[^2] [Here][ref]", "As known and noted. Here"),
        ("a snake_case name, \\*no mark\\*", "a snake case name, no mark"),
        ("```python\nprint('x')\n```\nDone.", "Code left out.\nDone."),
        ("```\nonly text\n```", "only text"),
        ("A<br>B <b>C</b> &amp; D&nbsp;E <https://example.com/>", "A B C and D E example dot com"),
        ("Great! 👍🏽 👨‍👩‍👧 1️⃣ ✅ done", "Great! 1 done"),
        ("|a|b|\n|-|-|\n|1||\n|✅|Sat|\nEnd", "a 1.\na yes, b Saturday.\nEnd"),
        ("|only|a row|\n\nEnd", "only, a row.\nEnd"),
        ("|x|y|\n|1|2|\n", "x, y.\n1, 2."),
        ("Settings → Network -> Wi-Fi", "Settings, Network, Wi-Fi"),
        # sums
        ("3 * 4 = 12 and 3*4, 2**3, 6 ÷ 2", "3 times 4 equals 12 and 3 times 4, 2 to the power of 3, 6 divided by 2"),
        ("*3* and **4** and 5*", "3 and 4 and 5"),
        ("7 - 3, 2-3 days, -5 now, covid-19", "7 minus 3, 2 to 3 days, minus 5 now, covid-19"),
        (
            "a < b, 5 > 3, <10, x = 2, ~5, #1, ±2",
            "a is less than b, 5 is more than 3, less than 10, x equals 2, about 5, number 1, plus or minus 2",
        ),
        ("Press * to go back.", "Press star to go back."),
        ("50% at 20°C, 70 °F or 90°", "50 percent at 20 degrees Celsius, 70 degrees Fahrenheit or 90 degrees"),
        ("1,234 of 3.5 in v1.2.3", "1,234 of 3.5 in v1.2.3"),
        # money
        ("$1,234.50", "1,234 dollars and 50 cents"),
        ("$1, $0.50, $2.00, $3k, $0.002", "1 dollar, 50 cents, 2 dollars, 3 thousand dollars, 0.002 dollars"),
        (
            "-$5/month, $1.5 million, 20 USD, 7 €, £1.01",
            "minus 5 dollars per month, 1.5 million dollars, 20 dollars, 7 euros, 1 pound and 1 penny",
        ),
        ("$5–$10 or $5-10.", "5 to 10 dollars or 5 to 10 dollars."),
        # dates and times
        ("2026-11-28, 11/28/2026", "November 28, 2026, November 28, 2026"),
        ("2026-11-28T06:05:00Z", "November 28, 2026 at 6:05 AM UTC"),
        ("2026-13-45", "2026-13-45"),
        ("06:00, 22:15, 00:00, 9:30, 6:30 pm, 6 p.m. or 5pm", "6 AM, 10:15 PM, 12 AM, 9:30, 6:30 PM, 6 PM or 5 PM"),
        ("10am-5pm, 9:00–17:00, Mon-Fri", "10 AM to 5 PM, 9:00 to 5 PM, Monday to Friday"),
        ("Sat: closed. The Sun sat.", "Saturday: closed. The Sun sat."),
        # telephone numbers and identifiers
        ("+1 (555) 010-0002", "plus 1, 5 5 5, 0 1 0, 0 0 0 2"),
        ("Call 555-010-0002, 555-0100.", "Call 5 5 5, 0 1 0, 0 0 0 2, 5 5 5, 0 1 0 0."),
        ("Order 12345678, room 007", "Order 1 2 3 4 5 6 7 8, room 0 0 7"),
        # links
        ("https://www.example.com/a/b?c=1#d.", "example dot com."),
        ("www.example.com/help or ada.b@example.com", "example dot com slash help or ada dot b at example dot com"),
        ("https://user:secret@example.com:8080/", "example dot com"),
        # text that must stay
        (
            "U.S. firms, e.g. AT&T, and/or C++ in the 1990s - well-known.",
            "U.S. firms, e.g. AT and T, and/or C++ in the 1990s - well-known.",
        ),
        ("It's “quoted” (see below): yes!", "It's “quoted” (see below): yes!"),
        ("", ""),
    ],
)  # fmt: skip
def test_a_text_becomes_speech(text: str, speech: str):
    assert spoken(text) == speech


def test_none_of_the_marks_of_a_formatted_answer_is_said():
    speech = spoken(HOURS)
    assert not re.search(r"[*`|\[\]#$@/_=+<>~]|https?|🛗|❌|---|–", speech)
    for part in (
        "Monday to Friday: 7 AM to 9:30 PM",
        "Sunday: closed.",
        "day Saturday, price 2,345 dollars and 60 cents.",
        "our page, 5 times 6 equals 30,",
        "plus 1, 5 5 5, 0 1 0, 0 0 0 3.",
    ):
        assert part in speech


@pytest.mark.parametrize(
    ("language", "text", "speech"),
    [
        ("de-DE", "**Täglich** ab 6:00 für 1.234,50 € – 3 * 4", "Täglich ab 6:00 für 1.234,50 € – 3 × 4"),
        (
            "de-DE",
            "Siehe https://beispiel.de/a?b=1 oder +49 30 1234567", "Siehe beispiel.de oder +4 9, 3 0, 1 2 3 4 5 6 7",
        ),
        ("hi-IN", "**नमस्ते** दुनिया, क्षेत्र", "नमस्ते दुनिया, क्षेत्र"),
        ("fa-IR", "می‌خواهم *بروم*", "می‌خواهم بروم"),
        ("ja-JP", "**料金**は100円です。\n- 一\n- 二\n", "料金は100円です。\n一\n二"),
        ("th-TH", "# สวัสดี\nครับ", "สวัสดี\nครับ"),
        ("ar", "السعر ١٢٣ **ريال** 😀", "السعر ١٢٣ ريال"),
        ("en-GB", "3/4/2026", "April 3, 2026"),
    ],
)  # fmt: skip
def test_another_language_is_not_damaged(language: str, text: str, speech: str):
    assert spoken(text, language) == speech


PARTS = st.sampled_from(
    [
        *"*_`~<>&|[]()!#-+=.,:;/\\$€%°×–—1 \n\t@x",
        *("**", "```", "\n\n", "\n- ", "\n1. ", "| a | b |\n|---|---|\n| 1 | ✅ |\n", "[a](https://b.c)", "![x](y)"),
        *("$1,234.50", "3 * 4", "06:00", "2026-11-28", "+1 (555) 010-0002", "https://example.com/a", "ada@example.com"),
        *(
            "Mon",
            "Fri",
            "http",
            "www.",
            "5 pm",
            "1.5 million",
            "👨‍👩‍👧",
            "❤️",
            "&amp;",
            "<br>",
            "[1]",
            "[^a]",
            "~~",
            "->",
            "word",
        ),
        *("क्षेत्र", "می‌خواهم", "価格は100円", "\u200d", "\x00", "\ud800", "`` "),
    ]
)
TEXTS = st.one_of(st.lists(PARTS, max_size=14).map("".join), st.text(max_size=40))


def without_spaces(text: str) -> str:
    return "".join(text.split())


def in_pieces(text: str, cuts: list[int], language: str) -> str:
    filtered, begin = SpokenText(language), 0
    said = []
    for cut in (*sorted({cut % (len(text) + 1) for cut in cuts}), len(text)):
        said.append(filtered.feed(text[begin:cut]))
        begin = cut
    return "".join(said) + filtered.flush()


@given(text=TEXTS, cuts=st.lists(st.integers(0, 200), max_size=8), language=st.sampled_from(["en-US", "de-DE"]))
@example(text=HOURS, cuts=[3, 20, 21, 22, 40, 99], language="en-US")
def test_any_cut_of_a_text_gives_the_same_speech(text: str, cuts: list[int], language: str):
    assert without_spaces(in_pieces(text, cuts, language)) == without_spaces(spoken(text, language))


@given(text=TEXTS, language=st.sampled_from(["en-US", "de-DE"]))
@example(text=HOURS, language="en-US")
def test_single_characters_give_the_same_speech(text: str, language: str):
    assert without_spaces(in_pieces(text, [*range(len(text))], language)) == without_spaces(spoken(text, language))


LETTERS = st.characters(categories=["L", "M"], exclude_characters="\ufe0f\u20e3")  # they make pictures


@given(st.lists(st.text(alphabet=LETTERS, min_size=1), min_size=1))
def test_plain_words_stay_as_they_are(words: list[str]):
    text = " ".join(words)
    assert without_spaces(spoken(text, "und")) == without_spaces(text)


def test_plain_words_are_not_held_back():
    filtered = SpokenText()
    assert [filtered.feed(piece) for piece in ("Hel", "lo", " world", ", th", "ere")] == [
        "Hel",
        "lo",
        " world",
        ", th",
        "ere",
    ]


def test_what_may_change_its_meaning_is_held_back_and_no_more():
    filtered = SpokenText()
    pieces = ("It costs ", "$1", ",23", "4.5", "0 ", "today", "[he", "re](https://ex", "am.ple) **b", "old")
    price = " 1,234 dollars and 50 cents today"
    assert [filtered.feed(piece) for piece in pieces] == ["It costs", "", "", "", "", price, "he", "re", " b", "old"]


def test_a_pause_gives_out_the_end_of_a_sentence_but_no_part_of_a_number():
    filtered = SpokenText()
    assert filtered.feed("Yes.") + filtered.release() == "Yes."
    assert filtered.feed(" It is $5") + filtered.release() == " It is"
    assert filtered.feed(".50 now") == " 5 dollars and 50 cents now"
    assert filtered.feed(" Stop!") == " Stop"
    assert filtered.release() == "!"
    assert filtered.flush() == ""


def test_a_filter_is_ready_for_another_text_after_the_end_of_one():
    filtered = SpokenText()
    assert filtered.feed("- one") + filtered.flush() == "one"
    assert filtered.feed("- two") + filtered.flush() == "two"


def test_a_long_text_of_marks_ends():
    text = HOURS * 100
    assert len(spoken(text)) > len(text) / 2
    assert spoken("*" * 100_000 + "[" * 100_000) == ""
    assert spoken("<" * 50_000) == "<" * 50_000
