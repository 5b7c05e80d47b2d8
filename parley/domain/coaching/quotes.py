"""Finds a quote in a transcript: a model's claim of what was said counts only where the transcript has the words.

Letters and digits decide; case, blanks and punctuation do not. A near miss (a word left out or misheard) is found too,
and the transcript's own words are returned in its place.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from rapidfuzz import fuzz

from parley.domain.coaching.contract import Moment
from parley.domain.masking import Personal, mask
from parley.domain.session import Turn
from parley.domain.speaking import parts
from parley.domain.text import shorten

# Of 100. A missing or a wrong word in ten gives about 90; another sentence on the same topic stays below 75.
SIMILAR = 85.0
ROUGHLY_SIMILAR = 70.0
# How many words a near miss may have left out or added.
WORDS_OFF = 2
# How much longer a place may be than the quote, when it is extended to whole words: "ear" is not a quote of "year".
MOST_GROWTH = 1.25
# Shorter texts are similar by chance.
SIMILAR_LETTERS = 12
QUOTE_CHARACTERS = 300
LABEL = re.compile(r"^\s*\[[\d:.]+\]\s*(?:\w+\s*:)?")
GAP = re.compile(r"\s*(?:\[?(?:\.{3}|…)\]?)\s*")
OPENING, CLOSING = "'’-“«„¿¡[", '.!?…。！？”»›"]'
# Scripts without blanks between words.
UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
SAME = str.maketrans({**dict.fromkeys("“”„«»‹›\"‘’‚'`´<>", "'"), **dict.fromkeys("‐‑‒–—−", "-")})


class Found(NamedTuple):
    """A place in a turn's text. `similarity`: of 100."""

    turn: int
    start: int
    end: int
    similarity: float


def find_moment(
    turns: Sequence[Turn], quote: str, near: float | None, *, least_words: int = 1
) -> tuple[Moment | None, bool]:
    """The moment of a quote, and whether its words had to be corrected. None: the transcript does not have it.

    near: about when it was said, in seconds; of several places the nearest one is taken.
    least_words: a shorter quote counts only where it is a whole turn. In scripts without blanks, letters are words.

    A quote with masked data, such as `[email]`, is looked for in the transcript as the provider saw it.
    """
    hidden = [kind for kind in Personal if f"[{kind}]" in quote]
    if hidden:
        turns = [turn.model_copy(update={"text": mask(turn.text, hidden)}) for turn in turns]
    quote = LABEL.sub("", quote)

    def distance(turn: int) -> float:
        return abs(turns[turn].start - near) if near is not None else 0.0

    found = find_place([turn.text for turn in turns], quote, least_words=least_words, distance=distance)
    if found is None:
        return None, False
    words = turns[found.turn].text[found.start : found.end]
    start, end = times_of(turns[found.turn], found.start, found.end)
    shown = shorten(" ".join(words.split()), QUOTE_CHARACTERS)
    moment = Moment(turn=found.turn, role=turns[found.turn].role, start=start, end=end, quote=shown)
    return moment, _plain(words) != _plain(quote)


def find_place(
    texts: Sequence[str], quote: str, *, least_words: int = 1, distance: Callable[[int], float] = lambda _: 0.0
) -> Found | None:
    """The best place of a quote, or of its longest part between gaps ("…"), in the texts of turns.

    least_words: a shorter quote counts only where it is a whole text. distance: of places that are equally good, the
    one in the turn with the lowest distance is taken.
    """
    for part in sorted(filter(None, GAP.split(quote)), key=len, reverse=True):
        found = _find(texts, part, distance, whole=len(parts(part)) < least_words)
        if found:
            return found
    return None


def _find(texts: Sequence[str], quote: str, distance: Callable[[int], float], *, whole: bool) -> Found | None:
    """The best place of a quote. `whole`: only where it is a whole text."""
    needle, _ = _letters(quote)
    if not needle:
        return None
    found = [
        place
        for number, text in enumerate(texts)
        for place in _exact(number, text, needle)
        if not whole or _letters(text)[0] == needle
    ]
    if not found and not whole and len(needle) >= SIMILAR_LETTERS:
        words = len(quote.split())
        found = [place for number, text in enumerate(texts) for place in _similar(number, text, needle, words)]
    return min(found, key=lambda place: (-place.similarity, distance(place.turn)), default=None)


def _exact(number: int, text: str, needle: str) -> Iterator[Found]:
    """Every place of the letters that begins and ends with a word, or nearly so."""
    letters, places = _letters(text)
    at = letters.find(needle)
    while at >= 0:
        start, end = _whole_words(text, places[at], places[at + len(needle) - 1] + 1)
        if len(_letters(text[start:end])[0]) <= len(needle) * MOST_GROWTH:
            yield Found(number, start, end, 100.0)
        at = letters.find(needle, at + 1)


def _similar(number: int, text: str, needle: str, words: int) -> Iterator[Found]:
    """The run of words, about as many as those of the quote, that is most like it, if it is a near miss."""
    letters, places = _letters(text)
    best = fuzz.partial_ratio_alignment(needle, letters, score_cutoff=ROUGHLY_SIMILAR)
    if best is None or best.dest_end == best.dest_start:
        return
    if UNSPACED.search(needle):
        if best.score >= SIMILAR:
            yield Found(number, places[best.dest_start], places[best.dest_end - 1] + 1, best.score)
        return
    spans = [match.span() for match in re.finditer(r"\S+", text)]
    parts = [_letters(text[start:end])[0] for start, end in spans]
    for first in range(len(parts)):
        for last in range(first + max(words - WORDS_OFF, 1), min(first + words + WORDS_OFF, len(parts)) + 1):
            similarity = fuzz.ratio(needle, "".join(parts[first:last]), score_cutoff=SIMILAR)
            if similarity:
                yield Found(number, spans[first][0], spans[last - 1][1], similarity)


def _letters(text: str) -> tuple[str, list[int]]:
    """The letters and digits of a text in lower case, and the place of each in the text."""
    letters: list[str] = []
    places: list[int] = []
    for place, char in enumerate(text):
        for one in unicodedata.normalize("NFKC", char).casefold():
            if one.isalnum() or unicodedata.category(one).startswith("M"):
                letters.append(one)
                places.append(place)
    return "".join(letters), places


def _whole_words(text: str, start: int, end: int) -> tuple[int, int]:
    """The place, extended to the ends of its first and last word, and to the marks around them."""
    while start > 0 and (_joins(text[start - 1]) or text[start - 1] in OPENING):
        start -= 1
    while end < len(text) and (_joins(text[end]) or text[end] in "'’-"):
        end += 1
    while end < len(text) and text[end] in CLOSING:
        end += 1
    return start, end


def _joins(char: str) -> bool:
    return char.isalnum() and not UNSPACED.match(char)


def _plain(text: str) -> str:
    """Text with one kind of blank, quotation mark and dash, without marks around it."""
    return " ".join(text.translate(SAME).split()).replace("...", "…").strip("' .,;:!?…-")


def times_of(turn: Turn, start: int, end: int) -> tuple[float, float]:
    """When the part of a turn was said: by its words' times, or else in proportion to its place in the text."""
    spans = [match.span() for match in re.finditer(r"\S+", turn.text)]
    if len(spans) == len(turn.words):
        spoken = [word for word, span in zip(turn.words, spans, strict=True) if span[0] < end and span[1] > start]
        if spoken:
            return spoken[0].start, spoken[-1].end
    seconds = (turn.end - turn.start) / max(len(turn.text), 1)
    return round(turn.start + start * seconds, 2), round(turn.start + end * seconds, 2)
