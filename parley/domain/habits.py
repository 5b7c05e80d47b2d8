"""Habits that are counted in a transcript without a model: filler words, talk time, pace."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from parley.domain.model import Model
from parley.domain.session import Session, Turn

# Hesitations and verbal tics by language. Words that often have a meaning ("like", "so") count only where the
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
        "basically",
    ),
    "es": ("eh", "o sea", "digamos"),
    "de": ("äh", "ähm", "öh", "hm", "halt", "sozusagen", "quasi", "irgendwie"),
    "fr": ("euh", "en fait", "du coup"),
}
SET_OFF: dict[str, tuple[str, ...]] = {
    "en": ("like", "so", "right", "actually", "you know", "i mean"),
    "de": ("also", "ja"),
    "es": ("este", "pues", "bueno", "a ver", "mira"),
    "fr": ("ben", "genre", "quoi"),
}
# These are fillers unless a determiner makes them nouns: "what kind of trucks".
HEDGES: dict[str, tuple[str, ...]] = {"en": ("sort of", "kind of")}
DETERMINERS = "a all another any different each every my of one other our same some that the this what which your"
EXAMPLES = 5
EXAMPLE_CHARACTERS = 80
# An ellipsis is a hesitation, not the end of a sentence.
SENTENCE_END = re.compile(r"(?<=[.!?])(?<!\.\.)\s+")
NOTHING = re.compile(r"(?!)")
WORD = re.compile(r"\w+(?:['’-]\w+)*")


class FillerWords(Model):
    """`per_minute`: per minute of the rep's talk time. `listed`: whether Parley has a list for the language."""

    listed: bool = True
    count: int
    per_minute: float
    by_word: dict[str, int]
    examples: tuple[str, ...]


class Habits(Model):
    """Counted facts about the rep. Shares are between 0 and 1; pace is in words per minute of the rep's talk time."""

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
    """Words per minute of the turns' talk time."""
    seconds = talk_seconds(turns)
    count = sum(len(words(turn.text)) for turn in turns)
    return round(count * 60 / seconds, 1) if seconds else 0.0


def filler_words(turns: Sequence[Turn], language: str) -> FillerWords:
    """Count the fillers of a language, with one example per sentence. A language without a list counts none."""
    known = language.partition("-")[0].lower()
    pattern = _pattern(known)
    found: Counter[str] = Counter()
    examples: dict[str, None] = {}
    for sentence in _sentences(turns):
        matches = list(pattern.finditer(sentence))
        found.update(match.group().lower() for match in matches)
        if matches:
            examples[_around(sentence, matches[0].start())] = None
    minutes = talk_seconds(turns) / 60
    count = found.total()
    return FillerWords(
        listed=known in FILLERS,
        count=count,
        per_minute=round(count / minutes, 1) if minutes else 0.0,
        by_word=dict(found.most_common()),
        examples=tuple(examples)[:EXAMPLES],
    )


def filler_places(text: str, language: str) -> list[tuple[int, int]]:
    """Where the fillers of a language are in a text: the first character of each, and the one after its last."""
    pattern = _pattern(language.partition("-")[0].lower())
    starts = [0, *(found.end() for found in SENTENCE_END.finditer(text))]
    ends = [*starts[1:], len(text)]
    return [
        (start + found.start(), start + found.end())
        for start, end in zip(starts, ends, strict=True)
        for found in pattern.finditer(text[start:end])
    ]


def _sentences(turns: Sequence[Turn]) -> Iterator[str]:
    for turn in turns:
        yield from SENTENCE_END.split(" ".join(turn.text.split()))


def _pattern(language: str) -> re.Pattern[str]:
    if language not in FILLERS:
        return NOTHING
    plain = rf"\b(?:{_alternatives(FILLERS[language])})\b"
    between = rf"(?:^|(?<=[,.…–-] ))(?:{_alternatives(SET_OFF[language])})(?=[,?…]|\.\.\.| [–-] )"
    no_noun = "".join(rf"(?<!\b{word} )" for word in DETERMINERS.split())
    # The literal first: 25 look-behinds at every character of a long session would take half a minute.
    hedging = [rf"\b(?={hedge}\b){no_noun}{hedge}" for hedge in HEDGES.get(language, ())]
    return re.compile("|".join((plain, between, *hedging)), re.IGNORECASE)


def _alternatives(fillers: Sequence[str]) -> str:
    return "|".join(sorted(fillers, key=len, reverse=True))


def _around(sentence: str, at: int) -> str:
    """The sentence. A long one is cut between words to the part around the filler."""
    if len(sentence) <= EXAMPLE_CHARACTERS:
        return sentence
    start = max(at - EXAMPLE_CHARACTERS // 2, 0)
    start = sentence.find(" ", start, at) + 1 if start else 0
    part = sentence[start : start + EXAMPLE_CHARACTERS]
    return part if start + EXAMPLE_CHARACTERS >= len(sentence) else part.rpartition(" ")[0] or part
