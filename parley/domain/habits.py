"""Habits in a conversation, counted in a transcript without a model: filler words, turns, questions."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from pydantic import Field

from parley.domain.model import Model
from parley.domain.session import Session, Turn
from parley.domain.speaking import seconds_of, speech_of
from parley.domain.turn_taking import (
    Interruptions,
    interruptions,
    longest_monologue,
    response_latency,
    talk_time_ratio,
)

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
# Question marks of Latin, Greek, Arabic and East Asian scripts; several in a row end one question.
QUESTION = re.compile("[?\u037e\u061f\uff1f]+")
# A transcript without any of these has no punctuation.
PUNCTUATION = re.compile("[.!?,;\u037e\u061f\u06d4\u0964\u3002\uff01\uff0c\uff1f]")
NO_PUNCTUATION = "the transcript has no punctuation"
NO_LIST = "no list of filler words for this language"
NO_SPEECH = "the user does not speak"
ONE_SPEAKER = "the session has one speaker only"
NO_RESPONSE = "the user never speaks after another speaker"


class FillerWords(Model):
    """The filler words of the rep. `listed`: whether Parley has a list for the language; without one none is counted.

    per_minute: their number over the minutes in which the rep speaks. None: not listed, or the rep does not speak.
    """

    listed: bool = True
    count: int
    per_minute: float | None
    by_word: dict[str, int]
    examples: tuple[str, ...]


class Habits(Model):
    """Counted facts about the rep. `parley.domain.turn_taking` has what is counted in turns.

    questions: sentences of the rep that end with a question mark.
    not_measured: why a value is None, by its name.
    """

    filler_words: FillerWords
    talk_time_ratio: float | None
    questions: int | None
    longest_monologue_seconds: float
    response_latency_seconds: float | None = None
    interruptions: Interruptions | None = None
    not_measured: dict[str, str] = Field(default_factory=dict)


def habits(session: Session) -> Habits:
    """Count the rep's habits in a session."""
    turns = [turn for turn in session.turns if turn.role == "rep"]
    own, others = (speech_of(session, role) for role in ("rep", "prospect"))
    fillers = filler_words(turns, session.language, seconds_of(own))
    asked, latency = questions(session), response_latency(own, others)
    alone = ONE_SPEAKER if len({turn.role for turn in session.turns}) == 1 else ""
    ratio, overlaps = (None, None) if alone else (talk_time_ratio(own, others), interruptions(own, others))
    unknown = {
        "filler_words": "" if fillers.per_minute is not None else NO_SPEECH if fillers.listed else NO_LIST,
        "talk_time_ratio": alone or (NO_SPEECH if ratio is None else ""),
        "interruptions": alone,
        "questions": NO_PUNCTUATION if asked is None else "",
        "response_latency_seconds": NO_RESPONSE if latency is None else "",
    }
    return Habits(
        filler_words=fillers,
        talk_time_ratio=ratio,
        questions=asked,
        longest_monologue_seconds=longest_monologue(own, others),
        response_latency_seconds=latency,
        interruptions=overlaps,
        not_measured={name: reason for name, reason in unknown.items() if reason},
    )


def questions(session: Session) -> int | None:
    """The questions that the rep asks. None: the transcript has no punctuation that shows them."""
    if not any(PUNCTUATION.search(turn.text) for turn in session.turns):
        return None
    return sum(len(QUESTION.findall(turn.text)) for turn in session.turns if turn.role == "rep")


def filler_words(turns: Sequence[Turn], language: str, seconds: float) -> FillerWords:
    """Count the fillers of a language in turns with so many seconds of speech, with one example per sentence."""
    known = language.partition("-")[0].lower()
    pattern = _pattern(known)
    found: Counter[str] = Counter()
    examples: dict[str, None] = {}
    for sentence in _sentences(turns):
        matches = list(pattern.finditer(sentence))
        found.update(match.group().lower() for match in matches)
        if matches:
            examples[_around(sentence, matches[0].start())] = None
    count = found.total()
    return FillerWords(
        listed=known in FILLERS,
        count=count,
        per_minute=round(count * 60 / seconds, 1) if seconds and known in FILLERS else None,
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
