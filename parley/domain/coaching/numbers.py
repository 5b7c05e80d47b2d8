"""Numbers come from code: what a model says about a measured quantity is compared with the measurement.

Each measured quantity has the phrases by which a text states it ("180 words a minute"). A number that contradicts the
measurement is replaced by it. Where a replacement would be a guess (whose share of the time?), the sentence is dropped.
Advice keeps its numbers: "aim for 140 words a minute" is a goal, not a claim.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from parley.domain.coaching.contract import Coaching, CoachingPoint, SkillScore
from parley.domain.habits import SENTENCE_END, Habits
from parley.domain.voice_metrics import VoiceMetrics

SPELLED = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
NUMBER = rf"(?P<number>\d+(?:[.,]\d+)?|\b(?:{'|'.join(SPELLED)})\b)"
# A share of the measured value by which a rounded number may differ from it.
ROUNDING = 0.05
LOWER = ("under", "below", "less than", "fewer than", "slower than", "at most", "up to")
UPPER = ("over", "above", "more than", "faster than", "at least")
BOUND = rf"(?:(?P<bound>{'|'.join((*LOWER, *UPPER))})\s+)?"
ABOUT = r"(?:about|around|roughly|some|only|just|exactly|nearly|almost|~)?\s*"
# "120 to 160": a range is not a measurement.
RANGE = re.compile(r"\d\s*(?:to|and|-|–|bis|a|à)\s*$")
CLAUSE = re.compile(r"(?<=[;:—–(),])\s+|\s+(?:but|and|so|aber|und|pero|y|mais|et)\s+")
GOAL = re.compile(
    r"\b(?:aim|target|goal|try|keep|stay|should|could|would|ideal|recommended|reduce|raise|slow|bring|limit|next time"
    r"|ziel|sollte|versuch|halte|bleib|objetivo|intenta|deber[ií]a|vise|objectif|essay|devr)\w*",
    re.IGNORECASE,
)
CLAIM = re.compile(
    r"\b(?:was|were|is|are|spoke|talked|asked|used|had|took|lasted|measured|know|from|war|waren|sprach|hast|fue|habl"
    r"|était|parl)\w*",
    re.IGNORECASE,
)


class Measure(NamedTuple):
    """A measured quantity. `values`: what a text may say. `shown`: what replaces another number; empty: drop it."""

    claim: re.Pattern[str]
    values: Sequence[float]
    shown: str
    tolerance: float = 0.0


def check_numbers(coaching: Coaching, counted: Habits, voice: VoiceMetrics) -> Coaching:
    """The coaching with texts that agree with what was measured. `checks` counts the changes.

    A point without a sentence that is left is dropped. Quotes, and lines that the user could say, are not changed.
    """
    measures = _measures(coaching, counted, voice)
    changes = [0, 0]

    def checked(text: str, own: Sequence[Measure] = ()) -> str:
        kept, replaced, dropped = corrected(text, (*own, *measures), whose=_whose(coaching, counted))
        changes[0] += replaced
        changes[1] += dropped
        return kept

    def points(given: Iterable[CoachingPoint]) -> tuple[CoachingPoint, ...]:
        texts = [(point, checked(point.text)) for point in given]
        return tuple(point.model_copy(update={"text": text}) for point, text in texts if text)

    skills = tuple(
        skill.model_copy(update={"comment": checked(skill.comment, _own_score(skill))}) for skill in coaching.skills
    )
    strengths, improvements = points(coaching.strengths), points(coaching.improvements)
    checks = coaching.checks.model_copy(update={"numbers_corrected": changes[0], "sentences_dropped": changes[1]})
    return coaching.model_copy(
        update={"skills": skills, "strengths": strengths, "improvements": improvements, "checks": checks}
    )


def corrected(
    text: str, measures: Sequence[Measure], *, whose: Callable[[str], Measure | None] = lambda _: None
) -> tuple[str, int, int]:
    """The text without contradictions, how many numbers were replaced, and how many sentences dropped.

    `whose`: the measure of a share of the talk time in a clause, which depends on the speaker that it is about.
    """
    sentences: list[str] = []
    replaced = dropped = 0
    for sentence in SENTENCE_END.split(text.strip()):
        kept, count = _sentence(sentence, measures, whose)
        replaced += count
        dropped += kept is None
        sentences += [kept] if kept else []
    return " ".join(sentences), replaced, dropped


def _sentence(
    sentence: str, measures: Sequence[Measure], whose: Callable[[str], Measure | None]
) -> tuple[str | None, int]:
    """The sentence with the measured numbers, and how many were replaced; None: it must be dropped."""
    kept: list[str] = []
    count = 0
    for given in _clauses(sentence):
        clause, share = given, whose(given)
        for measure in (*measures, *((share,) if share else ())):
            clause, changes = _clause(clause, measure)
            if clause is None:
                return None, 0
            count += changes
        kept.append(clause)
    return "".join(kept), count


def _clauses(sentence: str) -> list[str]:
    """The parts of a sentence, each with the blanks and words that join it to the next."""
    ends = [found.end() for found in CLAUSE.finditer(sentence)]
    return [sentence[start:end] for start, end in zip([0, *ends], [*ends, len(sentence)], strict=True)]


def _clause(clause: str, measure: Measure) -> tuple[str | None, int]:
    if GOAL.search(clause) and not CLAIM.search(clause):
        return clause, 0
    stated = [found for found in measure.claim.finditer(clause) if not RANGE.search(clause[: found.start("number")])]
    wrong = [found for found in stated if not _agrees(found, measure)]
    if wrong and not measure.shown:
        return None, 0
    for found in reversed(wrong):
        start = found.start("bound") if _group(found, "bound") else found.start("number")
        clause = clause[:start] + measure.shown + clause[found.end("number") :]
    return clause, len(wrong)


def _agrees(found: re.Match[str], measure: Measure) -> bool:
    number, bound = _value(found["number"]), (_group(found, "bound") or "").lower()
    if bound:
        return any(value <= number if bound in LOWER else value >= number for value in measure.values)
    return any(abs(value - number) <= max(measure.tolerance, ROUNDING * value) for value in measure.values)


def _value(number: str) -> float:
    word = number.lower()
    return float(SPELLED.index(word)) if word in SPELLED else float(number.replace(",", "."))


def _group(found: re.Match[str], name: str) -> str | None:
    return found.groupdict().get(name)


def _phrase(after: str, before: str = "") -> re.Pattern[str]:
    """A number with what must come before and after it."""
    return re.compile(rf"{before}{BOUND}{ABOUT}{NUMBER}{after}", re.IGNORECASE)


PACE = _phrase(
    r"\s*-?\s*(?:wpm\b|words?(?:/| (?:per|a|each|every) )min(?:ute)?\b|Wörter (?:pro|in der) Minute\b"
    r"|palabras por minuto\b|mots (?:par|à la) minute\b)"
)
PACE_NAMED = _phrase(r"\b(?!\s*(?:to|-|–)\s*\d)", r"\bpace (?:was|is|of)\s+")
FILLER = r"(?>filler(?:s| words?)?|filled pauses|Füllw(?:ö|o)rter|muletillas|mots de remplissage)"
FILLER_RATE = _phrase(rf"\s+{FILLER} (?:a|per|each|pro|por|par) min\w*")
FILLER_COUNT = _phrase(rf"\s+{FILLER}\b(?! (?:a|per|each|pro|por|par) min)")
QUESTIONS = _phrase(
    r"\s+(?:questions|Fragen|preguntas)\b(?! (?:were|was|about|that|on|to)\b)",
    r"\b(?:asked|asking|posed|stellte[nst]*|hiciste|hizo|posé)\s+(?:a total of\s+)?",
)
QUESTIONS_IN_ALL = _phrase(r"\s+questions (?:in (?:total|all|the (?:session|call|whole))|overall|asked)\b")
MONOLOGUE = _phrase(r"[ -]?s(?:ec(?:ond)?s?)?\b", r"\bmonologue (?:of|was|lasted|is|took)\s+")
MONOLOGUE_FIRST = _phrase(r"[ -]s(?:econds?)?(?:-long)? monologue\b")
UNBROKEN = _phrase(
    r"[ -]?s(?:ec(?:ond)?s?)? (?:without (?:a |any )?(?:pause|break|stopping)|in one go|straight|at a stretch)"
)
SHARE = _phrase(
    r"\s?(?:%|percent|per cent|Prozent)(?: of)?(?: the| their| your| der| del| du)?"
    r"\s*(?:talk(?:ing)?[ -]?time|speaking time|time|call|conversation|session|Redezeit|Zeit|tiempo|temps)\b"
)
TALK_TIME = _phrase(r"\s?(?:%|percent)", r"\btalk[ -]?time(?: ratio)? (?:of|was|is)\s+")
OVERALL = _phrase(r"\b", r"\boverall(?: score)?(?: of| is| was|:)?\s+")
OUT_OF = _phrase(r"\s?(?:/|of|out of) ?100\b")


def _measures(coaching: Coaching, counted: Habits, voice: VoiceMetrics) -> tuple[Measure, ...]:
    longest = counted.longest_monologue_seconds
    scores = [skill.score for skill in coaching.skills] + [coaching.overall_score]
    rated = [float(score) for score in scores if score is not None]
    found = [
        *_known((PACE, PACE_NAMED), voice.pace_wpm, tolerance=1.0),
        *_known((QUESTIONS, QUESTIONS_IN_ALL), counted.questions),
        *(Measure(claim, (longest,), f"{longest:.0f}", 1.0) for claim in (MONOLOGUE, MONOLOGUE_FIRST, UNBROKEN)),
        Measure(OUT_OF, rated, "", 0.5),
    ]
    if coaching.overall_score is not None:
        found.insert(0, Measure(OVERALL, (coaching.overall_score,), str(coaching.overall_score), 0.5))
    fillers = counted.filler_words
    if fillers.per_minute is not None:
        found.append(Measure(FILLER_RATE, (fillers.per_minute,), f"{fillers.per_minute}", 0.5))
        found.append(Measure(FILLER_COUNT, (fillers.count,), str(fillers.count)))
    return tuple(found)


def _known(claims: Iterable[re.Pattern[str]], value: float | None, *, tolerance: float = 0.0) -> Iterator[Measure]:
    """What a text may say of a measure. Where nothing was measured, no number can be right: the sentence is dropped."""
    for claim in claims:
        yield Measure(claim, () if value is None else (value,), "" if value is None else f"{value:.0f}", tolerance)


def _own_score(skill: SkillScore) -> tuple[Measure, ...]:
    """In a skill's own comment, a score out of 100 is that of the skill."""
    return () if skill.score is None else (Measure(OUT_OF, (skill.score,), str(skill.score), 0.5),)


def _whose(coaching: Coaching, counted: Habits) -> Callable[[str], Measure | None]:
    """The share of the talk time that a clause is about: of the user, of the other side, or of either."""
    share = None if counted.talk_time_ratio is None else round(100 * counted.talk_time_ratio, 1)
    user = re.compile(rf"\b(?:you|your|rep|{re.escape(coaching.rubric.user)})\b", re.IGNORECASE)
    other = re.compile(rf"\b(?:prospect|customer|{re.escape(coaching.rubric.other)})\b", re.IGNORECASE)

    def measure(clause: str) -> Measure | None:
        claim = SHARE if SHARE.search(clause) else TALK_TIME if TALK_TIME.search(clause) else None
        if claim is None:
            return None
        if share is None:
            return Measure(claim, (), "")
        is_user, is_other = bool(user.search(clause)), bool(other.search(clause))
        if is_user == is_other:
            return Measure(claim, (share, 100 - share), "", 1.0)
        value = share if is_user else 100 - share
        return Measure(claim, (value,), f"{value:.0f}", 1.0)

    return measure
