"""The free steps of a conversation: compose the prompt of a turn, record how it ended, close the conversation.

All are local activities: they run in the workflow's own task, and only read and write the database.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio import activity

from activities.boundary import boundary
from activities.configuration import Configurations
from activities.conversation.memory import ConversationMemory
from activities.generate.deciding import GenerateDecisions
from activities.knowledge import KnowledgeSearch
from parley.domain.conversation.context import (
    CONDENSE_ABOVE_TOKENS,
    ContextBudget,
    Material,
    Preferences,
    RunningSummary,
    compose,
    condense_through,
)
from parley.domain.conversation.contract import (
    KNOWLEDGE,
    CloseOutcome,
    CloseStep,
    ComposeOutcome,
    ComposeStep,
    ContextState,
    Ended,
    EndTurnOutcome,
    EndTurnStep,
    TurnOutcome,
    turn_job,
    turn_prompt,
    turn_request_id,
)
from parley.domain.errors import ParleyError
from parley.domain.generate.condensing import CAUTIOUS_BYTES_PER_TOKEN
from parley.domain.generate.contract import DEFAULT_ACTION, Job, PrepareOutcome, Prompt
from parley.domain.generate.policy import Policy
from parley.domain.knowledge import KnowledgePassage, KnowledgeUsed
from parley.domain.requests import Message
from parley.domain.tokens import MESSAGE_TOKENS, count_tokens, is_loaded
from parley.embedder import Vector
from parley.storage import configuration, conversations, generations, memories
from parley.storage.configuration import Glance
from parley.storage.database import Database
from parley.storage.driver import fetch_together
from parley.storage.tables import ConversationTurn, StoredConversation

# A longer text is counted in a thread, so that it delays no other workflow.
COUNTED_AT_ONCE = 10_000


class ConversationSteps:
    """`policy` decides for each action how long a context may be, and whether the knowledge base is searched."""

    def __init__(
        self,
        database: Database,
        policy: Policy,
        memory: ConversationMemory,
        knowledge: KnowledgeSearch,
        decisions: GenerateDecisions,
    ) -> None:
        self._database, self._policy, self._decisions = database, policy, decisions
        self._memory, self._knowledge = memory, knowledge
        self._configurations = Configurations()

    @activity.defn(name="conversation.compose")
    @boundary
    async def compose(self, step: ComposeStep) -> ComposeOutcome:
        """Give the turn its number, compose its prompt, store it, and decide which providers may answer it.

        A turn that ended before is not answered again.
        """
        async with self._database.transaction() as tx:
            conversation, turn = await conversations.start_turn(
                tx, step.workspace_id, step.conversation_id, step.turn_id
            )
        number = turn.number
        assert number is not None  # noqa: S101 - it was started
        if turn.outcome:
            ended = TurnOutcome(turn_id=step.turn_id, number=number, outcome=Ended(turn.outcome))
            return ComposeOutcome(number=number, ended=ended)
        # The conversation is not locked any more: recall may take its time, and other turns are stored meanwhile.
        async with self._database.reads() as tx:
            material = await self._material(tx, step, conversation, turn, through=number - 1)
            messages = compose(material, budget_of(self._policy, _action(turn)))
            prompt = turn_prompt(turn.terms, messages)
            stored = await generations.save_prompt(tx, step.workspace_id, prompt)
        job = turn_job(step, turn.terms, turn.fingerprint, stored)
        prepared = await self._prepared(job, prompt)
        return ComposeOutcome(number=number, job=job, prepared=prepared, context=_state_of(material, messages))

    async def _material(
        self,
        tx: AsyncSession,
        step: ComposeStep,
        conversation: StoredConversation,
        turn: ConversationTurn,
        *,
        through: int,
    ) -> Material:
        """What the prompt is composed of, with the exchanges up to the number `through`.

        A vector of the text is computed while the database is asked for the rest.
        """
        of_user = (step.workspace_id, step.user_id)
        glance, has_memories = await fetch_together(tx, configuration.look(*of_user), memories.exist(*of_user))
        vector = asyncio.create_task(self._vector(turn.text, is_needed=has_memories or self._is_searched(turn)))
        return Material(
            instructions=conversation.instructions,
            preferences=await self._preferences(tx, step, glance),
            summary=summary_of(conversation),
            exchanges=await conversations.exchanges(
                tx,
                step.workspace_id,
                step.conversation_id,
                after=conversation.summarized_through,
                through=through,
            ),
            passages=await self._passages(tx, step, turn, vector),
            memories=await self._memory.recall(tx, *of_user, turn.text, computed=vector) if has_memories else (),
            text=turn.text,
            text_tokens=most_tokens(turn.text),
        )

    async def _vector(self, text: str, *, is_needed: bool) -> Vector | None:
        return await self._memory.vector_of(text) if is_needed else None

    async def _prepared(self, job: Job, prompt: Prompt) -> PrepareOutcome | None:
        """What is decided for the turn's generation, within the same step: a step of its own takes 5 ms more."""
        try:
            return await self._decisions.decide(job, prompt)
        except ParleyError as error:
            if error.retryable:
                raise
            return None

    async def _passages(
        self, tx: AsyncSession, step: ComposeStep, turn: ConversationTurn, vector: Awaitable[Vector | None]
    ) -> tuple[KnowledgePassage, ...] | None:
        """What the knowledge base has on the turn, kept in its row; None: the turn is answered without it."""
        if not self._is_searched(turn):
            return None
        found = await self._knowledge.find(tx, step.workspace_id, turn.text, computed=vector)
        if found is None:  # there is no document, which the model is to know like any other answer that is not there
            return ()
        used = [KnowledgeUsed(document_id=one.document_id, chunk=one.chunk, title=one.title) for one in found]
        await conversations.record_knowledge(tx, step.workspace_id, step.conversation_id, step.turn_id, used)
        return found

    def _is_searched(self, turn: ConversationTurn) -> bool:
        """Whether the knowledge base is searched for the turn."""
        wanted = turn.terms.get(KNOWLEDGE)
        return self._policy.of_action(_action(turn)).knowledge if wanted is None else wanted

    @activity.defn(name="conversation.end_turn")
    @boundary
    async def end_turn(self, step: EndTurnStep) -> EndTurnOutcome:
        """Record how the turn ended, with its answer, and plan the work between turns."""
        where = (step.workspace_id, step.conversation_id)
        known: dict[str, Any] = {
            "outcome": step.outcome.value,
            "reason": step.reason,
            "meta": step.meta.model_dump(mode="json"),
            "context_sha256": step.context_sha256,
        }
        if step.outcome in (Ended.COMPLETED, Ended.CANCELLED):
            known |= await self._answer(step)
        async with self._database.transaction() as tx:
            await conversations.end_turn(tx, *where, step.turn_id, **known)
            return EndTurnOutcome(condense_through=await due(tx, *where, self._policy, step.action))

    async def _answer(self, step: EndTurnStep) -> dict[str, Any]:
        """The answer of a turn, and the tokens that the turn adds to a context."""
        where = (step.workspace_id, step.conversation_id, step.turn_id)
        async with self._database.reads() as tx:
            turn = await conversations.find_turn(tx, *where)
            if turn is None:  # its user was forgotten meanwhile, with the answer
                return {}
            reply = await generations.answer(tx, step.workspace_id, turn_request_id(*where))
        sizes = [await tokens_of(text) for text in (turn.text, reply.text)]
        return {"answer": reply.text, "tokens": sum(sizes) + 2 * MESSAGE_TOKENS}

    @activity.defn(name="conversation.close")
    @boundary
    async def close(self, step: CloseStep) -> CloseOutcome:
        """Close the conversation: it takes no further turn."""
        async with self._database.transaction() as tx:
            await conversations.close(tx, step.workspace_id, step.conversation_id)
        return CloseOutcome()

    async def _preferences(self, tx: AsyncSession, step: ComposeStep, glance: Glance) -> Preferences:
        """What the user has set, without the defaults."""
        loaded = await self._configurations.get(tx, step.workspace_id, step.user_id, glance)
        settings = loaded.configuration.ai_settings
        known = settings.model_fields_set & Preferences.model_fields.keys()
        return Preferences(**{name: getattr(settings, name) for name in known})


async def due(tx: AsyncSession, workspace_id: str, conversation_id: str, policy: Policy, action: str) -> int | None:
    """The number of the last turn that the running summary should cover now; None: the context is short enough."""
    conversation = await conversations.find(tx, workspace_id, conversation_id)
    if conversation is None:
        return None
    since = conversation.summarized_through
    sizes = await conversations.sizes(tx, workspace_id, conversation_id, after=since)
    return condense_through(summary_of(conversation), sizes, budget_of(policy, action))


def summary_of(conversation: StoredConversation) -> RunningSummary:
    """The running summary of a conversation."""
    return RunningSummary(
        text=conversation.summary, through=conversation.summarized_through, tokens=conversation.summary_tokens
    )


def budget_of(policy: Policy, action: str) -> ContextBudget:
    """How long the context of an action's turns may be."""
    return ContextBudget(condense_above=policy.of_action(action).condense_above_tokens or CONDENSE_ABOVE_TOKENS)


def _state_of(material: Material, messages: Sequence[Message]) -> ContextState:
    return ContextState(
        messages=len(messages),
        exchanges=sum(message.role == "assistant" for message in messages),
        memories=len(material.memories),
        summarized_through=material.summary.through,
    )


def _action(turn: ConversationTurn) -> str:
    return turn.terms.get("action", DEFAULT_ACTION)


async def tokens_of(text: str) -> int:
    """The tokens of a text. The first count of a process loads the vocabulary, which takes a third of a second."""
    if is_loaded() and len(text) <= COUNTED_AT_ONCE:
        return count_tokens(text)
    return await asyncio.to_thread(count_tokens, text)


def most_tokens(text: str) -> int:
    """About the most tokens that a text has, without the vocabulary: nothing in front of an answer waits for it."""
    return len(text.encode()) // CAUTIOUS_BYTES_PER_TOKEN
