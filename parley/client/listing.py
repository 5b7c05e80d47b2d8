"""`client.jobs()`: the jobs of a workspace with status, cost and reason."""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

from temporalio.client import WorkflowExecution

from parley.client.backend import Backend, describe_workflow, job_key_of, status_of, temporal_errors
from parley.client.generate import ACTION, USER
from parley.client.jobs import true_status
from parley.domain.auto_analyze.contract import WORKFLOW as AUTO_ANALYZE
from parley.domain.errors import InvalidInput, NotFound
from parley.domain.generate.contract import WORKFLOW as GENERATE
from parley.domain.generate.contract import job_key as generation_key
from parley.domain.model import UNSTORABLE, Model
from parley.domain.session_analysis import WORKFLOW as SESSION_ANALYSIS
from parley.storage.jobs import find_jobs, spent_usd
from parley.visibility import JOB, WORKSPACE

KINDS = (SESSION_ANALYSIS, AUTO_ANALYZE, GENERATE)
STORED = ("running", "completed", "refused", "failed", "cancelled")
# A workflow that was ended from outside ran no code that could change its row.
ENDED_FROM_OUTSIDE = ("terminated", "timed_out")
STATUSES = (*STORED, *ENDED_FROM_OUTSIDE)
NEVER = datetime.min.replace(tzinfo=UTC)


class JobSummary(Model):
    """One job of a workspace.

    `id` names the job, and `job_key` exactly this one of the jobs under that id; `client.job` takes both. `subject`:
    the session, the dataset or the action. `reason`: why it failed, was refused or was cancelled. `cost_usd` includes
    `uncertain_usd`, the upper bounds of lost attempts.
    """

    kind: str
    id: str
    job_key: str
    user_id: str
    subject: str
    status: str
    reason: str
    cost_usd: Decimal
    uncertain_usd: Decimal
    created_at: datetime
    ended_at: datetime | None

    @property
    def place(self) -> tuple[datetime, str]:
        """Its place in the list: by its start, or by its end for a generation, which is stored when it ends."""
        moment = self.ended_at if self.kind == GENERATE and self.ended_at else self.created_at
        return moment, self.job_key


class JobPage(Model):
    """Some jobs of a workspace. `next`: the cursor of the next page; None for the last one."""

    jobs: tuple[JobSummary, ...]
    next: str | None


async def list_jobs(
    backend: Backend, workspace_id: str, *, kind: str | None, status: str | None, job_id: str | None, limit: int
) -> list[JobSummary]:
    """The workspace's jobs, the newest first. `Client.jobs` documents the arguments."""
    stored = await _stored(backend, workspace_id, kind=kind, status=status, job_id=job_id, limit=limit)
    running = [] if job_id else await _running(backend, workspace_id, kind=kind, status=status, limit=limit)
    return _merged(stored, running, status)[:limit]


async def job_page(
    backend: Backend, workspace_id: str, *, kind: str | None, status: str | None, limit: int, cursor: str | None
) -> JobPage:
    """A page of the workspace's jobs. `Client.job_page` documents the arguments."""
    before = None if cursor is None else _place(cursor)
    stored = await _stored(backend, workspace_id, kind=kind, status=status, limit=limit, before=before)
    running = [] if cursor else await _running(backend, workspace_id, kind=kind, status=status, limit=limit)
    last = stored[-1] if len(stored) == limit else None
    # A job whose stored status is outdated is left out, so that a page may have fewer jobs than `limit`.
    return JobPage(jobs=tuple(_merged(stored, running, status)), next=None if last is None else _cursor(last))


async def _stored(
    backend: Backend, workspace_id: str, *, kind: str | None, status: str | None, **which: Any
) -> list[JobSummary]:
    """The jobs with a row whose stored status can be `status`, with their true status."""
    _check("kind", kind, KINDS)
    _check("status", status, STATUSES)
    rows_with = () if status is None else ("running",) if status in ENDED_FROM_OUTSIDE else (status,)
    async with backend.database.transaction() as tx:
        rows = await find_jobs(tx, workspace_id, kind=kind, statuses=rows_with, **which)
    return await asyncio.gather(*(_summary(backend, row) for row in rows))


async def _running(
    backend: Backend, workspace_id: str, *, kind: str | None, status: str | None, limit: int
) -> list[JobSummary]:
    """The generations that run as workflows, as Temporal lists them: they have a row only when they have ended."""
    if kind not in (None, GENERATE) or status not in (None, "running"):
        return []
    quoted = workspace_id.replace("\\", "\\\\").replace("'", "\\'")
    query = f"{WORKSPACE.name} = '{quoted}' AND {JOB.name} = '{GENERATE}' AND ExecutionStatus = 'Running'"
    with temporal_errors():
        listed = [found async for found in backend.temporal.list_workflows(query, limit=limit)]
    # An id that the query's language reads otherwise must not show another workspace's jobs.
    own = [found for found in listed if found.typed_search_attributes.get(WORKSPACE) == workspace_id]
    async with backend.database.transaction() as tx:
        spent = await spent_usd(tx, workspace_id, [generation_key(found.id) for found in own])
    return [await _running_summary(found, spent) for found in own]


async def _running_summary(found: WorkflowExecution, spent: dict[str, tuple[Decimal, Decimal]]) -> JobSummary:
    key = generation_key(found.id)
    cost_usd, uncertain_usd = spent.get(key, (Decimal(0), Decimal(0)))
    return JobSummary(
        kind=GENERATE,
        id=found.id,
        job_key=key,
        user_id=await found.memo_value(USER, ""),
        subject=await found.memo_value(ACTION, ""),
        status="running",
        reason="",
        cost_usd=cost_usd,
        uncertain_usd=uncertain_usd,
        created_at=found.start_time,
        ended_at=None,
    )


def _merged(stored: list[JobSummary], running: list[JobSummary], status: str | None) -> list[JobSummary]:
    """The jobs, the newest first. Temporal lists a generation as running for about a second after its end."""
    ended = {job.job_key: job.ended_at for job in stored if job.ended_at is not None}
    begun = {job.job_key: job for job in running if job.created_at > ended.get(job.job_key, NEVER)}
    jobs = [job for job in stored if status in (None, job.status) and job.job_key not in begun]
    return sorted([*jobs, *begun.values()], key=lambda job: job.place, reverse=True)


def _cursor(job: JobSummary) -> str:
    moment, job_key = job.place
    return urlsafe_b64encode(f"{moment.isoformat()} {job_key}".encode()).decode()


def _place(cursor: str) -> tuple[datetime, str]:
    try:
        moment, job_key = urlsafe_b64decode(cursor.encode()).decode().split(" ", 1)
        place = datetime.fromisoformat(moment), job_key
    except ValueError:
        raise InvalidInput("is not `next` of a page of jobs", where="cursor") from None
    if place[0].tzinfo is None or UNSTORABLE.search(job_key):
        raise InvalidInput("is not `next` of a page of jobs", where="cursor")
    return place


class DescribedJob(NamedTuple):
    """What every job has. `job_key`: exactly this one of the jobs under its id."""

    kind: str
    id: str
    job_key: str
    status: str
    started_at: datetime
    ended_at: datetime | None


async def describe_job(backend: Backend, workspace_id: str, job_id: str) -> DescribedJob:
    """The job of this id or key as Temporal knows it, also before its first step. Of a job that ran without a workflow,
    or that Temporal does not keep any more, the database knows it.

    Raises:
        NotFound: the workspace has no such job.
        Unreachable: Temporal or PostgreSQL does not answer.
    """
    try:
        found = await describe_workflow(backend, workspace_id, job_id)
    except NotFound:
        row = await find_job(backend, workspace_id, job_id)
        return DescribedJob(row.kind, row.id, row.job_key, row.status, row.created_at, row.ended_at)
    kind = found.typed_search_attributes.get(JOB) or ""
    key = generation_key(job_id) if kind == GENERATE else job_key_of(found)
    return DescribedJob(kind, job_id, key, status_of(found), found.start_time, found.close_time)


async def find_job(backend: Backend, workspace_id: str, job_id: str) -> JobSummary:
    """The newest job with this id, or the one with this key.

    Raises:
        NotFound: the workspace has no such job.
    """
    found = await list_jobs(backend, workspace_id, kind=None, status=None, job_id=job_id, limit=1)
    if not found:
        raise NotFound(f"workspace {workspace_id!r} has no job {job_id!r}")
    return found[0]


async def _summary(backend: Backend, row: dict[str, Any]) -> JobSummary:
    workspace_id, _ = row.pop("workspace_id"), row.pop("moment")
    status = await true_status(backend, workspace_id, row["id"], row["job_key"], row["status"])
    return JobSummary(**{**row, "status": status})


def _check(name: str, given: str | None, known: tuple[str, ...]) -> None:
    if given is not None and given not in known:
        raise InvalidInput(f"must be one of {', '.join(known)}; got {given!r}", where=name)
