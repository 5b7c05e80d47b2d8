"""Finds phrases in text, whatever the case and the accents: by words, in one pass."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
STRETCHED = re.compile(r"([^\W\d_])\1{2,}")
# What Unicode does not decompose, and the typographic apostrophe.
LETTERS = str.maketrans({"ł": "l", "ß": "ss", "ı": "i", "ø": "o", "đ": "d", "æ": "ae", "œ": "oe", "’": "'"})
LONGEST_STEM = 16
REMEMBERED = 50_000  # words whose phrases are looked up once


def folded(text: str) -> str:
    """Lower case without accents, stretched letters shortened: "Slooow CAFÉ" is "slow cafe"."""
    text = text.lower().translate(LETTERS)
    if not text.isascii():
        text = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return STRETCHED.sub(r"\1", text)


def words(text: str) -> list[str]:
    return WORD.findall(folded(text))


@dataclass(frozen=True)
class Hit(Generic[T]):
    """A phrase found at words `start` to `end`, and what it stands for."""

    start: int
    end: int
    value: T


class Phrasebook(Generic[T]):
    """Phrases and what they stand for. A word that ends in `*` is a stem: `book*` is also booking."""

    def __init__(self, phrases: Iterable[tuple[str, T]]) -> None:
        self._by_word: dict[str, list[tuple[tuple[str, ...], T]]] = {}
        self._by_stem: dict[str, list[tuple[tuple[str, ...], T]]] = {}
        self._known: dict[str, tuple[tuple[tuple[str, ...], T], ...]] = {}
        for phrase, value in phrases:
            first, *rest = phrase.split()
            index = self._by_stem if first.endswith("*") else self._by_word
            index.setdefault(first.rstrip("*"), []).append((tuple(rest), value))

    def find(self, said: Sequence[str]) -> list[Hit[T]]:
        """The hits in their order. What lies within a longer phrase is part of that phrase only."""
        found = [
            Hit(start, start + 1 + len(rest), value)
            for start, word in enumerate(said)
            for rest, value in self._starting(word)
            if _follows(said, start + 1, rest)
        ]
        return found if len(found) < 2 else _outermost(list(dict.fromkeys(found)))

    def _starting(self, word: str) -> tuple[tuple[tuple[str, ...], T], ...]:
        known = self._known.get(word)
        if known is None:
            stems = (word[:length] for length in range(1, min(len(word), LONGEST_STEM) + 1))
            entries = [*self._by_word.get(word, ())]
            for stem in stems:
                entries += self._by_stem.get(stem, ())
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            known = self._known[word] = tuple(entries)
        return known


def _follows(said: Sequence[str], at: int, rest: tuple[str, ...]) -> bool:
    if len(said) < at + len(rest):
        return False
    return all(
        said[at + offset].startswith(word[:-1]) if word.endswith("*") else said[at + offset] == word
        for offset, word in enumerate(rest)
    )


def _outermost(found: Sequence[Hit[T]]) -> list[Hit[T]]:
    """Those that do not lie within a longer one. `found` is ordered by start."""
    ends: dict[int, int] = {}
    for hit in found:
        ends[hit.start] = max(hit.end, ends.get(hit.start, 0))
    reach, reached = 0, {}
    for start, end in ends.items():
        reached[start] = reach
        reach = max(reach, end)
    return [hit for hit in found if hit.end == ends[hit.start] and hit.end > reached[hit.start]]


def listed(phrases: str) -> list[str]:
    """The phrases of a list with commas, as the lexicon writes them; folded like the text that they are sought in."""
    return [" ".join(folded(phrase).split()) for phrase in phrases.split(",") if phrase.strip()]
