"""The phone calls of the workspace: those that go on, those that are over, and one of them with its turns."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse
from pydantic import AwareDatetime

from gateway.auth import Caller, CurrentCaller, requires
from gateway.console.pages import PREFIX
from gateway.console.sign_in import ConsoleRoute, show
from gateway.console.waterfall import Waterfall, heard_of, longest_of, waterfall_of
from parley.domain.conversation.contract import sentence_for, turn_job_id
from parley.domain.gateway_keys import Scope
from parley.domain.generate.contract import job_key
from parley.domain.phone.contract import PhoneCallReport, PhoneTurn
from parley.domain.phone.settings import masked

PHONE = f"{PREFIX}/phone"
PAGE_CALLS, MOST_OPEN, PAGE_TURNS = 30, 100, 30
# A summary that is not there so long after the hang-up is not waited for: no provider may have served it.
SUMMARY_TIME = timedelta(minutes=2)

router = APIRouter(prefix=PREFIX, include_in_schema=False, route_class=ConsoleRoute)


@router.get("/phone", openapi_extra=requires(Scope.READ))
async def list_calls(request: Request, caller: CurrentCaller, before: AwareDatetime | None = None) -> HTMLResponse:
    """The numbers, the phone calls that go on, and the newest that are over."""
    phone = caller.client.phone
    over = await phone.calls(before=before, limit=PAGE_CALLS, is_open=False)
    is_full = len(over) == PAGE_CALLS
    return show(
        request,
        "phone.html",
        numbers=[(one, list(_flat(one.settings.model_dump(mode="json")))) for one in await phone.numbers()],
        running=await phone.calls(limit=MOST_OPEN, is_open=True) if before is None else (),
        over=over,
        call_url=call_url,
        talk_url=talk_url,
        other_end=other_end,
        is_first=before is None,
        following=f"{PHONE}?{urlencode({'before': over[-1].started_at.isoformat()})}" if is_full else "",
    )


@router.get("/phone/calls/{call_sid}", openapi_extra=requires(Scope.READ))
async def show_call(
    request: Request,
    caller: CurrentCaller,
    call_sid: str,
    through: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
) -> HTMLResponse:
    """A phone call: what was said, what was heard, and where the time of each turn goes. `through`: the last turn."""
    call = await caller.client.phone.call(call_sid)
    turns = await caller.client.phone.turns(call_sid)
    last = min(through or len(turns), len(turns))
    first = max(last - PAGE_TURNS, 0)
    shown = turns[first:last]
    waterfalls = {one.turn_id: await _waterfall(caller, call, one) for one in shown}
    return show(
        request,
        "phone-call.html",
        call=call,
        turns=[(one, heard_of(one), waterfalls[one.turn_id], _job_key(caller, call, one)) for one in shown],
        longest=longest_of(waterfalls),
        other_end=other_end,
        sentence_for=sentence_for,
        first=first,
        here=call_url(call_sid),
        earlier=f"{call_url(call_sid)}?through={first}" if first else "",
        is_newest=through is None,
        is_followed=through is None and await _may_change(caller, call),
    )


def call_url(call_sid: str) -> str:
    """The address of a phone call's page."""
    return f"{PHONE}/calls/{quote(call_sid, safe='')}"


def talk_url(number: str) -> str:
    """The address of the page on which a person talks to the agent of a number."""
    return f"{PHONE}/talk?{urlencode({'number': number})}"


def other_end(call: PhoneCallReport) -> str:
    """Who called or was called, as a page may show it."""
    return "the console" if call.direction == "console" else masked(call.caller)


async def _may_change(caller: Caller, call: PhoneCallReport) -> bool:
    """Whether more becomes known of a phone call soon: it goes on, or its summary is being made."""
    if call.ended_at is None:
        return True
    if call.summary or not call.turns or datetime.now(UTC) - call.ended_at > SUMMARY_TIME:
        return False
    return any(one.number == call.number and one.settings.summary for one in await caller.client.phone.numbers())


async def _waterfall(caller: Caller, call: PhoneCallReport, turn: PhoneTurn) -> Waterfall:
    found = await caller.client.attempts(_job_key(caller, call, turn))
    return waterfall_of(turn, found.attempts)


def _job_key(caller: Caller, call: PhoneCallReport, turn: PhoneTurn) -> str:
    return job_key(turn_job_id(caller.client.workspace_id, call.call_sid, turn.turn_id))


def _flat(settings: Mapping[str, Any], within: str = "") -> Any:
    """The settings that say something, each by its path."""
    for name, value in settings.items():
        path = f"{within}.{name}" if within else name
        if isinstance(value, Mapping):
            yield from _flat(value, path)
        elif value not in (None, "", []):
            yield path, _written(value)


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "; ".join(
            ", ".join(f"{name}: {_written(part)}" for name, part in one.items() if part not in (None, "", []))
            if isinstance(one, Mapping)
            else str(one)
            for one in value
        )
    return ", ".join(f"{k}: {_written(v)}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)
