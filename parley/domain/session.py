"""A recorded voice session: its turns, with speakers and times."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, cast

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from parley.domain.languages import LANGUAGE, has_blanks, language_tag
from parley.domain.model import Model, Name, Text, not_blank
from parley.domain.word_times import Timed, mended

MAX_SESSION_SECONDS = 8 * 3600.0
# Turns of one speaker that follow each other so closely are one: services cut a speech into pieces.
SAME_TURN_SECONDS = 3.0
# So much may a turn end after the session: times are rounded, and a recording is cut at its end.
LATE_SECONDS = 1.0
# A word that starts so far outside its turn has a wrong time.
OUTSIDE_SECONDS = 1.0
# No words of one turn follow each other so slowly: their times are milliseconds.
FAR_APART_SECONDS = 30.0
# Turns of one speaker that overlap by more are of two people.
OVERLAP_SECONDS = 1.0
# A shorter transcript is less than most of its own prompt for coaching, and has little that can be pointed to.
SHORT_CHARACTERS = 500
# A greater number is not a time in any unit.
MOST_TIME = 1e12
ONE_SPEAKER = "one speaker was heard: if there are more, their voices could not be separated"
# The type of an error that names its field itself, because it was found in the whole.
MISPLACED = "misplaced"
# No person speaks so slowly for so long: the times are not in seconds.
SLOWEST_WORDS_PER_MINUTE, LONG_SECONDS, CHARACTERS_PER_WORD = 3.0, 300.0, 1.5


def _to_the_microsecond(seconds: float) -> float:
    return round(seconds, 6)


Seconds = Annotated[float, Field(ge=0, le=MAX_SESSION_SECONDS), AfterValidator(_to_the_microsecond)]
Language = Annotated[
    str,
    BeforeValidator(lambda given: language_tag(given) if isinstance(given, str) else given),
    Field(pattern=LANGUAGE),
]


class Word(Model):
    """One spoken word, times in seconds from the start of the session."""

    text: Text
    start: Seconds
    end: Seconds


class Turn(Model):
    """An uninterrupted stretch of one speaker, times in seconds. `rep` is the user who is coached, `prospect` others.

    speaker: the label or name that a transcript gives the speaker; empty where it gives none.
    pieces: of a turn without word times that was put together: when each piece started and ended; empty for one piece.
    """

    role: Literal["rep", "prospect"]
    start: Seconds
    end: Seconds
    text: Annotated[Text, AfterValidator(not_blank)]
    words: tuple[Word, ...] = ()
    speaker: Annotated[Text, Field(max_length=200)] = ""
    pieces: tuple[tuple[Seconds, Seconds], ...] = ()

    @model_validator(mode="after")
    def _times_run_forward(self) -> Self:
        if self.end < self.start:
            raise ValueError(f"ends at {self.end} before it starts at {self.start}")
        at = 0.0
        for number, word in enumerate(self.words):
            if word.start < at or word.end < word.start:
                raise ValueError(f"words out of order: word {number} ({word.text[:20]!r}) starts at {word.start}")
            at = word.start
        times = [self.start, *(time for piece in self.pieces for time in piece), self.end]
        if times != sorted(times):
            raise ValueError("pieces out of order, or not within the turn")
        return self

    @property
    def spoken(self) -> tuple[tuple[float, float], ...]:
        """When the turn is spoken, as far as it is known without words: without the gaps between its pieces."""
        return self.pieces or ((self.start, self.end),)


class Session(Model):
    """One sales practice session as a product sends it.

    language: a BCP 47 tag; codes of three letters and English names become short codes.
    turns: turns of one speaker that follow each other within `SAME_TURN_SECONDS` become one.
    warnings: what was repaired in it, or is doubtful; a result repeats them.
    """

    session_id: Name
    user_id: Name
    prospect_id: Name | None = None
    scenario: Text = ""
    language: Language = "en"
    duration_seconds: float = Field(gt=0, le=MAX_SESSION_SECONDS)
    turns: tuple[Turn, ...] = Field(min_length=1)
    warnings: tuple[Text, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _repair(cls, given: Any) -> Any:
        return _repaired(cast("dict[str, Any]", given)) if isinstance(given, dict) else given

    @field_validator("turns")
    @classmethod
    def _merge(cls, turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
        at = 0.0
        for number, turn in enumerate(turns):
            if turn.start < at:
                raise ValueError(f"turns out of order: turn {number} starts at {turn.start}, before {at}")
            at = turn.start
        return merged(turns)

    @model_validator(mode="after")
    def _has_plausible_times(self) -> Self:
        seconds = sum(turn.end - turn.start for turn in self.turns)
        text = "".join(turn.text for turn in self.turns)
        count = len(text.split()) if has_blanks(self.language) else len(text) / CHARACTERS_PER_WORD
        pace = count * 60 / seconds if seconds else 0.0
        if seconds > LONG_SECONDS and pace < SLOWEST_WORDS_PER_MINUTE:
            raise ValueError(f"its turns have {pace:.1f} words a minute: times are in seconds (milliseconds?)")
        return self

    @property
    def speakers(self) -> int:
        """How many people speak, as far as their roles and names tell."""
        return len({(turn.role, turn.speaker) for turn in self.turns})

    @property
    def is_short(self) -> bool:
        """Whether its transcript has less than `SHORT_CHARACTERS`."""
        return sum(len(turn.text) for turn in self.turns) < SHORT_CHARACTERS


def merged(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """The turns, in which a speech that was cut into pieces is one."""
    speeches: list[list[Turn]] = []
    end = 0.0
    for turn in turns:
        if speeches and _continues(speeches[-1][-1], end, turn):
            speeches[-1].append(turn)
            end = max(end, turn.end)
        else:
            speeches.append([turn])
            end = turn.end
    return tuple(map(_joined, speeches))


def _continues(last: Turn, end: float, turn: Turn) -> bool:
    """Whether a turn goes on with a speech. `last`: its last piece. `end`: of the speech."""
    same = (last.role, last.speaker, bool(last.words)) == (turn.role, turn.speaker, bool(turn.words))
    return same and turn.start - end <= SAME_TURN_SECONDS and end - turn.start <= OVERLAP_SECONDS


def _joined(speech: Sequence[Turn]) -> Turn:
    """The pieces of a speech as one turn: in one step, since a speech of hours has thousands of them."""
    first = speech[0]
    if len(speech) == 1:
        return first
    words = sorted((word for turn in speech for word in turn.words), key=lambda word: word.start)
    inner = (turn.text.strip() for turn in speech[1:-1])
    return first.model_copy(
        update={
            "end": max(turn.end for turn in speech),
            "text": " ".join((first.text.rstrip(), *inner, speech[-1].text.lstrip())),
            "words": tuple(words),
            "pieces": () if words else _pieces(speech),
        }
    )


def _pieces(speech: Sequence[Turn]) -> tuple[tuple[float, float], ...]:
    """The pieces of a speech, those as one between which there is no gap."""
    pieces: list[tuple[float, float]] = []
    for start, end in (piece for turn in speech for piece in turn.spoken):
        if pieces and start <= pieces[-1][1]:
            pieces[-1] = pieces[-1][0], max(pieces[-1][1], end)
        else:
            pieces.append((start, end))
    return tuple(pieces) if len(pieces) > 1 else ()


def _repaired(given: dict[str, Any]) -> dict[str, Any]:
    """The JSON of a session with times for all words, and with warnings.

    Raises:
        PydanticCustomError: it is too long, a turn ends after it, or the words of a turn are outside that.
    """
    _check_length(given.get("duration_seconds"))
    turns = given.get("turns")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in cast("list[Any]", turns)):
        return given
    listed = cast("list[dict[str, Any]]", turns)
    _check_ends(listed, given.get("duration_seconds"))
    untimed: list[str] = []
    stretched: list[str] = []
    repaired = [_with_times(turn, f"turns.{number}", untimed, stretched) for number, turn in enumerate(listed)]
    problems = [
        *_said(untimed, "without a usable time: it is estimated from the words around it"),
        *_said(stretched, "stretched over a silence: its time is cut"),
        *_overlaps(listed),
    ]
    known = given.get("warnings", ())
    voices = {(str(turn.get("role")), str(turn.get("speaker") or "")) for turn in listed}
    alone = len(voices) == 1 and ONE_SPEAKER not in known
    warnings = (*known, *problems, *((ONE_SPEAKER,) if alone else ()))
    return {**given, "turns": repaired, **({"warnings": warnings} if warnings else {})}


def _misplaced(field: str, problem: str, *, in_milliseconds: bool) -> PydanticCustomError:
    hint = " (milliseconds?)" if in_milliseconds else ""
    return PydanticCustomError(MISPLACED, "{problem}", {"problem": f"{problem}{hint}", "field": field})


def _check_length(seconds: Any) -> None:
    if _is_time(seconds) and seconds > MAX_SESSION_SECONDS:
        problem = f"{seconds:.12g} is more than {MAX_SESSION_SECONDS / 3600:g} hours"
        raise _misplaced("duration_seconds", problem, in_milliseconds=seconds / 1000 <= MAX_SESSION_SECONDS)


def _check_ends(turns: Sequence[dict[str, Any]], duration: Any) -> None:
    ends = [(number, turn["end"]) for number, turn in enumerate(turns) if _is_time(turn.get("end"))]
    if not ends or not _is_time(duration) or not 0 < duration <= MAX_SESSION_SECONDS:
        return
    number, end = max(ends, key=lambda one: one[1])
    if end > duration + LATE_SECONDS:
        problem = f"{end:g} is beyond the session's {duration:g} s"
        fits = duration / 5 <= end / 1000 <= duration + LATE_SECONDS
        raise _misplaced(f"turns.{number}.end", problem, in_milliseconds=fits)


def _with_times(turn: dict[str, Any], place: str, untimed: list[str], stretched: list[str]) -> dict[str, Any]:
    """The turn with repaired words. The places of repaired words are added to the lists, once for each turn."""
    words, start, end = turn.get("words"), turn.get("start"), turn.get("end")
    if not isinstance(words, list | tuple) or not words or not (_is_time(start) and _is_time(end)):
        return turn
    listed = [cast("dict[str, Any]", word) for word in cast("Sequence[Any]", words) if isinstance(word, dict)]
    if len(listed) < len(cast("Sequence[Any]", words)) or not all(isinstance(word.get("text"), str) for word in listed):
        return turn
    timed = [Timed(word["text"], _time(word.get("start")), _time(word.get("end"))) for word in listed]
    start, end = cast("float", start), cast("float", end)
    done = mended(_inside(timed, start, end, place), start, end)
    untimed += [place] * done.untimed
    stretched += [place] * done.stretched
    times = [{"start": round(word.start, 6), "end": round(word.end, 6)} for word in done.words]
    return {**turn, "words": [{**word, **new} for word, new in zip(listed, times, strict=True)]}


def _inside(words: Sequence[Timed], start: float, end: float, place: str) -> list[Timed]:
    """The words of a turn; those that are far outside it lose their times.

    Raises:
        PydanticCustomError: all are outside, except for one at 0, which is the same in any unit.
    """
    outside = [
        number
        for number, word in enumerate(words)
        if word.start is not None and not start - OUTSIDE_SECONDS <= word.start <= end + OUTSIDE_SECONDS
    ]
    placed = [word for word in words if word.start is not None]
    if outside and len(placed) > 1 and len(outside) >= sum(word.start != 0 for word in placed):
        at = words[outside[0]].start or 0.0
        problem = f"{at:g} is outside its turn, from {start:g} to {end:g} s"
        seconds_each = ((placed[-1].start or 0.0) - (placed[0].start or 0.0)) / (len(placed) - 1)
        fits = seconds_each > FAR_APART_SECONDS
        raise _misplaced(f"{place}.words.{outside[0]}.start", problem, in_milliseconds=fits)
    return [Timed(word.text, None, None) if number in outside else word for number, word in enumerate(words)]


def _said(places: Sequence[str], problem: str) -> list[str]:
    count = "1 word is" if len(places) == 1 else f"{len(places)} words are"
    return [f"{places[0]}: {count} {problem}"] if places else []


def _overlaps(turns: Sequence[dict[str, Any]]) -> list[str]:
    """Where one label may stand for two people: it is on two turns at once."""
    timed = [turn for turn in turns if _is_time(turn.get("start")) and _is_time(turn.get("end"))]
    until: dict[Any, float] = {}
    for number, turn in enumerate(timed):
        label = str(turn.get("speaker") or turn.get("role"))
        if until.get(label, 0.0) - turn["start"] > OVERLAP_SECONDS:
            return [f"turns.{number}: {label} speaks in two turns at once: one label may stand for two people"]
        until[label] = max(until.get(label, 0.0), turn["end"])
    return []


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < MOST_TIME


def _time(value: Any) -> float | None:
    return float(value) if _is_time(value) else None
