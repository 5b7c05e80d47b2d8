"""The kinds of label: how one of each kind is known by its words, and how else its meaning can be said."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

from simulator.endings import PLACE_NAMES, PLACES, REASON_NAMES, REASONS, named
from simulator.intents import Concept, label_concept
from simulator.lexicon import OTHERS, TOPICS

Meaning = Concept | str


@dataclass(frozen=True)
class Kind:
    """`meaning` of a label, None where nothing is known of it; `paraphrases` of a meaning."""

    name: str
    meaning: Callable[[str], Meaning | None]
    paraphrases: Callable[[Meaning], tuple[str, ...]]

    def key(self, label: str) -> Hashable:
        """Equal for labels that mean the same."""
        return self.meaning(label) or label_concept(label)


def _intent(label: str) -> Meaning | None:
    concept = label_concept(label)
    return concept if concept.topic in TOPICS or concept.topic in OTHERS else None


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("intent", _intent, lambda meaning: meaning.paraphrases() if isinstance(meaning, Concept) else ()),
        Kind("transfer_reason", lambda label: named(label, REASON_NAMES), lambda name: REASONS[str(name)].labels),
        Kind("drop_off_location", lambda label: named(label, PLACE_NAMES), lambda name: PLACES[str(name)].labels),
    )
}
