"""The rows of jobs that ended long ago: deleted in batches, over all workspaces. What they add up to remains.

A paid request is deleted with its attempts, replies, usage rows, energy entries and corrections. In the same
transaction its usage is added to the day's total, its charge to the account's `charged_earlier`, and its dollars leave
the job's envelope, so that the ledger agrees with itself at every commit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import RowMapping, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from parley.domain.generate.contract import generation_id
from parley.storage.database import changed
from parley.storage.tables import PurgeMark

PAGE = text("""
    SELECT expires_at, workspace_id, request_id FROM paid_requests
    WHERE expires_at < :before AND (expires_at, workspace_id, request_id) > (:expires_at, :workspace_id, :request_id)
    ORDER BY expires_at, workspace_id, request_id LIMIT :limit""")
KEYS = "unnest(CAST(:workspace_ids AS text[]), CAST(:request_ids AS text[])) AS one(workspace_id, request_id)"
# The requests of a job are deleted once all of them are old, and the job's generation is deleted. A reply stays as long
# as anything names it: an answer that was given from the cache, the cache itself, or the summary of a conversation.
LOCK = text(f"""
    SELECT r.workspace_id, r.request_id, r.job_key FROM {KEYS} JOIN paid_requests r USING (workspace_id, request_id)
    WHERE r.owner_attempt_id IS NULL AND r.expires_at < :before AND r.workflow_id <> ALL(CAST(:running AS text[]))
      AND NOT EXISTS (SELECT 1 FROM paid_requests o WHERE (o.workspace_id, o.job_key) = (r.workspace_id, r.job_key)
                        AND o.expires_at >= :before)
      AND NOT EXISTS (SELECT 1 FROM generations g WHERE g.workspace_id = r.workspace_id
                        AND g.request_id = r.job_key || '{generation_id("")}')
      AND NOT EXISTS (SELECT 1 FROM generations g WHERE g.attempt_id = r.settled_attempt_id AND g.cached <> '')
      AND NOT EXISTS (SELECT 1 FROM llm_cache a WHERE a.attempt_id = r.settled_attempt_id)
      AND NOT EXISTS (SELECT 1 FROM summaries s WHERE s.attempt_id = r.settled_attempt_id)
    FOR UPDATE OF r SKIP LOCKED""")  # noqa: S608 - constants
REDUCE_ENVELOPES = text(f"""
    UPDATE budgets b SET confirmed_usd = b.confirmed_usd - u.confirmed, uncertain_usd = b.uncertain_usd - u.uncertain
    FROM (SELECT workspace_id, 'job:' || u.job_key AS scope,
                 coalesce(sum(u.cost_usd) FILTER (WHERE u.confirmed), 0) AS confirmed,
                 coalesce(sum(u.cost_usd) FILTER (WHERE NOT u.confirmed), 0) AS uncertain
          FROM {KEYS} JOIN attempts t USING (workspace_id, request_id)
                      JOIN ai_usage_logs u USING (workspace_id)
          WHERE u.attempt_id = t.id GROUP BY 1, 2) u
    WHERE (b.workspace_id, b.scope) = (u.workspace_id, u.scope)""")  # noqa: S608 - constants
DELETE = text(f"""
    WITH requests AS (
        DELETE FROM paid_requests r USING {KEYS}
        WHERE (r.workspace_id, r.request_id) = (one.workspace_id, one.request_id)
        RETURNING r.workspace_id, r.request_id, r.user_id),
    ended AS (
        DELETE FROM attempts t USING requests r
        WHERE (t.workspace_id, t.request_id) = (r.workspace_id, r.request_id)
        RETURNING t.id, (t.started_at AT TIME ZONE 'UTC')::date AS day),
    replied AS (DELETE FROM replies USING ended WHERE attempt_id = ended.id),
    corrected AS (DELETE FROM cost_corrections USING ended WHERE attempt_id = ended.id),
    logged AS (
        DELETE FROM ai_usage_logs u USING ended WHERE u.attempt_id = ended.id
        RETURNING u.workspace_id, ended.day, u.provider, u.model, u.action, u.simulated, u.tokens_total,
                  u.audio_seconds, u.cost_usd, u.confirmed, u.energy_charged),
    entered AS (
        DELETE FROM energy_entries e USING requests r
        WHERE (e.workspace_id, e.user_id, e.request_id) = (r.workspace_id, r.user_id, r.request_id)
        RETURNING e.workspace_id, e.user_id, e.kind, e.amount),
    charges AS (
        SELECT workspace_id, user_id, sum(amount) AS amount FROM entered WHERE kind = 'charge' GROUP BY 1, 2),
    accounts AS (
        SELECT a.workspace_id, a.user_id, c.amount FROM energy_accounts a JOIN charges c USING (workspace_id, user_id)
        ORDER BY a.workspace_id, a.user_id FOR UPDATE OF a),
    charged AS (
        UPDATE energy_accounts a SET charged_earlier = a.charged_earlier + c.amount FROM accounts c
        WHERE (a.workspace_id, a.user_id) = (c.workspace_id, c.user_id))
    INSERT INTO usage_totals AS total (workspace_id, day, provider, model, action, simulated, attempts, tokens_total,
                                       audio_seconds, confirmed_usd, uncertain_usd, energy_charged)
    SELECT workspace_id, day, provider, model, action, simulated, count(*), sum(tokens_total), sum(audio_seconds),
           coalesce(sum(cost_usd) FILTER (WHERE confirmed), 0), coalesce(sum(cost_usd) FILTER (WHERE NOT confirmed), 0),
           sum(energy_charged)
    FROM logged GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6
    ON CONFLICT (workspace_id, day, provider, model, action, simulated) DO UPDATE
    SET attempts = total.attempts + excluded.attempts, tokens_total = total.tokens_total + excluded.tokens_total,
        audio_seconds = total.audio_seconds + excluded.audio_seconds,
        confirmed_usd = total.confirmed_usd + excluded.confirmed_usd,
        uncertain_usd = total.uncertain_usd + excluded.uncertain_usd,
        energy_charged = total.energy_charged + excluded.energy_charged""")  # noqa: S608 - constants
DROP_ENVELOPES = text("""
    DELETE FROM budgets b
    USING (SELECT DISTINCT * FROM unnest(CAST(:workspace_ids AS text[]), CAST(:job_keys AS text[]))
           AS one(workspace_id, job_key)) j
    WHERE b.workspace_id = j.workspace_id AND b.scope = 'job:' || j.job_key AND b.reserved_usd = 0
      AND NOT EXISTS (SELECT 1 FROM paid_requests r
                      WHERE (r.workspace_id, r.job_key) = (j.workspace_id, j.job_key))""")
IS_OLD = "one.created_at < :before AND one.workflow_id <> ALL(CAST(:running AS text[]))"
OF_OLD_RUN = f"""(one.workspace_id, one.job_key) IN (
    SELECT run.workspace_id, run.job_key FROM auto_runs run WHERE {IS_OLD.replace("one.", "run.")})"""  # noqa: S608
# Which rows of jobs are old, in the order in which they are deleted: the parts of a result before the row of its job,
# and what jobs were given once no job has used it.
RESULTS: Mapping[str, str] = {
    "generations": IS_OLD,
    "auto_sessions": OF_OLD_RUN,
    "auto_batches": OF_OLD_RUN,
    "auto_labels": OF_OLD_RUN,
    "auto_merges": OF_OLD_RUN,
    "auto_label_maps": OF_OLD_RUN,
    "auto_reassignments": OF_OLD_RUN,
    "submission_lines": """one.submission_id IN (
        SELECT s.id FROM submissions s JOIN auto_runs run USING (workspace_id, job_key)
        WHERE run.created_at < :before AND run.workflow_id <> ALL(CAST(:running AS text[])))""",
    "submissions": OF_OLD_RUN,
    "auto_runs": IS_OLD,
    # A fork of a run has its labels.
    "taxonomies": """one.created_at < :before AND NOT EXISTS (
        SELECT 1 FROM auto_runs run
        WHERE (run.workspace_id, run.settings ->> 'taxonomy') = (one.workspace_id, one.taxonomy_id))""",
    "memories": "one.valid_until < :before",
    "session_analyses": IS_OLD,
    "sessions": """one.created_at < :before AND NOT EXISTS (
        SELECT 1 FROM session_analyses a WHERE (a.workspace_id, a.session_id, a.session_sha256)
                                               = (one.workspace_id, one.session_id, one.sha256))""",
    "recordings": """one.created_at < :before AND NOT EXISTS (
        SELECT 1 FROM session_analyses a
        WHERE (a.workspace_id, a.recording_sha256) = (one.workspace_id, one.sha256))""",
}


@dataclass(frozen=True)
class Old:
    """What may be deleted: rows of before a time that belong to none of the running workflows."""

    before: datetime
    running: Sequence[str]


@dataclass(frozen=True)
class Page:
    """`last`: the cursor for the next page; None if there is none. `deleted`: how many requests."""

    last: RowMapping | None
    deleted: int = 0


async def move_mark(tx: AsyncSession, subject: str, before: datetime) -> None:
    """Record that the purge is done with rows of before this time. A mark never moves back. `subject`: which rows."""
    mark = insert(PurgeMark).values(subject=subject, before=before)
    later = col(PurgeMark.before) < before
    await tx.execute(mark.on_conflict_do_update(index_elements=["subject"], set_={"before": before}, where=later))


async def purge_requests(tx: AsyncSession, old: Old, *, after: RowMapping | None, limit: int) -> Page:
    """Delete those of the next `limit` old requests that nothing needs, the oldest first.

    A job's rows are old when it has claimed no request since. `after`: the last request of the page before.
    """
    start: dict[str, Any] = {"expires_at": datetime.min.replace(tzinfo=UTC), "workspace_id": "", "request_id": ""}
    page = await tx.execute(PAGE, {**start, **(after or {}), "before": old.before, "limit": limit})
    looked_at = page.mappings().all()
    if not looked_at:
        return Page(last=None)
    found = {"before": old.before, "running": list(old.running), **_keys(looked_at)}
    locked = (await tx.execute(LOCK, found)).mappings().all()
    if locked:
        keys = _keys(locked)
        # In the order of the ledger's locks: the requests, their envelopes, the users' energy.
        await tx.execute(REDUCE_ENVELOPES, keys)
        await tx.execute(DELETE, keys)
        jobs = {"workspace_ids": keys["workspace_ids"], "job_keys": [row["job_key"] for row in locked]}
        await tx.execute(DROP_ENVELOPES, jobs)
    return Page(looked_at[-1] if len(looked_at) == limit else None, len(locked))


async def purge_results(tx: AsyncSession, table: str, old: Old, *, limit: int) -> int:
    """Delete at most `limit` old rows of a table of `RESULTS`. Returns how many; fewer than `limit`: all.

    Raises:
        KeyError: `RESULTS` has no such table.
    """
    statement = text(f"""
        DELETE FROM {table} WHERE ctid = ANY(ARRAY(
            SELECT one.ctid FROM {table} one WHERE {RESULTS[table]} LIMIT :limit FOR UPDATE OF one SKIP LOCKED))
        """)  # noqa: S608 - constants
    running = {"running": list(old.running)} if ":running" in RESULTS[table] else {}
    return await changed(tx, statement, {"before": old.before, "limit": limit, **running})


def _keys(rows: Sequence[RowMapping]) -> dict[str, Any]:
    return {
        "workspace_ids": [row["workspace_id"] for row in rows],
        "request_ids": [row["request_id"] for row in rows],
    }
