"""The labels of a run: how many sessions each has, examples, and which labels were merged into it."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from gateway.auth import CurrentCaller, requires
from gateway.console.jobs import find_job, handle_of_page
from gateway.console.pages import PREFIX
from gateway.console.sign_in import ConsoleRoute, show
from gateway.jobs import JobId, checked_run
from parley.domain.auto_analyze.contract import LabelCount, LabelKind
from parley.domain.errors import NotFound
from parley.domain.gateway_keys import Scope

EXAMPLES = 5

router = APIRouter(prefix=PREFIX, include_in_schema=False, route_class=ConsoleRoute)


@router.get("/labels/{job_id:path}", openapi_extra=requires(Scope.READ))
async def labels(
    request: Request,
    caller: CurrentCaller,
    job_id: JobId,
    kind: LabelKind = LabelKind.INTENT,
    label: Annotated[str, Query(max_length=500)] = "",
    after: Annotated[int, Query(ge=-1, le=10**9)] = -1,
) -> HTMLResponse:
    """The labels of one kind; and of one of them, its examples and where it comes from."""
    job = await find_job(caller, job_id)
    handle = checked_run(handle_of_page(caller, job), job_id)
    report = await handle.report()
    listed = [line for line in report.labels if line.kind is kind]
    chosen = _chosen(listed, label)
    found = await handle.examples(kind, chosen.label, after=after, limit=EXAMPLES) if chosen else []
    return show(
        request,
        "labels.html",
        job=job,
        kinds={one: sum(line.kind is one for line in report.labels) for one in LabelKind},
        kind=kind,
        listed=listed,
        most=max((line.sessions for line in listed), default=1),
        chosen=chosen,
        examples=found,
        following=found[-1].position if len(found) == EXAMPLES else None,
        origins=await handle.origins(kind, chosen.label) if chosen else [],
    )


def _chosen(listed: list[LabelCount], label: str) -> LabelCount | None:
    """The label that is asked for, or else the most frequent one."""
    if not label:
        return listed[0] if listed else None
    found = next((line for line in listed if line.label == label), None)
    if found is None:
        raise NotFound("the run has no such label")
    return found
