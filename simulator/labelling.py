"""Labels sessions and groups labels as a model does: by meaning, in varying words, with a given rate of errors."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simulator.chats import parse_chat, texts_of, without_injections
from simulator.endings import (
    PLACE_NAMES,
    PLACES,
    REASON_NAMES,
    REASONS,
    drop_off_places,
    ending_of_label,
    transfer_reasons,
)
from simulator.intents import BOOK, Concept, label_concept, session_concepts
from simulator.lexicon import OTHERS, TOPICS
from simulator.phrases import words
from simulator.seeded import SeededChoice, fraction
from simulator.text import clip
from simulator.wire import Message

Meaning = Concept | str
OTHER = "other"
QUOTE_LENGTH = 60
EVIDENCE_WORDS = 12  # of a quote that shows a label
WORDS_BEFORE_CUE = 3
QUOTABLE_LINES = 4  # the first lines of the user, one of which the summary quotes
SUMMARIES = ('The user asked about {label}: "{quote}".', 'It is about {label}; the user wrote "{quote}".')
ENDS = {
    "agent": "A person took over.",
    "dropOff": "The user left before the end.",
    "selfService": "The bot closed it alone.",
}


@dataclass(frozen=True)
class Noise:
    """How unreliable the labels are, as shares from 0 to 1.

    Attributes:
        reuse: known labels that are used again, among those that fit.
        mistakes: sessions that get a less likely meaning of their text.
        unmerged: labels that are not grouped with others of the same meaning.

    Raises:
        ValueError: a share is not from 0 to 1.
    """

    reuse: float = 0.95
    mistakes: float = 0.03
    unmerged: float = 0.02

    def __post_init__(self) -> None:
        if not all(0 <= share <= 1 for share in (self.reuse, self.mistakes, self.unmerged)):
            raise ValueError(f"label noise: shares must be from 0 to 1, got {self}")


@dataclass(frozen=True)
class LabelKind:
    """A kind of label. `meaning` of a label is None if unknown; `paraphrases` are the labels with that meaning."""

    name: str
    meaning: Callable[[str], Meaning | None]
    paraphrases: Callable[[Meaning], tuple[str, ...]]

    def key(self, label: str) -> Hashable:
        """Return a value that is equal for labels with the same meaning."""
        return self.meaning(label) or label_concept(label)


def _intent(label: str) -> Meaning | None:
    concept = label_concept(label)
    return concept if concept.topic in TOPICS or concept.topic in OTHERS else None


KINDS: Mapping[str, LabelKind] = {
    kind.name: kind
    for kind in (
        LabelKind("intent", _intent, lambda meaning: meaning.paraphrases() if isinstance(meaning, Concept) else ()),
        LabelKind(
            "transfer_reason",
            lambda label: ending_of_label(label, REASON_NAMES),
            lambda name: REASONS[str(name)].labels,
        ),
        LabelKind(
            "drop_off_location",
            lambda label: ending_of_label(label, PLACE_NAMES),
            lambda name: PLACES[str(name)].labels,
        ),
    )
}


class Labeller:
    """Labels the sessions of one request. The labels of a session depend on its text, the known labels and the seed.

    Where a kind of label is closed, a session whose meaning has no known label gets `OTHER`.
    """

    def __init__(
        self, choice: SeededChoice, noise: Noise, known: Mapping[str, Any], closed: Sequence[object] = ()
    ) -> None:
        self._choice, self._noise, self._closed = choice, noise, closed
        self._known = {name: _by_meaning(kind, known.get(name)) for name, kind in KINDS.items()}

    def labels(self, session: Mapping[str, Any]) -> dict[str, Any]:
        """Return the item of the reply for one session."""
        transcript, containment = str(session.get("transcript") or ""), str(session.get("containment"))
        messages = parse_chat(transcript)
        concepts = session_concepts(messages)
        intent = self._label("intent", concepts, transcript)
        reasons = transfer_reasons(messages, concepts[0]) if containment == "agent" else []
        places = drop_off_places(messages) if containment == "dropOff" else []
        return {
            "id": session.get("id"),
            "intent": intent,
            "transfer_reason": self._label("transfer_reason", reasons, transcript) if reasons else None,
            "drop_off_location": self._label("drop_off_location", places, transcript) if places else None,
            "summary": self._summary(intent, messages, containment, transcript),
            "intent_quote": intent_quote(messages),
            "ending_quote": ending_quote(messages, containment),
        }

    def _label(self, kind: str, meanings: Sequence[Meaning], transcript: str) -> str:
        meaning = self._meaning(kind, meanings, transcript)
        known = self._known[kind].get(meaning) or (OTHER if kind in self._closed else None)
        if known and self._fraction("reuse", kind, transcript) < self._noise.reuse:
            return known
        return self._choice.pick(KINDS[kind].paraphrases(meaning), "paraphrase", kind, transcript)

    def _meaning(self, kind: str, meanings: Sequence[Meaning], transcript: str) -> Meaning:
        """Return the likeliest meaning or, at the rate of mistakes, another meaning of the same text."""
        others = [meaning for meaning in meanings[1:] if meaning != meanings[0]]
        if others and self._fraction("mistake", kind, transcript) < self._noise.mistakes:
            return self._choice.pick(others[:3], "taken for", kind, transcript)
        return meanings[0]

    def _fraction(self, *key: object) -> float:
        return fraction(self._choice.seed, *key)

    def _summary(self, intent: str, messages: Sequence[Message], containment: str, transcript: str) -> str:
        quote = clip(quotable_line(messages), QUOTE_LENGTH).replace('"', "'") or "nothing"
        opening = self._choice.pick(SUMMARIES, "summary", transcript).format(label=intent, quote=quote)
        return f"{opening} {ENDS.get(containment, '')}".strip()


def quotable_line(messages: Sequence[Message]) -> str:
    """Return the first line of the user that has a cue of the lexicon, or else the first one; empty without any."""
    lines = map(without_injections, texts_of("user", messages)[:QUOTABLE_LINES])
    quotable = [text for text in lines if words(text)]
    with_cue = (text for text in quotable if BOOK.find(words(text)))
    return next(with_cue, quotable[0] if quotable else "")


def intent_quote(messages: Sequence[Message]) -> str | None:
    """Return the words around the first cue of the user, as they were written."""
    line = quotable_line(messages)
    hits = BOOK.find(words(line))
    return _quoted(line, hits[0].start if hits else 0)


def ending_quote(messages: Sequence[Message], containment: str) -> str | None:
    """Return what the user said last before a person took over, or what was said last before the user left."""
    if containment == "agent":
        before = next((place for place, one in enumerate(messages) if one.role == "agent"), len(messages))
        lines = texts_of("user", messages[:before]) or texts_of("user", messages)
    else:
        lines = [message.text for message in messages] if containment == "dropOff" else []
    return _quoted(lines[-1], 0) if lines else None


def _quoted(line: str, cue: int) -> str | None:
    start = max(cue - WORDS_BEFORE_CUE, 0)
    return " ".join(line.split()[start : start + EVIDENCE_WORDS]) or None


class Chooser:
    """Chooses intents among those of a request. A session keeps one that has its meaning, or if none of them has it."""

    def __init__(self, choice: SeededChoice, noise: Noise, labels: Sequence[object]) -> None:
        self._seed, self._noise = choice.seed, noise
        self._labels = _by_meaning(KINDS["intent"], [*labels])

    def better(self, session: Mapping[str, Any]) -> dict[str, Any]:
        """Return the item of the reply for one session."""
        said, label = str(session.get("said") or ""), str(session.get("label"))
        meaning = session_concepts([Message("user", said)])[0]
        fitting = self._labels.get(meaning)
        is_missed = fraction(self._seed, "reuse", "intent", said) >= self._noise.reuse
        keeps = fitting is None or is_missed or KINDS["intent"].key(label) == meaning
        return {"id": session.get("id"), "label": label if keeps else fitting}


def _by_meaning(kind: LabelKind, labels: object) -> dict[Hashable, str]:
    """Index the known labels by meaning. The first of several labels with the same meaning counts."""
    found: dict[Hashable, str] = {}
    for label in labels if isinstance(labels, list) else ():
        if isinstance(label, str):
            found.setdefault(kind.key(label), label)
    return found


def group_labels(labels: Sequence[str], system: str, seed: int, unmerged: float) -> list[dict[str, Any]]:
    """Put every label in exactly one group of the same meaning, named by its shortest member.

    A share of `unmerged` labels gets a group of one. `system` is the prompt that names the kind of label.
    """
    kind = _kind_of(labels, system)
    whole = fraction(seed, *labels)
    found: dict[Hashable, list[str]] = {}
    for label in dict.fromkeys(labels):
        is_alone = fraction(seed, "unmerged", label, whole) < unmerged
        found.setdefault((label, "alone") if is_alone else kind.key(label), []).append(label)
    return [{"canonical": min(members, key=len), "members": members} for members in found.values()]


def _kind_of(labels: Sequence[str], system: str) -> LabelKind:
    """Return the kind of label that the prompt names, or else the kind that knows most of the labels."""
    named = [kind for kind in KINDS.values() if kind.name.replace("_", " ") in system.replace("_", " ")]
    if len(named) == 1:
        return named[0]
    return max(KINDS.values(), key=lambda kind: sum(kind.meaning(label) is not None for label in labels))
