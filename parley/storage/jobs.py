"""A workspace's jobs, over the tables of the three kinds, with what each has cost."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Select, String, func, literal, select, tuple_, union_all
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from parley.domain.auto_analyze.contract import WORKFLOW as AUTO_ANALYZE
from parley.domain.generate.contract import WORKFLOW as GENERATE
from parley.domain.session_analysis import WORKFLOW as SESSION_ANALYSIS
from parley.storage.tables import AutoRun, Generation, StoredAnalysis, UsageLog
from parley.storage.usage import UNCERTAIN_USD


def _started(table: type[StoredAnalysis] | type[AutoRun], kind: str, subject: Any) -> Select[*tuple[Any, ...]]:
    """The rows of a table that has one row per job, from its start."""
    return select(
        literal(kind).label("kind"),
        col(table.workspace_id),
        col(table.workflow_id).label("id"),
        col(table.job_key),
        col(table.user_id),
        subject.label("subject"),
        col(table.status),
        col(table.reason),
        col(table.created_at),
        col(table.ended_at),
        col(table.created_at).label("moment"),
    )


def _generations() -> Select[*tuple[Any, ...]]:
    """The generations that ended; a request id begins with the key of its job."""
    return select(
        literal(GENERATE),
        col(Generation.workspace_id),
        col(Generation.workflow_id),
        func.split_part(Generation.request_id, "/", 1, type_=String),
        col(Generation.user_id),
        col(Generation.action),
        col(Generation.outcome),
        col(Generation.reason),
        col(Generation.started_at),
        col(Generation.created_at),
        col(Generation.created_at),
    )


JOBS = union_all(
    _started(StoredAnalysis, SESSION_ANALYSIS, col(StoredAnalysis.session_id)),
    _started(AutoRun, AUTO_ANALYZE, col(AutoRun.dataset_id)),
    _generations(),
).subquery("jobs")


async def find_jobs(
    tx: AsyncSession,
    workspace_id: str,
    *,
    kind: str | None = None,
    statuses: Sequence[str] = (),
    job_id: str | None = None,
    before: tuple[datetime, str] | None = None,
    limit: int,
) -> list[dict[str, Any]]:
    """The jobs of a workspace, the newest first. `job_id`: a workflow id, for all its runs, or the key of one.

    A job's place is its start, that of a generation is its end, when it gets its row. `before`: the place and the key
    of a job; only those that follow it in this order.
    """
    cost = func.coalesce(func.sum(UsageLog.cost_usd), 0)
    uncertain = func.coalesce(func.sum(UNCERTAIN_USD), 0)
    found = select(JOBS).where(JOBS.c.workspace_id == workspace_id)
    if kind is not None:
        found = found.where(JOBS.c.kind == kind)
    if statuses:
        found = found.where(JOBS.c.status.in_(statuses))
    if job_id is not None:
        found = found.where((JOBS.c.id == job_id) | (JOBS.c.job_key == job_id))
    if before is not None:
        found = found.where(
            tuple_(JOBS.c.moment, JOBS.c.job_key) < tuple_(literal(before[0], JOBS.c.moment.type), literal(before[1]))
        )
    newest = found.order_by(JOBS.c.moment.desc(), JOBS.c.job_key.desc()).limit(limit).subquery()
    spent = (
        select(cost.label("cost_usd"), uncertain.label("uncertain_usd"))
        .where(col(UsageLog.workspace_id) == newest.c.workspace_id, col(UsageLog.job_key) == newest.c.job_key)
        .lateral()
    )
    query = (
        select(newest, spent)
        .join(spent, onclause=literal(True))
        .order_by(newest.c.moment.desc(), newest.c.job_key.desc())
    )
    return [dict(row) for row in (await tx.execute(query)).mappings()]


async def spent_usd(tx: AsyncSession, workspace_id: str, job_keys: Sequence[str]) -> dict[str, tuple[Decimal, Decimal]]:
    """What jobs have cost so far in USD, and the uncertain part of it, by job key. A job without costs is left out."""
    query = (
        select(
            col(UsageLog.job_key),
            func.coalesce(func.sum(UsageLog.cost_usd), 0),
            func.coalesce(func.sum(UNCERTAIN_USD), 0),
        )
        .where(col(UsageLog.workspace_id) == workspace_id, col(UsageLog.job_key).in_(job_keys))
        .group_by(col(UsageLog.job_key))
    )
    return {key: (cost, uncertain) for key, cost, uncertain in (await tx.execute(query)).all()}
