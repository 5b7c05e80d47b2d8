"""Labels sessions as a model would: by what they are about, in words that vary, with some mistakes."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simulator.chats import Said, chat, lines_of, request
from simulator.endings import drop_off_places, transfer_reasons
from simulator.intents import BOOK, session_concepts
from simulator.kinds import KINDS, Meaning
from simulator.phrases import words
from simulator.text import clip
from simulator.wording import Wording, fraction

QUOTED = 60
LINES = 4  # the user's first, one of which is quoted
SUMMARIES = ('The user asked about {label}: "{quote}".', 'It is about {label}; the user wrote "{quote}".')
ENDS = {
    "agent": "A person took over.",
    "dropOff": "The user left before the end.",
    "selfService": "The bot closed it alone.",
}


@dataclass(frozen=True)
class Noise:
    """How reliable labels are, as shares: known labels reused, sessions taken for something else, twins not merged."""

    reuse: float = 0.95
    mistakes: float = 0.03
    unmerged: float = 0.02

    def __post_init__(self) -> None:
        if not all(0 <= share <= 1 for share in (self.reuse, self.mistakes, self.unmerged)):
            raise ValueError(f"label noise is made of shares from 0 to 1: {self}")


class Labeller:
    """One request's labels. A session's depend on its own text, on the known labels and on the seed."""

    def __init__(self, wording: Wording, noise: Noise, known: Mapping[str, Any]) -> None:
        self._wording, self._noise = wording, noise
        self._known = {name: _by_meaning(name, known.get(name)) for name in KINDS}

    def labels(self, session: Mapping[str, Any]) -> dict[str, Any]:
        """The reply on one session."""
        transcript, containment = str(session.get("transcript") or ""), str(session.get("containment"))
        said = chat(transcript)
        concepts = session_concepts(said)
        intent = self._label("intent", concepts, transcript)
        reasons = transfer_reasons(said, concepts[0]) if containment == "agent" else []
        places = drop_off_places(said) if containment == "dropOff" else []
        return {
            "id": session.get("id"),
            "intent": intent,
            "transfer_reason": self._label("transfer_reason", reasons, transcript) if reasons else None,
            "drop_off_location": self._label("drop_off_location", places, transcript) if places else None,
            "summary": self._summary(intent, said, containment, transcript),
        }

    def _label(self, kind: str, meanings: Sequence[Meaning], transcript: str) -> str:
        meaning = self._taken(kind, meanings, transcript)
        known = self._known[kind].get(meaning)
        if known and self._chance("reuse", kind, transcript) < self._noise.reuse:
            return known
        return self._wording.pick(KINDS[kind].paraphrases(meaning), "paraphrase", kind, transcript)

    def _taken(self, kind: str, meanings: Sequence[Meaning], transcript: str) -> Meaning:
        """The likeliest meaning, or now and then another one that the text has as well."""
        others = [meaning for meaning in meanings[1:] if meaning != meanings[0]]
        if others and self._chance("mistake", kind, transcript) < self._noise.mistakes:
            return self._wording.pick(others[:3], "taken for", kind, transcript)
        return meanings[0]

    def _chance(self, *key: object) -> float:
        return fraction(self._wording.seed, *key)

    def _summary(self, intent: str, said: Sequence[Said], containment: str, transcript: str) -> str:
        asked = [text for text in map(request, lines_of("user", said)[:LINES]) if words(text)]
        told = next((text for text in asked if BOOK.find(words(text))), asked[0] if asked else "")
        quote = clip(told, QUOTED).replace('"', "'") or "nothing"
        opening = self._wording.pick(SUMMARIES, "summary", transcript).format(label=intent, quote=quote)
        return f"{opening} {ENDS.get(containment, '')}".strip()


def _by_meaning(kind: str, labels: object) -> dict[Hashable, str]:
    """The known labels by what they mean; of those that mean the same, the first."""
    found: dict[Hashable, str] = {}
    for label in labels if isinstance(labels, list) else ():
        if isinstance(label, str):
            found.setdefault(KINDS[kind].key(label), label)
    return found
