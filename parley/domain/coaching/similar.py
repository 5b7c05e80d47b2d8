"""When the coaching of an earlier session is that of another one: the same conversation, held or transcribed again.

Likeness is not enough: a conversation about another product, with another price or with a refusal at its end shares
nearly all of its words. So, as in the cache of answers (`parley.domain.generate.caching`), likeness only excludes, and
the words decide: both sides must say the same words in the same turns. Case, punctuation, spelling, contractions,
numbers in letters and hesitations may differ. The delivery must be alike too, because coaching judges it. What cannot
be compared is another conversation.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from rapidfuzz import fuzz

from parley.domain.coaching.contract import Coaching, CoachingPoint
from parley.domain.coaching.quotes import find_moment
from parley.domain.generate.caching import plain_words
from parley.domain.habits import Habits, habits
from parley.domain.session import Session
from parley.domain.voice_metrics import VoiceMetrics, from_session

# Less similar texts, of 100, are not compared word by word.
ALIKE_PERCENT = 80.0
# The least cosine of the vectors of two passages: below it they are not about the same.
LEAST_COSINE = 0.9
# A passage that a vector is made of has about so many words: more do not fit into the model.
PASSAGE_WORDS = 70
# Sounds of hesitation that are not words of the language.
HESITATIONS = {
    "en": frozenset(("um", "umm", "uh", "uhh", "er", "erm", "hmm", "hm", "mm")),
    "de": frozenset(("äh", "ähm", "öh", "hm", "hmm")),
    "es": frozenset(("eh", "em", "mm", "hm")),
    "fr": frozenset(("euh", "hm", "mm")),
}
# So many words may be said again at once.
LONGEST_STUTTER = 3
QUESTION_MARK = re.compile(r"\?+")
# By how much the measures of two deliveries may differ: shares, rates a minute, seconds.
PACE_SHARE, TALK_TIME, FILLERS, MONOLOGUE_SHARE, LATENCY = 0.15, 0.05, 2.0, 0.25, 0.5


class Speech(NamedTuple):
    """What one side says until the other side does: its words, the number of questions, and its text as it is."""

    role: str
    words: tuple[str, ...]
    questions: int
    text: str


def text_similarity(one: Session, other: Session) -> float | None:
    """How similar the texts of two sessions are, of 100; None: they are not the same conversation."""
    if one.language != other.language or plain_words(one.scenario) != plain_words(other.scenario):
        return None
    texts = ["\n".join(turn.text for turn in session.turns).casefold() for session in (one, other)]
    similarity = fuzz.ratio(*texts, score_cutoff=ALIKE_PERCENT)
    if not similarity or not _same_words(speeches(one), speeches(other)):
        return None
    return round(similarity, 1) if _delivered_alike(one, other) else None


def speeches(session: Session) -> list[Speech] | None:
    """The session as its sides speak in turn; None: its words cannot be compared."""
    hesitations = HESITATIONS.get(session.language.partition("-")[0].lower(), frozenset[str]())
    spoken: list[Speech] = []
    for turn in session.turns:
        words = plain_words(turn.text)
        if words is None:
            return None
        kept = tuple(word for word in words if word not in hesitations)
        spoken.append(Speech(turn.role, kept, len(QUESTION_MARK.findall(turn.text)), turn.text))
    return [_joined(list(group)) for _, group in groupby(filter(_has_words, spoken), key=lambda speech: speech.role)]


def passages(session: Session) -> list[str]:
    """The session in texts of a length that vectors are made of. Sessions with the same words have as many."""
    texts: list[str] = []
    count = PASSAGE_WORDS
    for speech in speeches(session) or ():
        if count >= PASSAGE_WORDS:
            texts.append("")
            count = 0
        texts[-1] = f"{texts[-1]} {speech.text}".strip()
        count += len(speech.words)
    return texts


def least_cosine(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> float:
    """The cosine of the two passages that differ most. The vectors have the length 1."""
    return min(sum(a * b for a, b in zip(*pair, strict=True)) for pair in zip(one, other, strict=True))


def adapted(coaching: Coaching, session: Session) -> Coaching | None:
    """A model's coaching of the same conversation, with the moments of this session; None: none of them is in it.

    A point whose quote the session does not have is dropped. `check_numbers` replaces the numbers of the other session.
    """
    strengths = tuple(_found(coaching.strengths, session))
    improvements = tuple(_found(coaching.improvements, session))
    if not strengths and not improvements:
        return None
    return coaching.model_copy(update={"strengths": strengths, "improvements": improvements, "excerpt": None})


def _found(points: Sequence[CoachingPoint], session: Session) -> Iterator[CoachingPoint]:
    for point in points:
        moment = find_moment(session.turns, point.moment.quote, point.moment.start)[0] if point.moment else None
        if moment is not None:
            yield point.model_copy(update={"moment": moment})


def _has_words(speech: Speech) -> bool:
    return bool(speech.words)


def _joined(parts: list[Speech]) -> Speech:
    """The speech of one side until the other one speaks."""
    words = _without_stutters([word for part in parts for word in part.words])
    questions, text = sum(part.questions for part in parts), " ".join(part.text for part in parts)
    return Speech(parts[0].role, tuple(words), questions, text)


def _without_stutters(words: list[str]) -> list[str]:
    """The words without those that are said again at once: "let me, let me back up". Numbers may be said twice."""
    kept: list[str] = []
    for word in words:
        kept.append(word)
        for length in range(1, LONGEST_STUTTER + 1):
            last, before = kept[-length:], kept[-2 * length : -length]
            if last == before and all(map(str.isalpha, last)):
                del kept[-length:]
                break
    return kept


def _same_words(one: list[Speech] | None, other: list[Speech] | None) -> bool:
    if not one or not other or len(one) != len(other):
        return False
    return all(first[:3] == second[:3] for first, second in zip(one, other, strict=True))


def _delivered_alike(one: Session, other: Session) -> bool:
    return _alike(habits(one), habits(other)) and _same_pace(from_session(one), from_session(other))


def _alike(one: Habits, other: Habits) -> bool:
    longest = (one.longest_monologue_seconds, other.longest_monologue_seconds)
    return (
        _near(one.talk_time_ratio, other.talk_time_ratio, TALK_TIME)
        and _near(one.filler_words.per_minute, other.filler_words.per_minute, FILLERS)
        and _near(*longest, MONOLOGUE_SHARE * max(longest))
        and _near(one.response_latency_seconds, other.response_latency_seconds, LATENCY)
        and one.questions == other.questions
        and _overlaps(one) == _overlaps(other)
    )


def _overlaps(counted: Habits) -> tuple[int, int] | None:
    taken = counted.interruptions
    return None if taken is None else (taken.by_user, taken.by_others)


def _same_pace(one: VoiceMetrics, other: VoiceMetrics) -> bool:
    return _near(one.pace_wpm, other.pace_wpm, PACE_SHARE * max(one.pace_wpm or 0.0, other.pace_wpm or 0.0))


def _near(one: float | None, other: float | None, tolerance: float) -> bool:
    """Whether two measures are alike. What was measured in only one of the sessions is not."""
    if one is None or other is None:
        return one is other
    return abs(one - other) <= tolerance
