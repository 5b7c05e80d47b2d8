"""`client.jobs()`: the jobs of a workspace with status, cost and reason."""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import datetime
from decimal import Decimal
from typing import Any

from parley.client.backend import Backend
from parley.client.jobs import true_status
from parley.domain.auto_analyze.contract import WORKFLOW as AUTO_ANALYZE
from parley.domain.errors import InvalidInput, NotFound
from parley.domain.generate.contract import WORKFLOW as GENERATE
from parley.domain.model import UNSTORABLE, Model
from parley.domain.session_analysis import WORKFLOW as SESSION_ANALYSIS
from parley.storage.jobs import find_jobs

KINDS = (SESSION_ANALYSIS, AUTO_ANALYZE, GENERATE)
STORED = ("running", "completed", "refused", "failed", "cancelled")
# A workflow that was ended from outside ran no code that could change its row.
ENDED_FROM_OUTSIDE = ("terminated", "timed_out")
STATUSES = (*STORED, *ENDED_FROM_OUTSIDE)


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


class JobPage(Model):
    """Some jobs of a workspace. `next`: the cursor of the next page; None for the last one."""

    jobs: tuple[JobSummary, ...]
    next: str | None


async def list_jobs(
    backend: Backend, workspace_id: str, *, kind: str | None, status: str | None, job_id: str | None, limit: int
) -> list[JobSummary]:
    """The workspace's jobs, the newest first. `Client.jobs` documents the arguments."""
    found = await _found(backend, workspace_id, kind=kind, status=status, job_id=job_id, limit=limit)
    return [job for job in found if status in (None, job.status)]


async def job_page(
    backend: Backend, workspace_id: str, *, kind: str | None, status: str | None, limit: int, cursor: str | None
) -> JobPage:
    """A page of the workspace's jobs. `Client.job_page` documents the arguments."""
    before = None if cursor is None else _place(cursor)
    found = await _found(backend, workspace_id, kind=kind, status=status, limit=limit, before=before)
    last = found[-1] if len(found) == limit else None
    # A job whose stored status is outdated is left out, so that a page may have fewer jobs than `limit`.
    return JobPage(
        jobs=tuple(job for job in found if status in (None, job.status)), next=None if last is None else _cursor(last)
    )


async def _found(
    backend: Backend, workspace_id: str, *, kind: str | None, status: str | None, **which: Any
) -> list[JobSummary]:
    """The jobs whose stored status can be `status`, with their true status."""
    _check("kind", kind, KINDS)
    _check("status", status, STATUSES)
    stored = () if status is None else ("running",) if status in ENDED_FROM_OUTSIDE else (status,)
    async with backend.database.transaction() as tx:
        rows = await find_jobs(tx, workspace_id, kind=kind, statuses=stored, **which)
    return await asyncio.gather(*(_summary(backend, row) for row in rows))


def _cursor(job: JobSummary) -> str:
    return urlsafe_b64encode(f"{job.created_at.isoformat()} {job.job_key}".encode()).decode()


def _place(cursor: str) -> tuple[datetime, str]:
    try:
        moment, job_key = urlsafe_b64decode(cursor.encode()).decode().split(" ", 1)
        place = datetime.fromisoformat(moment), job_key
    except ValueError:
        raise InvalidInput("is not `next` of a page of jobs", where="cursor") from None
    if place[0].tzinfo is None or UNSTORABLE.search(job_key):
        raise InvalidInput("is not `next` of a page of jobs", where="cursor")
    return place


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
    workspace_id = row.pop("workspace_id")
    status = await true_status(backend, workspace_id, row["id"], row["job_key"], row["status"])
    return JobSummary(**{**row, "status": status})


def _check(name: str, given: str | None, known: tuple[str, ...]) -> None:
    if given is not None and given not in known:
        raise InvalidInput(f"must be one of {', '.join(known)}; got {given!r}", where=name)
