"""Numbers come from code: what a model says about a measured quantity is compared with the measurement.

Each measured quantity has the phrases by which a text states it ("180 words a minute"). A number that contradicts the
measurement is replaced by it. Where a replacement would be a guess (whose share of the time?), the sentence is dropped.
Advice keeps its numbers: "aim for 140 words a minute" is a goal, not a claim.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from parley.domain.coaching.contract import Coaching, CoachingPoint, SkillScore
from parley.domain.habits import FILLERS, SENTENCE_END, Habits
from parley.domain.voice_metrics import Acoustics, VoiceMetrics

DIGITS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEENS = ("ten", "eleven", "twelve", *(f"{one}teen" for one in ("thir", "four", "fif", "six", "seven", "eigh", "nine")))
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
# In their order: the place of a word is its number.
SPELLED = ("zero", *DIGITS, *TEENS, *(f"{ten}{one}" for ten in TENS for one in ("", *(f"-{one}" for one in DIGITS))))
WRITTEN = rf"(?:{'|'.join(TENS)})(?:[ -](?:{'|'.join(DIGITS)}))?|{'|'.join(('zero', *TEENS, *DIGITS))}"
NUMBER = rf"(?P<number>\d+(?:[.,]\d+)?|\b(?:{WRITTEN})\b)"
A_NUMBER = re.compile(NUMBER, re.IGNORECASE)
# A share of the measured value by which a rounded number may differ from it.
ROUNDING = 0.05
LOWER = ("under", "below", "less than", "fewer than", "slower than", "at most", "up to")
UPPER = ("over", "above", "more than", "faster than", "at least")
BOUND = rf"(?:(?P<bound>{'|'.join((*LOWER, *UPPER))})\s+)?"
ABOUT = r"(?:about|around|roughly|some|only|just|exactly|nearly|almost|~)?\s*"
# "120 to 160": a range is not a measurement.
RANGE = re.compile(r"\d\s*(?:to|and|-|–|bis|a|à)\s*$")
# Quoted words in a row, as "um" and "uh", are one part of a clause.
NO_ROW = r"(?!(?<=[\"'”’»])\s+\w+\s+[\"'“„‘«])(?!(?<=[\"'”’»],)\s+(?:and\s+)?[\"'“„‘«])"
CLAUSE = re.compile(rf"{NO_ROW}(?:(?<=[;:—–(),])\s+|\s+(?:but|and|so|aber|und|pero|y|mais|et)\s+)")
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
    """A measured quantity. `values`: what a text may say. `shown`: what replaces another number; empty: drop it.

    at_most: of a part of what was measured, for example open questions, a text may say any smaller number.
    """

    claim: re.Pattern[str]
    values: Sequence[float]
    shown: str
    tolerance: float = 0.0
    at_most: bool = False


class About(NamedTuple):
    """How a text names the two sides of a session."""

    user: re.Pattern[str]
    other: re.Pattern[str]


def check_numbers(coaching: Coaching, counted: Habits, voice: VoiceMetrics) -> Coaching:
    """The coaching with texts that agree with what was measured. `checks` counts the changes.

    A point without a sentence that is left is dropped. Quotes, and lines that the user could say, are not changed.
    """
    measures, whose = _measures(coaching, counted, voice), _whose(_about(coaching), counted)
    changes = [0, 0]

    def checked(text: str, own: Sequence[Measure] = ()) -> str:
        kept, replaced, dropped = corrected(text, (*own, *measures), whose=whose)
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
    text: str, measures: Sequence[Measure], *, whose: Callable[[str], Sequence[Measure]] = lambda _: ()
) -> tuple[str, int, int]:
    """The text without contradictions, how many numbers were replaced, and how many sentences dropped.

    `whose`: the measures that depend on which speaker a clause is about, for example shares of the talk time.
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
    sentence: str, measures: Sequence[Measure], whose: Callable[[str], Sequence[Measure]]
) -> tuple[str | None, int]:
    """The sentence with the measured numbers, and how many were replaced; None: it must be dropped."""
    kept: list[str] = []
    count = 0
    for given in _clauses(sentence):
        clause: str | None = given
        for measure in (*measures, *whose(given)) if A_NUMBER.search(given) else ():
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
    if measure.at_most:
        return any(number <= value + max(measure.tolerance, ROUNDING * value) for value in measure.values)
    if bound:
        return any(value <= number if bound in LOWER else value >= number for value in measure.values)
    return any(abs(value - number) <= max(measure.tolerance, ROUNDING * value) for value in measure.values)


def _value(number: str) -> float:
    word = number.lower().replace(" ", "-")
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
# "um" and „äh“: filler words that a text quotes, with how often they were said before or after them.
HESITATIONS = {word for words in FILLERS.values() for word in words}
QUOTED_WORD = re.compile(r"(?<!\w)[\"'“”„‘’«]\s?([^\W\d_]+(?: [^\W\d_]+)?)\s?[\"'“”’»](?!\w{2})")
QUOTED_WORDS = re.compile(rf"{QUOTED_WORD.pattern}(?:(?:,| and| or| und| oder| y| et)? {QUOTED_WORD.pattern})*")
TIMES = r"(?:times|occasions|[ -]?Mal|veces|fois)\b"
FEW_WORDS = r"(?:[\w'’-]+\s+){0,4}?"
OF_A_KIND = r"\s+(?!(?:questions|Fragen|preguntas|filler)\b)[\w'’-]+(?:\s+[\w'’-]+)?"
QUESTIONS_OF_A_KIND = _phrase(
    rf"{OF_A_KIND}\s+(?:questions|Fragen|preguntas)\b", r"\b(?:asked|asking|posed)\s+(?:a total of\s+)?"
)
FILLERS_OF_A_KIND = _phrase(rf"{OF_A_KIND}\s+{FILLER}\b(?! (?:a|per|each) min)")
INTERRUPTED = _phrase(r"\s+times\b", rf"\binterrupt\w*\s+{FEW_WORDS}")
INTERRUPTIONS = _phrase(r"\s+(?:[\w'’-]+\s+)?interruptions\b")
PASSIVE = re.compile(r"\b(?:was|were|been|got|is|are)\s+(?:\w+\s+)?interrupted\b", re.IGNORECASE)
SECONDS = r"[ -]?s(?:ec(?:ond)?s?)?\b"
ANSWERED = r"(?:answer|respon|repl|react)"
LATENCY = _phrase(rf"{SECONDS}\s+(?:to {ANSWERED}|before {ANSWERED})", r"\b(?:took|takes|taking|needed|waited)\s+")
LATENCY_AFTER = _phrase(
    SECONDS, r"\b(?:(?:answer|respond|react)(?:ed|s)|repli(?:ed|es))\s+(?:\w+\s+)?(?:after|within|in)\s+"
)
LATENCY_NAMED = _phrase(SECONDS, r"\b(?:response|reaction|answer)[ -](?:time|latency)\s+(?:of|was|is)\s+")
PAUSED = _phrase(r"\s+times\b", rf"\bpaused\s+{FEW_WORDS}")
PAUSES = _phrase(r"\s+pauses\b")
LONGEST_PAUSE = _phrase(SECONDS, r"\blongest pause\s+(?:of|was|is|lasted|took)\s+")
# "Leave a pause of 3 seconds" is advice.
HAD = rf"\b(?:was|were|had|made|took|left)\s+{FEW_WORDS}"
PAUSE = _phrase(SECONDS, rf"(?:{HAD}pauses? of|(?<!longest )\bpause (?:was|lasted|took))\s+")
PAUSE_FIRST = _phrase(r"[ -]s(?:econds?)?(?:-long)? pauses?\b", HAD)
SEMITONES = _phrase(r"[ -]semitones?\b")
HERTZ = _phrase(r"\s?(?:Hz|hertz)\b")
DECIBELS = _phrase(r"\s?(?:dB|decibels?)\b")
OVERALL = _phrase(r"\b", r"\boverall(?: score)?(?: of| is| was|:)?\s+")
OUT_OF = _phrase(r"\s?(?:/|of|out of) ?100\b")


def _measures(coaching: Coaching, counted: Habits, voice: VoiceMetrics) -> tuple[Measure, ...]:
    longest = counted.longest_monologue_seconds
    scores = [skill.score for skill in coaching.skills] + [coaching.overall_score]
    rated = [float(score) for score in (*scores, *_voice_scores(voice).values()) if score is not None]
    found = [
        *_voice_score_measures(coaching, voice),
        *_known((PACE, PACE_NAMED), voice.pace_wpm, tolerance=1.0),
        *_known((QUESTIONS, QUESTIONS_IN_ALL), counted.questions),
        Measure(QUESTIONS_OF_A_KIND, _given(counted.questions), "", at_most=True),
        *_of_pauses(voice),
        *_of_sound(voice.acoustics or Acoustics()),
        *(Measure(claim, (longest,), f"{longest:.0f}", 1.0) for claim in (MONOLOGUE, MONOLOGUE_FIRST, UNBROKEN)),
        Measure(OUT_OF, rated, "", 0.5),
    ]
    if coaching.overall_score is not None:
        found.insert(0, Measure(OVERALL, (coaching.overall_score,), str(coaching.overall_score), 0.5))
    fillers = counted.filler_words
    if fillers.per_minute is not None:
        found.append(Measure(FILLER_RATE, (fillers.per_minute,), f"{fillers.per_minute}", 0.5))
        found.append(Measure(FILLER_COUNT, (fillers.count,), str(fillers.count)))
        found.append(Measure(FILLERS_OF_A_KIND, (fillers.count,), "", at_most=True))
    return tuple(found)


def _given(*values: float | None) -> tuple[float, ...]:
    return tuple(value for value in values if value is not None)


def _of_pauses(voice: VoiceMetrics) -> Iterator[Measure]:
    pauses = voice.pauses
    yield from _known((PAUSED, PAUSES), pauses and float(pauses.count))
    longest = None if pauses is None else pauses.longest_seconds
    shown = "" if longest is None else f"{longest:.1f}"
    yield Measure(LONGEST_PAUSE, _given(longest), shown, 0.5)
    for claim in (PAUSE, PAUSE_FIRST):
        yield Measure(claim, _given(longest), "", 0.5, at_most=True)


def _of_sound(sound: Acoustics) -> Iterator[Measure]:
    yield Measure(SEMITONES, _given(sound.pitch_variation_semitones, sound.pitch_range_semitones), "", 0.5)
    yield from _known((HERTZ,), sound.pitch_median_hz, tolerance=1.0)
    levels = _given(sound.loudness_db, sound.loudness_variation_db, sound.harmonics_to_noise_db)
    yield Measure(DECIBELS, tuple(abs(level) for level in levels), "", 1.0)


def _voice_scores(voice: VoiceMetrics) -> dict[str, int | None]:
    return {
        "pace": voice.pace,
        "tonality": voice.tonality,
        "clarity": voice.clarity,
        "energy": voice.energy,
        "inflection": voice.emotional_inflection,
    }


def _voice_score_measures(coaching: Coaching, voice: VoiceMetrics) -> Iterator[Measure]:
    """The scores of the voice by name. A skill of the same name has a score of its own, which is as good."""
    for name, score in _voice_scores(voice).items():
        own = _given(score, *(skill.score for skill in coaching.skills if name in skill.title.lower()))
        shown = str(score) if own == _given(score) and score is not None else ""
        yield Measure(_phrase(r"\b", rf"\b{name}(?:'s)? score (?:of|was|is|:)\s*"), own, shown, 0.5)
        yield Measure(_phrase(r"\s?(?:/|of|out of) ?100\b", rf"\b{name} (?:of|was|is|:|has|had)\s*"), own, shown, 0.5)


def _known(claims: Iterable[re.Pattern[str]], value: float | None, *, tolerance: float = 0.0) -> Iterator[Measure]:
    """What a text may say of a measure. Where nothing was measured, no number can be right: the sentence is dropped."""
    for claim in claims:
        yield Measure(claim, () if value is None else (value,), "" if value is None else f"{value:.0f}", tolerance)


def _own_score(skill: SkillScore) -> tuple[Measure, ...]:
    """In a skill's own comment, a score out of 100 is that of the skill."""
    return () if skill.score is None else (Measure(OUT_OF, (skill.score,), str(skill.score), 0.5),)


def _about(coaching: Coaching) -> About:
    return About(
        re.compile(rf"\b(?:you|your|rep|{re.escape(coaching.rubric.user)})\b", re.IGNORECASE),
        re.compile(rf"\b(?:prospect|customer|{re.escape(coaching.rubric.other)})\b", re.IGNORECASE),
    )


def _whose(about: About, counted: Habits) -> Callable[[str], Sequence[Measure]]:
    """The measures of a clause that depend on whether it is about the user, the other side, or either."""

    def measures(clause: str) -> Sequence[Measure]:
        share = _share(clause, about, counted)
        found = (*_taken(clause, about, counted), *_latency(clause, about, counted), *_spoken(clause, counted))
        return (*((share,) if share else ()), *found)

    return measures


def _share(clause: str, about: About, counted: Habits) -> Measure | None:
    """The share of the talk time that a clause is about."""
    claim = SHARE if SHARE.search(clause) else TALK_TIME if TALK_TIME.search(clause) else None
    if claim is None:
        return None
    if counted.talk_time_ratio is None:
        return Measure(claim, (), "")
    share = round(100 * counted.talk_time_ratio, 1)
    is_user, is_other = bool(about.user.search(clause)), bool(about.other.search(clause))
    if is_user == is_other:
        return Measure(claim, (share, 100 - share), "", 1.0)
    value = share if is_user else 100 - share
    return Measure(claim, (value,), f"{value:.0f}", 1.0)


def _taken(clause: str, about: About, counted: Habits) -> Iterator[Measure]:
    """How often the side that a clause names first interrupts, or is interrupted."""
    found = counted.interruptions
    both = () if found is None else (found.by_user, found.by_others)
    yield Measure(INTERRUPTIONS, (*both, sum(both)) if both else (), "")
    named = [(place.start(), who) for who, name in enumerate(about) for place in name.finditer(clause)]
    if not both or not named:
        yield Measure(INTERRUPTED, both, "")
        return
    first = min(named)[1]
    count = both[1 - first if PASSIVE.search(clause) else first]
    yield Measure(INTERRUPTED, (count,), str(count))


def _latency(clause: str, about: About, counted: Habits) -> Iterator[Measure]:
    """How soon the user answers. How soon the other side does is not measured."""
    is_other = about.other.search(clause) and not about.user.search(clause)
    seconds = None if is_other else counted.response_latency_seconds
    for claim in (LATENCY, LATENCY_AFTER, LATENCY_NAMED):
        yield Measure(claim, _given(seconds), "" if seconds is None else f"{seconds:.1f}", 0.5)


def _spoken(clause: str, counted: Habits) -> Iterator[Measure]:
    """How often the filler words were said that a clause quotes. Other words are not counted."""
    by_word = counted.filler_words.by_word
    for found in QUOTED_WORDS.finditer(clause) if counted.filler_words.listed else ():
        words = {word.lower() for word in QUOTED_WORD.findall(found[0])}
        count = sum(by_word.get(word, 0) for word in words)
        if words <= by_word.keys() | HESITATIONS:
            said = re.escape(found[0])
            for claim in (_phrase(rf"\s+{TIMES}", rf"{said}\s+{FEW_WORDS}"), _phrase(rf"\s+{FEW_WORDS}{said}")):
                yield Measure(claim, (count,), str(count) if count else "")
