"""Remembers what users say, between the turns of a conversation, and recalls it for a turn.

`remember` is a paid step: extract facts from turns, store them, compute their vectors. `recall` is free.
"""

import hashlib
from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity

from activities.boundary import boundary
from activities.logs import step_logger
from activities.paid_call import PaidCalls
from parley.domain.conversation.extraction import (
    Extraction,
    SourceTurn,
    extraction_request,
    has_topic,
    may_state_facts,
    read_facts,
)
from parley.domain.conversation.memory import (
    MOST_RECALLED,
    Memory,
    RememberOutcome,
    RememberStep,
    changes_of,
    rank,
    subject_of,
)
from parley.embedder import TURN_VECTOR_SECONDS, Embedder, Vector
from parley.storage import conversations, memories
from parley.storage.budgets import Envelope
from parley.storage.database import Database
from parley.storage.ledger import Charge, Settled
from parley.storage.tables import utc_now

# Vectors that are computed after one extraction: its own, and some that could not be computed before.
MOST_EMBEDDED = 100

log = step_logger(__name__)

ReadTurns = Callable[[AsyncSession, str, str, Sequence[str]], Awaitable[Sequence[SourceTurn]]]


async def said_in(
    tx: AsyncSession, workspace_id: str, conversation_id: str, turn_ids: Sequence[str]
) -> Sequence[SourceTurn]:
    """What a user said in turns of a conversation, in their order. A turn that was forgotten is left out."""
    turns = await conversations.said(tx, workspace_id, conversation_id, turn_ids)
    return [SourceTurn(turn_id=turn_id, text=text, at=at) for turn_id, text, at in turns]


class ConversationMemory:
    """What is remembered of users.

    embedder: computes vectors; None: memories are recalled by the words that they have in common with a text.
    """

    def __init__(
        self,
        database: Database,
        paid_calls: PaidCalls,
        embedder: Embedder | None = None,
        *,
        read_turns: ReadTurns = said_in,
    ) -> None:
        self._database, self._paid_calls = database, paid_calls
        self._read_turns, self._embedder = read_turns, embedder

    async def recall(
        self,
        tx: AsyncSession,
        workspace_id: str,
        user_id: str,
        text: str,
        limit: int = MOST_RECALLED,
        *,
        computed: Awaitable[Vector | None] | None = None,
    ) -> tuple[Memory, ...]:
        """The user's valid memories that are most worth their tokens beside `text`, the best first; at most `limit`.

        It costs nothing and does not fail: without a vector of the text, words decide. A courtesy recalls nothing.
        computed: the vector of the text, where its computation has begun.
        """
        if not has_topic(text):
            return ()
        vector = await (computed or self.vector_of(text))
        name = self._embedder.name if self._embedder else ""
        found = await memories.near(tx, workspace_id, user_id, vector, name)
        return rank(text, found, utc_now(), limit)

    @activity.defn(name="conversation.remember")
    @boundary
    async def remember(self, step: RememberStep) -> RememberOutcome:
        """Request the facts of some turns, and store what they change. Repeated, it pays and changes nothing."""
        async with self._database.transaction() as tx:
            turns = await self._turns(tx, step)
        if not turns:
            return RememberOutcome()
        settled = await self._extract(step, turns)
        extraction = read_facts(settled.reply, turns)
        outcome = await self._store(step, settled, extraction)
        await self._embed(step.workspace_id, step.user_id)
        return outcome

    async def _turns(self, tx: AsyncSession, step: RememberStep) -> list[SourceTurn]:
        found = await self._read_turns(tx, step.workspace_id, step.conversation_id, step.turn_ids)
        return [turn for turn in found if may_state_facts(turn.text)]

    async def _extract(self, step: RememberStep, turns: Sequence[SourceTurn]) -> Settled:
        charge = Charge(
            workspace_id=step.workspace_id,
            user_id=step.user_id,
            job_key=step.job_key,
            workflow_id=step.workflow_id,
            request_id=step.request_id,
            action=step.action,
            energy=0,
            envelope=Envelope(cap_usd=None),
        )
        # A turn that was forgotten between two tries does not make it another request.
        fingerprint = hashlib.sha256(step.request_id.encode()).hexdigest()
        candidate = step.candidate
        return await self._paid_calls.make(
            charge, extraction_request(turns), candidate.provider, candidate.model, fingerprint=fingerprint
        )

    async def _store(self, step: RememberStep, settled: Settled, extraction: Extraction) -> RememberOutcome:
        workspace_id, user_id = step.workspace_id, step.user_id
        async with self._database.transaction() as tx:
            await memories.lock(tx, workspace_id, user_id)
            # What the user asked to forget while the reply was made is not brought back.
            still_said = {turn.turn_id for turn in await self._turns(tx, step)}
            facts = [fact for fact in extraction.facts if fact.turn_id in still_said]
            subjects = {subject_of(fact.subject) for fact in facts}
            known = await memories.valid_about(tx, workspace_id, user_id, subjects)
            changes = changes_of(facts, known, conversation_id=step.conversation_id, source=settled.attempt_id)
            added = await memories.apply(tx, workspace_id, user_id, changes, settled.attempt_id)
        return RememberOutcome(
            memories=added,
            ended=len(changes.ended),
            dropped=len(extraction.dropped) + len(extraction.facts) - len(facts),
            problem=extraction.problem,
            cost_usd=settled.cost_usd,
        )

    async def _embed(self, workspace_id: str, user_id: str) -> None:
        """Compute vectors that are missing. Without them the memories are compared by words, so a failure is logged."""
        if self._embedder is None:
            return
        name = self._embedder.name
        async with self._database.transaction() as tx:
            missing = await memories.without_vector(tx, workspace_id, user_id, name, limit=MOST_EMBEDDED)
        try:
            vectors = await self._embedder.vectors([memory.topic for memory in missing])
        except Exception:  # any fault of the model or its runtime
            log.exception("cannot compute vectors: memories are compared by words")
            return
        found = {memory.id: vector for memory, vector in zip(missing, vectors, strict=True)}
        async with self._database.transaction() as tx:
            await memories.store_vectors(tx, workspace_id, user_id, name, found)

    async def vector_of(self, text: str) -> Vector | None:
        """The vector of a text to recall memories for; None where it has no topic, or no vector can be had in time."""
        if self._embedder is None or not has_topic(text):
            return None
        return await self._embedder.vector_within(text, TURN_VECTOR_SECONDS)
