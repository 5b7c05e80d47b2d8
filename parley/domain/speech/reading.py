"""Writes numbers, money, dates, times, links and sums of plain text as they are said.

Plain words pass letter by letter. What begins with a digit or a sign is held until it is whole, with the words that
belong to it: `+1 (555) 010-0002`, `3 + 4 = 7`, `$1.5 million`, `6:30 pm`.
"""

import re

from parley.domain.speech import english
from parley.domain.speech.pieces import PieceFilter, Step

SIGNS = r"$€£¥–—−×÷≤≥≠≈±°"
# Neither a space nor a digit nor a sign nor punctuation: letters of any script, with their marks and joiners.
LETTERS = re.compile(rf"(?:[^\s!-@\[-`{{-~\xa1-\xbf\u2000-\u206f\u3000-\u303f\uff00-\uff0f{SIGNS}]|[\u200c\u200d])+")
SPACES, BLANKS = re.compile(r"\s*"), re.compile(r"[ \t\xa0]*")
# A whole word of digits, signs and letters. A letter of another script ends it: 100元 is two words.
WORD = re.compile(rf"[!-~{SIGNS}]+")
JOINED_LETTERS = re.compile(r"[A-Za-z]+")
# Words that are said otherwise, or with what follows them.
LINKS = frozenset({"http", "https", "www"})
SPECIAL = LINKS | english.DAYS.keys()
LONGEST_SPECIAL = max(map(len, SPECIAL))
LONGEST_SUFFIX = max(map(len, english.SUFFIXES))
PUNCTUATION = frozenset(",;:!?\"')]}…")
NUMERIC = frozenset("0123456789$€£¥×÷≤≥≠≈±°%=<>")
OPERATORS = frozenset("+-−–(/")
# What a number with its words has at most.
MOST_WORDS = 12
CLOSES = (",", ";", "!", "?", ":", ".")


class Reading(PieceFilter):
    """Speech of plain text that arrives in pieces."""

    def __init__(self, language: str) -> None:
        super().__init__()
        self._is_english = english.is_english(language)
        self._day_first = self._is_english and not language.lower().replace("_", "-").startswith(("en-us", "en-ca"))
        self._day_first &= language.lower() != "en"
        # The last two characters before what is held, as they were written.
        self._context = "  "

    def release(self) -> str:
        """Give out the end of a sentence, and a word that might have become another one."""
        held = self._text[self._at :]
        if not re.fullmatch(r"\s*[.A-Za-z]?[A-Za-z]*", held) or not held.strip():
            return ""
        self._at = len(self._text)
        self._read(held)
        return held

    def _next(self) -> Step | None:
        step = self._token()
        if step:
            self._read(self._text[self._at : step.end])
        return step

    def _read(self, written: str) -> None:
        self._context = (self._context + written[-2:])[-2:]

    def _token(self) -> Step | None:
        at = self._run(SPACES, self._at)
        if self._is_cut(at):
            return None
        spaces = self._text[self._at : at]
        if at == len(self._text):
            return Step(at, spaces)
        before, self._context = self._context, (self._context + spaces)[-2:]
        step = self._word(at)
        self._context = before
        return step and Step(step.end, step.said if _joins(step.said) else spaces + step.said)

    def _word(self, at: int) -> Step | None:
        letters = LETTERS.match(self._text, at)
        if letters:
            return self._letters(letters)
        character = self._text[at]
        if character in PUNCTUATION:
            return Step(at + 1, character)
        if character in NUMERIC or character in "~#&@^+-−–—(/.*":
            return self._sign(at, character)
        return Step(at + 1, character)

    def _letters(self, found: re.Match[str]) -> Step | None:
        word, end = found.group(), found.end()
        if LETTERS.match(self._before) or self._before in "'’" or len(word) > LONGEST_SPECIAL:
            return Step(end, word)
        if self._is_cut(end):
            is_open = any(special.startswith((word, word.lower())) for special in SPECIAL)
            return None if is_open else Step(end, word)
        return self._whole_word(found.start()) if word in SPECIAL or word.lower() in LINKS else Step(end, word)

    def _whole_word(self, at: int) -> Step | None:
        end = self._run(WORD, at)
        return None if self._is_cut(end) else Step(end, self._said(at, end))

    def _sign(self, at: int, character: str) -> Step | None:
        """A digit, or a sign that may belong to what follows it."""
        if character in NUMERIC and not self._is_within_word():
            return self._number(at)
        if self._is_cut(at + 1):
            return None
        following = self._text[at + 1] if at + 1 < len(self._text) else " "
        if following in NUMERIC and not self._is_within_word():
            return self._number(at)
        if character in "–—" and following.isspace() and self._before.isspace() and self._is_english:
            return Step(at + 1, ",")
        if (character in "-–—(" and following != ">") or (character == "." and not following.isalnum()):
            return Step(at + 1, character)
        return self._whole_word(at)

    @property
    def _before(self) -> str:
        return self._context[-1]

    def _is_within_word(self) -> bool:
        return self._before.isascii() and (self._before.isalnum() or self._before in "_'")

    def _number(self, at: int) -> Step | None:
        """A number with the words that belong to it."""
        end = at
        for _ in range(MOST_WORDS):
            end = self._run(WORD, end)
            if self._is_cut(end):
                return None
            following = self._continues(end)
            if following is None:
                return None
            if not following:
                break
            end = following
        return Step(end, self._said(at, end))

    def _continues(self, end: int) -> int | None:
        """Where the next word of a number begins; 0: it has none; None: that is not certain yet."""
        if self._text[end - 1] in CLOSES:
            return 0
        at = self._run(BLANKS, end)
        if self._is_cut(at):
            return None
        character = self._text[at : at + 1]
        if not character or at == end:
            return 0
        if character in NUMERIC:
            return at
        if character in OPERATORS:
            return self._operator(at)
        return self._suffix(at)

    def _operator(self, at: int) -> int | None:
        if self._is_cut(at + 1):
            return None
        following = self._text[at + 1 : at + 2]
        return at if following in NUMERIC or following == " " else 0

    def _suffix(self, at: int) -> int | None:
        """Whether a word of letters belongs to the number before it."""
        found = JOINED_LETTERS.match(self._text, at, at + LONGEST_SUFFIX + 1)
        if found is None:
            return 0
        word = found.group().lower()
        if self._is_cut(found.end()):
            return None if any(suffix.startswith(word) for suffix in english.SUFFIXES) else 0
        return at if word in english.SUFFIXES else 0

    def _said(self, at: int, end: int) -> str:
        # A rule asks whether a word is before it, and must not read that word again.
        context = "".join("x" if one.isalnum() else one for one in self._context)
        written = context + self._text[at:end]
        if self._is_english:
            said = english.said_in_english(written, day_first=self._day_first)
        else:
            said = english.said_digits(english.ADDRESS.sub(lambda found: english.host_of(found.group()), written))
        return said.removeprefix(context) if said.startswith(context) else said.removeprefix(context[:-1])


def _joins(said: str) -> bool:
    """Whether a token takes no space before it."""
    return said in (",", ".")
