"""Finds an analysis that a user has had before, whose coaching can be used again: of the same content, or similar.

Only analyses of the same user are searched: the coaching quotes what a user said.
"""

import asyncio
from collections.abc import Collection, Sequence
from typing import NamedTuple

from parley.domain.coaching.contract import Coaching
from parley.domain.coaching.similar import LEAST_COSINE, adapted, least_cosine, passages, text_similarity
from parley.domain.session import Session
from parley.domain.session_analysis import Provenance, Reused, Step
from parley.embedder import Embedder, Vector
from parley.storage import analyses
from parley.storage.analyses import Earlier
from parley.storage.database import Database
from parley.storage.tables import StoredAnalysis

# How many of the user's newest sessions of about the same length are compared.
MOST_COMPARED = 20
# Without vectors within this time there is no hit: the analysis takes the cheap path.
VECTOR_SECONDS = 5.0


class FoundAnalysis(NamedTuple):
    """An analysis to use again. `coaching`: of a similar session, with the moments of this one; else None."""

    reused: Reused
    coaching: Coaching | None = None
    provenance: tuple[Provenance, ...] = ()


class EarlierAnalyses:
    """The earlier analyses of users. `embedder`: computes vectors; None: only the same content is found."""

    def __init__(self, database: Database, embedder: Embedder | None) -> None:
        self._database, self._embedder = database, embedder

    async def find(self, row: StoredAnalysis, session: Session, real: Collection[Step]) -> FoundAnalysis | None:
        """The analysis of the same content, or else of a similar session. `row`: of the job that searches.

        `real`: steps that a vendor answers now: an analysis in which the simulator did is not used.
        """
        async with self._database.reads() as tx:
            same = await analyses.latest_of(tx, row.workspace_id, row, real)
            if same is not None:
                return FoundAnalysis(Reused(kind="exact", job_key=same.job_key, session_id=same.session_id))
            seconds = session.duration_seconds
            earlier = []
            if self._embedder:
                earlier = await analyses.of_about(tx, row.workspace_id, row, seconds, real, limit=MOST_COMPARED)
        for one in earlier:
            found = await self._compared(row, session, one)
            if found:
                return found
        return None

    async def _compared(self, row: StoredAnalysis, session: Session, earlier: Earlier) -> FoundAnalysis | None:
        coaching = Coaching.model_validate(earlier.coaching)
        if coaching.knows_voice and earlier.recording_sha256 != row.recording_sha256:
            return None  # it may judge how another recording sounds
        other = Session.model_validate(earlier.session)
        similarity = await asyncio.to_thread(text_similarity, session, other)
        ours = adapted(coaching, session) if similarity else None
        cosine = await self._cosine(passages(session), passages(other)) if ours else None
        if similarity is None or cosine is None or cosine < LEAST_COSINE:
            return None
        reused = Reused(
            kind="similar",
            job_key=earlier.job_key,
            session_id=other.session_id,
            similarity=similarity,
            cosine=round(cosine, 4),
        )
        sources = map(Provenance.model_validate, earlier.provenance)
        return FoundAnalysis(reused, ours, tuple(one for one in sources if one.step is Step.COACHING))

    async def _cosine(self, one: Sequence[str], other: Sequence[str]) -> float | None:
        """The cosine of the passages that differ most; None: there are no vectors. Equal passages need none."""
        differing = [pair for pair in zip(one, other, strict=True) if pair[0] != pair[1]]
        if not differing:
            return 1.0 if one else None
        vectors = [await self._vector(text) for pair in differing for text in pair]
        known = [vector for vector in vectors if vector is not None]
        return least_cosine(known[::2], known[1::2]) if len(known) == len(vectors) else None

    async def _vector(self, text: str) -> Vector | None:
        return await self._embedder.vector_within(text, VECTOR_SECONDS) if self._embedder else None
