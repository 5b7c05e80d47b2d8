"""Finds phrases in text by words, in one pass. Case and accents do not matter."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
STRETCHED = re.compile(r"([^\W\d_])\1{2,}")
# Letters that Unicode does not decompose, and the typographic apostrophe.
LETTERS = str.maketrans({"ł": "l", "ß": "ss", "ı": "i", "ø": "o", "đ": "d", "æ": "ae", "œ": "oe", "’": "'"})
LONGEST_STEM = 16
CACHED_WORDS = 50_000  # words whose phrases are cached


def normalized(text: str) -> str:
    """Return lower case without accents. Three or more equal letters become one: "Slooow CAFÉ" becomes "slow cafe"."""
    text = text.lower().translate(LETTERS)
    if not text.isascii():
        text = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return STRETCHED.sub(r"\1", text)


def words(text: str) -> list[str]:
    return WORD.findall(normalized(text))


@dataclass(frozen=True)
class Hit(Generic[T]):
    """A phrase found from word `start` to before word `end`, and its value."""

    start: int
    end: int
    value: T


class Phrasebook(Generic[T]):
    """An index of phrases with their values. A word that ends in `*` is a stem: `book*` also matches "booking"."""

    def __init__(self, phrases: Iterable[tuple[str, T]]) -> None:
        self._by_word: dict[str, list[tuple[tuple[str, ...], T]]] = {}
        self._by_stem: dict[str, list[tuple[tuple[str, ...], T]]] = {}
        self._cache: dict[str, tuple[tuple[tuple[str, ...], T], ...]] = {}
        for phrase, value in phrases:
            first, *rest = phrase.split()
            index = self._by_stem if first.endswith("*") else self._by_word
            index.setdefault(first.rstrip("*"), []).append((tuple(rest), value))

    def find(self, text_words: Sequence[str]) -> list[Hit[T]]:
        """Return the hits in order of their start. A phrase within a longer one is not a hit."""
        found = [
            Hit(start, start + 1 + len(rest), value)
            for start, word in enumerate(text_words)
            for rest, value in self._starting_with(word)
            if _matches_at(text_words, start + 1, rest)
        ]
        return found if len(found) < 2 else _outermost(list(dict.fromkeys(found)))

    def _starting_with(self, word: str) -> tuple[tuple[tuple[str, ...], T], ...]:
        found = self._cache.get(word)
        if found is None:
            stems = (word[:length] for length in range(1, min(len(word), LONGEST_STEM) + 1))
            entries = [*self._by_word.get(word, ())]
            for stem in stems:
                entries += self._by_stem.get(stem, ())
            if len(self._cache) >= CACHED_WORDS:
                self._cache.clear()
            found = self._cache[word] = tuple(entries)
        return found


def _matches_at(text_words: Sequence[str], at: int, phrase: tuple[str, ...]) -> bool:
    if len(text_words) < at + len(phrase):
        return False
    return all(
        text_words[at + offset].startswith(word[:-1]) if word.endswith("*") else text_words[at + offset] == word
        for offset, word in enumerate(phrase)
    )


def _outermost(found: Sequence[Hit[T]]) -> list[Hit[T]]:
    """Return the hits that are not within a longer one. `found` is ordered by start."""
    ends: dict[int, int] = {}
    for hit in found:
        ends[hit.start] = max(hit.end, ends.get(hit.start, 0))
    furthest, end_before = 0, {}  # the furthest end of the hits that start earlier
    for start, end in ends.items():
        end_before[start] = furthest
        furthest = max(furthest, end)
    return [hit for hit in found if hit.end == ends[hit.start] and hit.end > end_before[hit.start]]


def split_phrases(phrases: str) -> list[str]:
    """Split a list of phrases at its commas and normalize them like the text that is searched."""
    return [" ".join(normalized(phrase).split()) for phrase in phrases.split(",") if phrase.strip()]
