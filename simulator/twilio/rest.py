"""Twilio's REST face for phone calls: starts outbound ones, shows and changes them."""

import asyncio
import base64
import binascii
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qsl
from uuid import uuid4
from xml.sax.saxutils import escape

import httpx2
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from simulator.twilio import twiml
from simulator.twilio.clock import Clock
from simulator.twilio.line import AUTH_TOKEN, Account, Line, new_client
from simulator.twilio.log import CallLog
from simulator.twilio.phone_call import PROGRESS, Dialled, PhoneCall
from simulator.twilio.script import Script, ScriptError, load, parse
from simulator.twilio.simulation import hold, outbound

NUMBER, ACCOUNT = re.compile(r"\+[1-9]\d{6,14}"), re.compile(r"AC[0-9a-fA-F]{32}")
MOST_SCRIPT_BYTES = 64 * 1024
Answer = Callable[[Request, Account], Awaitable[Response]]


class RestError(Exception):
    """A refused request, in Twilio's form."""

    def __init__(self, status: int, code: int, message: str) -> None:
        self.status, self.code = status, code
        super().__init__(message)

    def as_response(self) -> Response:
        body = {
            "code": self.code,
            "message": str(self),
            "more_info": f"https://www.twilio.com/docs/errors/{self.code}",
            "status": self.status,
        }
        headers = {"WWW-Authenticate": 'Basic realm="Twilio API"'} if self.status == 401 else None
        return JSONResponse(body, self.status, headers)


@dataclass
class Held:
    """An outbound phone call and its times."""

    phone_call: PhoneCall
    created: datetime
    events: CallLog


@dataclass
class OutboundCalls:
    """The phone calls that servers have started, and how the called phones react.

    Attributes:
        script: what the person does who is called.
        token: signs for servers that authenticate with an API key; others sign with their own auth token.
        public_url, local_url, speed: see `Account` and `Clock`.
    """

    script: Script = field(default_factory=lambda: load("called"))
    token: str = AUTH_TOKEN
    public_url: str | None = None
    local_url: str | None = None
    seed: int = 7
    speed: float = 1.0
    held: dict[str, Held] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _client: httpx2.AsyncClient | None = None

    def routes(self, prefix: str = "") -> list[Route]:
        """The paths of the REST face, and `simulator/script`, which sets the script."""
        base = f"{prefix}/2010-04-01/Accounts/{{account}}/Calls"
        return [
            Route(f"{base}.json", self._answering(self._create), methods=["POST"]),
            Route(f"{base}/{{sid}}.json", self._answering(self._update), methods=["POST"]),
            Route(f"{base}/{{sid}}.json", self._answering(self._show), methods=["GET"]),
            Route(f"{prefix}/simulator/script", self._set_script, methods=["PUT"]),
            Route(f"{prefix}/simulator/phone-calls/{{sid}}", self._events, methods=["GET"]),
        ]

    async def close(self) -> None:
        """End the phone calls."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._client:
            await self._client.aclose()

    def _answering(self, answer: Answer) -> Callable[[Request], Awaitable[Response]]:
        async def answering(request: Request) -> Response:
            try:
                return await answer(request, self._account(request))
            except RestError as refused:
                return refused.as_response()

        return answering

    def _account(self, request: Request) -> Account:
        """The account of the path; its auth token is the password of the request.

        Raises:
            RestError: no password, the password `invalid`, or another account's name.
        """
        scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
        try:
            name, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            name = password = ""
        sid = request.path_params["account"]
        is_key = name.startswith("SK")
        if scheme.lower() != "basic" or not password or password == "invalid" or not (is_key or name == sid):  # noqa: S105
            raise RestError(401, 20003, "Authenticate")
        if not ACCOUNT.fullmatch(sid):
            raise RestError(404, 20404, f"The requested resource {request.url.path} was not found")
        token = self.token if is_key else password
        return Account(sid=sid, token=token, public_url=self.public_url, local_url=self.local_url)

    async def _create(self, request: Request, account: Account) -> Response:
        form = await _form(request)
        _check_numbers(form)
        _check_twiml(form)
        clock = Clock(self.speed)
        log = CallLog(clock)
        dialled = Dialled(
            sid=f"CA{uuid4().hex}",
            caller=form.one("From"),
            number=form.one("To"),
            voice_url=form.one("Url") or None,
            document=form.one("Twiml") or None,
            status_url=form.one("StatusCallback") or None,
            status_events=form.events(),
            direction="outbound-api",
            seed=self.seed + len(self.held),
        )
        self._client = self._client or new_client()
        made = PhoneCall(outbound(dialled, self.script), Line(account, self._client), log, clock)
        held = Held(made, datetime.now(UTC), log)
        self.held[dialled.sid] = held
        task = asyncio.create_task(hold(made, self.script))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return JSONResponse(_resource(held, account), 201)

    async def _show(self, request: Request, account: Account) -> Response:
        return JSONResponse(_resource(self._find(request, account), account))

    async def _update(self, request: Request, account: Account) -> Response:
        held, form = self._find(request, account), await _form(request)
        if held.phone_call.is_over:
            raise RestError(400, 21220, "Call is not in-progress. Cannot redirect.")
        if form.one("Status") in {"completed", "canceled"}:
            held.phone_call.hang_up()
        elif form.one("Twiml") or form.one("Url"):
            _check_twiml(form)
            url = escape(form.one("Url"))
            held.phone_call.redirect(form.one("Twiml") or f"<Response><Redirect>{url}</Redirect></Response>")
        else:
            raise RestError(400, 20001, "Status, Url or Twiml is required")
        return JSONResponse(_resource(held, account))

    def _find(self, request: Request, account: Account) -> Held:
        held = self.held.get(request.path_params["sid"])
        if held is None or held.phone_call.account_sid != account.sid:
            path = request.url.path
            raise RestError(404, 20404, f"The requested resource {path} was not found")
        return held

    # Of the simulator, not of Twilio

    async def _set_script(self, request: Request) -> Response:
        """Take the script of the phone calls to come, as text."""
        body = await request.body()
        if len(body) > MOST_SCRIPT_BYTES:
            return PlainTextResponse("the script is too long\n", 413)
        try:
            self.script = parse(body.decode(), "script")
        except (ScriptError, UnicodeDecodeError) as problem:
            return PlainTextResponse(f"{problem}\n", 400)
        return JSONResponse({"steps": len(self.script.steps)})

    async def _events(self, request: Request) -> Response:
        held = self.held.get(request.path_params["sid"])
        if held is None:
            return JSONResponse({"error": "there is no such phone call"}, 404)
        return JSONResponse([event.as_json() for event in held.events.events])


class Fields:
    """The fields of a form; a name may occur more than once."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._pairs = pairs

    def one(self, name: str) -> str:
        return next((value for found, value in self._pairs if found == name), "")

    def events(self) -> tuple[str, ...]:
        """The events of the status callback, in their order.

        Raises:
            RestError: one of them does not exist.
        """
        given = {word for found, value in self._pairs if found == "StatusCallbackEvent" for word in value.split()}
        if given - {*PROGRESS}:
            raise RestError(400, 21626, f"Invalid StatusCallbackEvent: {' '.join(sorted(given - {*PROGRESS}))}")
        return tuple(event for event in PROGRESS if event in given) or ("completed",)


async def _form(request: Request) -> Fields:
    return Fields(parse_qsl((await request.body()).decode(errors="replace"), keep_blank_values=True))


def _check_numbers(form: Fields) -> None:
    caller, number = form.one("From"), form.one("To")
    if not number:
        raise RestError(400, 21201, "No 'To' number is specified")
    if not caller:
        raise RestError(400, 21213, "No 'From' number is specified")
    if not NUMBER.fullmatch(number):
        raise RestError(400, 21211, f"The phone number you are attempting to call, {number}, is not valid.")
    if not NUMBER.fullmatch(caller):
        raise RestError(400, 21212, f"The 'From' number {caller} is not a valid phone number")


def _check_twiml(form: Fields) -> None:
    url, document = form.one("Url"), form.one("Twiml")
    if document:
        try:
            twiml.read(document)
        except twiml.Refused as refused:
            raise RestError(400, refused.code, str(refused)) from None
    elif not url:
        raise RestError(400, 21205, "Url parameter is required.")
    elif not url.startswith(("https://", "http://")):
        raise RestError(400, 21205, f"Url is not a valid URL: {url}")


def _resource(held: Held, account: Account) -> dict[str, Any]:
    phone_call, dialled = held.phone_call, held.phone_call.dialled
    uri = f"/2010-04-01/Accounts/{account.sid}/Calls/{dialled.sid}"
    created = format_datetime(held.created)
    seconds = phone_call.talked_seconds
    return {
        "sid": dialled.sid,
        "account_sid": account.sid,
        "parent_call_sid": None,
        "phone_number_sid": None,
        "to": dialled.number,
        "to_formatted": dialled.number,
        "from": dialled.caller,
        "from_formatted": dialled.caller,
        "status": phone_call.status,
        "direction": dialled.direction,
        "date_created": created,
        "date_updated": created,
        "start_time": None if seconds is None else created,
        "end_time": format_datetime(datetime.now(UTC)) if phone_call.is_over else None,
        "duration": str(round(seconds)) if phone_call.is_over and seconds is not None else None,
        "price": None,
        "price_unit": "USD",
        "answered_by": None,
        "annotation": None,
        "api_version": "2010-04-01",
        "caller_name": None,
        "forwarded_from": None,
        "group_sid": None,
        "queue_time": "0",
        "trunk_sid": None,
        "uri": f"{uri}.json",
        "subresource_uris": {"events": f"{uri}/Events.json"},
    }
