"""What can be counted in a transcript without a model: filler words, talk time, pace."""

import re
from collections import Counter
from collections.abc import Sequence

from domain.calls import Model
from domain.session import Session, Turn

# Hesitations and verbal tics by language. Words that are often meant ("like", "so") count only where the
# punctuation around them shows that they are not part of the sentence.
FILLERS: dict[str, tuple[str, ...]] = {
    "en": (
        "um",
        "umm",
        "uh",
        "uhh",
        "er",
        "erm",
        "hmm",
        "you know",
        "i mean",
        "sort of",
        "kind of",
        "basically",
    ),
    "es": ("eh", "este", "o sea", "pues", "bueno", "digamos", "a ver"),
    "de": ("äh", "ähm", "öh", "hm", "halt", "sozusagen", "quasi", "irgendwie"),
    "fr": ("euh", "ben", "genre", "en fait", "du coup", "quoi"),
}
SET_OFF: dict[str, tuple[str, ...]] = {
    "en": ("like", "so", "right", "actually"),
    "de": ("also", "ja"),
    "es": ("mira",),
}
EXAMPLES = 5
EXAMPLE_CHARACTERS = 80
WORD = re.compile(r"\w+(?:['’-]\w+)*")


class FillerWords(Model):
    """`per_minute` relates to the rep's own talk time."""

    count: int
    per_minute: float
    by_word: dict[str, int]
    examples: tuple[str, ...]


class Habits(Model):
    """Counted facts about the rep. Shares are between 0 and 1, pace is in words per minute of own talk time."""

    filler_words: FillerWords
    talk_time_ratio: float
    pace_wpm: float
    questions: int
    longest_monologue_seconds: float


def habits(session: Session) -> Habits:
    """Count the rep's habits in a session."""
    own = [turn for turn in session.turns if turn.role == "rep"]
    seconds = talk_seconds(own)
    everyone = talk_seconds(session.turns)
    return Habits(
        filler_words=filler_words(own, session.language),
        talk_time_ratio=round(seconds / everyone, 3) if everyone else 0.0,
        pace_wpm=pace_wpm(own),
        questions=sum(turn.text.count("?") for turn in own),
        longest_monologue_seconds=round(max((turn.end - turn.start for turn in own), default=0.0), 1),
    )


def talk_seconds(turns: Sequence[Turn]) -> float:
    return sum(turn.end - turn.start for turn in turns)


def words(text: str) -> list[str]:
    return WORD.findall(text)


def pace_wpm(turns: Sequence[Turn]) -> float:
    """Words per minute of the time in which they were spoken."""
    seconds = talk_seconds(turns)
    count = sum(len(words(turn.text)) for turn in turns)
    return round(count * 60 / seconds, 1) if seconds else 0.0


def filler_words(turns: Sequence[Turn], language: str) -> FillerWords:
    """Find the language's fillers; a language without a list counts none."""
    pattern = _pattern(language.partition("-")[0].lower())
    found: Counter[str] = Counter()
    examples: list[str] = []
    for turn in turns:
        for match in pattern.finditer(turn.text) if pattern else ():
            found[_name(match)] += 1
            if len(examples) < EXAMPLES:
                examples.append(_around(turn.text, match))
    minutes = talk_seconds(turns) / 60
    count = found.total()
    return FillerWords(
        count=count,
        per_minute=round(count / minutes, 1) if minutes else 0.0,
        by_word=dict(found.most_common()),
        examples=tuple(examples),
    )


def _pattern(language: str) -> re.Pattern[str] | None:
    always, set_off = FILLERS.get(language, ()), SET_OFF.get(language, ())
    if not always:
        return None
    plain = rf"\b(?:{_alternatives(always)})\b"
    between = rf"(?<=[,.…–-] )(?:{_alternatives(set_off)})(?=[,…–-])" if set_off else ""
    return re.compile("|".join(filter(None, (plain, between))), re.IGNORECASE)


def _alternatives(fillers: Sequence[str]) -> str:
    longest_first = sorted(fillers, key=len, reverse=True)
    return "|".join(re.escape(filler).replace(r"\ ", r"\s+") for filler in longest_first)


def _name(match: re.Match[str]) -> str:
    return " ".join(match.group().lower().split())


def _around(text: str, match: re.Match[str]) -> str:
    """The filler within its sentence, cut to a readable length."""
    start = max(match.start() - EXAMPLE_CHARACTERS // 2, 0)
    return text[start : start + EXAMPLE_CHARACTERS].strip()
