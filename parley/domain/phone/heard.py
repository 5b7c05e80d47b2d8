"""What a caller heard of an answer: its beginning, up to the word at which the caller interrupted it.

Twilio reports the words that its voice had said, and how long it had spoken. The words decide where they are found in
what was sent; a voice says "$20" as "twenty dollars", so they are compared as they sound. Else the time decides.
An interruption at a breath reports no word, though the sentences before it were heard: those that were played decide.
"""

import re
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from rapidfuzz import fuzz

from parley.domain.speech import words_as_heard

# How fast a voice speaks, where only the time is known.
CHARACTERS_PER_SECOND = 15.0
# How much of the reported words must be found in what was sent.
SIMILAR = 80.0
TOKEN = re.compile(r"\S+")
# What a reported text is compared with at most: nothing longer is spoken in one turn.
MOST_TOKENS = 5000


class _Token(NamedTuple):
    """A word of the text, where it ends, and how it sounds."""

    end: int
    sound: str


def speech_seconds(text: str) -> float:
    """About how long a voice takes to say a text."""
    return len(text) / CHARACTERS_PER_SECOND


def heard_of(sent: str, utterance: str, milliseconds: float, played: str = "") -> str:
    """The beginning of a text that was heard, whole words of it.

    Args:
        sent: all that was sent since the caller spoke last.
        utterance: what the voice had said, as Twilio reports it: from the beginning, or of the last sentences alone.
        milliseconds: how long the voice had spoken.
        played: the sentences of it that Twilio reported as spoken before.
    """
    tokens = _tokens(sent)
    if not tokens:
        return ""
    said = " ".join(words_as_heard(utterance)) or " ".join(words_as_heard(played))
    found = _end_of(said, tokens, milliseconds) if said else None
    if found is None and (said or milliseconds > 0):
        found = _end_by_time(tokens, milliseconds)
    return sent[: found or 0].rstrip()


def _tokens(text: str) -> list[_Token]:
    found = list(TOKEN.finditer(text))[:MOST_TOKENS]
    return [_Token(one.end(), " ".join(words_as_heard(one[0]))) for one in found]


def _end_of(said: str, tokens: Sequence[_Token], milliseconds: float) -> int | None:
    """Where the words that were said end; None where they are not found.

    Words that occur several times: the beginning of the text counts, else the place that fits the time best.
    """
    sounding = [one for one in tokens if one.sound]
    ends = list(accumulate(len(one.sound) + 1 for one in sounding))
    whole = " ".join(one.sound for one in sounding)
    places = [0] if f"{whole} ".startswith(f"{said} ") else _places(said, whole)
    if places:
        expected = milliseconds / 1000 * CHARACTERS_PER_SECOND
        last = min(places, key=lambda place: abs(place + len(said) - expected)) + len(said)
    else:
        aligned = fuzz.partial_ratio_alignment(said, whole, score_cutoff=SIMILAR)
        if aligned is None or len(said) > len(whole) + len(said) // 4:
            return None
        last = aligned.dest_end
    # A word of which only a part was said counts if more than half of it was.
    begun = [one for one, start, end in zip(sounding, [0, *ends], ends, strict=False) if last > (start + end) / 2 - 1]
    return begun[-1].end if begun else 0


def _places(said: str, whole: str) -> list[int]:
    return [found.start() for found in re.finditer(rf"(?<!\S){re.escape(said)}(?!\S)", whole)]


def _end_by_time(tokens: Sequence[_Token], milliseconds: float) -> int:
    spoken = milliseconds / 1000 * CHARACTERS_PER_SECOND
    return max((one.end for one in tokens if one.end <= spoken), default=0)
