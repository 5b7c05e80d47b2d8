"""A conversation and its turns: send a text, read the answer while it is made, and what was said before."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from functools import partial
from typing import Any, TypeVar, Unpack
from uuid import UUID, uuid4

from pydantic import ValidationError
from temporalio.client import WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from parley.client.backend import Backend, WorkflowStart, temporal_errors, update_with_start
from parley.client.generate import TurnOptions, check_names, generate_input
from parley.client.reading import first_problem
from parley.client.streaming import GenerateStream, OnDisconnect
from parley.domain.configuration import parse_section
from parley.domain.conversation.contract import (
    CLOSE,
    CORRECT_MEMORY,
    FORGET_MEMORY,
    LONGEST_WAIT_SECONDS,
    MOST_WAITING,
    PREFERENCES,
    SAY,
    SET_PREFERENCES,
    TRY_AGAIN,
    WORKFLOW,
    Change,
    Changed,
    Close,
    ConversationCost,
    ConversationExport,
    ConversationInput,
    ConversationState,
    CorrectMemory,
    Ended,
    ForgetMemory,
    NewTurn,
    Say,
    SetPreferences,
    TurnOutcome,
    TurnReport,
    TurnResult,
    WhenBusy,
    sentence_for,
    turn_job_id,
    turn_prompt,
    turn_request_id,
    workflow_id,
)
from parley.domain.conversation.memory import Memory, checked_value
from parley.domain.errors import ConversationBusy, ConversationClosed, InvalidInput, MemoryChanged, NotFound
from parley.domain.generate.contract import DEFAULT_ACTION, Meta, Prompt, Refusal, Refused
from parley.domain.generate.replies import parsed
from parley.domain.knowledge import KnowledgeUsed
from parley.domain.model import Model
from parley.domain.requests import Message
from parley.domain.streaming import StreamTarget
from parley.failures import job_failure
from parley.storage import conversations, generations, memories
from parley.storage.tables import ConversationTurn, StoredConversation

ModelT = TypeVar("ModelT", bound=Model)

# How long a turn is sent again while the conversation takes none, and the pauses between.
LONGEST_WAIT = 600.0
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
# How often a turn that another process sent is looked up until it ends.
POLL_SECONDS = 0.25
# What Temporal answers where another try may succeed: too many updates, a run that ends just now, or a workflow whose
# last tasks failed, or took a worker too long.
TRY_LATER = (
    RPCStatusCode.RESOURCE_EXHAUSTED,
    RPCStatusCode.ABORTED,
    RPCStatusCode.NOT_FOUND,
    RPCStatusCode.FAILED_PRECONDITION,
)
# The errors of an update that a caller gets as they are.
RAISED = {
    error.__name__: error for error in (ConversationBusy, ConversationClosed, InvalidInput, MemoryChanged, NotFound)
}
ENDED_WITH_RUN = "AcceptedUpdateCompletedWorkflow"


class ConversationHandle:
    """One conversation of a user. Attributes: `id`, and `user_id`, who pays with energy."""

    # Whether what holds the conversation does what the model asks for by tools.
    _takes_tools = False

    def __init__(self, backend: Backend, workspace_id: str, conversation_id: str, user_id: str) -> None:
        self._backend, self._workspace_id, self.id, self.user_id = backend, workspace_id, conversation_id, user_id

    async def say(
        self,
        text: str,
        *,
        turn_id: str | None = None,
        when_busy: WhenBusy = "wait",
        knowledge: bool | None = None,
        action: str = DEFAULT_ACTION,
        **options: Unpack[TurnOptions],
    ) -> TurnResult:
        """Send a text, and wait for the answer. The turns of a conversation are answered one after the other.

        Args:
            text: what the user says, at most a million characters.
            turn_id: an idempotency key: the same id is the same turn, answered and paid once. Default: a new one.
            when_busy: `wait` for the turns before this one, the default; or `refuse` this one.
            knowledge: whether the answer is made with what the workspace's knowledge base has on the text, which
                `TurnReport.knowledge_used` then names. Default: as the policy of the action says.
            action: the kind of request, which decides its price and policy; default `ai_message`.
            options: see `TurnOptions`, for example `model`, `max_tokens`, `template`.

        Returns:
            The answer. Without one, `success` is False, and `content` is a fixed sentence that says so.

        Raises:
            InvalidInput: an argument is not valid, or the conversation belongs to another user; nothing was started.
            UnpricedModel: no price is known for `model`; nothing was started.
            IdempotencyConflict: `turn_id` was used for a different text.
            ConversationClosed: the conversation takes no further turn.
            ConversationBusy: another turn is being answered and `when_busy` is `refuse`, or too many wait.
            Unreachable: Temporal or PostgreSQL does not answer.
        """
        turn = self._turn(text, turn_id, action, options, knowledge)
        return await self._take(await self._begin(turn), when_busy, None)

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
        """Send a text as `say` does, and read the answer while it is made: see `Client.generate_stream`.

        Args:
            text: what the user says, at most a million characters.
            turn_id: an idempotency key: the same id is the same turn, answered and paid once. Default: a new one.
            when_busy: `wait` for the turns before this one, the default; or `refuse` this one.
            on_disconnect: what happens when the stream is left before its end. `finish`, the default: the answer is
                completed. `cancel`: its request is cancelled, and what was made of it is not part of the conversation.
            offset: the number of deltas of this turn that the reader has already; None: all of them. Default: 0.
            knowledge: whether the answer is made with what the workspace's knowledge base has on the text, which
                `TurnReport.knowledge_used` then names. Default: as the policy of the action says.
            action: the kind of request, which decides its price and policy; default `ai_message`.
            options: see `TurnOptions`.

        Returns:
            The stream, which has not begun. Its result is a `TurnResult`.

        Raises:
            InvalidInput: an argument is not valid; nothing was started.
            UnpricedModel: no price is known for `model`; nothing was started.
        """
        turn = self._turn(text, turn_id, action, options, knowledge)

        begun: list[ConversationTurn] = []

        async def begin() -> None:
            begun.append(await self._begin(turn))

        async def run(target: StreamTarget) -> TurnResult:
            return await self._take(begun[0], when_busy, target)

        return GenerateStream(
            self._backend.receiver,
            self._workspace_id,
            turn_job_id(self._workspace_id, self.id, turn.turn_id),
            run,
            on_disconnect=on_disconnect,
            offset=offset,
            stored_in=None if turn_id is None else self._backend.database,
            begin=begin,
        )

    def follow(self, turn_id: str, *, offset: int | None = 0) -> GenerateStream:
        """Read the answer to a turn that was sent, from any place on: as `stream` does, without sending anything.

        Args:
            turn_id: of the turn. Its stream raises NotFound where the conversation has no such turn.
            offset: the number of deltas that the reader has already; None: all of them. Default: 0.

        Returns:
            The stream, which has not begun. Its result is a `TurnResult`.
        """

        async def run(_: StreamTarget) -> TurnResult:
            return await self._ended(turn_id)

        return GenerateStream(
            self._backend.receiver,
            self._workspace_id,
            turn_job_id(self._workspace_id, self.id, turn_id),
            run,
            offset=offset,
            stored_in=self._backend.database,
            begin=partial(self._find_turn, turn_id),
        )

    async def state(self) -> ConversationState:
        """Where the conversation is: its turns, their tokens and their cost.

        Raises:
            NotFound: the user has no such conversation.
            Unreachable: PostgreSQL does not answer.
        """
        async with self._backend.database.reads() as tx:
            await self._check_owner(tx)
            return await conversations.state(tx, self._workspace_id, self.id)

    async def cost(self) -> ConversationCost:
        """What the conversation has cost: its answers, and the work between its turns.

        Raises:
            NotFound: the user has no such conversation.
            Unreachable: PostgreSQL does not answer.
        """
        async with self._backend.database.reads() as tx:
            await self._check_owner(tx)
            return await conversations.cost(tx, self._workspace_id, self.id)

    async def context(self) -> tuple[Message, ...]:
        """The messages that the last turn was answered with, without the template's system prompt.

        Raises:
            NotFound: the user has no such conversation, it has no turn, or the prompt has been purged.
            Unreachable: PostgreSQL does not answer.
        """
        found = await self.state()
        if not found.context_sha256:
            raise NotFound(f"conversation {self.id!r} has no turn")
        async with self._backend.database.reads() as tx:
            prompt = await generations.load_prompt(tx, self._workspace_id, Prompt(sha256=found.context_sha256))
        return prompt.messages

    async def history(self, *, after: int = 0, limit: int = 50) -> tuple[TurnReport, ...]:
        """The turns in their order, from the first.

        Args:
            after: the number of the turn before the first one; default 0: from the beginning.
            limit: the most turns to return; default 50.

        Raises:
            NotFound: the user has no such conversation.
            Unreachable: PostgreSQL does not answer.
        """
        async with self._backend.database.reads() as tx:
            await self._check_owner(tx)
            rows = await conversations.history(tx, self._workspace_id, self.id, after=after, limit=limit)
        return tuple(turn_report(row) for row in rows)

    async def export(self) -> ConversationExport:
        """Everything that is stored of the conversation: its turns, its summary, what was learned in it, its cost.

        Raises:
            NotFound: the user has no such conversation.
            Unreachable: PostgreSQL does not answer.
        """
        async with self._backend.database.transaction() as tx:
            found = await self._check_owner(tx)
            turns = await conversations.all_turns(tx, self._workspace_id, self.id)
            cost = await conversations.cost(tx, self._workspace_id, self.id)
            learned = await memories.of_user(
                tx, self._workspace_id, self.user_id, with_ended=True, conversation_id=self.id
            )
        return ConversationExport(
            conversation_id=self.id,
            user_id=self.user_id,
            status="open" if found.closed_at is None else "closed",
            created_at=found.created_at,
            closed_at=found.closed_at,
            summary=found.summary,
            summarized_through=found.summarized_through,
            turns=tuple(map(turn_report, turns)),
            memories=learned,
            cost=cost,
        )

    async def set_preferences(self, preferences: Mapping[str, Any]) -> None:
        """Replace how the user likes to be answered, from the next turn on, in every conversation.

        It is `client.configuration.set("ai_settings", …)`, after the turns that wait: none of them changes midway.

        Args:
            preferences: the fields of `ai_settings` by name, for example `tone`, `style`, `language` and `template`.
                What is left out has its default.

        Raises:
            InvalidInput: a field is not valid; the error names every such field, and nothing is stored.
            ConversationClosed: the conversation takes no change.
            NotFound: the user has no such conversation.
            Unreachable: Temporal or PostgreSQL does not answer.
        """
        given = parse_section(PREFERENCES, dict(preferences))
        await self._change(SET_PREFERENCES, SetPreferences(preferences=given))

    async def correct_memory(self, memory_id: UUID, value: str) -> Memory:
        """Replace the value of a memory of the user: `client.memory.correct`, after the turns that wait.

        Args:
            memory_id: from `client.memory.show`.
            value: the right value, 1 to 200 characters on one line.

        Returns:
            The new memory.

        Raises:
            InvalidInput: the value is blank, too long, or not text that can be stored.
            MemoryChanged: the memory is not valid any more.
            NotFound: the user has no such conversation, or no such memory.
            ConversationClosed: the conversation takes no change.
            Unreachable: Temporal or PostgreSQL does not answer.
        """
        change = CorrectMemory(memory_id=memory_id, value=checked_value(value))
        made = (await self._change(CORRECT_MEMORY, change)).memory
        assert made is not None  # noqa: S101 - a correction makes one
        return made

    async def forget_memory(self, memory_id: UUID | None = None) -> int:
        """Remove one memory of the user, or all: `client.memory.forget`, after the turns that wait.

        Args:
            memory_id: from `client.memory.show`; default: all of the user's, also ended ones.

        Returns:
            How many memories were forgotten.

        Raises:
            NotFound: the user has no such conversation, or no such memory.
            ConversationClosed: the conversation takes no change.
            Unreachable: Temporal or PostgreSQL does not answer.
        """
        return (await self._change(FORGET_MEMORY, ForgetMemory(memory_id=memory_id))).forgotten

    async def close(self) -> None:
        """Close the conversation, after the turns that wait. It takes no further turn; what was said stays.

        Raises:
            NotFound: the user has no such conversation.
            Unreachable: Temporal or PostgreSQL does not answer.
        """
        if (await self.state()).status == "closed":
            return
        await self._send(CLOSE, Close(), f"close-{uuid4().hex}", ConversationState)

    # Turns

    async def _change(self, update: str, change: Change) -> Changed:
        if (await self.state()).status == "closed":
            raise ConversationClosed(f"conversation {self.id!r} is closed: use client.memory or client.configuration")
        return await self._send(update, change, f"{update}-{uuid4().hex}", Changed)

    def _turn(
        self, text: str, turn_id: str | None, action: str, options: TurnOptions, knowledge: bool | None
    ) -> NewTurn:
        asked = generate_input(self._workspace_id, text, user_id=self.user_id, action=action, **options)
        if asked.prompt.tools and not self._takes_tools:
            raise InvalidInput("a turn of a conversation takes no tools: use client.generate", where="tools")
        if asked.wait_limit_seconds > LONGEST_WAIT_SECONDS:
            problem = f"must be at most {LONGEST_WAIT_SECONDS}: a reader waits for the answer"
            raise InvalidInput(problem, where="wait_limit_seconds")
        check_names(self._backend.settings, asked)
        try:
            return NewTurn.of(self.id, uuid4().hex if turn_id is None else turn_id, asked, knowledge=knowledge)
        except ValidationError as error:
            raise first_problem(error, where="conversation") from None

    async def _begin(self, turn: NewTurn) -> ConversationTurn:
        """Store the turn, or find it."""
        async with self._backend.database.transaction() as tx:
            return await conversations.begin_turn(tx, turn)

    async def _take(self, row: ConversationTurn, when_busy: WhenBusy, stream: StreamTarget | None) -> TurnResult:
        """Have a stored turn answered unless it was, and read how it ended."""
        if not row.outcome:
            await self._have_answered(Say(turn_id=row.turn_id, when_busy=when_busy, stream=stream))
            row = await self._find_turn(row.turn_id)
        return _result(row)

    async def _have_answered(self, say: Say) -> None:
        """Have a stored turn answered."""
        await self._send(SAY, say, say.turn_id, TurnOutcome)

    async def _ended(self, turn_id: str) -> TurnResult:
        """How a turn ended, as soon as it has.

        Raises:
            ConversationClosed: it was stored as the conversation was closed, and is never answered.
        """
        find = partial(self._find_turn, turn_id, even_if_never_answered=False)
        row = await find()
        while not row.outcome:
            await asyncio.sleep(POLL_SECONDS)
            row = await find()
        return _result(row)

    async def _find_turn(self, turn_id: str, *, even_if_never_answered: bool = True) -> ConversationTurn:
        async with self._backend.database.reads() as tx:
            is_open = (await self._check_owner(tx)).closed_at is None
            row = await conversations.find_turn(tx, self._workspace_id, self.id, turn_id)
        if row is None:
            raise NotFound(f"conversation {self.id!r} has no turn {turn_id!r}")
        if not (row.outcome or row.number or is_open or even_if_never_answered):
            raise ConversationClosed(f"conversation {self.id!r} was closed before turn {turn_id!r} was begun")
        return row

    async def _send(self, update: str, given: Model, update_id: str, result_type: type[ModelT]) -> ModelT:
        """Send an update to the conversation's workflow, again while it takes none. It is started if needed."""
        start = self._start()
        admission = self._backend.admissions.setdefault(start.id, asyncio.Semaphore(MOST_WAITING))
        if admission.locked() and isinstance(given, Say) and given.when_busy == "refuse":
            raise ConversationBusy("other turns wait: send this one again later")
        async with admission:
            return await self._until_taken(
                partial(
                    update_with_start,
                    self._backend,
                    self._workspace_id,
                    start,
                    update,
                    given,
                    update_id=update_id,
                    result_type=result_type,
                )
            )

    def _start(self) -> WorkflowStart:
        """The workflow of the conversation."""
        return WorkflowStart(
            workflow=WORKFLOW,
            input=ConversationInput(workspace_id=self._workspace_id, conversation_id=self.id, user_id=self.user_id),
            id=workflow_id(self._workspace_id, self.id),
            summary=f"conversation of {self.user_id}",
            status="open",
        )

    async def _until_taken(self, send: Callable[[], Awaitable[ModelT]]) -> ModelT:
        """Send an update until the workflow takes it: other processes may have filled its queue, or its run ends."""
        clock, pause = asyncio.get_running_loop(), FIRST_PAUSE
        deadline = clock.time() + LONGEST_WAIT
        while True:
            try:
                with _update_errors():
                    return await send()
            except _TakesNone as error:
                if clock.time() > deadline:
                    raise ConversationBusy(f"conversation {self.id!r} takes no turn: send it again later") from error
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _check_owner(self, tx: Any) -> StoredConversation:
        found = await conversations.find(tx, self._workspace_id, self.id)
        if found is None or found.user_id != self.user_id:
            raise NotFound(f"user {self.user_id!r} has no conversation {self.id!r}")
        return found


class _TakesNone(Exception):
    """The conversation does not take the update now: too many wait, or its run ends."""


@contextmanager
def _update_errors() -> Iterator[None]:
    """Translate the errors of an update into Parley's.

    Raises:
        _TakesNone: the same update may be taken later.
        ConversationBusy, ConversationClosed, IdempotencyConflict: as the workflow says.
        JobFailed: the update failed.
        Unreachable: Temporal does not answer.
    """
    try:
        with temporal_errors():
            try:
                yield
            except RPCError as error:
                if error.status in TRY_LATER:
                    raise _TakesNone from error
                raise
    except WorkflowUpdateRPCTimeoutOrCancelledError as error:
        # Temporal's client raises it in place of the cancellation of its caller.
        if (task := asyncio.current_task()) and task.cancelling():
            raise asyncio.CancelledError from error
        raise _TakesNone from error
    except WorkflowUpdateFailedError as error:
        cause = error.cause
        kind = cause.type if isinstance(cause, ApplicationError) else None
        if kind in (TRY_AGAIN, ENDED_WITH_RUN):
            raise _TakesNone from error
        if kind in RAISED:
            raise RAISED[kind](str(cause)) from None
        raise job_failure(cause) from error


def _result(row: ConversationTurn) -> TurnResult:
    """How a turn ended, from its row."""
    outcome = Ended(row.outcome)
    meta = Meta.model_validate(row.meta) if row.meta else Meta(request_id=_request_id(row))
    known: dict[str, Any] = {"turn_id": row.turn_id, "number": row.number, "reason": row.reason, "meta": meta}
    if outcome is Ended.COMPLETED:
        schema = turn_prompt(row.terms, (Message(role="user", content=row.text),)).reply_schema
        value = parsed(row.answer or "", schema)[0] if schema else None
        return TurnResult(success=True, content=row.answer, parsed=value, **known)
    if outcome is Ended.CANCELLED:
        return TurnResult(success=True, content=row.answer, **known)
    sentence = sentence_for(row.reason)
    refusal = Refusal(code=Refused(row.reason), message=sentence) if outcome is Ended.REFUSED else None
    return TurnResult(success=False, content=sentence, refusal=refusal, **known)


def turn_report(row: ConversationTurn) -> TurnReport:
    """A turn, from its row."""
    meta = Meta.model_validate(row.meta) if row.meta else None
    return TurnReport(
        turn_id=row.turn_id,
        number=row.number,
        text=row.text,
        answer=row.answer,
        outcome=Ended(row.outcome) if row.outcome else None,
        reason=row.reason,
        cached=meta.cached if meta else Meta.model_fields["cached"].default,
        cost_usd=meta.cost_usd if meta else Decimal(0),
        request_id=_request_id(row),
        created_at=row.created_at,
        ended_at=row.ended_at,
        knowledge_used=_used(row),
    )


def _used(row: ConversationTurn) -> tuple[KnowledgeUsed, ...] | None:
    if row.knowledge_used is None:
        return None
    return tuple(map(KnowledgeUsed.model_validate, row.knowledge_used))


def _request_id(row: ConversationTurn) -> str:
    return turn_request_id(row.workspace_id, row.conversation_id, row.turn_id)
