"""A completed labelling run, repeated with another model or other instructions, and what differs afterwards."""

from typing import Annotated, NamedTuple

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from gateway.auth import CurrentCaller, requires
from gateway.console.forms import typed_usd
from gateway.console.pages import PREFIX, job_url
from gateway.console.sign_in import FORM, ConsoleRoute, show
from gateway.jobs import JobId, checked_id, labelling_run
from parley.client.auto_analyze import AutoAnalyzeHandle
from parley.domain.auto_analyze.contract import MOST_INSTRUCTIONS
from parley.domain.errors import InvalidInput, UnpricedModel
from parley.domain.gateway_keys import Scope
from parley.domain.requests import CHAT_PROVIDERS, Provider

router = APIRouter(prefix=PREFIX, include_in_schema=False, route_class=ConsoleRoute)


class Given(NamedTuple):
    """What the form has, as it was typed. `budget`: the most that the new run may cost, in USD."""

    provider: str
    model: str
    instructions: str
    budget: str


@router.get("/fork/{job_id:path}", openapi_extra=requires(Scope.READ))
async def show_form(request: Request, caller: CurrentCaller, job_id: JobId) -> HTMLResponse:
    """The form that repeats a run. It has the instructions of that run."""
    return await _page(request, await labelling_run(caller, job_id))


@router.post("/fork/{job_id:path}", openapi_extra=requires(Scope.JOBS, FORM))
async def fork(request: Request, caller: CurrentCaller, job_id: JobId) -> Response:
    """Label the sessions of the run again. Two forms that ask for the same are one run."""
    run, form = await labelling_run(caller, job_id), await request.form()
    # Forms send every line end as CR LF.
    given = Given(*(str(form.get(name, "")).replace("\r\n", "\n").strip() for name in Given._fields))
    before = (await run.report()).instructions
    try:
        made = await caller.client.fork_auto_analyze(
            run.job_key,
            provider=_provider(given.provider),
            model=given.model or None,
            instructions=None if given.instructions == before.strip() else given.instructions,
            budget_usd=typed_usd(given.budget, where="budget") if given.budget else None,
        )
    except (InvalidInput, UnpricedModel) as error:
        return await _page(request, run, status=400, given=given, refused=str(error))
    return RedirectResponse(job_url(made.id), status_code=303)


@router.get("/comparison/{job_id:path}", openapi_extra=requires(Scope.READ))
async def comparison(
    request: Request,
    caller: CurrentCaller,
    job_id: JobId,
    other: Annotated[str, Query(alias="with", max_length=500)],
) -> HTMLResponse:
    """What differs between two runs on one dataset: cost, labels, agreement."""
    run = await labelling_run(caller, job_id)
    compared = await caller.client.compare_runs(run.job_key, checked_id(caller, other))
    return show(request, "comparison-page.html", compared=compared)


async def _page(
    request: Request, run: AutoAnalyzeHandle, *, status: int = 200, given: Given | None = None, refused: str = ""
) -> HTMLResponse:
    report = await run.report()
    return show(
        request,
        "fork.html",
        status=status,
        report=report,
        given=given or Given("", "", report.instructions, ""),
        providers=[one.value for one in CHAT_PROVIDERS],
        most_characters=MOST_INSTRUCTIONS,
        refused=refused,
    )


def _provider(name: str) -> Provider | None:
    if name and name not in list(CHAT_PROVIDERS):
        raise InvalidInput("choose one of the list", where="provider")
    return Provider(name) if name else None
