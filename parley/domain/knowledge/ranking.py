"""Which passages are found for a text: two rankings, by words and by vectors, become one.

Reciprocal rank fusion adds 1 / (60 + place) of each ranking: it needs no common scale of their scores. A passage is
only found if one ranking says that it is about the text: passages that have nothing to do with it are not.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

FUSION = 60
# The cosine of MiniLM from which a passage is about a text, and the share of the text's words, by their weight.
LEAST_SIMILARITY, LEAST_COVERAGE = 0.3, 0.5
# Scripts without spaces between words. PostgreSQL's parser would take a sentence for one word.
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"
)
MOST_ASKED_CHARACTERS = 2000

ChunkKey = tuple[UUID, int]


class WordHit(NamedTuple):
    """A passage with words of a text. `coverage`: the share of the text's words that it has, by their weight."""

    key: ChunkKey
    coverage: float


def searchable(text: str) -> str:
    """A text whose words PostgreSQL can tell apart: of a script without spaces, each two characters are a word."""
    return UNSPACED.sub(_pairs, unicodedata.normalize("NFKC", text))


def asked_text(text: str) -> str:
    """What is searched for: the end of a long text has its question."""
    return searchable(text[-MOST_ASKED_CHARACTERS:])


def fused(
    by_words: Sequence[WordHit], by_vectors: Mapping[ChunkKey, float], limit: int
) -> list[tuple[ChunkKey, float]]:
    """The passages that were found, the best first, each with its score.

    Args:
        by_words: the best first.
        by_vectors: the cosine of each passage, the nearest first.
        limit: the most passages.
    """
    coverage = {hit.key: hit.coverage for hit in by_words}
    scores: dict[ChunkKey, float] = {}
    for ranking in (list(coverage), list(by_vectors)):
        for place, key in enumerate(ranking, 1):
            scores[key] = scores.get(key, 0.0) + 1 / (FUSION + place)
    found = [
        key for key in scores if coverage.get(key, 0) >= LEAST_COVERAGE or by_vectors.get(key, 0) >= LEAST_SIMILARITY
    ]
    found.sort(key=lambda key: (-scores[key], key))
    return [(key, scores[key]) for key in found[:limit]]


def _pairs(found: re.Match[str]) -> str:
    run = found.group()
    pairs = [run[at : at + 2] for at in range(len(run) - 1)] or [run]
    return f" {' '.join(pairs)} "
