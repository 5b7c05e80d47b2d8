"""Removes what people said, and what was said to them, from every table: of one user, or of before a time.

What it cost stays. The rows of the ledger stay as they are, so that balances, caps and the audit agree as before; a
reply keeps its counts and loses its text.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from parley.domain.auto_analyze.contract import GIVEN_ROUND
from parley.storage import memories
from parley.storage.database import changed
from parley.storage.retention import Old, move_mark

OWN = "one.workspace_id = :workspace AND one.user_id = :user"
OF_CONVERSATION = """one.conversation_id IN (
    SELECT conversation_id FROM conversations WHERE workspace_id = :workspace AND user_id = :user)"""
OF_ATTEMPT = """one.attempt_id IN (SELECT t.id FROM paid_requests r JOIN attempts t USING (workspace_id, request_id)
                                   WHERE r.workspace_id = :workspace AND r.user_id = :user)"""
OF_REQUEST = """one.request_id IN (SELECT request_id FROM paid_requests
                                   WHERE workspace_id = :workspace AND user_id = :user)"""
OF_STREAM = """one.stream_id IN (
    SELECT workflow_id FROM generations WHERE workspace_id = :workspace AND user_id = :user)"""
# Given for sessions of this user alone.
OF_RECORDING = """one.workspace_id = :workspace
    AND one.sha256 IN (SELECT recording_sha256 FROM session_analyses
                       WHERE workspace_id = :workspace AND user_id = :user)
    AND one.sha256 NOT IN (SELECT recording_sha256 FROM session_analyses
                           WHERE workspace_id = :workspace AND user_id <> :user AND recording_sha256 IS NOT NULL)"""
IN_WORKSPACE = "one.workspace_id = :workspace"
IS_OLD, HAS_ENDED = "one.created_at < :before", "one.status <> 'running'"
NOT_ANALYSED = """NOT EXISTS (SELECT 1 FROM session_analyses a
                 WHERE a.workspace_id = :workspace AND a.status = 'running' AND a.{0} = one.{1})"""
OLD_STREAM = """one.stream_id IN (SELECT stream_id FROM streams WHERE workspace_id = :workspace AND created_at < :before
                                 AND stream_id <> ALL(CAST(:running AS text[])))"""
# What is stored of an analysis, beside the reason of a failure, which may quote its speakers.
PARTS = ("voice_metrics", "acoustics", "curves", "coaching", "result")
# What is stored of a labelled chat session, beside its labels.
SAID = ("condensed", "summary", "intent_quote", "transfer_reason_quote", "drop_off_location_quote")
# The evidence of a label: what replies said of its sessions, and what users said in them.
EVIDENCE = ("meaning", "example", "definition", "examples")
# Chats without a word of the user are labelled by rule.
NOTHING_SAID = """payload || '{"messages": [{"role": "user", "text": "", "time": null}]}'"""
WITHOUT_CONTENT = """(payload || CASE payload ->> 'kind'
    WHEN 'chat' THEN '{"text": "", "forgotten": true}'
    WHEN 'transcription' THEN '{"words": [], "forgotten": true}'
    WHEN 'speech' THEN '{"audio": ""}' ELSE '{"vectors": []}' END::jsonb) - 'tool_calls'"""


@dataclass(frozen=True)
class Content:
    """How a table loses its content.

    columns: what its rows keep, as assignments; None: the rows are deleted. filled: which rows have content at all.
    of_user: those of `:user`. old: those from before `:before` that nothing needs; "" if they stay until the purge or
    until the user is forgotten, or are found in another way.
    """

    of_user: str
    old: str
    columns: str | None = None
    filled: str = "true"

    def statement(self, table: str, which: str) -> str:
        change = f"DELETE FROM {table} one" if self.columns is None else f"UPDATE {table} one SET {self.columns}"  # noqa: S608
        return f"{change} WHERE {IN_WORKSPACE} AND {self.filled} AND {which}"


# In this order: what is found through another row comes before that row.
CONTENT: Mapping[str, Content] = {
    "llm_cache": Content(OWN, IS_OLD),
    "summaries": Content(
        OF_ATTEMPT,
        IS_OLD,
    ),
    "stream_chunks": Content(
        OF_STREAM,
        OLD_STREAM,
    ),
    "streams": Content(
        OF_STREAM,
        f"{IS_OLD} AND one.stream_id <> ALL(CAST(:running AS text[]))",
    ),
    "prompts": Content(
        f"""one.sha256 IN (
            SELECT context_sha256 FROM conversation_turns one WHERE {IN_WORKSPACE} AND {OF_CONVERSATION})""",  # noqa: S608
        "one.stored_at < :before",
    ),
    "conversation_turns": Content(OF_CONVERSATION, f"{IS_OLD} AND one.outcome <> ''"),
    "conversations": Content(
        OWN, "one.last_turn_at < :before", "summary = '', summary_tokens = 0", "one.summary <> ''"
    ),
    "call_sessions": Content(
        OWN,
        "one.started_at < :before",
        "caller = '', caller_name = '', forwarded_from = '', handoff = NULL, parameters = '{}'",
        """(one.caller, one.caller_name, one.forwarded_from, one.parameters, one.handoff)
           IS DISTINCT FROM ('', '', '', '{}', NULL)""",
    ),
    "recordings": Content(OF_RECORDING, f"{IS_OLD} AND {NOT_ANALYSED.format('recording_sha256', 'sha256')}"),
    "sessions": Content(OWN, f"{IS_OLD} AND {NOT_ANALYSED.format('session_sha256', 'sha256')}"),
    "session_analyses": Content(
        OWN,
        f"{IS_OLD} AND {HAS_ENDED}",
        ", ".join((*(f"{part} = NULL" for part in PARTS), "reason = ''")),
        f"({' OR '.join(f'one.{part} IS NOT NULL' for part in PARTS)} OR one.reason <> '')",
    ),
    # A run that goes on from an earlier one has the evidence of its labels, as labels that it was given.
    "auto_labels": Content(
        f"""EXISTS (
            SELECT 1 FROM auto_sessions s JOIN auto_runs r USING (workspace_id, job_key)
                JOIN chat_sessions c USING (workspace_id, dataset_id, position)
            WHERE s.workspace_id = :workspace AND c.user_id = :user
                AND (s.job_key = one.job_key OR one.first_round = {GIVEN_ROUND})
                AND one.label IN (s.intent, s.transfer_reason, s.drop_off_location, s.probe_intent,
                                  s.canonical_intent, s.canonical_transfer_reason, s.canonical_drop_off_location))""",  # noqa: S608
        f"""one.job_key IN (SELECT one.job_key FROM auto_runs one WHERE {IN_WORKSPACE} AND {IS_OLD} AND {HAS_ENDED})""",  # noqa: S608
        ", ".join(f"{part} = NULL" for part in EVIDENCE),
        f"({' OR '.join(f'one.{part} IS NOT NULL' for part in EVIDENCE)})",
    ),
    "auto_sessions": Content(
        """(one.job_key, one.position) IN (
            SELECT r.job_key, c.position FROM auto_runs r JOIN chat_sessions c USING (workspace_id, dataset_id)
            WHERE r.workspace_id = :workspace AND c.user_id = :user)""",
        f"""one.job_key IN (SELECT one.job_key FROM auto_runs one WHERE {IN_WORKSPACE} AND {IS_OLD} AND {HAS_ENDED})""",  # noqa: S608
        ", ".join(f"{part} = NULL" for part in SAID),
        f"({' OR '.join(f'one.{part} IS NOT NULL' for part in SAID)})",
    ),
    "chat_sessions": Content(
        OWN,
        """one.dataset_id IN (SELECT d.dataset_id FROM datasets d WHERE d.workspace_id = :workspace
                              AND d.created_at < :before AND NOT EXISTS (
            SELECT 1 FROM auto_runs r WHERE r.workspace_id = :workspace AND r.dataset_id = d.dataset_id
                                        AND r.status = 'running'))""",
        f"payload = {NOTHING_SAID}",
        f"one.payload <> {NOTHING_SAID.replace('payload', 'one.payload')}",
    ),
    "configuration": Content("one.owner = :user", ""),
    # A vendor, or a check of its reply, may quote what it refuses.
    "attempts": Content(
        OF_REQUEST,
        "",  # `forget_old_replies`
        "error = NULL",
        "one.error IS NOT NULL",
    ),
    "replies": Content(
        OF_ATTEMPT,
        "",  # `forget_old_replies`
        f"payload = {WITHOUT_CONTENT}",
        f"one.payload <> {WITHOUT_CONTENT.replace('payload', 'one.payload')}",
    ),
}

IS_FORGOTTEN = text("""
    SELECT EXISTS (SELECT 1 FROM paid_requests r JOIN replies a ON a.attempt_id = r.settled_attempt_id
                   WHERE r.workspace_id = :workspace AND r.request_id = :request
                     AND a.payload @> '{"forgotten": true}')""")
# The rows of emptied replies stay for long: each page begins where the one before it ended, at any time before.
FORGET_REPLIES = text(f"""
    WITH page AS MATERIALIZED (
        SELECT t.id, t.started_at, (t.state = 'open' OR r.expires_at >= :before
                                    OR r.workflow_id = ANY(CAST(:running AS text[]))) AS needed
        FROM attempts t JOIN paid_requests r USING (workspace_id, request_id)
        WHERE t.workspace_id = :workspace AND t.started_at < :before AND (t.started_at, t.id) > (:started_at, :id)
        ORDER BY t.started_at, t.id LIMIT :limit),
    emptied AS (
        {CONTENT["replies"].statement("replies", "one.attempt_id IN (SELECT id FROM page WHERE NOT needed)")}
        RETURNING 1),
    silenced AS (
        {CONTENT["attempts"].statement("attempts", "one.id IN (SELECT id FROM page WHERE NOT needed)")})
    SELECT count(*) AS looked_at, (SELECT count(*) FROM emptied) AS emptied, max(started_at) AS started_at,
           (array_agg(id ORDER BY started_at DESC, id DESC))[1] AS id, min(started_at) FILTER (WHERE needed) AS needed
    FROM page""")  # noqa: S608 - constants
MARK = text("SELECT before FROM purge_marks WHERE subject = :subject")
FIRST_ID = UUID(int=0)
BY_AGE = tuple(table for table, content in CONTENT.items() if content.old)


@dataclass(frozen=True)
class RepliesPage:
    """Attempts that were looked at, and how many of their replies were emptied.

    last: time and id of the last one, after which the next page begins; None: there is no next one.
    needed_from: the time of the first one, in this page and those before, whose reply may still come or be needed.
    """

    looked_at: int = 0
    emptied: int = 0
    last: tuple[datetime, UUID] | None = None
    needed_from: datetime | None = None


async def is_forgotten(tx: AsyncSession, workspace_id: str, request_id: str) -> bool:
    """Whether the transcription that answered a request has lost its words. It answers no further job."""
    values = {"workspace": workspace_id, "request": request_id}
    return bool((await tx.execute(IS_FORGOTTEN, values)).scalar_one())


async def forget_user(tx: AsyncSession, workspace_id: str, user_id: str) -> dict[str, int]:
    """Remove the content of a user everywhere. Returns how many rows were deleted or emptied, by table; none: left out.

    An answer that is being made is not stopped: what it stores afterwards needs a further call. A prompt of a
    `Generate` that was stored for its length is found by its hash only: it goes with the purge.
    """
    await memories.lock(tx, workspace_id, user_id)
    counts = {"memories": await memories.forget(tx, workspace_id, user_id)}
    for table, content in CONTENT.items():
        statement = text(content.statement(table, content.of_user))
        counts[table] = await changed(tx, statement, {"workspace": workspace_id, "user": user_id})
    return {table: count for table, count in counts.items() if count}


async def forget_old(tx: AsyncSession, workspace_id: str, table: str, old: Old, *, limit: int) -> int:
    """Remove the content of at most `limit` rows of a table that are old. Returns how many; fewer than `limit`: all.

    Memories stay: they are kept until they end or the user is forgotten.

    Raises:
        KeyError: the table is not one of `BY_AGE`.
    """
    content = {name: CONTENT[name] for name in BY_AGE}[table]
    # ctid: the tables have keys of several kinds.
    which = f"""one.ctid = ANY(ARRAY(SELECT one.ctid FROM {table} one
                WHERE {IN_WORKSPACE} AND {content.filled} AND {content.old} LIMIT :limit FOR UPDATE SKIP LOCKED))"""  # noqa: S608
    values = {"workspace": workspace_id, "before": old.before, "limit": limit}
    if ":running" in content.old:
        values["running"] = list(old.running)
    return await changed(tx, text(content.statement(table, which)), values)


async def forget_old_replies(
    tx: AsyncSession, workspace_id: str, old: Old, *, after: RepliesPage | None, limit: int
) -> RepliesPage:
    """Empty the replies, and the messages of errors, of the next `limit` attempts of a workspace that are old, the
    oldest first.

    A mark is kept of the time before which all are emptied, so that none is read again. `after`: the page before.
    """
    subject = f"replies of {workspace_id}"
    if after and after.last:
        started_at, attempt_id = after.last
    else:
        mark = (await tx.execute(MARK, {"subject": subject})).scalar()
        started_at, attempt_id = mark or datetime.min.replace(tzinfo=UTC), FIRST_ID
    found = {"workspace": workspace_id, "before": old.before, "running": list(old.running), "limit": limit}
    row = (await tx.execute(FORGET_REPLIES, {**found, "started_at": started_at, "id": attempt_id})).mappings().one()
    is_last = row["looked_at"] < limit
    needed_from = (after and after.needed_from) or row["needed"]
    if row["looked_at"]:
        mark = needed_from or (old.before if is_last else row["started_at"])
        await move_mark(tx, subject, mark)
    return RepliesPage(
        row["looked_at"], row["emptied"], None if is_last else (row["started_at"], row["id"]), needed_from
    )
