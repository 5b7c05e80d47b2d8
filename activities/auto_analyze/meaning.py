"""How near labels and sessions are by meaning, where this worker computes vectors of texts: see `Parts.embedder`.

A worker that computes none compares words, as all do with texts of a language that the model does not know. The workers
of a run should be alike in this: they share its requests, and one that is repeated elsewhere would look at other
sessions.
"""

import asyncio
from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from math import hypot
from operator import mul

from activities.logs import step_logger
from parley.domain.auto_analyze.evidence import LabelEvidence
from parley.domain.auto_analyze.merging import LabelMeaning
from parley.domain.auto_analyze.reassigning import Doubt, by_meaning
from parley.embedder import Embedder, Vector
from parley.embedder.index import VectorIndex

# Other texts of the process wait for so many at most.
TEXTS_AT_ONCE = 16

log = step_logger(__name__)


class Meaning:
    """Computes vectors of texts. `embedder`: None: this worker computes none."""

    def __init__(self, embedder: Embedder | None = None) -> None:
        self._embedder = embedder

    async def of_labels(self, labels: Iterable[LabelEvidence]) -> dict[str, LabelMeaning]:
        """What labels mean by their examples, without labels that have less than two in a language that is known.

        So examples in different languages are not compared: their vectors are not alike, whatever they mean.
        """
        known = await self.of_examples(labels)
        several = {label: [*examples.values()] for label, examples in known.items() if len(examples) > 1}
        return {label: LabelMeaning(mean(vectors), _coherence(vectors)) for label, vectors in several.items()}

    async def of_examples(self, labels: Iterable[LabelEvidence]) -> dict[str, dict[str, Vector]]:
        """The vectors of each label's examples, without labels that have none; empty where none can be computed."""
        shown = {one.label: one.examples for one in labels}
        vectors = await self.of_texts(example for examples in shown.values() for example in examples)
        found = {
            label: {text: vectors[text] for text in examples if text in vectors} for label, examples in shown.items()
        }
        return {label: examples for label, examples in found.items() if examples}

    async def of_texts(self, texts: Iterable[str]) -> dict[str, Vector]:
        """The vector of each text in a language that the model knows; empty where none can be computed."""
        found: dict[str, Vector] = {}
        if self._embedder is None:
            return found
        known = await asyncio.to_thread(self._known, self._embedder, [*dict.fromkeys(texts)])
        try:
            for start in range(0, len(known), TEXTS_AT_ONCE):
                some = known[start : start + TEXTS_AT_ONCE]
                found |= zip(some, await self._embedder.vectors(some), strict=True)
        except Exception:  # any fault of the model or its runtime
            log.exception("cannot compute vectors: words are compared")
            return {}
        return found

    @staticmethod
    def _known(embedder: Embedder, texts: Sequence[str]) -> list[str]:
        return [text for text in texts if embedder.knows(text)]


WORDS_ALONE = Meaning()


class LabelVectors:
    """The labels that sessions choose from, by the vectors of their examples.

    Args:
        meaning: computes the vectors of sessions.
        examples: the vectors of each label's examples, by text.
    """

    def __init__(self, meaning: Meaning, examples: Mapping[str, Mapping[str, Vector]]) -> None:
        self._meaning = meaning
        # They are kept as long as the run is known. A list of numbers takes eight times as much.
        self._examples = {
            label: {text: array("f", vector) for text, vector in own.items()} for label, own in examples.items()
        }
        self._index = VectorIndex({label: mean([*own.values()]) for label, own in examples.items()})

    async def doubts(self, doubts: Mapping[int, Doubt]) -> dict[int, Doubt]:
        """Of doubts by words, by ordinal, those that the meaning does not remove."""
        vectors = await self._meaning.of_texts(doubt.said for doubt in doubts.values())
        return await asyncio.to_thread(self._left, doubts, vectors)

    def _left(self, doubts: Mapping[int, Doubt], vectors: Mapping[str, Vector]) -> dict[int, Doubt]:
        found = {
            ordinal: by_meaning(doubt, self._likeness(doubt, vectors[doubt.said])) if doubt.said in vectors else doubt
            for ordinal, doubt in doubts.items()
        }
        return {ordinal: doubt for ordinal, doubt in found.items() if doubt is not None}

    def _likeness(self, doubt: Doubt, vector: Vector) -> dict[str, float]:
        """How near each label is to what the user of a session said; its own one without what it said itself."""
        near = self._index.likeness(vector)
        near.pop(doubt.label, None)
        others = [own for text, own in self._examples.get(doubt.label, {}).items() if text != doubt.said]
        if others:
            own = mean(others)
            near[doubt.label] = sum(map(mul, own, vector)) / hypot(*own)
        return near


def _coherence(vectors: Sequence[Vector]) -> float:
    """The mean likeness of two of some vectors."""
    pairs = [*combinations(vectors, 2)]
    return sum(sum(map(mul, one, other)) for one, other in pairs) / len(pairs)


def mean(vectors: Sequence[Sequence[float]]) -> Vector:
    """The mean of some vectors."""
    return [sum(values) / len(vectors) for values in zip(*vectors, strict=True)]
