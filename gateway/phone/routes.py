"""The paths that Twilio requests: the voice webhook, the socket, and the callbacks. Every request is signed."""

import hmac
import json
import logging
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlencode
from xml.etree.ElementTree import Element

from fastapi import APIRouter, Request, Response, WebSocket

from gateway.phone.calls import KnownNumber, PhoneCalls, longest_seconds
from gateway.phone.recordings import PATH as RECORDINGS
from gateway.phone.session import PhoneSession
from gateway.phone.signed import check_signature, public_url, signed_form
from parley.client.phone import PARAMETERS, STATUS, VOICE, new_call
from parley.correlation import CORRELATION_ID, correlation
from parley.domain.errors import InvalidInput, Unreachable
from parley.domain.phone import twiml
from parley.domain.phone.contract import CallEnd, CallStatus, NewCall
from parley.domain.phone.settings import language_attributes, masked, relay_attributes
from parley.storage.tables import CallSession

RELAY, ACTION = "/phone/relay", "/phone/action"
# A phone call whose sessions are lost again and again ends.
MOST_SESSIONS = 10
# What the agent has ended, and a person takes over.
HANDED_OVER = ("transfer", "failures")
# While PostgreSQL does not answer, and this process does not know the number, Twilio asks the webhook again so often,
# after so many seconds each: with the seconds that PostgreSQL has for an answer, this outlasts its restart. The query
# says how often it was asked, and that the phone call had a session.
MOST_TRIES, TRY_SECONDS = 5, 3
TRIES, AGAIN = "tries", "again"
MOST_DIGITS = 3
WAIT, LATER = "One moment, please.", "I am sorry, we cannot take your call at the moment. Please call again later."

log = logging.getLogger("parley.gateway.phone")
router = APIRouter(tags=["phone"])
sockets = APIRouter()


@router.post(VOICE, include_in_schema=False)
async def voice(request: Request) -> Response:
    """A phone call begins: say what Twilio does with it. A repetition is answered in the same way.

    As the fallback URL of a number it is also asked where the action callback was not answered: then the talk goes on.
    """
    form = await signed_form(request)
    calls, call_sid = _calls(request), _call_sid(form)
    try:
        known = await _number_of(calls, form)
    except Unreachable:
        return _asked_again(request, call_sid)
    if known is None:
        log.warning("%s: no workspace has the number %s", call_sid, masked(_ends(form)[0]))
        return _twiml(twiml.reject())
    call = _new_call(known, form, _parameters(request))
    try:
        limit = await calls.begin(known, call)
    except Unreachable:  # the session records it, if it can
        limit = None
    if limit is not None:
        log.warning("%s: refused, because the limit %s of %s is reached", call_sid, limit, masked(known.number))
        return _refused(known, call)
    calls.report_start(known.workspace_id, call_sid, call.user_id, longest_seconds(known.settings))
    greet = not await _had_session(request, calls, known, form)
    return _twiml(_connect(request, known, call.parameters, greet=greet))


@sockets.websocket(RELAY)
async def relay(socket: WebSocket) -> None:
    """A session of ConversationRelay."""
    check_signature(socket)
    await socket.accept()
    settings = socket.app.state.gateway.backend.settings
    await PhoneSession(_calls(socket), socket, public_url(socket, settings, is_socket=False)).run()


@router.get(RECORDINGS, include_in_schema=False)
async def recording(request: Request, number: str, language: str, name: str, seal: str) -> Response:
    """A recording that a session has named. It has a seal, because Twilio may fetch it without a signature."""
    calls = _calls(request)
    if not hmac.compare_digest(seal.encode(), calls.recordings.seal(number, language, name).encode()):
        return Response(status_code=403)
    known = await calls.number(number)
    audio = None if known is None else await calls.recordings.audio(known.workspace_id, known.settings, language, name)
    return Response(status_code=404) if audio is None else Response(audio, media_type="audio/wav")


@router.post(ACTION, include_in_schema=False)
async def action(request: Request) -> Response:
    """A session is over: connect again if it was lost, hand over if the agent says so, or end the phone call."""
    form = await signed_form(request)
    calls, call_sid = _calls(request), _call_sid(form)
    try:
        known = await _number_of(calls, form)
    except Unreachable:
        return _asked_again(request, call_sid, had_session=True) if _was_lost(form) else _twiml()
    if known is None:
        return _twiml()
    try:
        row = await calls.find(known.workspace_id, call_sid)
    except Unreachable:  # the session tries again to find its phone call
        row = None
    status = _status(form)
    if status is not None and status.is_final:
        await record_end(calls, known, call_sid, status, "caller")
        return _twiml()
    handoff = _handoff(form)
    reason = str(handoff.get("reason", "")) or (row.reason if row is not None else "")
    if reason:
        return await _ended_by_agent(calls, known, call_sid, reason)
    if _was_lost(form):
        return await _reconnected(request, calls, known, row, form)
    await record_end(calls, known, call_sid, CallStatus.COMPLETED, "caller")
    return _twiml()


@router.post(STATUS, include_in_schema=False)
async def status(request: Request) -> Response:
    """Twilio says where a phone call is. It may say so in any order, twice, or never."""
    form = await signed_form(request)
    calls, call_sid, now = _calls(request), _call_sid(form), _status(form)
    known = await _number_of(calls, form)
    if known is None or now is None:
        return Response(status_code=204)
    if now.is_final:
        await record_end(calls, known, call_sid, now, "caller" if now is CallStatus.COMPLETED else now.value)
    else:
        await calls.set_status(known.workspace_id, call_sid, now)
    return Response(status_code=204)


async def record_end(calls: PhoneCalls, known: KnownNumber, call_sid: str, now: CallStatus, reason: str) -> None:
    """A phone call is over. The reason that is known already stays."""
    try:
        await calls.set_status(known.workspace_id, call_sid, now, reason)
    except Unreachable:
        log.warning("%s: PostgreSQL does not answer: its end is recorded by the workflow", call_sid)
    calls.report_end(known.workspace_id, call_sid, CallEnd(status=now, reason=reason))


async def _ended_by_agent(calls: PhoneCalls, known: KnownNumber, call_sid: str, reason: str) -> Response:
    calls.report_end(known.workspace_id, call_sid, CallEnd(reason=reason))
    target = known.settings.transfer_to
    if reason in HANDED_OVER and target is not None:
        log.info("%s: handed over to %s", call_sid, masked(target))
        return _twiml(twiml.dial(target, caller_id=known.number))
    return _twiml(twiml.hang_up())


async def _reconnected(
    request: Request, calls: PhoneCalls, known: KnownNumber, row: CallSession | None, form: Mapping[str, str]
) -> Response:
    call_sid = _call_sid(form)
    if row is not None and row.sessions >= MOST_SESSIONS:
        await record_end(calls, known, call_sid, CallStatus.COMPLETED, "lost")
        return _twiml(twiml.say(known.settings.phrases.good_bye, language=row.language), twiml.hang_up())
    log.warning("%s: the session was lost (%.40s): it is connected again", call_sid, form.get("ErrorCode", ""))
    return _twiml(_connect(request, known, row.parameters if row is not None else {}, greet=False))


def _asked_again(request: Request, call_sid: str, *, had_session: bool = False) -> Response:
    """Let Twilio ask the voice webhook again soon; after some times the phone call ends."""
    tries = request.query_params.get(TRIES, "")
    tried = int(tries) if tries.isdecimal() and len(tries) < MOST_DIGITS else 0
    log.warning("%s: PostgreSQL does not answer, and the number is not known (%s)", call_sid, tried + 1)
    if tried >= MOST_TRIES:
        return _twiml(twiml.say(LATER), twiml.hang_up())
    kept = dict(request.query_params) | {TRIES: str(tried + 1)} | ({AGAIN: "1"} if had_session else {})
    base = public_url(request, request.app.state.gateway.backend.settings, is_socket=False)
    said = [] if tried else [twiml.say(WAIT)]
    return _twiml(*said, twiml.pause(TRY_SECONDS), twiml.redirect(f"{base}{VOICE}?{urlencode(kept)}"))


async def _had_session(request: Request, calls: PhoneCalls, known: KnownNumber, form: Mapping[str, str]) -> bool:
    """Whether Twilio asks because another address of this phone call did not answer, after its first session."""
    if AGAIN in request.query_params:
        return True
    if not form.get("ErrorUrl"):
        return False
    try:
        row = await calls.find(known.workspace_id, _call_sid(form))
    except Unreachable:
        return False
    return row is not None and row.sessions > 0


def _refused(known: KnownNumber, call: NewCall) -> Response:
    """A caller hears that the line is busy; a person who was called hears a sentence."""
    if call.direction == "inbound":
        return _twiml(twiml.reject())
    return _twiml(twiml.say(known.settings.phrases.busy, language=known.settings.language), twiml.hang_up())


def _connect(request: Request, known: KnownNumber, parameters: Mapping[str, str], *, greet: bool) -> Element:
    settings = known.settings
    own = request.app.state.gateway.backend.settings
    session = twiml.relay(
        relay_attributes(settings, public_url(request, own, is_socket=True) + RELAY, greet=greet),
        languages=[language_attributes(one) for one in settings.languages],
        parameters=parameters,
    )
    return twiml.connect(session, action=public_url(request, own, is_socket=False) + ACTION)


def _new_call(known: KnownNumber, form: Mapping[str, str], parameters: dict[str, str]) -> NewCall:
    _, caller, direction = _ends(form)
    return new_call(
        known.workspace_id,
        _call_sid(form),
        known.settings,
        number=known.number,
        caller=caller,
        direction=direction,
        parameters=parameters,
        account_sid=form.get("AccountSid", "")[:100],
        parent_call_sid=form.get("ParentCallSid", "")[:100],
        forwarded_from=form.get("ForwardedFrom", "")[:100],
        caller_name=form.get("CallerName", "")[:200],
    )


async def _number_of(calls: PhoneCalls, form: Mapping[str, str]) -> KnownNumber | None:
    return await calls.number(_ends(form)[0])


def _ends(form: Mapping[str, str]) -> tuple[str, str, Literal["inbound", "outbound"]]:
    """The number of a workspace, the other end, and the direction."""
    sender, target = form.get("From", "")[:200], form.get("To", "")[:200]
    if form.get("Direction", "inbound").startswith("outbound"):
        return sender, target, "outbound"
    return target, sender, "inbound"


def _call_sid(form: Mapping[str, str]) -> str:
    call_sid = form.get("CallSid", "")
    if not call_sid or len(call_sid) > 100 or not call_sid.replace("-", "").replace("_", "").isalnum():
        raise InvalidInput("is not the id of a phone call", where="body", field="CallSid")
    correlation.set({**correlation.get(), CORRELATION_ID: call_sid})
    return call_sid


def _status(form: Mapping[str, str]) -> CallStatus | None:
    try:
        return CallStatus(form.get("CallStatus", ""))
    except ValueError:
        return None


def _was_lost(form: Mapping[str, str]) -> bool:
    """Whether a session ended though neither side wanted it."""
    return form.get("SessionStatus", "") == "failed" or bool(form.get("ErrorCode"))


def _handoff(form: Mapping[str, str]) -> dict[str, Any]:
    try:
        given = json.loads(form.get("HandoffData") or "{}")
    except ValueError:
        return {}
    return given if isinstance(given, dict) else {}


def _parameters(request: Request) -> dict[str, str]:
    """The parameters of an outbound phone call. They are part of the URL, which Twilio signed."""
    try:
        given = json.loads(request.query_params.get(PARAMETERS, "{}"))
    except ValueError:
        return {}
    return {str(name): str(value) for name, value in given.items()} if isinstance(given, dict) else {}


def _twiml(*verbs: Element) -> Response:
    return Response(twiml.response(*verbs), media_type=twiml.CONTENT_TYPE)


def _calls(connection: Request | WebSocket) -> PhoneCalls:
    return connection.app.state.gateway.phone
