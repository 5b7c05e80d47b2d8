"""Spending caps with what counts against them, and the alerts of weeks that were expensive."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from gateway.auth import CurrentCaller, requires
from gateway.console.forms import typed_usd
from gateway.console.pages import PREFIX
from gateway.console.sign_in import FORM, ConsoleRoute, show
from parley.domain.budgets import Period
from parley.domain.errors import InvalidInput
from parley.domain.gateway_keys import Scope

BUDGETS = f"{PREFIX}/budgets"

router = APIRouter(prefix=PREFIX, include_in_schema=False, route_class=ConsoleRoute)


@router.get("/budgets", openapi_extra=requires(Scope.READ))
async def budgets(request: Request, caller: CurrentCaller) -> HTMLResponse:
    """The caps, what is left of them, and the alerts."""
    return await _page(request, caller)


@router.post("/budgets", openapi_extra=requires(Scope.BUDGETS, FORM))
async def set_cap(request: Request, caller: CurrentCaller) -> Response:
    """Set the cap of a period, or remove it."""
    form = await request.form()
    period, amount = str(form.get("period", "")), str(form.get("cap_usd", "")).strip()
    try:
        cap = None if "remove" in form else typed_usd(amount, where="cap")
        await caller.client.set_cap(_period(period), cap)
    except InvalidInput as error:
        return await _page(request, caller, status=400, refused=error.problem, period=period, amount=amount)
    return RedirectResponse(BUDGETS, status_code=303)


async def _page(
    request: Request,
    caller: CurrentCaller,
    *,
    status: int = 200,
    refused: str = "",
    period: str = Period.DAY.value,
    amount: str = "",
) -> HTMLResponse:
    return show(
        request,
        "budgets.html",
        status=status,
        caps=await caller.client.caps(),
        alerts=await caller.client.housekeeping.alerts(),
        periods=[one.value for one in Period],
        refused=refused,
        period=period,
        amount=amount,
    )


def _period(name: str) -> Period:
    if name not in list(Period):
        raise InvalidInput("choose a day, a week or a month", where="period")
    return Period(name)
