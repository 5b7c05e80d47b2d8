"""From words that were heard, or from a transcript of any origin, to a session: its turns, and who is the user."""

import re
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import Field

from parley.domain.errors import InvalidInput
from parley.domain.languages import language_tag
from parley.domain.model import Model, Name, Text
from parley.domain.requests import SpokenWord
from parley.domain.session import LATE_SECONDS, ONE_SPEAKER, Language, Session
from parley.domain.speaking import parts, written

# A speaker who is silent for so long has ended a turn, if another one speaks meanwhile or afterwards.
TURN_PAUSE_SECONDS = 1.0
# Below this mean, a transcript is doubtful.
DOUBTFUL_CONFIDENCE = 0.5
# Labels that name the side that is coached, as telephone systems and services write them.
USER_LABELS = frozenset({"rep", "agent", "seller", "sales", "salesperson", "sales rep", "advisor", "user", "internal"})
# A recording and its transcript say many things in the same three words, even where every fifth word was misheard.
LEAST_COMMON, FEWEST_COMPARED = 0.1, 20
INTRODUCTION = r"\b(?:this is|my name is|my name's|i am|i'm|it is|it's)\s+"
# It travels with the job, whose payloads are small.
MOST_SCENARIO_CHARACTERS = 500
NOT_COMPARED = "whether the recording and the transcript match was not checked: nothing was recognised in the recording"
NO_SPEECH = "no speech was recognised: it has silence, noise or music only"


class Who(Model):
    """Which speaker is the user, who is coached. Nothing given: see `find_user`.

    channel: the number of the user's channel, from 1.
    speaker: the user's label or name, as the transcript has it, or as the user introduces themself.
    role: the user's role, where labels are roles: `agent`.
    """

    channel: int | None = Field(default=None, ge=1, le=8)
    speaker: Name | None = None
    role: Name | None = None


class Hearing(Model):
    """How a recording or a transcript becomes a session.

    scenario: what it is about. language: a BCP 47 tag; None: as it was heard. who: the user.
    """

    scenario: Annotated[Text, Field(max_length=MOST_SCENARIO_CHARACTERS)] = ""
    language: Language | None = None
    who: Who = Field(default_factory=Who)


class Owner(Model):
    """Whose session it is, and its name."""

    session_id: Name
    user_id: Name
    prospect_id: Name | None = None


class TranscriptWord(Model):
    """A word as a transcript has it, times in seconds; None where it gives none."""

    text: str
    start: float | None
    end: float | None


class Passage(Model):
    """What one speaker says without a pause, times in seconds. `words`: empty where the source has no word times."""

    speaker: str = ""
    start: float
    end: float
    text: str
    words: tuple[TranscriptWord, ...] = ()


class Transcript(Model):
    """A transcript of any origin.

    language: empty where it does not say. seconds: how long the sound is; None where it does not say.
    """

    passages: tuple[Passage, ...]
    language: str = ""
    seconds: float | None = None
    warnings: tuple[str, ...] = ()

    @property
    def speakers(self) -> tuple[str, ...]:
        """The speakers' labels in the order in which they first speak."""
        return tuple(dict.fromkeys(passage.speaker for passage in self.passages))


def channel_label(number: int) -> str:
    """The label of the speaker on a channel, which are counted from 1."""
    return f"channel {number}"


def transcript_of(words: Sequence[SpokenWord], language: str = "") -> Transcript:
    """A transcript of the words that were heard.

    Raises:
        InvalidInput: there are no words.
    """
    spoken = [word for word in words if word.kind == "word" and word.text.strip()]
    if not spoken:
        raise InvalidInput(NO_SPEECH, where="recording")
    passages = [passage for label in _labels(spoken) for passage in _passages(spoken, label)]
    confidence = statistics.fmean(word.confidence for word in spoken)
    doubtful = f"words were recognised with a confidence of {confidence:.0%}: the transcript may be wrong"
    return Transcript(
        passages=tuple(sorted(passages, key=lambda passage: passage.start)),
        language=language,
        warnings=(doubtful,) if confidence < DOUBTFUL_CONFIDENCE else (),
    )


def _labels(words: Iterable[SpokenWord]) -> list[str]:
    return list(dict.fromkeys(word.speaker for word in words))


def _passages(words: Sequence[SpokenWord], speaker: str) -> list[Passage]:
    groups: list[list[SpokenWord]] = []
    for word in sorted((word for word in words if word.speaker == speaker), key=lambda word: word.start):
        if groups and word.start - groups[-1][-1].end < TURN_PAUSE_SECONDS:
            groups[-1].append(word)
        else:
            groups.append([word])
    return [_passage(group, speaker) for group in groups]


def _passage(words: Sequence[SpokenWord], speaker: str) -> Passage:
    text = written(word.text.strip() for word in words)
    end = max(word.end for word in words)
    timed = tuple(TranscriptWord(text=word.text, start=word.start, end=word.end) for word in words)
    return Passage(speaker=speaker, start=words[0].start, end=end, text=text, words=timed)


def session_of(transcript: Transcript, hearing: Hearing, owner: Owner, *, seconds: float | None = None) -> Session:
    """The session of a transcript.

    Args:
        transcript: what was said.
        hearing: what is known of it.
        owner: whose it is.
        seconds: how long the recording is; None: as the transcript says, or else to its last word.

    Raises:
        InvalidInput: there is no speech, or no speaker is the one who was named.
        ValidationError: the transcript's times are not possible.
    """
    passages = [passage for passage in transcript.passages if passage.text.strip()]
    if not passages:
        raise InvalidInput("has no words", where="transcript")
    user, warning = find_user(transcript, hearing.who)
    last = max(passage.end for passage in passages)
    return Session.model_validate(
        {
            **owner.model_dump(),
            "scenario": hearing.scenario,
            "language": hearing.language or language_tag(transcript.language or "en"),
            "duration_seconds": seconds or transcript.seconds or max(last, 0.001),
            "turns": [_turn(passage, user) for passage in sorted(passages, key=lambda passage: passage.start)],
            "warnings": [*transcript.warnings, *([warning] if warning else [])],
        }
    )


def _turn(passage: Passage, user: str) -> dict[str, object]:
    return {
        "role": "rep" if passage.speaker == user else "prospect",
        "start": passage.start,
        "end": max(passage.end, passage.start),
        "text": passage.text,
        "words": [{"text": word.text, "start": word.start, "end": word.end} for word in passage.words],
        "speaker": passage.speaker[:200],
    }


def find_user(transcript: Transcript, who: Who) -> tuple[str, str]:
    """The label of the user, and a warning where it is a guess.

    A channel, a name or a role that was given decides. Without one it is the speaker whose label is a role such as
    `agent`; or else the one on channel 1; or else the one who says most, which is said in the warning.

    Raises:
        InvalidInput: no speaker is the one who was named.
    """
    labels = transcript.speakers
    channel = channel_label(who.channel) if who.channel else None
    named = [(who.role, "role"), (who.speaker, "speaker"), (channel, "channel")]
    for name, option in named:
        if name:
            return _named(transcript, name, option), ""
    if len(labels) == 1:
        return labels[0], ONE_SPEAKER
    known = [label for label in labels if label.casefold() in USER_LABELS]
    if len(known) == 1:
        return known[0], ""
    if channel_label(1) in labels:
        return channel_label(1), "channel 1 is taken for the user: correct it with the user's channel"
    said = {label: sum(len(one.text) for one in transcript.passages if one.speaker == label) for label in labels}
    most = max(labels, key=lambda label: said[label])
    others = ", ".join(label for label in labels if label != most)
    return most, f"{most}, who says most, is taken for the user; other speakers: {others}; correct it by naming one"


def mismatch(heard: Sequence[SpokenWord], session: Session) -> str:
    """Why a recording seems to be of another session than the transcript; empty if it seems to be of this one."""
    said, written = _triples(word.text for word in heard), _triples(turn.text for turn in session.turns)
    fewer = min(said.total(), written.total())
    share = (said & written).total() / fewer if fewer >= FEWEST_COMPARED else 1.0
    if share >= LEAST_COMMON:
        return ""
    return f"the recording and the transcript do not match: {share:.0%} of what is said is in both"


def beyond_recording(session: Session, seconds: float) -> str:
    """Why a recording of so many seconds seems to be of another session; empty where all turns are within it."""
    end = max(turn.end for turn in session.turns)
    if end <= seconds + LATE_SECONDS:
        return ""
    return (
        f"the last turn ends at {end:g} s, {end - seconds:.1f} s after the recording, which has {seconds:g} s:"
        " it may be cut short, or be of another session"
    )


def _triples(texts: Iterable[str]) -> Counter[tuple[str, ...]]:
    """Each three words, or letters of scripts without blanks, in a row: most pairs are in every talk."""
    words = [word for text in texts for word in parts(text.casefold())]
    return Counter(zip(words, words[1:], words[2:], strict=False))


def _named(transcript: Transcript, name: str, option: str) -> str:
    labels = transcript.speakers
    wanted = _plain(name)
    for label in labels:
        if _plain(label) == wanted:
            return label
    # "This is Bo's office" does not introduce Bo.
    introduced = re.compile(INTRODUCTION + re.escape(name) + r"\b(?!['’])", re.IGNORECASE)
    for passage in transcript.passages if option == "speaker" else ():
        if introduced.search(passage.text):
            return passage.speaker
    listed = ", ".join(label or "(no label)" for label in labels)
    raise InvalidInput(f"{name!r} is not a speaker of it: {listed}", where=f"user {option}")


def _plain(label: str) -> str:
    """A label without what writers add: `Speaker_1`, `SPEAKER 01` and `speaker 1` are the same; so are `B` and `b`."""
    words = re.findall(r"[^\W\d_]+|\d+", label.casefold())
    return " ".join(word.lstrip("0") or "0" if word.isdigit() else word for word in words)
