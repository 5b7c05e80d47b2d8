"""Removes what a user said, and what was said to the user, from every table. What it cost stays.

The rows of the ledger stay as they are, so that balances, caps and the audit agree as before; a reply keeps its counts
and loses its text. A prompt of a `Generate` that was stored for its length is found by its hash only: it goes with the
purge.
"""

from collections.abc import Mapping

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from parley.storage import memories
from parley.storage.database import changed

OWN = "workspace_id = :workspace AND user_id = :user"
OF_ATTEMPT = """workspace_id = :workspace AND attempt_id IN (
    SELECT t.id FROM paid_requests r JOIN attempts t USING (workspace_id, request_id)
    WHERE r.workspace_id = :workspace AND r.user_id = :user)"""
OF_STREAM = """workspace_id = :workspace AND stream_id IN (
    SELECT workflow_id FROM generations WHERE workspace_id = :workspace AND user_id = :user)"""
# Given for sessions of this user alone.
OF_RECORDING = """workspace_id = :workspace
    AND sha256 IN (SELECT recording_sha256 FROM session_analyses WHERE workspace_id = :workspace AND user_id = :user)
    AND sha256 NOT IN (SELECT recording_sha256 FROM session_analyses
                       WHERE workspace_id = :workspace AND user_id <> :user AND recording_sha256 IS NOT NULL)"""
OF_CONVERSATION = """workspace_id = :workspace AND conversation_id IN (
    SELECT conversation_id FROM conversations WHERE workspace_id = :workspace AND user_id = :user)"""
OF_CONTEXT = f"""workspace_id = :workspace AND sha256 IN (
    SELECT context_sha256 FROM conversation_turns WHERE {OF_CONVERSATION})"""  # noqa: S608 - constants
PARTS = ("voice_metrics", "acoustics", "curves", "coaching", "result")
HAS_RESULT = f"({' OR '.join(f'{part} IS NOT NULL' for part in PARTS)})"
WITHOUT_CONTENT = """payload = (payload || CASE payload ->> 'kind'
    WHEN 'chat' THEN jsonb_build_object('text', '')
    WHEN 'transcription' THEN jsonb_build_object('words', jsonb_build_array())
    ELSE jsonb_build_object('vectors', jsonb_build_array()) END) - 'tool_calls'"""


def _delete(table: str, which: str) -> str:
    return f"DELETE FROM {table} WHERE {which}"  # noqa: S608 - constants


def _update(table: str, columns: str, which: str) -> str:
    return f"UPDATE {table} SET {columns} WHERE {which}"  # noqa: S608 - constants


# How each table loses its content, in this order: what is found through another row comes before that row.
FORGETTING: Mapping[str, str] = {
    "llm_cache": _delete("llm_cache", OWN),
    "summaries": _delete("summaries", OF_ATTEMPT),
    "stream_chunks": _delete("stream_chunks", OF_STREAM),
    "streams": _delete("streams", OF_STREAM),
    "prompts": _delete("prompts", OF_CONTEXT),
    "conversation_turns": _delete("conversation_turns", OF_CONVERSATION),
    "conversations": _update("conversations", "summary = '', summary_tokens = 0", f"{OWN} AND summary <> ''"),
    "call_sessions": _update(
        "call_sessions",
        "caller = '', caller_name = '', forwarded_from = '', handoff = NULL, parameters = '{}'",
        f"{OWN} AND (caller, caller_name, forwarded_from, parameters, handoff)"
        " IS DISTINCT FROM ('', '', '', '{}', NULL)",
    ),
    "recordings": _delete("recordings", OF_RECORDING),
    "sessions": _delete("sessions", OWN),
    "session_analyses": _update(
        "session_analyses", ", ".join(f"{part} = NULL" for part in PARTS), f"{OWN} AND {HAS_RESULT}"
    ),
    "configuration": _delete("configuration", "workspace_id = :workspace AND owner = :user"),
    "replies": _update("replies", WITHOUT_CONTENT, OF_ATTEMPT),
}


async def forget_user(tx: AsyncSession, workspace_id: str, user_id: str) -> dict[str, int]:
    """Remove the content of a user everywhere. Returns how many rows were deleted or emptied, by table; none: left out.

    An answer that is being made is not stopped: what it stores afterwards needs a further call.
    """
    await memories.lock(tx, workspace_id, user_id)
    counts = {"memories": await memories.forget(tx, workspace_id, user_id)}
    user = {"workspace": workspace_id, "user": user_id}
    for table, statement in FORGETTING.items():
        counts[table] = await changed(tx, text(statement), user)
    return {table: count for table, count in counts.items() if count}
