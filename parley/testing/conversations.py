"""Conversations and memories in memory, for `FakeClient`: the answers are scripted, the rest is kept as it is said."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Unpack
from uuid import UUID, uuid4

from pydantic import ValidationError

from parley.client.conversation import ConversationHandle
from parley.client.generate import TurnOptions, generate_input
from parley.client.memory import UserMemory
from parley.client.reading import first_problem
from parley.client.streaming import GenerateStream, OnDisconnect
from parley.domain.configuration import AISettings, parse_section
from parley.domain.conversation.contract import (
    PREFERENCES,
    ConversationCost,
    ConversationExport,
    ConversationState,
    Ended,
    NewTurn,
    TurnReport,
    TurnResult,
    WhenBusy,
    outcome_of,
    sentence_for,
    turn_job_id,
)
from parley.domain.conversation.memory import Memory, checked_value
from parley.domain.errors import ConversationClosed, IdempotencyConflict, MemoryChanged, NotFound
from parley.domain.generate.contract import DEFAULT_ACTION, GenerateInput, GenerateResult
from parley.domain.requests import Message
from parley.domain.streaming import StreamTarget
from parley.streams.hub import ProcessReceiver, StreamHub

Answer = Callable[[GenerateInput], Awaitable[GenerateResult]]


class FakeMemory(UserMemory):
    """The memories of users, which a test adds with `add`."""

    def __init__(self) -> None:
        self._of: dict[str, list[Memory]] = {}

    def add(self, user_id: str, predicate: str, value: str, *, subject: str = "user") -> Memory:
        """Let a user be remembered for a fact, for example `lives_in`, `Oslo`."""
        memory = Memory(
            id=uuid4(),
            subject=subject,
            predicate=predicate,
            value=checked_value(value),
            confidence=1,
            importance=0.5,
            valid_from=datetime.now(UTC),
        )
        self._of.setdefault(user_id, []).insert(0, memory)
        return memory

    async def show(self, user_id: str, *, with_ended: bool = False) -> list[Memory]:
        """The user's memories, the newest first."""
        return [one for one in self._of.get(user_id, []) if with_ended or one.valid_until is None]

    async def correct(self, user_id: str, memory_id: UUID, value: str) -> Memory:
        """Replace the value of a memory.

        Raises:
            InvalidInput: the value is blank, too long, or not text that can be stored.
            MemoryChanged: the memory is not valid any more.
            NotFound: the user has no such memory.
        """
        checked, old = checked_value(value), self._find(user_id, memory_id)
        if old.valid_until is not None:
            raise MemoryChanged(f"memory {memory_id} is not valid any more: show the memories again")
        mine = self._of[user_id]
        mine[mine.index(old)] = old.model_copy(update={"valid_until": datetime.now(UTC)})
        return self.add(user_id, old.predicate, checked, subject=old.subject)

    async def forget(self, user_id: str, memory_id: UUID | None = None) -> int:
        """Remove one memory, or all of a user; returns how many.

        Raises:
            NotFound: the user has no memory `memory_id`.
        """
        mine = self._of.get(user_id, [])
        gone = [*mine] if memory_id is None else [self._find(user_id, memory_id)]
        self._of[user_id] = [one for one in mine if one not in gone]
        return len(gone)

    def _find(self, user_id: str, memory_id: UUID) -> Memory:
        for memory in self._of.get(user_id, []):
            if memory.id == memory_id:
                return memory
        raise NotFound(f"user {user_id!r} has no memory {memory_id}")


class _Conversation:
    """What is kept of a conversation."""

    def __init__(self, user_id: str) -> None:
        self.user_id, self.created_at = user_id, datetime.now(UTC)
        self.closed_at: datetime | None = None
        self.turns: dict[str, tuple[NewTurn, TurnResult, TurnReport]] = {}
        self.context: tuple[Message, ...] = ()


class FakeConversations:
    """The conversations of a `FakeClient`. `answer`: gives the scripted answer to a turn."""

    def __init__(self, workspace_id: str, answer: Answer, memory: FakeMemory) -> None:
        self.workspace_id, self.answer, self.memory = workspace_id, answer, memory
        self.known: dict[str, _Conversation] = {}
        self.preferences: dict[str, dict[str, Any]] = {}

    def find(self, conversation_id: str) -> _Conversation:
        """One that had a turn.

        Raises:
            NotFound: there is none.
        """
        if conversation_id not in self.known:
            raise NotFound(f"there is no conversation {conversation_id!r}")
        return self.known[conversation_id]


class FakeConversationHandle(ConversationHandle):
    """A conversation in memory. Its context is all that was said, without condensing, and what is remembered."""

    def __init__(self, kept: FakeConversations, conversation_id: str, user_id: str) -> None:
        self._kept, self.id, self.user_id = kept, conversation_id, user_id

    async def say(
        self,
        text: str,
        *,
        turn_id: str | None = None,
        when_busy: WhenBusy = "wait",  # noqa: ARG002 - the signature of `ConversationHandle`
        knowledge: bool | None = None,  # noqa: ARG002 - there is no knowledge base
        action: str = DEFAULT_ACTION,
        **options: Unpack[TurnOptions],
    ) -> TurnResult:
        """The next scripted answer; for a turn that was sent before, the answer that it had.

        Raises:
            AssertionError: no answer is scripted for this turn.
            InvalidInput, IdempotencyConflict, ConversationClosed: as `ConversationHandle.say`.
        """
        turn, asked = self._asked(text, turn_id, action, options)
        kept = self._kept.known.get(self.id) or _Conversation(self.user_id)
        if kept.user_id != self.user_id:
            raise NotFound(f"user {self.user_id!r} has no conversation {self.id!r}")
        before, result, _ = kept.turns.get(turn.turn_id, (turn, None, None))
        if before.fingerprint != turn.fingerprint:
            raise IdempotencyConflict(f"turn {turn.turn_id!r} was already used for a different text: use another id")
        if result is not None:
            return result
        if kept.closed_at is not None:
            raise ConversationClosed(f"conversation {self.id!r} is closed: begin another one")
        messages = (*self._said(kept), *await self._remembered(), *asked.prompt.messages)
        answered = await self._kept.answer(
            asked.model_copy(update={"prompt": asked.prompt.model_copy(update={"messages": messages})})
        )
        self._kept.known[self.id], kept.context = kept, messages
        result = _turn_result(answered, turn.turn_id, len(kept.turns) + 1)
        kept.turns[turn.turn_id] = (turn, result, _report(turn, result))
        return result

    def stream(
        self,
        text: str,
        *,
        turn_id: str | None = None,
        when_busy: WhenBusy = "wait",
        on_disconnect: OnDisconnect = "finish",
        offset: int | None = 0,
        knowledge: bool | None = None,
        action: str = DEFAULT_ACTION,
        **options: Unpack[TurnOptions],
    ) -> GenerateStream:
        """The next scripted answer, as one delta; see `say`."""
        turn, _ = self._asked(text, turn_id, action, options)

        async def run(_: StreamTarget) -> TurnResult:
            return await self.say(
                text, turn_id=turn.turn_id, when_busy=when_busy, knowledge=knowledge, action=action, **options
            )

        return self._stream(turn.turn_id, run, on_disconnect=on_disconnect, offset=offset)

    def follow(self, turn_id: str, *, offset: int | None = 0) -> GenerateStream:
        """The answer to a turn that was sent, as one delta."""

        async def run(_: StreamTarget) -> TurnResult:
            turns = self._mine().turns
            if turn_id not in turns:
                raise NotFound(f"conversation {self.id!r} has no turn {turn_id!r}")
            return turns[turn_id][1]

        return self._stream(turn_id, run, offset=offset)

    async def state(self) -> ConversationState:
        """Where the conversation is."""
        kept = self._mine()
        results = [result for _, result, _ in kept.turns.values()]
        return ConversationState(
            status="open" if kept.closed_at is None else "closed",
            turns=len(results),
            tokens=sum(result.meta.usage.total_tokens for result in results),
            cost_usd=(await self.cost()).total_usd,
        )

    async def cost(self) -> ConversationCost:
        """What the scripted answers say that they cost."""
        metas = [result.meta for _, result, _ in self._mine().turns.values()]
        return ConversationCost(
            answers_usd=sum((meta.cost_usd for meta in metas), Decimal(0)),
            saved_usd=sum((meta.saved_usd for meta in metas), Decimal(0)),
            prompt_cache_saved_usd=sum((meta.prompt_cache_saved_usd for meta in metas), Decimal(0)),
        )

    async def context(self) -> tuple[Message, ...]:
        """The messages of the last turn."""
        return self._mine().context

    async def history(self, *, after: int = 0, limit: int = 50) -> tuple[TurnReport, ...]:
        """The turns in their order."""
        return tuple(report for _, _, report in self._mine().turns.values())[after : after + limit]

    async def export(self) -> ConversationExport:
        """Everything that is kept of the conversation."""
        kept = self._mine()
        return ConversationExport(
            conversation_id=self.id,
            user_id=self.user_id,
            status=(await self.state()).status,
            created_at=kept.created_at,
            closed_at=kept.closed_at,
            summary="",
            summarized_through=0,
            turns=await self.history(limit=len(kept.turns)),
            memories=(),
            cost=await self.cost(),
        )

    async def set_preferences(self, preferences: Any) -> None:
        """Keep the preferences of the user; they are a system prompt of the next turn."""
        given = parse_section(PREFERENCES, dict(preferences))
        self._open()
        self._kept.preferences[self.user_id] = AISettings.model_validate(given).model_dump(exclude_unset=True)

    async def correct_memory(self, memory_id: UUID, value: str) -> Memory:
        """As `FakeMemory.correct`."""
        self._open()
        return await self._kept.memory.correct(self.user_id, memory_id, value)

    async def forget_memory(self, memory_id: UUID | None = None) -> int:
        """As `FakeMemory.forget`."""
        self._open()
        return await self._kept.memory.forget(self.user_id, memory_id)

    async def close(self) -> None:
        """Close the conversation."""
        kept = self._mine()
        kept.closed_at = kept.closed_at or datetime.now(UTC)

    def _asked(
        self, text: str, turn_id: str | None, action: str, options: TurnOptions
    ) -> tuple[NewTurn, GenerateInput]:
        asked = generate_input(self._kept.workspace_id, text, user_id=self.user_id, action=action, **options)
        try:
            return NewTurn.of(self.id, uuid4().hex if turn_id is None else turn_id, asked), asked
        except ValidationError as error:
            raise first_problem(error, where="conversation") from None

    def _said(self, kept: _Conversation) -> list[Message]:
        """The turns with an answer, after the preferences."""
        wishes = self._kept.preferences.get(self.user_id)
        messages = [Message(role="system", content=f"The user prefers: {wishes}")] if wishes else []
        for turn, result, _ in kept.turns.values():
            if result.success:
                messages.append(Message(role="user", content=turn.text))
                messages.append(Message(role="assistant", content=result.content or ""))
        return messages

    async def _remembered(self) -> list[Message]:
        known = "\n".join(memory.text for memory in await self._kept.memory.show(self.user_id))
        return [Message(role="user", content=f"What is known of the user:\n{known}")] if known else []

    def _mine(self) -> _Conversation:
        kept = self._kept.known.get(self.id)
        if kept is None or kept.user_id != self.user_id:
            raise NotFound(f"user {self.user_id!r} has no conversation {self.id!r}")
        return kept

    def _open(self) -> None:
        if self._mine().closed_at is not None:
            raise ConversationClosed(f"conversation {self.id!r} is closed: use client.memory or client.configuration")

    def _stream(
        self, turn_id: str, run: Callable[[StreamTarget], Awaitable[TurnResult]], **options: Any
    ) -> GenerateStream:
        stream_id = turn_job_id(self._kept.workspace_id, self.id, turn_id)
        return GenerateStream(ProcessReceiver(StreamHub()), self._kept.workspace_id, stream_id, run, **options)


def _turn_result(answered: GenerateResult, turn_id: str, number: int) -> TurnResult:
    """The scripted answer as that of a turn; a refusal has its sentence."""
    _, reason = outcome_of(answered)
    known = answered.model_dump(exclude={"content"})
    content = answered.content if answered.success else sentence_for(reason)
    return TurnResult(**known, content=content, turn_id=turn_id, number=number, reason=reason)


def _report(turn: NewTurn, result: TurnResult) -> TurnReport:
    now = datetime.now(UTC)
    outcome, _ = outcome_of(result)
    return TurnReport(
        turn_id=turn.turn_id,
        number=result.number,
        text=turn.text,
        answer=result.content if outcome is Ended.COMPLETED else None,
        outcome=outcome,
        reason=result.reason,
        cached=result.meta.cached,
        cost_usd=result.meta.cost_usd,
        request_id=result.meta.request_id,
        created_at=now,
        ended_at=now,
    )
