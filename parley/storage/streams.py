"""What was delivered of each stream, in chunks, for readers in other processes and for further attempts.

Only the newest attempt writes: each statement of an attempt changes nothing once a newer one has begun. A stream is
written about once a second, never for each delta.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import RowMapping, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.types import DateTime, String

from parley.domain.errors import StreamSuperseded
from parley.domain.requests import ChatReply
from parley.domain.streaming import Delivered, Delta
from parley.storage.database import changed_one

# A stream is read by few gateway processes; those that read first have probably ended.
MOST_RECEIVERS = 4
DELTAS: TypeAdapter[tuple[Delta, ...]] = TypeAdapter(tuple[Delta, ...])

OF_ATTEMPT = "workspace_id = :workspace_id AND stream_id = :stream_id AND attempt = :attempt"
OF_STREAM = "workspace_id = :workspace_id AND stream_id = :stream_id"
WITH_RECEIVER = f"""CASE WHEN one.receivers @> :added THEN one.receivers
    ELSE (one.receivers || :added)[greatest(1, cardinality(one.receivers) + 2 - {MOST_RECEIVERS}):] END"""
ADDED = bindparam("added", type_=ARRAY(String))
OPEN = text(f"""
    INSERT INTO streams AS one (workspace_id, stream_id, attempt, receivers, paid_request_id, attempt_id, starts_at,
                                created_at, scheduled_at)
    VALUES (:workspace_id, :stream_id, 1, :added, '', '', 0, statement_timestamp(), :scheduled_at)
    ON CONFLICT (workspace_id, stream_id) DO UPDATE
    SET attempt = one.attempt + 1, receivers = {WITH_RECEIVER}, ended_at = NULL,
        scheduled_at = coalesce(:scheduled_at, one.scheduled_at)
    WHERE :scheduled_at IS NULL OR one.scheduled_at IS NULL OR :scheduled_at >= one.scheduled_at
    RETURNING *""").bindparams(ADDED, bindparam("scheduled_at", type_=DateTime(timezone=True)))  # noqa: S608 - constants
ADD_RECEIVER = text(f"""
    UPDATE streams one SET receivers = {WITH_RECEIVER} WHERE {OF_STREAM} AND ended_at IS NULL
    AND NOT receivers @> :added""").bindparams(ADDED)  # noqa: S608 - constants
RECORD_CLAIM = text(f"""
    UPDATE streams SET paid_request_id = :paid_request_id, attempt_id = :attempt_id, starts_at = :starts_at,
                       reply = NULL
    WHERE {OF_ATTEMPT}""")  # noqa: S608 - constants
# A chunk that is written again, because the outcome of its commit was not known, may have grown.
STORE = text(f"""
    WITH one AS (
        UPDATE streams SET reply = coalesce(:reply, reply),
            ended_at = CASE WHEN :ends AND coalesce(:reply, reply) IS NOT NULL THEN statement_timestamp() END
        WHERE {OF_ATTEMPT} RETURNING workspace_id, stream_id, receivers),
    chunk AS (
        INSERT INTO stream_chunks AS chunk (workspace_id, stream_id, first_offset, deltas)
        SELECT workspace_id, stream_id, :first_offset, :deltas FROM one WHERE jsonb_array_length(:deltas) > 0
        ON CONFLICT (workspace_id, stream_id, first_offset) DO UPDATE SET deltas = excluded.deltas)
    SELECT receivers FROM one""").bindparams(  # noqa: S608 - constants
    bindparam("reply", type_=JSONB(none_as_null=True)), bindparam("deltas", type_=JSONB)
)
FIND = text(f"SELECT attempt, receivers, ended_at FROM streams WHERE {OF_STREAM}")  # noqa: S608 - constants
CHUNKS = text(f"""
    SELECT first_offset, deltas FROM stream_chunks
    WHERE {OF_STREAM} AND first_offset + jsonb_array_length(deltas) > :after ORDER BY first_offset
    """)  # noqa: S608 - constants
# A stream that no running job feeds, and that has not ended, is one whose job ended without an answer.
PURGE = text("""
    WITH old AS (
        DELETE FROM streams WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM streams
            WHERE ended_at < :ended_before
               OR ended_at IS NULL AND created_at < :begun_before AND stream_id <> ALL(:running)
            LIMIT :limit FOR UPDATE SKIP LOCKED))
        RETURNING workspace_id, stream_id),
    chunks AS (
        DELETE FROM stream_chunks c USING old WHERE (c.workspace_id, c.stream_id) = (old.workspace_id, old.stream_id))
    SELECT count(*) FROM old""").bindparams(bindparam("running", type_=ARRAY(String)))


@dataclass(frozen=True)
class Opened:
    """A stream that an attempt has opened.

    delivered: what is stored of it. receivers: the addresses of the processes that read it, the newest last.
    """

    delivered: Delivered
    receivers: tuple[str, ...]


@dataclass(frozen=True)
class StoredStream:
    """What is stored of a stream for its readers. `deltas`: those from the offset `first` on."""

    attempt: int
    receivers: tuple[str, ...]
    has_ended: bool
    first: int
    deltas: tuple[Delta, ...]


@dataclass(frozen=True)
class News:
    """What an attempt stores: the deltas from the offset `first` on, its reply if it has one, and whether it ends."""

    first: int
    deltas: Sequence[Delta] = ()
    reply: ChatReply | None = None
    ends: bool = False


async def open_attempt(
    tx: AsyncSession, workspace_id: str, stream_id: str, address: str, scheduled_at: datetime | None = None
) -> Opened:
    """Begin the next attempt of a stream, or its first one: from here on the older ones can write nothing.

    Args:
        address: of the receiver that the stream goes to, beside those that are known; empty: its readers poll.
        scheduled_at: when the step of the attempt was scheduled: a fencing token. None: the attempt has no step.

    Raises:
        StreamSuperseded: a step that was scheduled later has opened the stream.
    """
    key = {"workspace_id": workspace_id, "stream_id": stream_id}
    given = {**key, "added": [address] if address else [], "scheduled_at": scheduled_at}
    row = (await tx.execute(OPEN, given)).mappings().first()
    if row is None:
        raise StreamSuperseded("a step that was scheduled later makes this answer")
    # Older attempts store nothing any more, so that the chunks do not change until this attempt writes.
    deltas = () if row["attempt"] == 1 else await _deltas(tx, key)
    known = {name: row[name] for name in ("attempt", "paid_request_id", "attempt_id", "starts_at", "reply")}
    return Opened(Delivered.model_validate({**known, "deltas": deltas}), tuple(row["receivers"]))


async def record_claim(
    tx: AsyncSession, workspace_id: str, stream_id: str, attempt: int, claim: tuple[str, str, int]
) -> bool:
    """Record what an attempt pays: the paid request, its attempt at the provider, and the offset of its reply.

    Returns whether the attempt is the newest.
    """
    paid_request_id, attempt_id, starts_at = claim
    what = {"paid_request_id": paid_request_id, "attempt_id": attempt_id, "starts_at": starts_at}
    of = {"workspace_id": workspace_id, "stream_id": stream_id, "attempt": attempt}
    return await changed_one(tx, RECORD_CLAIM, {**of, **what})


async def store(
    tx: AsyncSession, workspace_id: str, stream_id: str, attempt: int, news: News
) -> tuple[str, ...] | None:
    """Store what an attempt has delivered since, in one statement. The same may be stored again.

    A stream ends with the end of an attempt that has the reply. Returns the receivers' addresses; None where the
    attempt is not the newest, and nothing was stored.
    """
    reply = news.reply.model_dump(mode="json") if news.reply else None
    what = {"first_offset": news.first, "deltas": _as_json(news.deltas), "reply": reply, "ends": news.ends}
    of = {"workspace_id": workspace_id, "stream_id": stream_id, "attempt": attempt}
    receivers = (await tx.execute(STORE, {**of, **what})).scalar()
    return None if receivers is None else tuple(receivers)


async def load(tx: AsyncSession, workspace_id: str, stream_id: str, *, after: int) -> StoredStream | None:
    """What is stored of a stream from about the offset `after` on. None if it has not begun."""
    key = {"workspace_id": workspace_id, "stream_id": stream_id}
    row = (await tx.execute(FIND, key)).mappings().first()
    if row is None:
        return None
    chunks = await _chunks(tx, key, after)
    first = chunks[0]["first_offset"] if chunks else after
    return StoredStream(row["attempt"], tuple(row["receivers"]), row["ended_at"] is not None, first, _joined(chunks))


async def add_receiver(tx: AsyncSession, workspace_id: str, stream_id: str, address: str) -> bool:
    """Have a stream that has not ended sent to this address too. Returns whether that is new."""
    key = {"workspace_id": workspace_id, "stream_id": stream_id}
    return await changed_one(tx, ADD_RECEIVER, {**key, "added": [address]})


async def purge(
    tx: AsyncSession, *, ended_before: datetime, begun_before: datetime, running: Sequence[str], limit: int
) -> int:
    """Delete at most `limit` streams of any workspace, with their chunks. Returns how many.

    Streams are old that ended before one time, or began before another and belong to none of the running workflows.
    """
    old = {"ended_before": ended_before, "begun_before": begun_before, "running": [*running], "limit": limit}
    return (await tx.execute(PURGE, old)).scalar_one()


async def _deltas(tx: AsyncSession, key: dict[str, str]) -> tuple[Delta, ...]:
    return _joined(await _chunks(tx, key, 0))


async def _chunks(tx: AsyncSession, key: dict[str, str], after: int) -> Sequence[RowMapping]:
    return (await tx.execute(CHUNKS, {**key, "after": after})).mappings().all()


def _joined(chunks: Sequence[RowMapping]) -> tuple[Delta, ...]:
    return DELTAS.validate_python([delta for chunk in chunks for delta in chunk["deltas"]])


def _as_json(deltas: Sequence[Delta]) -> list[dict[str, Any]]:
    return DELTAS.dump_python(tuple(deltas), mode="json")
