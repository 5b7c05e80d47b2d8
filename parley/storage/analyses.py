"""Session analyses: one row per job, written part by part. Two jobs on one session have separate rows."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, func, select, true, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from parley.domain.errors import NotFound
from parley.domain.session_analysis import Analysis, Step, Strategy
from parley.storage.database import NOW
from parley.storage.tables import OutboxEvent, StoredAnalysis, StoredSession

# By how much the length of a session may differ from that of another one about as long.
SAME_LENGTH = 0.2

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


async def count(tx: AsyncSession, workspace_id: str, user_id: str) -> int:
    """How many analyses a model has made for a user. Those that used an earlier one again do not count."""
    query = select(func.count()).select_from(StoredAnalysis).where(*_made_for(workspace_id, user_id))
    return (await tx.execute(query)).scalar_one()


async def latest_of(
    tx: AsyncSession, workspace_id: str, analysis: StoredAnalysis, real: Collection[Step]
) -> StoredAnalysis | None:
    """The latest analysis that a model has made of the same content, for the same user, under the same rubric.

    `real`: steps that the simulator may not have answered.
    """
    same = select(StoredAnalysis).where(
        *_made_for(workspace_id, analysis.user_id),
        *_answered_by_vendors(real),
        col(StoredAnalysis.session_id) == analysis.session_id,
        col(StoredAnalysis.session_sha256) == analysis.session_sha256,
        col(StoredAnalysis.recording_sha256).is_not_distinct_from(analysis.recording_sha256),
        col(StoredAnalysis.rubric) == analysis.rubric,
    )
    return (await tx.execute(same.order_by(col(StoredAnalysis.ended_at).desc()).limit(1))).scalar()


@dataclass(frozen=True)
class Earlier:
    """An earlier analysis of a user, and its session, both as they are stored. `coaching`: a model's, unchecked."""

    job_key: str
    recording_sha256: str | None
    coaching: dict[str, Any]
    provenance: list[dict[str, Any]]
    session: dict[str, Any]


async def of_about(
    tx: AsyncSession, workspace_id: str, analysis: StoredAnalysis, seconds: float, real: Collection[Step], *, limit: int
) -> list[Earlier]:
    """The newest analyses that a model has made for the same user under the same rubric, of sessions about as long.

    `real`: as in `latest_of`.
    """
    length = col(StoredSession.payload)["duration_seconds"].as_float()
    is_of_session = (
        (col(StoredSession.workspace_id) == col(StoredAnalysis.workspace_id))
        & (col(StoredSession.session_id) == col(StoredAnalysis.session_id))
        & (col(StoredSession.sha256) == col(StoredAnalysis.session_sha256))
    )
    query = (
        select(
            col(StoredAnalysis.job_key),
            col(StoredAnalysis.recording_sha256),
            col(StoredAnalysis.coaching),
            col(StoredAnalysis.result)["provenance"],
            col(StoredSession.payload),
        )
        .join(StoredSession, is_of_session)
        .where(
            *_made_for(workspace_id, analysis.user_id),
            *_answered_by_vendors(real),
            col(StoredAnalysis.rubric) == analysis.rubric,
            col(StoredAnalysis.coaching).is_not(None),
            length.between(seconds * (1 - SAME_LENGTH), seconds * (1 + SAME_LENGTH)),
        )
        .order_by(col(StoredAnalysis.created_at).desc())
        .limit(limit)
    )
    return [Earlier(*row) for row in (await tx.execute(query)).all()]


def _made_for(workspace_id: str, user_id: str) -> tuple[ColumnElement[bool], ...]:
    return (
        col(StoredAnalysis.workspace_id) == workspace_id,
        col(StoredAnalysis.user_id) == user_id,
        *BY_A_MODEL,
        col(StoredAnalysis.result)["strategy"].as_string() != Strategy.CACHED_ANALYSIS.value,
    )


def _answered_by_vendors(steps: Collection[Step]) -> list[ColumnElement[bool]]:
    """That the simulator answered none of these steps of an analysis."""
    sources = col(StoredAnalysis.result)["provenance"]
    return [~sources.contains([{"step": step.value, "simulated": True}]) for step in sorted(steps)]


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


async def earlier(
    tx: AsyncSession, workspace_id: str, row: StoredAnalysis, real: Collection[Step], *, limit: int
) -> list[dict[str, Any]]:
    """The latest results of the same user under the same rubric from before a job, the oldest first.

    Each other session counts once, with its latest analysis by a model. `real`: as in `latest_of`.
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
            *_answered_by_vendors(real),
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
