"""When a speaker speaks: words in order, phrases between pauses, speaking time, pace. Pure rules over timed words.

Times are seconds from the start of the session. Word times of a transcript are not exact, and some are wrong: a word
may be stretched over a silence, step back, or overlap the next one. `in_sequence` repairs that, and everything here
works on its result.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from parley.domain.model import Model
from parley.domain.requests import SpokenWord
from parley.domain.session import Session, Turn

# A gap of this length between two words is a pause. Research on fluency begins at 0.25 s (De Jong and Bosker 2013);
# word times of speech-to-text are off by up to a few tenths of a second, so that shorter gaps may not be there.
PAUSE_SECONDS = 0.6
# No word of a conversation takes longer. What does was stretched over a silence.
LONGEST_WORD_SECONDS = 2.0
# Less speech has no pace.
LEAST_PACE_SECONDS = 1.0
WORD = re.compile(r"\w+(?:['’-]\w+)*")
# Letters of scripts without blanks between words: Thai, Lao, Tibetan, Burmese, Khmer, kana, and Chinese characters.
UNSPACED_LETTERS = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
UNSPACED = re.compile(f"[{UNSPACED_LETTERS}]")
# A blank beside such letters or their punctuation, on both sides, is of the one who joined the words.
BESIDE = f"[{UNSPACED_LETTERS}\u3001-\u303f\uff01-\uff1f]"
NO_BLANK = re.compile(f"(?<={BESIDE}) (?={BESIDE})")
SHORTEST_PARTS = re.compile(rf"[{UNSPACED_LETTERS}]|[^\W{UNSPACED_LETTERS}]+")
LETTER = re.compile(r"\w")
SENTENCE_ENDS = tuple(".!?…。！？")


class Stretch(NamedTuple):
    """A stretch of time, in seconds."""

    start: float
    end: float


class Pace(Model):
    """How fast someone speaks, in words or characters a minute of speaking time. One of them is None, or both.

    words_per_minute: None for a language without blanks between words, and where nothing can be measured.
    characters_per_minute: of a language without blanks.
    """

    words_per_minute: float | None = None
    characters_per_minute: float | None = None


class Pauses(Model):
    """The pauses of a speaker: gaps of `PAUSE_SECONDS` or more between two words, in which no other speaker speaks.

    The length of a gap is the start of the word after it less the end of the word before it. Seconds are 0 without one.
    """

    count: int
    total_seconds: float
    mean_seconds: float
    longest_seconds: float


def words(text: str) -> list[str]:
    """The words of a text: "I'm" and "well-known" are one word each, a dash is none."""
    return WORD.findall(text)


def written(spoken: Iterable[str]) -> str:
    """Words as one text, with blanks between them except in scripts that have none."""
    return NO_BLANK.sub("", " ".join(spoken))


def parts(text: str) -> list[str]:
    """The words of a text, or its letters in scripts without blanks, whose words two writers part differently."""
    return SHORTEST_PARTS.findall(text)


def timed_words(turns: Iterable[Turn]) -> list[SpokenWord]:
    """The words of turns that have words."""
    return [SpokenWord(text=word.text, start=word.start, end=word.end) for turn in turns for word in turn.words]


def in_sequence(spoken: Iterable[SpokenWord]) -> list[SpokenWord]:
    """Words in order of time, without overlaps, none of them longer than `LONGEST_WORD_SECONDS`.

    Of a stretched word the end is cut; of the first word of a sentence the start, because there the silence is before
    it, as in Whisper's own repair of such words.
    """
    ordered: list[SpokenWord] = []
    at, before = 0.0, "."
    for word in sorted(spoken, key=lambda word: word.start):
        start, end = _cut(word, first=before.endswith(SENTENCE_ENDS))
        start = max(start, at)
        at = max(end, start)
        before = word.text
        is_right = (start, at) == (word.start, word.end)
        ordered.append(word if is_right else word.model_copy(update={"start": start, "end": at}))
    return ordered


def _cut(word: SpokenWord, *, first: bool) -> Stretch:
    if word.end - word.start <= LONGEST_WORD_SECONDS:
        return Stretch(word.start, word.end)
    if first and not word.text.endswith(SENTENCE_ENDS):
        return Stretch(word.end - LONGEST_WORD_SECONDS, word.end)
    return Stretch(word.start, word.start + LONGEST_WORD_SECONDS)


def phrases(spoken: Iterable[SpokenWord]) -> list[Stretch]:
    """When words are spoken: the words in sequence, cut at gaps of `PAUSE_SECONDS` or more."""
    return joined((Stretch(word.start, word.end) for word in in_sequence(spoken)), PAUSE_SECONDS)


def joined(stretches: Iterable[Stretch], gap: float = 0.0) -> list[Stretch]:
    """Stretches in order of time, those as one that overlap or are less than `gap` seconds apart."""
    found: list[Stretch] = []
    for stretch in sorted(stretches):
        if found and (stretch.start <= found[-1].end or stretch.start - found[-1].end < gap):
            found[-1] = Stretch(found[-1].start, max(found[-1].end, stretch.end))
        else:
            found.append(stretch)
    return found


def seconds_of(stretches: Iterable[Stretch]) -> float:
    """The length of all stretches together."""
    return sum(stretch.end - stretch.start for stretch in stretches)


def speech_of(session: Session, role: str) -> list[Stretch]:
    """When one side of a session speaks: its phrases, or its turns and their pieces unless every turn has words.

    Both sides of a session are measured in the same way, so that they can be compared.
    """
    own = [turn for turn in session.turns if turn.role == role]
    if all(turn.words for turn in session.turns):
        return phrases(timed_words(own))
    return joined(Stretch(*piece) for turn in own for piece in turn.spoken)


def pace(text: str, seconds: float) -> Pace:
    """Words or characters a minute: their number * 60 / speaking time.

    Args:
        text: what was said.
        seconds: the speaking time: that of the phrases, without the pauses between them.
    """
    letters = len(LETTER.findall(text))
    if seconds < LEAST_PACE_SECONDS or not letters:
        return Pace()
    if len(UNSPACED.findall(text)) * 2 > letters:
        return Pace(characters_per_minute=round(letters * 60 / seconds, 1))
    return Pace(words_per_minute=round(len(words(text)) * 60 / seconds, 1))


def pauses(own: Sequence[Stretch], others: Sequence[Stretch]) -> Pauses:
    """The pauses between a speaker's phrases.

    Args:
        own: the speaker's phrases, in order of time.
        others: when others speak. A gap in which one of them does is a change of turns, and no pause.
    """
    gaps = [Stretch(before.end, after.start) for before, after in pairwise(own)]
    lengths = [gap.end - gap.start for gap in gaps if not during(gap, others)]
    return Pauses(
        count=len(lengths),
        total_seconds=round(sum(lengths), 3),
        mean_seconds=round(sum(lengths) / len(lengths), 3) if lengths else 0.0,
        longest_seconds=round(max(lengths, default=0.0), 3),
    )


def during(one: Stretch, stretches: Sequence[Stretch]) -> list[Stretch]:
    """Those that overlap one stretch. `stretches` are in order of time and do not overlap each other."""
    first = bisect_right(stretches, one.start, key=lambda stretch: stretch.end)
    last = bisect_left(stretches, one.end, key=lambda stretch: stretch.start)
    return list(stretches[first:last])
