"""A person talks to the agent of a number in the browser: the page plays Twilio, with the frames of ConversationRelay.

Where Twilio signs, the console's sign-in decides the workspace. All else is a phone call as any other.
"""

import logging
from collections.abc import AsyncGenerator
from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Query, Request, WebSocket
from fastapi.responses import HTMLResponse
from starlette.websockets import WebSocketDisconnect

from gateway.auth import Caller, CurrentCaller, requires
from gateway.console.pages import PREFIX
from gateway.console.phone import call_url
from gateway.console.sign_in import ConsoleRoute, caller_of, check_origin, show
from gateway.phone.calls import KnownNumber, PhoneCalls, longest_seconds
from gateway.phone.routes import record_end
from gateway.phone.session import UNKNOWN, PhoneSession
from gateway.state import Gateway
from parley.client.phone import new_call
from parley.domain.errors import NotFound, Unreachable
from parley.domain.gateway_keys import Scope
from parley.domain.phone.contract import CallStatus, NewCall
from parley.domain.phone.frames import Setup, TwilioFrame
from parley.domain.phone.settings import NumberSettings

RELAY = f"{PREFIX}/phone/relay"
# No phone call of Twilio's has such an id: a page joins none of them.
SID_PREFIX = "console-"
CallSid = Annotated[str, Query(pattern=rf"^{SID_PREFIX}[0-9a-f]{{32}}$")]
# The codes with which a browser ends a session because its person wants it, and the one of a gateway that ends.
HUNG_UP = (1000, 1001, 1005)

log = logging.getLogger("parley.gateway.phone")
router = APIRouter(prefix=PREFIX, include_in_schema=False, route_class=ConsoleRoute)
sockets = APIRouter(prefix=PREFIX)


@router.get("/phone/talk", openapi_extra=requires(Scope.GENERATE))
async def talk(request: Request, caller: CurrentCaller, number: str) -> HTMLResponse:
    """The page. Each time it is opened it is another phone call, which begins with the first button."""
    known = await _number_of(request.app.state.gateway.phone, caller, number)
    call_sid = f"{SID_PREFIX}{uuid4().hex}"
    settings = known.settings
    return show(
        request,
        "phone-talk.html",
        number=known.number,
        settings=settings,
        call_sid=call_sid,
        caller_address=_address(caller),
        relay=RELAY,
        call_page=call_url(call_sid),
        late=_late_texts(settings),
    )


@sockets.websocket("/phone/relay")
async def relay(socket: WebSocket, number: str, call: CallSid) -> None:
    """A session of ConversationRelay, whose other end is the page."""
    check_origin(socket)
    gateway: Gateway = socket.app.state.gateway
    caller = await caller_of(socket, Scope.GENERATE)
    known = await _number_of(gateway.phone, caller, number)
    begun = new_call(known.workspace_id, call, known.settings, **_described(known, caller))
    async with gateway.stream(caller):
        await socket.accept()
        if limit := await _limit(gateway.phone, known, begun):
            await socket.close(UNKNOWN, f"the limit {limit} of the number is reached")
            return
        gateway.phone.report_start(known.workspace_id, call, begun.user_id, longest_seconds(known.settings))
        session = ConsoleSession(gateway, socket, known, caller, call)
        try:
            await session.run()
        finally:
            if not session.is_lost:
                await record_end(gateway.phone, known, call, CallStatus.COMPLETED, "caller")


class ConsoleSession(PhoneSession):
    """A session with a page. `is_lost`: its connection broke, so that the page connects again."""

    def __init__(self, gateway: Gateway, socket: WebSocket, known: KnownNumber, caller: Caller, call_sid: str) -> None:
        super().__init__(gateway.phone, socket)
        self._auth, self._known, self._caller, self._call_sid = gateway.auth, known, caller, call_sid
        self.is_lost = False

    async def _find(self, setup: Setup) -> tuple[KnownNumber, dict[str, Any]] | None:
        """The number is that of the address: what the page says of the phone call's ends counts for nothing."""
        if setup.call_sid != self._call_sid:
            return None
        return self._known, {"call_sid": self._call_sid, **_described(self._known, self._caller)}

    async def _frames(self) -> AsyncGenerator[TwilioFrame]:
        """The frames, while the key of the sign-in is valid."""
        try:
            async for frame in super()._frames():
                if not await self._auth.is_admitted(self._caller):
                    return
                yield frame
        except WebSocketDisconnect as gone:
            self.is_lost = gone.code not in HUNG_UP
            raise


async def _limit(calls: PhoneCalls, known: KnownNumber, call: NewCall) -> str | None:
    """The limit that leaves no room for the phone call. While PostgreSQL does not answer, none is known."""
    try:
        return await calls.begin(known, call)
    except Unreachable:
        return None


async def _number_of(calls: PhoneCalls, caller: Caller, number: str) -> KnownNumber:
    """A number of the caller's workspace.

    Raises:
        NotFound: it does not have the number.
        Unreachable: PostgreSQL does not answer.
    """
    known = await calls.number(number)
    if known is None or known.workspace_id != caller.client.workspace_id:
        raise NotFound("this workspace does not have the number")
    return known


def _described(known: KnownNumber, caller: Caller) -> dict[str, Any]:
    return {"number": known.number, "caller": _address(caller), "direction": "console"}


def _late_texts(settings: NumberSettings) -> list[str]:
    """What is said while an answer is late: the page does not take it for the answer."""
    phrases = [settings.phrases, *(one.phrases for one in settings.languages if one.phrases is not None)]
    said = [text for one in phrases for text in (one.filler, one.slow)] + [one.text for one in settings.templates]
    return [text.strip() for text in said]


def _address(caller: Caller) -> str:
    """The other end of a phone call in the console: the limits of one caller count for one key."""
    return f"client:{caller.key.key_id}"
