"""The list of jobs and the page of one job: how far it is, what it cost, how its answer was made."""

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse

from gateway.auth import Caller, CurrentCaller, requires
from gateway.console.forms import typed_usd
from gateway.console.pages import PREFIX, job_url
from gateway.console.sign_in import FORM, ConsoleRoute, check_origin, show
from gateway.jobs import JobId, checked_id, event_stream, labelling_run
from parley.client.attempts import AttemptReport
from parley.client.auto_analyze import AutoAnalyzeHandle
from parley.client.backend import describe_workflow
from parley.client.client import handle_of
from parley.client.generation import GenerationHandle
from parley.client.listing import KINDS, STATUSES, JobSummary, describe_job
from parley.client.session_analysis import AnalysisHandle
from parley.domain.errors import InvalidInput, NotFound, Unreachable
from parley.domain.gateway_keys import Scope
from parley.domain.generate.contract import WORKFLOW as GENERATE
from parley.domain.session_analysis import Progress
from parley.report.media import media_type
from parley.report.page import view

PAGE_JOBS = 30
# Of the running jobs on a page: each is a query to its worker.
MOST_PROGRESS, PROGRESS_SECONDS = 10, 2.0
# A recording is sent in parts of at most so many bytes; its first bytes show its type.
PART_BYTES, FIRST_BYTES = 1_000_000, 16
RANGE = re.compile(r"bytes=(\d{1,12})-(\d{1,12})?")

router = APIRouter(prefix=PREFIX, include_in_schema=False, route_class=ConsoleRoute)


@dataclass(frozen=True)
class Done:
    """How far a job is: so many of so many parts, and what it does now."""

    done: int
    total: int
    text: str


@dataclass(frozen=True)
class Bar:
    """The place of an attempt in its job's time, both from 0 to 100."""

    start: float
    width: float


@router.get("/jobs", openapi_extra=requires(Scope.READ))
async def list_jobs(
    request: Request,
    caller: CurrentCaller,
    kind: str = "",
    status: str = "",
    cursor: Annotated[str | None, Query(max_length=500)] = None,
) -> HTMLResponse:
    """The jobs, the newest first. The first page follows them while it is open."""
    found = await caller.client.job_page(kind=kind or None, status=status or None, limit=PAGE_JOBS, cursor=cursor)
    chosen = {"kind": kind, "status": status}
    return show(
        request,
        "jobs.html",
        jobs=found.jobs,
        progress=await _progress_of(caller, found.jobs),
        kinds=KINDS,
        statuses=STATUSES,
        chosen=chosen,
        is_first=cursor is None,
        here=f"{PREFIX}/jobs?{urlencode(chosen)}",
        following=f"{PREFIX}/jobs?{urlencode({**chosen, 'cursor': found.next})}" if found.next else "",
    )


@router.get("/jobs/{job_id:path}", openapi_extra=requires(Scope.READ))
async def show_job(request: Request, caller: CurrentCaller, job_id: JobId) -> HTMLResponse:
    """One job, with its attempts at providers."""
    job = await find_job(caller, job_id)
    found = await caller.client.attempts(job.job_key)
    return show(
        request,
        "job.html",
        job=job,
        attempts=list(zip(found.attempts, _bars(job, found.attempts), strict=True)),
        attempts_total=found.total,
        temporal_url=await _temporal_url(caller, job),
        **await _details(caller, job),
    )


@router.get("/recording/{job_id:path}", openapi_extra=requires(Scope.READ))
async def recording(
    caller: CurrentCaller, job_id: JobId, asked: Annotated[str, Header(alias="range", max_length=100)] = ""
) -> Response:
    """A part of the recording of a session analysis: a browser asks for the next parts as it plays."""
    job = await find_job(caller, job_id)
    handle = handle_of_page(caller, job)
    if not isinstance(handle, AnalysisHandle):
        raise NotFound(f"{job.id} has no recording: it is not a session analysis")
    start, count = _part(asked)
    part = await handle.recording(start=start, count=count)
    if not part.content:
        return Response(status_code=416, headers={"content-range": f"bytes */{part.size}"})
    first = part if start == 0 else await handle.recording(count=FIRST_BYTES)
    headers = {
        "accept-ranges": "bytes",
        "content-range": f"bytes {start}-{start + len(part.content) - 1}/{part.size}",
        "cache-control": "private, no-store",
    }
    return Response(part.content, status_code=206, headers=headers, media_type=media_type(first.content))


@router.get("/events/{job_id:path}", openapi_extra=requires(Scope.READ))
async def events(
    request: Request,
    caller: CurrentCaller,
    job_id: JobId,
    last_event_id: Annotated[str, Header(max_length=100)] = "",
) -> StreamingResponse:
    """The events of a job for its page. `GET /api/jobs/{id}/events` is the same for programs."""
    check_origin(request)
    return await event_stream(request.app.state.gateway, caller, job_id, last_event_id)


@router.post("/cancel/{job_id:path}", openapi_extra=requires(Scope.JOBS, FORM))
async def cancel(caller: CurrentCaller, job_id: JobId) -> RedirectResponse:
    """Request that a job stops."""
    job = await find_job(caller, job_id)
    await handle_of_page(caller, job).cancel()
    return RedirectResponse(job_url(job.id), status_code=303)


@router.post("/control/{job_id:path}", openapi_extra=requires(Scope.JOBS, FORM))
async def control(request: Request, caller: CurrentCaller, job_id: JobId) -> RedirectResponse:
    """Pause a labelling run, resume it, change its streams, or let it finish."""
    run, form = await labelling_run(caller, job_id), await request.form()
    change, given = str(form.get("change", "")), str(form.get("given", "")).strip()
    if change == "pause":
        await run.pause()
    elif change == "resume":
        await run.resume(budget_usd=typed_usd(given, where="budget") if given else None)
    elif change == "streams":
        await run.set_streams(_count(given))
    elif change == "finish":
        await run.finish()
    else:
        raise InvalidInput("must be pause, resume, streams or finish", where="change")
    return RedirectResponse(job_url(job_id), status_code=303)


def _count(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidInput("must be a number", where="streams") from None


async def find_job(caller: Caller, job_id: str) -> JobSummary:
    """A job by its id or its key. One that is not listed yet is what Temporal knows of it.

    Raises:
        NotFound: the workspace has no such job.
    """
    job_id = checked_id(caller, job_id)
    for listed in await caller.client.jobs(job_id=job_id, limit=1):
        return listed
    found = await describe_job(caller.backend, caller.client.workspace_id, job_id)
    tried = (await caller.client.attempts(found.job_key)).attempts
    return JobSummary(
        kind=found.kind,
        id=found.id,
        job_key=found.job_key,
        user_id="",
        subject="",
        status=found.status,
        reason="",
        cost_usd=sum((one.cost_usd or Decimal(0) for one in tried), Decimal(0)),
        uncertain_usd=sum((one.cost_usd or Decimal(0) for one in tried if not one.confirmed), Decimal(0)),
        created_at=found.started_at,
        ended_at=found.ended_at,
    )


async def _details(caller: Caller, job: JobSummary) -> dict[str, Any]:
    """What the page of each kind of job shows."""
    handle = handle_of_page(caller, job)
    none: dict[str, Any] = {"progress": None, "generation": None, "messages": (), "analysis": None, "run": None}

    if isinstance(handle, GenerationHandle):
        return none | await _generation(handle)
    progress = await _progress(caller, job) if job.status == "running" else None
    if isinstance(handle, AnalysisHandle):
        return none | {"progress": progress, **await _analysis(handle)}
    with suppress(NotFound):  # it begins
        return none | {"progress": progress, "run": await handle.report()}
    return none


async def _generation(handle: GenerationHandle) -> dict[str, Any]:
    report, messages = None, ()
    with suppress(NotFound):  # it runs
        report = await handle.report()
    with suppress(NotFound, Unreachable):  # it ran without a workflow, or its prompt has been purged
        messages = await handle.messages()
    return {"generation": report, "messages": messages}


async def _analysis(handle: AnalysisHandle) -> dict[str, Any]:
    analysis = session = None
    sound = ""
    with suppress(NotFound):  # it begins
        analysis = (await handle.report()).analysis
    if analysis is None:
        return {"analysis": None}
    with suppress(NotFound):  # its session has been purged
        session = await handle.session()
    with suppress(NotFound):  # it had no recording, or what it had has been purged
        await handle.recording(count=FIRST_BYTES)
        sound = job_url(handle.job_key, "recording")
    return dict(view(analysis, session, sound))


def _part(asked: str) -> tuple[int, int]:
    """The first byte and the number of bytes that a `Range` asks for; the first `PART_BYTES` if it cannot be read."""
    found = RANGE.fullmatch(asked)
    start = int(found[1]) if found else 0
    end = int(found[2]) if found and found[2] else start + PART_BYTES - 1
    return start, min(max(end - start + 1, 1), PART_BYTES)


def handle_of_page(caller: Caller, job: JobSummary) -> AnalysisHandle | AutoAnalyzeHandle | GenerationHandle:
    """The handle of the job that a page is about."""
    if job.kind == GENERATE:
        return caller.client.generation(job.id)
    return handle_of(caller.backend, caller.client.workspace_id, job.kind, job.id, job.job_key)


async def _progress_of(caller: Caller, jobs: Sequence[JobSummary]) -> dict[str, Done]:
    """The progress of the running jobs among these, by their keys."""
    running = [job for job in jobs if job.status == "running" and job.kind != GENERATE][:MOST_PROGRESS]
    found = await asyncio.gather(*(_progress(caller, job) for job in running))
    return {job.job_key: done for job, done in zip(running, found, strict=True) if done}


async def _progress(caller: Caller, job: JobSummary) -> Done | None:
    """How far a running job is; None where its worker does not say so at once."""
    owner = caller.backend, caller.client.workspace_id
    with suppress(NotFound, Unreachable, TimeoutError):
        async with asyncio.timeout(PROGRESS_SECONDS):
            seen = await handle_of(*owner, job.kind, job.id, job.job_key).progress()
        if isinstance(seen, Progress):
            return Done(len(seen.done), seen.total_steps, seen.note or seen.phase.value)
        return Done(seen.sessions_done, seen.sessions_total, seen.note or seen.phase.value)
    return None


def _bars(job: JobSummary, attempts: Sequence[AttemptReport]) -> list[Bar]:
    """Where the attempts lie between the first one's start and the last one's end."""
    if not attempts:
        return []
    begins = min(one.started_at for one in attempts)
    ends = max(*(one.ended_at or one.started_at for one in attempts), job.ended_at or begins)
    whole = max((ends - begins).total_seconds(), 0.001)

    def place(moment: datetime) -> float:
        return round(max((moment - begins).total_seconds() / whole * 100, 0.0), 2)

    def bar(one: AttemptReport) -> Bar:
        start = min(place(one.started_at), 98.5)
        return Bar(start, round(min(max(place(one.ended_at or ends) - start, 1.5), 100 - start), 2))

    return [bar(one) for one in attempts]


async def _temporal_url(caller: Caller, job: JobSummary) -> str:
    """The job's page in the Temporal UI; empty where the address is not known, or Temporal has no such workflow."""
    ui = caller.client.settings.gateway_temporal_ui_url
    if not ui:
        return ""
    try:
        await describe_workflow(caller.backend, caller.client.workspace_id, job.id)
    except (NotFound, Unreachable):
        return ""
    namespace = caller.client.temporal.namespace
    return f"{ui.rstrip('/')}/namespaces/{quote(namespace, safe='')}/workflows/{quote(job.id, safe='')}"
