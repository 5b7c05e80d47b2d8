"""Conversations and their turns: each text, its place in the order, how it ended, and the running summary."""

from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Numeric, Select, and_, cast, func, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from parley.domain.conversation.context import Exchange, RunningSummary, SizedExchange
from parley.domain.conversation.contract import (
    ConversationCost,
    ConversationState,
    Ended,
    NewTurn,
    upkeep_key,
    workflow_id,
)
from parley.domain.errors import ConversationClosed, IdempotencyConflict, InvalidInput, NotFound
from parley.domain.knowledge import KnowledgeUsed
from parley.storage.database import NOW, changed_one
from parley.storage.driver import Query, defer, fetch_together
from parley.storage.rows import add_later, table
from parley.storage.tables import ConversationTurn, StoredConversation, UsageLog

RowT = TypeVar("RowT", StoredConversation, ConversationTurn)

# More exchanges since a summary than these are never in a context.
MOST_READ = 500
SIZE = (col(ConversationTurn.number), col(ConversationTurn.tokens))
# A caller who interrupted the answer heard only a part of it, or nothing.
SAID = func.coalesce(col(ConversationTurn.heard), col(ConversationTurn.answer), "").label("answer")
EXCHANGE = (*SIZE, col(ConversationTurn.text), SAID)
IS_EXCHANGE = or_(
    col(ConversationTurn.outcome) == Ended.COMPLETED.value,
    and_(col(ConversationTurn.outcome) != "", col(ConversationTurn.heard).is_not(None)),
)
CONVERSATION_IS = "workspace_id = :workspace AND conversation_id = :conversation"
LOCK = table(StoredConversation).select().where(text(CONVERSATION_IS)).with_for_update()
TURN = table(ConversationTurn).select().where(text(f"{CONVERSATION_IS} AND turn_id = :turn"))
COUNT = text(f"UPDATE conversations SET turns = :number, last_turn_at = clock_timestamp() WHERE {CONVERSATION_IS}")  # noqa: S608 - constants
NUMBER = text(f"UPDATE conversation_turns SET number = :number WHERE {CONVERSATION_IS} AND turn_id = :turn")  # noqa: S608 - constants
DELETE = """,
    turns AS (
        DELETE FROM conversation_turns t USING old
        WHERE (t.workspace_id, t.conversation_id) = (old.workspace_id, old.conversation_id)),
    phone_calls AS (
        DELETE FROM call_sessions p USING old
        WHERE (p.workspace_id, p.call_sid) = (old.workspace_id, old.conversation_id))
    DELETE FROM conversations c USING old
    WHERE (c.workspace_id, c.conversation_id) = (old.workspace_id, old.conversation_id)
    RETURNING c.workspace_id, c.conversation_id"""
OLD = text(f"""
    WITH old AS (
        SELECT workspace_id, conversation_id FROM conversations WHERE last_turn_at < :before
        ORDER BY last_turn_at LIMIT :limit FOR UPDATE SKIP LOCKED){DELETE}""")  # noqa: S608 - a constant
# Phone calls of numbers that say for how long theirs are kept, or that said it before they were removed.
OLD_PHONE_CALLS = text(f"""
    WITH old AS (
        SELECT c.workspace_id, c.conversation_id FROM call_sessions p
        JOIN conversations c ON (c.workspace_id, c.conversation_id) = (p.workspace_id, p.call_sid)
        LEFT JOIN phone_numbers n ON (n.workspace_id, n.number) = (p.workspace_id, p.number)
        WHERE p.ended_at < CAST(:at AS timestamptz)
                           - make_interval(days => coalesce((n.settings->>'keep_days')::int, p.keep_days))
        LIMIT :limit FOR UPDATE OF c SKIP LOCKED){DELETE}""")  # noqa: S608 - a constant


async def begin_turn(tx: AsyncSession, turn: NewTurn) -> ConversationTurn:
    """Store a turn, with its conversation if it is the first; or find the turn that was stored under its id.

    Raises:
        ConversationClosed: the conversation takes no further turn. One that was begun is found nevertheless.
        IdempotencyConflict: the turn's id was used for another text, or on other terms.
        InvalidInput: the conversation belongs to another user.
    """
    first = StoredConversation(
        workspace_id=turn.workspace_id, conversation_id=turn.conversation_id, user_id=turn.user_id
    )
    await add_later(tx, first)
    conversation, known = await _locked(tx, turn.workspace_id, turn.conversation_id, turn.turn_id)
    if conversation.user_id != turn.user_id:
        raise InvalidInput(f"conversation {turn.conversation_id!r} belongs to another user", where="user_id")
    if known is not None:
        if known.fingerprint != turn.fingerprint:
            raise IdempotencyConflict(f"turn {turn.turn_id!r} was already used for a different text: use another id")
        if known.number is None and not known.outcome:
            _check_open(conversation)
        return known
    _check_open(conversation)
    row = ConversationTurn(**turn.model_dump(exclude={"user_id"}))
    await add_later(tx, row)
    return row


async def find(tx: AsyncSession, workspace_id: str, conversation_id: str) -> StoredConversation | None:
    """A conversation; None where the workspace has none of that id."""
    return await tx.get(StoredConversation, (workspace_id, conversation_id))


async def newest(
    tx: AsyncSession, workspace_id: str, *, before: datetime | None, limit: int
) -> Sequence[StoredConversation]:
    """The conversations of a workspace, those with the newest turns first. `before`: their last turn was earlier."""
    query = select(StoredConversation).where(col(StoredConversation.workspace_id) == workspace_id)
    if before is not None:
        query = query.where(col(StoredConversation.last_turn_at) < before)
    query = query.order_by(col(StoredConversation.last_turn_at).desc()).limit(limit)
    return (await tx.execute(query)).scalars().all()


async def find_turn(tx: AsyncSession, workspace_id: str, conversation_id: str, turn_id: str) -> ConversationTurn | None:
    """A turn; None where the conversation has none of that id."""
    return await tx.get(ConversationTurn, (workspace_id, conversation_id, turn_id))


async def said(
    tx: AsyncSession, workspace_id: str, conversation_id: str, turn_ids: Sequence[str]
) -> Sequence[tuple[str, str, datetime]]:
    """Id, text and time of those of these turns whose answer was begun, in the order of the conversation.

    A turn is never earlier than those before it, also if the clock went back between them.
    """
    latest = func.max(col(ConversationTurn.created_at)).over(order_by=col(ConversationTurn.number))
    begun = (
        select(
            col(ConversationTurn.turn_id), col(ConversationTurn.text), latest.label("at"), col(ConversationTurn.number)
        )
        .where(*_is(ConversationTurn, workspace_id, conversation_id), col(ConversationTurn.number).is_not(None))
        .subquery()
    )
    query = select(begun.c.turn_id, begun.c.text, begun.c.at).where(begun.c.turn_id.in_(turn_ids))
    return [(row.turn_id, row.text, row.at) for row in await tx.execute(query.order_by(begun.c.number))]


async def start_turn(
    tx: AsyncSession, workspace_id: str, conversation_id: str, turn_id: str
) -> tuple[StoredConversation, ConversationTurn]:
    """Give a turn its number, unless it has one, and return it with its conversation.

    Raises:
        ConversationClosed: the conversation was closed before the turn had a number.
        NotFound: the turn was not stored.
    """
    conversation, turn = await _locked(tx, workspace_id, conversation_id, turn_id)
    if turn is None:
        raise NotFound(f"conversation {conversation_id!r} has no turn {turn_id!r}")
    if turn.number is None:
        _check_open(conversation)
        of = {"workspace": workspace_id, "conversation": conversation_id}
        turn.number = conversation.turns + 1
        await defer(tx, COUNT, {**of, "number": turn.number})
        await defer(tx, NUMBER, {**of, "number": turn.number, "turn": turn_id})
    return conversation, turn


async def record_knowledge(
    tx: AsyncSession, workspace_id: str, conversation_id: str, turn_id: str, used: Sequence[KnowledgeUsed]
) -> bool:
    """Record which passages of the knowledge base an open turn's prompt has; returns whether there is such a turn."""
    open_turn = (
        update(ConversationTurn)
        .where(
            *_is(ConversationTurn, workspace_id, conversation_id),
            col(ConversationTurn.turn_id) == turn_id,
            col(ConversationTurn.outcome) == "",
        )
        .values(knowledge_used=[one.model_dump(mode="json") for one in used])
    )
    return await changed_one(tx, open_turn)


async def end_turn(
    tx: AsyncSession,
    workspace_id: str,
    conversation_id: str,
    turn_id: str,
    *,
    even_if_cancelled: bool = False,
    **known: Any,
) -> bool:
    """Record how a turn ended, with the columns `known`. The first end is final; returns whether this was it.

    even_if_cancelled: it is answered, also where its workflow recorded that its readers had left.
    """
    unanswered = ("", Ended.CANCELLED.value) if even_if_cancelled else ("",)
    open_turn = (
        update(ConversationTurn)
        .where(
            *_is(ConversationTurn, workspace_id, conversation_id),
            col(ConversationTurn.turn_id) == turn_id,
            col(ConversationTurn.outcome).in_(unanswered),
        )
        .values(ended_at=NOW, **known)
    )
    return await changed_one(tx, open_turn)


async def exchanges(
    tx: AsyncSession, workspace_id: str, conversation_id: str, *, after: int, through: int
) -> tuple[Exchange, ...]:
    """The completed turns with a number above `after` and up to `through`, in order.

    One that was interrupted has what was heard of its answer.
    """
    query = _completed(workspace_id, conversation_id, after, EXCHANGE).where(col(ConversationTurn.number) <= through)
    found = (await tx.execute(query)).mappings().all()
    return tuple(Exchange(**row) for row in reversed(found))


async def sizes(tx: AsyncSession, workspace_id: str, conversation_id: str, *, after: int) -> tuple[SizedExchange, ...]:
    """The completed turns with a number above `after`, in order, without their texts."""
    found = (await tx.execute(_completed(workspace_id, conversation_id, after, SIZE))).mappings().all()
    return tuple(SizedExchange(**row) for row in reversed(found))


async def save_summary(tx: AsyncSession, workspace_id: str, conversation_id: str, summary: RunningSummary) -> bool:
    """Store the running summary, unless a later one is there. Returns whether it was stored."""
    earlier = (
        update(StoredConversation)
        .where(
            *_is(StoredConversation, workspace_id, conversation_id),
            col(StoredConversation.summarized_through) < summary.through,
        )
        .values(summary=summary.text, summarized_through=summary.through, summary_tokens=summary.tokens)
    )
    return await changed_one(tx, earlier)


async def close(tx: AsyncSession, workspace_id: str, conversation_id: str) -> None:
    """Close a conversation: it takes no further turn. The first time stays.

    Raises:
        NotFound: the workspace has no such conversation.
    """
    closing = (
        update(StoredConversation)
        .where(*_is(StoredConversation, workspace_id, conversation_id))
        .values(closed_at=func.coalesce(col(StoredConversation.closed_at), NOW))
    )
    if not await changed_one(tx, closing):
        raise NotFound(f"workspace {workspace_id!r} has no conversation {conversation_id!r}")


async def history(
    tx: AsyncSession, workspace_id: str, conversation_id: str, *, after: int, limit: int
) -> Sequence[ConversationTurn]:
    """Turns whose answer was begun, in order. `after`: the number of the turn before the first."""
    query = (
        select(ConversationTurn)
        .where(*_is(ConversationTurn, workspace_id, conversation_id), col(ConversationTurn.number) > after)
        .order_by(col(ConversationTurn.number))
        .limit(limit)
    )
    return (await tx.execute(query)).scalars().all()


async def all_turns(tx: AsyncSession, workspace_id: str, conversation_id: str) -> Sequence[ConversationTurn]:
    """All turns in order, those that wait last."""
    query = (
        select(ConversationTurn)
        .where(*_is(ConversationTurn, workspace_id, conversation_id))
        .order_by(col(ConversationTurn.number).nulls_last(), col(ConversationTurn.created_at))
    )
    return (await tx.execute(query)).scalars().all()


async def state(tx: AsyncSession, workspace_id: str, conversation_id: str) -> ConversationState:
    """Where a conversation is.

    Raises:
        NotFound: the workspace has no such conversation.
    """
    conversation = await find(tx, workspace_id, conversation_id)
    if conversation is None:
        raise NotFound(f"workspace {workspace_id!r} has no conversation {conversation_id!r}")
    ended = col(ConversationTurn.outcome) != ""
    tokens = func.coalesce(
        func.sum(_number_in_meta("usage", "input_tokens") + _number_in_meta("usage", "output_tokens")), 0
    )
    last = func.coalesce(
        select(col(ConversationTurn.context_sha256))
        .where(*_is(ConversationTurn, workspace_id, conversation_id), col(ConversationTurn.context_sha256) != "")
        .order_by(col(ConversationTurn.number).desc())
        .limit(1)
        .scalar_subquery(),
        "",
    )
    counts = select(func.count().filter(ended), func.count().filter(~ended), tokens, last).where(
        *_is(ConversationTurn, workspace_id, conversation_id)
    )
    turns, waiting, counted, context = (await tx.execute(counts)).one()
    return ConversationState(
        status="open" if conversation.closed_at is None else "closed",
        turns=turns,
        waiting=waiting if conversation.closed_at is None else 0,  # one that was stored as it closed is never answered
        tokens=int(counted),
        cost_usd=(await cost(tx, workspace_id, conversation_id)).total_usd,
        context_sha256=context,
    )


async def cost(tx: AsyncSession, workspace_id: str, conversation_id: str) -> ConversationCost:
    """What a conversation has cost: each answer as it was when the turn ended, and the work between turns."""
    answers = select(
        func.coalesce(func.sum(_number_in_meta("cost_usd")), 0),
        func.coalesce(func.sum(_number_in_meta("saved_usd")), 0),
        func.coalesce(func.sum(_number_in_meta("prompt_cache_saved_usd")), 0),
    ).where(*_is(ConversationTurn, workspace_id, conversation_id))
    answers_usd, saved_usd, prompt_cache_saved_usd = (await tx.execute(answers)).one()
    upkeep = select(func.coalesce(func.sum(UsageLog.cost_usd), 0)).where(
        col(UsageLog.workspace_id) == workspace_id,
        col(UsageLog.job_key) == upkeep_key(workspace_id, conversation_id),
    )
    upkeep_usd = (await tx.execute(upkeep)).scalar_one()
    return ConversationCost(
        answers_usd=Decimal(answers_usd),
        upkeep_usd=Decimal(upkeep_usd),
        saved_usd=Decimal(saved_usd),
        prompt_cache_saved_usd=Decimal(prompt_cache_saved_usd),
    )


async def purge(tx: AsyncSession, older_than: datetime, *, limit: int) -> list[str]:
    """Delete conversations of any workspace without a turn since `older_than`, with their turns.

    Returns the ids of their workflows.
    """
    deleted = await tx.execute(OLD, {"before": older_than, "limit": limit})
    return [workflow_id(row.workspace_id, row.conversation_id) for row in deleted]


async def purge_phone_calls(tx: AsyncSession, at: datetime, *, limit: int) -> int:
    """Delete phone calls that are over for longer than the settings of their numbers keep them; returns how many."""
    return len((await tx.execute(OLD_PHONE_CALLS, {"at": at, "limit": limit})).all())


async def _locked(
    tx: AsyncSession, workspace_id: str, conversation_id: str, turn_id: str
) -> tuple[StoredConversation, ConversationTurn | None]:
    """The row of a conversation, locked, and one of its turns, if it has it, as it is under the lock.

    Raises:
        NotFound: the workspace has no such conversation.
    """
    of = {"workspace": workspace_id, "conversation": conversation_id}
    conversation, turn = await fetch_together(
        tx,
        Query(LOCK, of, partial(_first, StoredConversation)),
        Query(TURN, {**of, "turn": turn_id}, partial(_first, ConversationTurn)),
    )
    if conversation is None:
        raise NotFound(f"workspace {workspace_id!r} has no conversation {conversation_id!r}")
    return conversation, turn


def _first(row: Callable[..., RowT], rows: Sequence[Any]) -> RowT | None:
    return row(**rows[0]._asdict()) if rows else None


def _completed(workspace_id: str, conversation_id: str, after: int, columns: Sequence[Any]) -> Select[*tuple[Any, ...]]:
    """The last completed turns with a number above `after`, the newest first."""
    return (
        select(*columns)
        .where(
            *_is(ConversationTurn, workspace_id, conversation_id),
            IS_EXCHANGE,
            col(ConversationTurn.number) > after,
        )
        .order_by(col(ConversationTurn.number).desc())
        .limit(MOST_READ)
    )


def _check_open(conversation: StoredConversation) -> None:
    if conversation.closed_at is not None:
        raise ConversationClosed(f"conversation {conversation.conversation_id!r} is closed: begin another one")


def _is(
    table: type[StoredConversation] | type[ConversationTurn], workspace_id: str, conversation_id: str
) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return col(table.workspace_id) == workspace_id, col(table.conversation_id) == conversation_id


def _number_in_meta(*path: str) -> ColumnElement[Any]:
    """A number in the record of how an answer was made; 0 where it has none."""
    return func.coalesce(cast(col(ConversationTurn.meta)[path].astext, Numeric), 0)
