"""Session analyses: one row per job, written part by part. Two jobs on one session have separate rows."""

from typing import Any

from sqlalchemy import func, select, true, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from parley.domain.errors import NotFound
from parley.domain.session_analysis import Analysis
from parley.storage.database import NOW
from parley.storage.tables import OutboxEvent, StoredAnalysis

# Events: a result that is amended later is stored, and it has been amended.
PROVISIONAL, AMENDED = "session_analysis_provisional", "session_analysis_amended"
BY_A_MODEL = (
    col(StoredAnalysis.status) == "completed",
    col(StoredAnalysis.result)["coaching"]["processed"].as_boolean(),
)


async def begin(tx: AsyncSession, analysis: StoredAnalysis) -> None:
    """Create the job's row once. A job that is reset after it ended without a result is running again."""
    once = insert(StoredAnalysis).values(**analysis.model_dump())
    again = once.on_conflict_do_update(
        index_elements=["workspace_id", "job_key"],
        set_={"status": "running", "ended_at": None},
        where=col(StoredAnalysis.status) != "completed",
    )
    await tx.execute(again)


async def load(tx: AsyncSession, workspace_id: str, job_key: str) -> StoredAnalysis:
    """A job's row.

    Raises:
        NotFound: the workspace has no such analysis.
    """
    row = await tx.get(StoredAnalysis, (workspace_id, job_key))
    if row is None:
        raise NotFound(f"workspace {workspace_id!r} has no analysis {job_key!r}")
    return row


async def find(tx: AsyncSession, workspace_id: str, analysis_id: str) -> StoredAnalysis:
    """A job's row by its key, or the latest one of a workflow id.

    Raises:
        NotFound: the workspace has no such analysis.
    """
    query = (
        select(StoredAnalysis)
        .where(
            col(StoredAnalysis.workspace_id) == workspace_id,
            (col(StoredAnalysis.workflow_id) == analysis_id) | (col(StoredAnalysis.job_key) == analysis_id),
        )
        .order_by(col(StoredAnalysis.created_at).desc())
        .limit(1)
    )
    row = (await tx.execute(query)).scalar()
    if row is None:
        raise NotFound(f"workspace {workspace_id!r} has no analysis {analysis_id!r}")
    return row


async def is_provisional(tx: AsyncSession, workspace_id: str, job_key: str) -> bool:
    """Whether the job has a result that is amended later.

    Raises:
        NotFound: the workspace has no such analysis.
    """
    pending = select(col(StoredAnalysis.result)["pending"]).where(
        col(StoredAnalysis.workspace_id) == workspace_id, col(StoredAnalysis.job_key) == job_key
    )
    found = (await tx.execute(pending)).first()
    if found is None:
        raise NotFound(f"workspace {workspace_id!r} has no analysis {job_key!r}")
    return bool(found[0])


async def previous(
    tx: AsyncSession, workspace_id: str, session_id: str, session_sha256: str, recording_sha256: str | None, rubric: str
) -> tuple[int, StoredAnalysis | None]:
    """How often this content was analysed by a model under this rubric, and the latest such analysis."""
    same = (
        col(StoredAnalysis.workspace_id) == workspace_id,
        col(StoredAnalysis.session_id) == session_id,
        col(StoredAnalysis.session_sha256) == session_sha256,
        col(StoredAnalysis.recording_sha256).is_not_distinct_from(recording_sha256),
        col(StoredAnalysis.rubric) == rubric,
        *BY_A_MODEL,
        col(StoredAnalysis.result)["strategy"].as_string() != "cached_analysis",
    )
    count = (await tx.execute(select(func.count()).select_from(StoredAnalysis).where(*same))).scalar_one()
    latest = select(StoredAnalysis).where(*same).order_by(col(StoredAnalysis.ended_at).desc()).limit(1)
    return count, (await tx.execute(latest)).scalar()


async def earlier(tx: AsyncSession, workspace_id: str, row: StoredAnalysis, *, limit: int) -> list[dict[str, Any]]:
    """The latest results of the same user under the same rubric from before a job, the oldest first.

    Each other session counts once, with its latest analysis by a model.
    """
    newest_first = col(StoredAnalysis.created_at).desc()
    of_session = func.row_number().over(partition_by=col(StoredAnalysis.session_id), order_by=newest_first)
    by_session = (
        select(col(StoredAnalysis.result), col(StoredAnalysis.created_at), of_session.label("place"))
        .where(
            col(StoredAnalysis.workspace_id) == workspace_id,
            col(StoredAnalysis.user_id) == row.user_id,
            col(StoredAnalysis.rubric) == row.rubric,
            col(StoredAnalysis.created_at) < row.created_at,
            col(StoredAnalysis.session_id) != row.session_id,
            *BY_A_MODEL,
        )
        .subquery()
    )
    latest = (
        select(by_session.c.result).where(by_session.c.place == 1).order_by(by_session.c.created_at.desc()).limit(limit)
    )
    return list((await tx.execute(latest)).scalars())[::-1]


async def store_parts(tx: AsyncSession, workspace_id: str, job_key: str, **parts: Any) -> None:
    """Write parts of a job's row."""
    await tx.execute(
        update(StoredAnalysis)
        .where(col(StoredAnalysis.workspace_id) == workspace_id, col(StoredAnalysis.job_key) == job_key)
        .values(**parts)
    )


async def end(
    tx: AsyncSession, workspace_id: str, job_key: str, status: str, result: dict[str, Any] | None, reason: str = ""
) -> None:
    """Close a job's row. After a reset it may end again: a result replaces any other end, and nothing replaces it."""
    await tx.execute(
        update(StoredAnalysis)
        .where(
            col(StoredAnalysis.workspace_id) == workspace_id,
            col(StoredAnalysis.job_key) == job_key,
            true() if status == "completed" else col(StoredAnalysis.status) != "completed",
        )
        .values(status=status, result=result, reason=reason, ended_at=NOW)
    )


def result_event(kind: str, row: StoredAnalysis, analysis: Analysis) -> OutboxEvent:
    """The event of a stored result: which job it is of, and whether a model has assessed the session."""
    payload = {
        "job_id": row.workflow_id,
        "job_key": row.job_key,
        "session_id": row.session_id,
        "user_id": row.user_id,
        "fallback": analysis.coaching.fallback,
        "pending": [step.value for step in analysis.pending],
    }
    return OutboxEvent(workspace_id=row.workspace_id, kind=kind, key=f"{kind}:{row.job_key}", payload=payload)
