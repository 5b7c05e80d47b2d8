"""The merges of a run that waits for a review: each with its evidence, to be kept or unticked, and then approved."""

from collections.abc import Sequence

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from gateway.auth import CurrentCaller, requires
from gateway.console.pages import PREFIX, job_url
from gateway.console.sign_in import FORM, ConsoleRoute, show
from gateway.jobs import JobId, labelling_run
from gateway.labels import author
from parley.client.auto_analyze import AutoAnalyzeHandle
from parley.domain.auto_analyze.contract import LabelKind
from parley.domain.auto_analyze.label_maps import CanonicalLabel, LabelPair
from parley.domain.errors import InvalidInput, LabelsChanged, NotFound
from parley.domain.gateway_keys import Scope

# A form has at most 1,000 fields. What is not shown is approved with the rest.
MOST_SHOWN = 500

router = APIRouter(prefix=PREFIX, include_in_schema=False, route_class=ConsoleRoute)


@router.get("/review/{job_id:path}", openapi_extra=requires(Scope.READ))
async def review(request: Request, caller: CurrentCaller, job_id: JobId) -> HTMLResponse:
    """The merges of a run. Before the review has ended they can be changed and approved."""
    run = await labelling_run(caller, job_id)
    return await _page(request, run)


@router.post("/review/{job_id:path}", openapi_extra=requires(Scope.JOBS, FORM))
async def approve(request: Request, caller: CurrentCaller, job_id: JobId) -> Response:
    """Approve the merges that are still ticked, and those that the page has no room for."""
    run = await labelling_run(caller, job_id)
    form = await request.form()
    kept = {str(one) for one in form.getlist("merge")}
    try:
        version = _number(str(form.get("version", "")))
        found = await run.labels.show()
        if found.version != version:
            raise LabelsChanged("another person has changed the labels: look at them again")
        rejected = [pair for pair in _pairs(_shown(found.labels)) if value_of(pair) not in kept]
        await run.approve(rejected=rejected, version=version, made_by=author(caller))
    except (InvalidInput, LabelsChanged, NotFound) as error:
        return await _page(request, run, status=409, refused=str(error))
    return RedirectResponse(job_url(run.id, "review"), status_code=303)


async def _page(request: Request, run: AutoAnalyzeHandle, *, status: int = 200, refused: str = "") -> HTMLResponse:
    found = await run.labels.show()
    shown = _shown(found.labels)
    merged = {kind: [one for one in shown if one.kind is kind] for kind in LabelKind}
    return show(
        request,
        "review.html",
        status=status,
        run=run,
        found=found,
        merged={kind: labels for kind, labels in merged.items() if labels},
        merges=len(_pairs(found.labels)),
        left_out=len(_pairs(found.labels)) - len(_pairs(shown)),
        history=await run.labels.history(),
        refused=refused,
    )


def value_of(pair: LabelPair) -> str:
    """What the form sends of a merge that is kept: a label is merged once, so its kind and name are enough."""
    return f"{pair.kind.value}:{pair.label}"


def _shown(labels: Sequence[CanonicalLabel]) -> list[CanonicalLabel]:
    """The labels with merges that the page has room for, in their order."""
    shown: list[CanonicalLabel] = []
    room = MOST_SHOWN
    for one in labels:
        merged = one.merged[:room]
        room -= len(merged)
        if merged:
            shown.append(one.model_copy(update={"merged": merged}))
    return shown


def _pairs(labels: Sequence[CanonicalLabel]) -> list[LabelPair]:
    return [LabelPair(kind=one.kind, label=merged.label, into=one.label) for one in labels for merged in one.merged]


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise InvalidInput("the form has no version: load the page again")
    return int(text)
