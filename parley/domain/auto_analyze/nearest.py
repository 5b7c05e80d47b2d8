"""Which known labels a request for labels shows, and of which it shows the evidence.

A model finds a label again more often if it sees what the label means, so the intents that are most alike to the
sessions come with a definition and an example. Where not all labels fit, the most alike ones are shown.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from parley.domain.auto_analyze.batching import (
    BYTES_PER_LABEL_TOKEN,
    evidence_room,
    kind_room,
    left_out,
    tokens_of_labels,
)
from parley.domain.auto_analyze.contract import LabelKind
from parley.domain.auto_analyze.evidence import LabelEvidence
from parley.domain.auto_analyze.likeness import Likeness
from parley.domain.auto_analyze.taxonomy import Allowed

# The evidence of so many labels is shown for each session.
NEAREST = 5
# Labels are found one by one. What requests have in common changes only with so many of them, so that it can be cached.
COMMON_STEP = 16
# Where not all labels fit, those that were found first have this share of the room, and are in each request.
COMMON_SHARE = 0.5

Labels = Mapping[LabelKind, Sequence[str]]


class Fitting(NamedTuple):
    """The known labels that a request has room for, and the evidence of the nearest ones.

    `tokens`: of all of it. `left_out`: how many labels do not fit. `common`: how many of the labels, the first ones,
    other requests have too.
    """

    labels: Labels
    evidence: tuple[LabelEvidence, ...]
    tokens: int
    left_out: int
    common: Mapping[LabelKind, int]


class NearestLabels:
    """The labels that are known to the requests of one round, in the order in which they were found.

    Args:
        known: the labels.
        evidence: of the intents among them.
    """

    def __init__(self, known: Labels, evidence: Sequence[LabelEvidence]) -> None:
        self.known = known
        self._allowed: dict[tuple[LabelKind, ...], Allowed] = {}
        self._sizes = {
            kind: {label: tokens_of_labels({kind: [label]}) + 1 for label in labels} for kind, labels in known.items()
        }
        self._evidence = {one.label: one for one in evidence}
        self._evidence_sizes = {one.label: _tokens(one) for one in evidence}
        texts = {kind: {label: label for label in labels} for kind, labels in known.items()}
        texts[LabelKind.INTENT] |= {one.label: one.text for one in evidence if one.label in texts[LabelKind.INTENT]}
        self._likeness = {kind: Likeness(named) for kind, named in texts.items()}

    def allowed(self, closed: tuple[LabelKind, ...]) -> Allowed:
        """The labels of closed kinds: no other one is added to them, so they are all that are known."""
        if closed not in self._allowed:
            self._allowed[closed] = Allowed({kind: self.known[kind] for kind in closed})
        return self._allowed[closed]

    def fitting(self, said: Sequence[str], sized_for: str) -> Fitting:
        """What a request shows to a model. `said`: what is asked for, one text per session."""
        evidence = self._nearest_evidence(said, evidence_room(sized_for))
        taken = sum(self._evidence_sizes[one.label] for one in evidence)
        rooms = dict.fromkeys(self.known, kind_room(sized_for))
        rooms[LabelKind.INTENT] -= taken
        common = {kind: self._common(kind, kind_room(sized_for)) for kind in self.known}
        labels = {kind: self._fitting(kind, said, room, common[kind]) for kind, room in rooms.items()}
        tokens = tokens_of_labels(labels) + taken
        return Fitting(labels, tuple(evidence), tokens, left_out(self.known, labels), common)

    def _common(self, kind: LabelKind, room: int) -> int:
        """How many labels of a kind, the first ones, each request has, whatever its sessions are."""
        sizes = accumulate(self._sizes[kind][label] for label in self.known[kind])
        fitting = sum(size <= room * COMMON_SHARE for size in sizes)
        return fitting - fitting % COMMON_STEP

    def _nearest_evidence(self, said: Sequence[str], room: int) -> list[LabelEvidence]:
        near = [label for label in self._nearest(LabelKind.INTENT, said, NEAREST) if label in self._evidence]
        sizes = accumulate(self._evidence_sizes[label] for label in near)
        return [self._evidence[label] for label, size in zip(near, sizes, strict=True) if size <= room]

    def _nearest(self, kind: LabelKind, said: Sequence[str], each: int) -> list[str]:
        """The labels that are nearest to the sessions: the nearest one of each, then the second one of each, ..."""
        ranked = [self._likeness[kind].nearest(text, each) for text in said]
        places = range(max(map(len, ranked), default=0))
        return [*dict.fromkeys(found[place][0] for place in places for found in ranked if place < len(found))]

    def _fitting(self, kind: LabelKind, said: Sequence[str], room: int, common: int) -> list[str]:
        """All labels of a kind, or those that requests have in common, the nearest ones, and those that were found
        first; in the order of all."""
        labels, sizes = self.known[kind], self._sizes[kind]
        if sum(sizes.values()) <= room:
            return [*labels]
        ordered = [*dict.fromkeys([*labels[:common], *self._nearest(kind, said, len(labels)), *labels])]
        kept = {
            label
            for label, size in zip(ordered, accumulate(sizes[label] for label in ordered), strict=True)
            if size <= room
        }
        return [label for label in labels if label in kept]


def _tokens(one: LabelEvidence) -> int:
    shown = json.dumps(one.model_dump(mode="json"), ensure_ascii=False)
    return len(shown.encode()) // BYTES_PER_LABEL_TOKEN
