"""The words of a text as a listener hears them: "$20" and "twenty dollars" are the same ones."""

import re
import unicodedata

from parley.domain.speech.english import is_english
from parley.domain.speech.spoken import spoken

UNITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEENS = ("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
ONES = (*UNITS, "ten", *TEENS)
TENS = ("zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
SCALES = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (10**3, "thousand"), (100, "hundred"))
ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
SCALE_NAMES = frozenset(name for _, name in SCALES)
NUMBER_WORDS = frozenset((*ONES, *TENS, *SCALE_NAMES))
# Scripts without spaces between words are compared character by character.
UNSPACED = "\u0e00-\u0eff\u1780-\u17ff\u2e80-\u2fff\u3005-\u3007\u3021-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
LETTERS = rf"[{UNSPACED}]|(?:(?![{UNSPACED}0-9])[\w\u0300-\u036f\u0900-\u0dff])+"
WORDS = re.compile(rf"[0-9]+(?:,[0-9]{{3}})*(?:\.[0-9]+)?(?:st|nd|rd|th)?|{LETTERS}")
WORDS_WITH_DIGITS = re.compile(rf"[0-9]+|{LETTERS}")
HALF_DAY = re.compile(r"\b([ap])\. ?m\b\.?")
MOST_DIGITS = 15


def words_as_heard(text: str, language: str = "en-US") -> list[str]:
    """The words of a text, in lower case, as a voice says them and a listener writes them down.

    Numbers are words in English, and digits in other languages. Two texts that sound alike have the same words, also
    where one has "$20" and the other "twenty dollars", so that the words of an interrupted utterance are the beginning
    of the words of the whole text.
    """
    said = unicodedata.normalize("NFKC", spoken(text, language)).casefold()
    said = HALF_DAY.sub(r"\1m", said.replace("’", "'")).replace("'", "")
    if not is_english(language):
        return WORDS_WITH_DIGITS.findall(said)
    found = WORDS.findall(said)
    return _without_and(_years([word for one in found for word in _in_words(one)]))


def _in_words(word: str) -> list[str]:
    if not word[0].isdigit():
        return [word]
    ordinal = word[-2:] if word[-1].isalpha() else ""
    whole, _, part = word.removesuffix(ordinal).replace(",", "").partition(".")
    is_counted = len(whole) <= MOST_DIGITS and (whole == "0" or not whole.startswith("0"))
    said = number_words(int(whole)) if is_counted else [ONES[int(digit)] for digit in whole]
    if part:
        said += ["point", *(ONES[int(digit)] for digit in part)]
    return [*said[:-1], _ordinal(said[-1])] if ordinal else said


def number_words(number: int) -> list[str]:
    """A number from 0 on in English words, without "and"."""
    for size, name in SCALES:
        if number >= size:
            rest = number % size
            return [*number_words(number // size), name, *(number_words(rest) if rest else [])]
    if number < 20:
        return [ONES[number]]
    return [TENS[number // 10], *([ONES[number % 10]] if number % 10 else [])]


def _ordinal(word: str) -> str:
    regular = f"{word[:-1]}ieth" if word.endswith("y") else f"{word}th"
    return ORDINALS.get(word, regular)


def _years(words: list[str]) -> list[str]:
    """A year as a number: "twenty twenty six" is two thousand twenty six."""
    heard: list[str] = []
    for index, word in enumerate(words):
        before = heard[-1] if heard else ""
        is_year = before in ("nineteen", "twenty") and (word in TENS[1:] or word in ONES[10:])
        follows_number = len(heard) > 1 and heard[-2] in NUMBER_WORDS
        if is_year and not follows_number and index:
            heard[-1:] = number_words((ONES.index(before) if before in ONES else 20) * 100)
        heard.append(word)
    return heard


def _without_and(words: list[str]) -> list[str]:
    """ "One hundred and five" is one hundred five."""
    following = [*words[1:], ""]
    before = ["", *words[:-1]]
    return [
        word
        for word, last, after in zip(words, before, following, strict=False)
        if not (word == "and" and last in SCALE_NAMES and after in NUMBER_WORDS)
    ]
