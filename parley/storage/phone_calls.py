"""Phone numbers, phone calls, and what a gateway measured of their turns.

A phone number decides the workspace of a phone call: it is the only row that is found without a workspace.
"""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Numeric, case, cast, func, null, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from parley.domain.conversation.contract import Ended, turn_job_id
from parley.domain.errors import InvalidInput
from parley.domain.generate.contract import job_key
from parley.domain.phone.contract import (
    LONGEST_SECONDS,
    RANKS,
    CallStatus,
    Counts,
    NewCall,
    TurnMeasures,
)
from parley.domain.phone.keys import OpenEntry
from parley.domain.phone.limits import Use, Used
from parley.storage.budgets import job_scope
from parley.storage.database import NOW, changed, changed_one, lock_name
from parley.storage.rows import add
from parley.storage.tables import Budget, CallSession, ConversationTurn, StoredConversation, StoredPhoneNumber

# What phone calls have used today, in UTC. An open one that is older than any can be has lost its callbacks.
USED = text("""
    WITH today AS (
        SELECT c.number, c.caller,
               c.ended_at IS NULL AND c.started_at > now() - make_interval(secs => :longest) AS open,
               extract(epoch FROM least(coalesce(c.ended_at, now()), c.started_at + make_interval(secs => :longest))
                                  - greatest(c.started_at, :day)) / 60 AS minutes,
               (SELECT coalesce(sum((t.meta->>'cost_usd')::numeric), 0) FROM conversation_turns t
                WHERE (t.workspace_id, t.conversation_id) = (c.workspace_id, c.call_sid)
                  AND t.created_at >= :day) AS usd
        FROM call_sessions c
        WHERE c.workspace_id = :workspace_id AND c.call_sid <> :call_sid
          AND (c.ended_at IS NULL OR c.ended_at >= :day)
          AND c.started_at > CAST(:day AS timestamptz) - interval '1 day')
    SELECT count(*) FILTER (WHERE open) AS workspace_concurrent,
           count(*) FILTER (WHERE open AND number = :number) AS number_concurrent,
           count(*) FILTER (WHERE open AND caller = :caller) AS caller_concurrent,
           coalesce(sum(minutes), 0) AS workspace_minutes,
           coalesce(sum(minutes) FILTER (WHERE number = :number), 0) AS number_minutes,
           coalesce(sum(minutes) FILTER (WHERE caller = :caller), 0) AS caller_minutes,
           coalesce(sum(usd), 0) AS workspace_usd,
           coalesce(sum(usd) FILTER (WHERE number = :number), 0) AS number_usd,
           coalesce(sum(usd) FILTER (WHERE caller = :caller), 0) AS caller_usd
    FROM today""")
DAY = text("SELECT date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'")
RANK = case(*((col(CallSession.status) == status.value, rank) for status, rank in RANKS.items()), else_=0)


# Numbers


async def save_number(tx: AsyncSession, workspace_id: str, number: str, settings: dict[str, Any]) -> StoredPhoneNumber:
    """Store a number with its settings, or replace them.

    Raises:
        InvalidInput: the number belongs to another workspace.
    """
    values = {"workspace_id": workspace_id, "number": number, "settings": settings}
    statement = insert(StoredPhoneNumber).values(**values, created_at=NOW, updated_at=NOW)
    statement = statement.on_conflict_do_update(
        constraint="one_workspace_per_number",
        set_={"settings": statement.excluded.settings, "updated_at": NOW},
        where=col(StoredPhoneNumber.workspace_id) == workspace_id,
    ).returning(StoredPhoneNumber)
    row = (await tx.execute(statement)).scalar()
    if row is None:
        raise InvalidInput(f"{number} belongs to another workspace: remove it there first", where="number")
    return row


async def numbers(tx: AsyncSession, workspace_id: str) -> Sequence[StoredPhoneNumber]:
    """The numbers of a workspace."""
    query = select(StoredPhoneNumber).where(col(StoredPhoneNumber.workspace_id) == workspace_id)
    return (await tx.execute(query.order_by(col(StoredPhoneNumber.number)))).scalars().all()


async def remove_number(tx: AsyncSession, workspace_id: str, number: str) -> bool:
    """Remove a number; returns whether the workspace had it. Its phone calls stay, for as long as it says."""
    row = await tx.get(StoredPhoneNumber, (workspace_id, number))
    if row is None:
        return False
    keep_days = row.settings.get("keep_days")
    if keep_days is not None:
        calls = update(CallSession).where(
            col(CallSession.workspace_id) == workspace_id, col(CallSession.number) == number
        )
        await tx.execute(calls.values(keep_days=keep_days))
    await tx.delete(row)
    return True


async def find_number(tx: AsyncSession, number: str) -> StoredPhoneNumber | None:
    """A number of any workspace: it is what decides the workspace. None: no workspace has it."""
    query = select(StoredPhoneNumber).where(col(StoredPhoneNumber.number) == number)
    return (await tx.execute(query)).scalar()


# Phone calls


async def begin(tx: AsyncSession, call: NewCall) -> bool:
    """Store a phone call with its conversation; returns whether it is new. A repetition changes nothing."""
    conversation = StoredConversation(
        workspace_id=call.workspace_id,
        conversation_id=call.call_sid,
        user_id=call.user_id,
        instructions=call.instructions,
    )
    is_new = await add(tx, CallSession(**call.model_dump(mode="json", exclude={"instructions"})))
    await add(tx, conversation)
    return is_new


async def lock_limits(tx: AsyncSession, workspace_id: str) -> None:
    """Let no other phone call of the workspace begin, until this transaction ends."""
    await lock_name(tx, f"phone calls/{workspace_id}")


async def used(tx: AsyncSession, workspace_id: str, number: str, caller: str, *, call_sid: str = "") -> Use:
    """What the phone calls of a workspace have used today, without the one with `call_sid`."""
    day = (await tx.execute(DAY)).scalar_one()
    given = {"workspace_id": workspace_id, "number": number, "caller": caller, "call_sid": call_sid}
    row = (await tx.execute(USED, {**given, "day": day, "longest": LONGEST_SECONDS})).mappings().one()

    def part(name: str) -> Used:
        return Used(
            concurrent=row[f"{name}_concurrent"],
            minutes=float(row[f"{name}_minutes"]),
            usd=Decimal(row[f"{name}_usd"]),
        )

    return Use(workspace=part("workspace"), number=part("number"), caller=part("caller"))


async def find(tx: AsyncSession, workspace_id: str, call_sid: str) -> CallSession | None:
    """A phone call; None where the workspace has none of that id."""
    return await tx.get(CallSession, (workspace_id, call_sid))


async def newest(
    tx: AsyncSession, workspace_id: str, *, before: datetime | None, limit: int, is_open: bool | None = None
) -> Sequence[CallSession]:
    """The phone calls of a workspace, the newest first. `is_open`: only those that go on, or that are over."""
    query = select(CallSession).where(col(CallSession.workspace_id) == workspace_id)
    if before is not None:
        query = query.where(col(CallSession.started_at) < before)
    if is_open is not None:
        query = query.where(col(CallSession.ended_at).is_(None) if is_open else col(CallSession.ended_at).is_not(None))
    return (await tx.execute(query.order_by(col(CallSession.started_at).desc()).limit(limit))).scalars().all()


async def set_status(
    tx: AsyncSession, workspace_id: str, call_sid: str, status: CallStatus, *, reason: str = ""
) -> bool:
    """Record where a phone call is; returns whether that is news. Callbacks come in any order: it never goes back."""
    values: dict[str, Any] = {"status": status.value}
    if status.is_final:
        values |= {"ended_at": func.coalesce(col(CallSession.ended_at), NOW)}
    if reason:
        values["reason"] = case((col(CallSession.reason) == "", reason), else_=col(CallSession.reason))
    statement = update(CallSession).where(*_is(workspace_id, call_sid), RANK.op("<")(status.rank)).values(**values)
    return await changed_one(tx, statement)


async def explain(tx: AsyncSession, workspace_id: str, call_sid: str, reason: str, handoff: Any = None) -> bool:
    """Record why a phone call ends, and what the agent hands over. The first reason stays."""
    statement = (
        update(CallSession)
        .where(*_is(workspace_id, call_sid), col(CallSession.reason) == "")
        .values(reason=reason, handoff=null() if handoff is None else handoff)
    )
    return await changed_one(tx, statement)


async def set_language(tx: AsyncSession, workspace_id: str, call_sid: str, language: str, instructions: str) -> bool:
    """Record the language that a phone call has changed to, with the system prompt of the turns that follow."""
    conversation = (
        update(StoredConversation)
        .where(
            col(StoredConversation.workspace_id) == workspace_id, col(StoredConversation.conversation_id) == call_sid
        )
        .values(instructions=instructions)
    )
    await tx.execute(conversation)
    return await changed_one(tx, update(CallSession).where(*_is(workspace_id, call_sid)).values(language=language))


async def set_analysis(tx: AsyncSession, workspace_id: str, call_sid: str, job_id: str) -> bool:
    """Record the job that analyses a phone call."""
    return await changed_one(tx, update(CallSession).where(*_is(workspace_id, call_sid)).values(analysis=job_id))


async def set_secret_entry(
    tx: AsyncSession, workspace_id: str, call_sid: str, session: int, entry: OpenEntry | None
) -> bool:
    """Record which secret entry is open; returns whether `session` is the latest of the phone call: others may not."""
    kept = null() if entry is None else entry.model_dump(mode="json", exclude_defaults=True)
    statement = update(CallSession).where(*_is(workspace_id, call_sid), col(CallSession.sessions) == session)
    return await changed_one(tx, statement.values(secret_entry=kept))


async def count(tx: AsyncSession, workspace_id: str, call_sid: str, counts: Counts, *, left_session: int = 0) -> bool:
    """Add what happened to the counts of a phone call. `left_session`: the number of the session that ends."""
    added = {name: getattr(CallSession, name) + number for name, number in counts.model_dump().items()}
    added["left_session"] = func.greatest(col(CallSession.left_session), left_session)
    return await changed_one(tx, update(CallSession).where(*_is(workspace_id, call_sid)).values(**added))


# Turns


async def last_turn_number(tx: AsyncSession, workspace_id: str, call_sid: str) -> int:
    """The highest number in the ids of a phone call's turns; 0 without any. One that was not stored is skipped."""
    number = cast(func.substring(col(ConversationTurn.turn_id), ":([0-9]{1,18})$"), BigInteger)
    query = select(func.coalesce(func.max(number), 0)).where(*_of(workspace_id, call_sid))
    return (await tx.execute(query)).scalar_one()


async def last_turn(tx: AsyncSession, workspace_id: str, call_sid: str) -> ConversationTurn | None:
    """The turn of a phone call that was stored last, whether its answer was begun or not."""
    query = select(ConversationTurn).where(*_of(workspace_id, call_sid))
    newest_first = query.order_by(col(ConversationTurn.created_at).desc(), col(ConversationTurn.number).desc())
    return (await tx.execute(newest_first.limit(1))).scalar()


async def turn_counts(tx: AsyncSession, workspace_id: str, call_sids: Sequence[str]) -> dict[str, tuple[int, Decimal]]:
    """Of each phone call that has turns: how many, and what they cost in USD."""
    cost = func.coalesce(func.sum(col(ConversationTurn.meta)["cost_usd"].astext.cast(Numeric)), 0)
    query = (
        select(col(ConversationTurn.conversation_id), func.count(), cost)
        .where(
            col(ConversationTurn.workspace_id) == workspace_id,
            col(ConversationTurn.conversation_id).in_(call_sids),
        )
        .group_by(col(ConversationTurn.conversation_id))
    )
    return {sid: (turns, Decimal(usd)) for sid, turns, usd in await tx.execute(query)}


async def costs(tx: AsyncSession, workspace_id: str, call_sid: str) -> dict[str, Decimal]:
    """What turns of a phone call have cost, or may have, in USD by their ids: what is reserved or uncertain counts."""
    turn_ids = (await tx.execute(select(col(ConversationTurn.turn_id)).where(*_of(workspace_id, call_sid)))).scalars()
    scopes = {job_scope(job_key(turn_job_id(workspace_id, call_sid, turn_id))): turn_id for turn_id in turn_ids}
    spent = col(Budget.reserved_usd) + col(Budget.confirmed_usd) + col(Budget.uncertain_usd)
    query = select(col(Budget.scope), spent).where(
        col(Budget.workspace_id) == workspace_id, col(Budget.scope).in_(scopes)
    )
    return {scopes[scope]: usd for scope, usd in await tx.execute(query)}


async def measure(tx: AsyncSession, workspace_id: str, call_sid: str, turn_id: str, measures: TurnMeasures) -> bool:
    """Record what was measured of a turn. What is not known stays as it is; what was heard can only become shorter."""
    known: dict[str, Any] = measures.model_dump(exclude_defaults=True)
    if measures.heard is not None:
        heard = col(ConversationTurn.heard)
        is_shorter = or_(heard.is_(None), func.starts_with(heard, measures.heard))
        known["heard"] = case((is_shorter, measures.heard), else_=heard)
    if not known:
        return False
    return await changed_one(tx, _turn(workspace_id, call_sid, turn_id).values(**known))


async def go_on(tx: AsyncSession, workspace_id: str, call_sid: str, turn_id: str) -> bool:
    """The rest of an answer is spoken that was cut off by the end of a session: nothing of it is missing any more."""
    return await changed_one(tx, _turn(workspace_id, call_sid, turn_id).values(heard=None, error=""))


async def cut_short(tx: AsyncSession, workspace_id: str, call_sid: str, turn_id: str) -> bool:
    """End a turn that was interrupted before its answer was begun: what the caller said is kept, in its place."""
    locked = select(StoredConversation).where(
        col(StoredConversation.workspace_id) == workspace_id, col(StoredConversation.conversation_id) == call_sid
    )
    conversation = (await tx.execute(locked.with_for_update())).scalar()
    if conversation is None:
        return False
    number = conversation.turns + 1
    statement = _turn(workspace_id, call_sid, turn_id).where(col(ConversationTurn.number).is_(None))
    ended = statement.values(number=number, outcome=Ended.CANCELLED.value, heard="", ended_at=NOW)
    if not await changed(tx, ended):
        return False
    conversation.turns = number
    return True


def _turn(workspace_id: str, call_sid: str, turn_id: str) -> Any:
    return update(ConversationTurn).where(*_of(workspace_id, call_sid), col(ConversationTurn.turn_id) == turn_id)


def _is(workspace_id: str, call_sid: str) -> tuple[ColumnElement[bool], ...]:
    return col(CallSession.workspace_id) == workspace_id, col(CallSession.call_sid) == call_sid


def _of(workspace_id: str, call_sid: str) -> tuple[ColumnElement[bool], ...]:
    return (
        col(ConversationTurn.workspace_id) == workspace_id,
        col(ConversationTurn.conversation_id) == call_sid,
    )
