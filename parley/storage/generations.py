"""The outcome of each `Generate`, and the prompts that are too long for a workflow's history."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Boolean, ColumnElement, and_, bindparam, func, or_, select, true, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from parley.domain.errors import IdempotencyConflict, NotFound
from parley.domain.generate.contract import Job, Prompt, Serving, ask_id, generation_id
from parley.domain.reports import Feedback
from parley.domain.requests import ChatReply, Usage
from parley.storage import outbox
from parley.storage.budgets import job_scope
from parley.storage.database import NOW, changed_one, purge
from parley.storage.driver import Query, defer
from parley.storage.rows import insert_of, table
from parley.storage.tables import (
    Attempt,
    Budget,
    Generation,
    JournaledReply,
    OutboxEvent,
    PaidRequest,
    StoredPrompt,
    UsageLog,
)

COST = func.coalesce(func.sum(Attempt.cost_usd), 0)
OF_KEY = and_(
    col(Generation.workspace_id) == bindparam("workspace"), col(Generation.request_id) == bindparam("request")
)
ENDED = select(Generation).where(OF_KEY)
ENVELOPE = select(col(Budget.scope)).where(
    col(Budget.workspace_id) == bindparam("workspace"), col(Budget.scope) == bindparam("scope")
)
KNOWN = (
    select(Generation, ENVELOPE.exists().label("has_paid"))
    .select_from(select(1).subquery())
    .outerjoin(Generation, OF_KEY)
)

IDENTITY = ("workspace_id", "request_id")
NEW = insert_of(Generation)
RECORD = NEW.on_conflict_do_update(
    index_elements=IDENTITY,
    set_={one.name: one for one in NEW.excluded if one.name not in (*IDENTITY, "quality", "feedback")},
    where=or_(
        col(Generation.outcome) != "completed",
        and_(bindparam("is_paid", type_=Boolean), col(Generation.cached) == "stale"),
    ),
).returning(true())

OF_REQUEST = and_(
    col(PaidRequest.workspace_id) == Attempt.workspace_id, col(PaidRequest.request_id) == Attempt.request_id
)
SPENT = (
    select(COST, func.count(col(Attempt.id)))
    .join(PaidRequest, OF_REQUEST)
    .where(col(PaidRequest.workspace_id) == bindparam("workspace"), col(PaidRequest.job_key) == bindparam("job"))
)
COUNTS = {
    "input_tokens": UsageLog.tokens_prompt,
    "cached_input_tokens": UsageLog.tokens_cached,
    "cache_write_tokens": UsageLog.tokens_cache_written,
    "output_tokens": UsageLog.tokens_completion,
}
RECORD_COST = update(table(Generation)).where(OF_KEY).values(cost_usd=SPENT.with_only_columns(COST).scalar_subquery())


async def save_prompt(tx: AsyncSession, workspace_id: str, prompt: Prompt) -> Prompt:
    """Store a prompt under its hash and return a reference to it. Storing it again renews its retention."""
    row = StoredPrompt(workspace_id=workspace_id, sha256=prompt.hash(), payload=prompt.model_dump(mode="json"))
    upsert = insert(StoredPrompt).values(**row.model_dump())
    fresh = {"stored_at": NOW}
    await tx.execute(upsert.on_conflict_do_update(index_elements=["workspace_id", "sha256"], set_=fresh))
    return Prompt(sha256=row.sha256)


async def for_history(tx: AsyncSession, job: Job, prompt: Prompt) -> Prompt:
    """The prompt for a workflow's history: inline if it is short; else, and for a turn, a reference."""
    if prompt.is_short and not job.is_turn:
        return prompt
    if job.is_turn and prompt.hash() == job.input.prompt.sha256:  # it was stored when it was composed
        return job.input.prompt
    return await save_prompt(tx, job.input.workspace_id, prompt)


async def load_prompt(tx: AsyncSession, workspace_id: str, prompt: Prompt) -> Prompt:
    """The prompt in full.

    Raises:
        NotFound: the workspace has no prompt with that hash.
    """
    if prompt.sha256 is None:
        return prompt
    row = await tx.get(StoredPrompt, (workspace_id, prompt.sha256))
    if row is None:
        raise NotFound(f"no prompt {prompt.sha256!r} in workspace {workspace_id!r}")
    return Prompt.model_validate(row.payload)


async def purge_prompts(tx: AsyncSession, older_than: datetime, *, limit: int) -> int:
    """Delete prompts of any workspace that were last used before `older_than`. Returns how many."""
    return await purge(tx, StoredPrompt, col(StoredPrompt.stored_at), older_than, limit=limit)


def row(job: Job, serving: Serving, **known: Any) -> Generation:
    """The row of a generation that ends now. `known`: its outcome and further columns."""
    return Generation(
        workspace_id=job.input.workspace_id,
        request_id=job.request_id,
        job_key=job.job_key,
        fingerprint=job.fingerprint,
        workflow_id=job.workflow_id,
        user_id=job.input.user_id,
        prospect_id=job.input.prospect_id,
        action=job.input.action,
        template=serving.template,
        experiment=serving.experiment,
        arm=serving.arm,
        started_at=job.started_at,
        **known,
    )


@dataclass(frozen=True)
class Known:
    """How the generation under a key ended, if it did, and whether something was paid for it."""

    row: Generation | None
    has_paid: bool


@dataclass(frozen=True)
class Earlier:
    """What is known of a generation's key from before: from an earlier run, or from before a reset.

    row: how it ended, if it did.
    first_ask: the number of the paid request to continue with, unless the last settled reply is an answer.
    energy: what the user has already reserved or paid for the answer.
    is_first: nothing was tried before.
    """

    row: Generation | None = None
    first_ask: int = 1
    energy: int = 0
    is_first: bool = True


def known(job: Job) -> Query[Known]:
    """What is stored under a generation's key."""

    def read(rows: Sequence[Any]) -> Known:
        (found,) = rows
        columns = found._asdict()
        has_paid = columns.pop("has_paid")
        return Known(Generation(**columns) if found.request_id is not None else None, has_paid)

    given = {"workspace": job.input.workspace_id, "request": job.request_id, "scope": job_scope(job.job_key)}
    return Query(KNOWN, given, read)


async def earlier(tx: AsyncSession, job: Job, before: Known) -> Earlier:
    """What was done under the generation's key before.

    Raises:
        IdempotencyConflict: the key was used for a different request.
    """
    _check_same(job, before.row.fingerprint if before.row else job.fingerprint)
    return await _asks(tx, job, before.row) if before.has_paid else Earlier(before.row)


async def _asks(tx: AsyncSession, job: Job, row: Generation | None) -> Earlier:
    """The paid requests for an answer so far. A settled request is followed by the next one."""
    query = (
        select(PaidRequest, func.coalesce(col(UsageLog.energy_charged), 0))
        .outerjoin(UsageLog, col(UsageLog.attempt_id) == PaidRequest.settled_attempt_id)
        .where(*_are_asks(job.input.workspace_id, job.job_key))
    )
    first_ask, energy = 1, 0
    for request, charged in (await tx.execute(query)).all():
        _check_same(job, request.fingerprint)
        number = int(request.request_id.removeprefix(ask_id(job.job_key, "")).partition("/")[0])
        first_ask = max(first_ask, number + (request.state == "settled"))
        energy = max(energy, request.energy_reserved, charged)
    return Earlier(row, first_ask, energy, is_first=False)


def _are_asks(workspace_id: str, job_key: str) -> tuple[ColumnElement[bool], ...]:
    """The conditions for a generation's paid requests for an answer."""
    return (
        col(PaidRequest.workspace_id) == workspace_id,
        col(PaidRequest.job_key) == job_key,
        col(PaidRequest.request_id).startswith(ask_id(job_key, ""), autoescape=True),
    )


def _check_same(job: Job, fingerprint: str) -> None:
    if fingerprint != job.fingerprint:
        raise IdempotencyConflict(f"{job.workflow_id} was already used for a different request: use another key")


async def record(tx: AsyncSession, generation: Generation) -> bool:
    """Store how a generation ended, in place of an earlier end without an answer; returns whether it was stored.

    A paid answer also replaces the expired one that was given in its place. Any other answer is final.
    """
    return (await tx.execute(RECORD, _recorded(generation))).first() is not None


async def defer_record(tx: AsyncSession, generation: Generation) -> None:
    """`record` in the round trip of the transaction's next statement, or of its commit."""
    await defer(tx, RECORD, _recorded(generation))


def _recorded(generation: Generation) -> dict[str, Any]:
    is_paid = generation.outcome == "completed" and not generation.cached
    return {**generation.model_dump(), "is_paid": is_paid}


async def record_cost(tx: AsyncSession, workspace_id: str, job_key: str) -> None:
    """Update the stored cost after the generation ended, for a late reply or a cancelled attempt.

    It runs with the transaction's next statement or its commit.
    """
    await defer(tx, RECORD_COST, {"workspace": workspace_id, "job": job_key, "request": generation_id(job_key)})


async def record_without_call(tx: AsyncSession, generation: Generation) -> bool:
    """Store the outcome of a generation without a paid call, with the event that a settlement would write."""
    if not await record(tx, generation):
        return False
    answered = generation.outcome == "completed"
    event = OutboxEvent(
        workspace_id=generation.workspace_id,
        kind="ai_generation_completed" if answered else "ai_generation_failed",
        key=f"{generation.request_id}/{'answered' if answered else 'failed'}",
        payload=_event_payload(generation),
    )
    await outbox.write_once(tx, event)
    return True


async def totals(tx: AsyncSession, workspace_id: str, job_key: str) -> tuple[Decimal, int]:
    """The confirmed cost of a job's attempts in USD, and their number."""
    cost, attempts = (await tx.execute(SPENT, {"workspace": workspace_id, "job": job_key})).one()
    return cost or Decimal(0), attempts


async def usage(tx: AsyncSession, workspace_id: str, job_key: str, reply: ChatReply) -> Usage:
    """What providers counted for an answer: for all attempts at it, where it continues a stream that broke."""
    if not reply.continues:
        return reply.usage
    counts = {name: func.coalesce(func.sum(col(column)), 0) for name, column in COUNTS.items()}
    requests = select(col(PaidRequest.request_id)).where(*_are_asks(workspace_id, job_key))
    query = select(*counts.values()).where(
        col(UsageLog.workspace_id) == workspace_id, col(UsageLog.request_id).in_(requests)
    )
    return Usage.model_validate(dict(zip(counts, (await tx.execute(query)).one(), strict=True)))


async def rate(tx: AsyncSession, workspace_id: str, request_id: str, feedback: Feedback) -> None:
    """Store a user's feedback on an answer, in place of earlier feedback.

    Raises:
        NotFound: the workspace has no such generation.
    """
    rated = update(Generation).where(
        col(Generation.workspace_id) == workspace_id, col(Generation.request_id) == request_id
    )
    if not await changed_one(tx, rated.values(feedback=feedback.value)):
        raise NotFound(f"workspace {workspace_id!r} has no request {request_id!r}")


async def last_reply(tx: AsyncSession, workspace_id: str, job_key: str) -> UUID | None:
    """The attempt that settled the last request for an answer; None if no request is settled. It may be no answer."""
    is_settled = col(PaidRequest.state) == "settled"
    settled = select(col(PaidRequest.settled_attempt_id)).where(*_are_asks(workspace_id, job_key), is_settled)
    return (await tx.execute(settled.order_by(col(PaidRequest.created_at).desc()).limit(1))).scalar()


async def find(tx: AsyncSession, workspace_id: str, request_id: str) -> Generation | None:
    """How a generation ended; None if it did not."""
    return (await tx.execute(ENDED, {"workspace": workspace_id, "request": request_id})).scalar()


async def answer(tx: AsyncSession, workspace_id: str, request_id: str) -> ChatReply:
    """The whole answer of a generation that completed.

    Raises:
        NotFound: there is no such generation, or it was not answered.
    """
    generation = await find(tx, workspace_id, request_id)
    reply = await reply_of(tx, generation) if generation else None
    if reply is None:
        raise NotFound(f"no answer to {request_id!r} in workspace {workspace_id!r}")
    return reply


async def reply_of(tx: AsyncSession, generation: Generation) -> ChatReply | None:
    """The whole answer of a generation; None where it has none, or it has been purged or removed."""
    journal = select(col(JournaledReply.payload)).where(
        col(JournaledReply.workspace_id) == generation.workspace_id,
        col(JournaledReply.attempt_id) == generation.attempt_id,
    )
    reply = (await tx.execute(journal)).scalar() if generation.attempt_id else None
    answer = None if reply is None else ChatReply.model_validate(reply)
    return None if answer is None or answer.forgotten else answer


async def grade(tx: AsyncSession, workspace_id: str, request_id: str, score: Decimal) -> bool:
    """Store the quality of an answer, between 0 and 1. Only the first grade is stored; returns whether this was it."""
    ungraded = update(Generation).where(
        col(Generation.workspace_id) == workspace_id,
        col(Generation.request_id) == request_id,
        col(Generation.quality).is_(None),
    )
    return await changed_one(tx, ungraded.values(quality=score))


def _event_payload(generation: Generation) -> dict[str, Any]:
    return {
        "request_id": generation.request_id,
        "user_id": generation.user_id,
        "action": generation.action,
        "provider": generation.provider,
        "model": generation.model,
        "cached": generation.cached,
        "saved_usd": str(generation.saved_usd),
        "error": generation.reason,
    }
