"""One phone call: the webhook, what its TwiML says, the sessions, and the callbacks."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import urljoin

from simulator.seeded import fraction
from simulator.twilio import twiml
from simulator.twilio.clock import Clock
from simulator.twilio.line import Form, Line, Unreachable
from simulator.twilio.log import CallLog
from simulator.twilio.session import Session, SessionEnd, SessionSettings
from simulator.twilio.twiml import Document, Refused, Verb

MOST_DOCUMENTS = 20
SAY_CHARACTERS_PER_SECOND = 15.0
# Seconds from the answer of a webhook, or from the end of a session, until Twilio goes on.
CONNECT_SECONDS, ACTION_SECONDS = 0.4, 0.5
PROGRESS = ("initiated", "ringing", "answered", "completed")


@dataclass(frozen=True)
class Dialled:
    """The two numbers, and the addresses that Twilio asks.

    Attributes:
        sid, caller, number: the CallSid, From and To.
        voice_url: the webhook that answers TwiML; None if `document` is given.
        fallback_url: is asked for TwiML where another address does not answer; None for none.
        status_url: the status callback; None sends none.
        status_events: which events of an outbound phone call are sent.
        callbacks: `in order`, `shuffled`, `twice` or `never`.
    """

    sid: str
    caller: str
    number: str
    voice_url: str | None = None
    document: str | None = None
    fallback_url: str | None = None
    status_url: str | None = None
    direction: str = "inbound"
    status_events: tuple[str, ...] = ("completed",)
    callbacks: str = "in order"
    seed: int = 7
    session: SessionSettings = field(default_factory=SessionSettings)


class Ended(Exception):
    """The phone call is over."""


class PhoneCall:
    """A phone call. `run` plays Twilio; the caller speaks through `session()`."""

    def __init__(self, dialled: Dialled, line: Line, log: CallLog, clock: Clock) -> None:
        self.dialled, self.log, self.clock = dialled, log, clock
        self._line = line
        self.status = "queued"
        self._session: Session | None = None
        self._sessions = 0
        self._base = dialled.voice_url or ""
        self.changed = asyncio.Event()
        self._is_hung_up = False
        self.transferred_to: str | None = None
        self._callbacks: list[Awaitable[None]] = []
        self._answered_at: float | None = None
        self._ended_at: float | None = None
        self._noted: set[str] = set()
        self._redirect: Document | None = None
        self._verbs: dict[str, Callable[[Verb], Awaitable[Document | None]]] = {
            "Connect": self._connect,
            "Say": self._say,
            "Pause": self._pause,
            "Play": self._pause,
            "Redirect": self._redirected,
            "Dial": self._dial,
            "Hangup": self._hangup,
            "Reject": self._hangup,
        }

    @property
    def account_sid(self) -> str:
        return self._line.account.sid

    @property
    def talked_seconds(self) -> float | None:
        """Since it was answered; None before."""
        return None if self._answered_at is None else (self._ended_at or self.clock.now()) - self._answered_at

    @property
    def is_over(self) -> bool:
        return self.status in {"completed", "failed", "busy", "no-answer", "canceled"}

    async def run(self, answer: str = "answers") -> None:
        """Hold the phone call from its first ring to its last callback.

        Args:
            answer: how the phone that is called reacts: answers, busy or no-answer.
        """
        await self._progress("initiated")
        await self._progress("ringing")
        try:
            if answer == "answers":
                await self._answered()
            else:
                self._set_status(answer)
        except (Refused, Unreachable) as problem:
            self._fail(str(problem))
        finally:
            if not self.is_over:
                self._set_status("completed")
            await self._progress("completed")
            await self._send_held()

    # What the caller does

    async def session(self) -> Session:
        """The session that is open now, or the next one.

        Raises:
            Ended: there is none any more.
        """
        while self._session is None or self._session.is_over:
            if self.is_over or self._is_hung_up or self.transferred_to:
                raise Ended
            self.changed.clear()
            await self.changed.wait()
        return self._session

    def hang_up(self) -> None:
        """End the phone call, as the caller or an update of it does."""
        self._is_hung_up = True
        if self._session is not None:
            self._session.hang_up()
        self.changed.set()

    def redirect(self, text: str) -> None:
        """Run other TwiML from now on, as an update of the phone call does.

        Raises:
            Refused: it is not TwiML.
        """
        self._redirect = self._read(text, "text/xml")
        if self._session is not None:
            self._session.hang_up()

    # What Twilio does

    async def _answered(self) -> None:
        document = await self._first_document()
        if self.dialled.direction == "inbound":
            self._set_status("ringing")
        self._answered_at = self.clock.now()
        await self._progress("answered")
        for _ in range(MOST_DOCUMENTS):
            following = await self._play(document)
            if following is None or self._is_hung_up:
                return
            document = following
        raise Refused(12400, f"more than {MOST_DOCUMENTS} documents follow each other")

    async def _first_document(self) -> Document:
        if self.dialled.document is not None:
            return self._read(self.dialled.document, "text/xml")
        self._set_status("ringing")
        return await self._ask(self._base, [])

    async def _play(self, document: Document) -> Document | None:
        """Run the verbs; the document that replaces this one, or None at the end."""
        for verb in document.verbs:
            following = await self._verbs[verb.name](verb)
            if following is not None or self._is_hung_up or self.is_over:
                return following
        return None

    async def _connect(self, verb: Verb) -> Document | None:
        relay = twiml.relay_of(verb)
        began = self.clock.now()
        try:
            end = await self._hold_session(relay)
        except Unreachable as problem:
            self._error(str(problem))
            end = SessionEnd("failed", error_code=problem.code, error_message=str(problem))
        seconds = self.clock.now() - began
        if self._redirect is not None:
            following, self._redirect = self._redirect, None
            return following
        self._is_hung_up = self._is_hung_up or end.status == "completed"
        if "action" not in verb.attributes:
            return None
        if self._is_hung_up:
            self._set_status("completed")
            await self._progress_early()
        await self.clock.sleep(ACTION_SECONDS)
        return await self._ask_action(verb, end, seconds)

    async def _hold_session(self, relay: twiml.Relay) -> SessionEnd:
        await self.clock.sleep(CONNECT_SECONDS)
        socket = await self._line.open_socket(relay.url)
        self.log.note("connected", url=relay.url)
        self._sessions += 1
        settings = self.dialled.session
        session = Session(socket, relay, self._setup(relay), settings, self.log, self.clock)
        self._session = session
        if self._is_hung_up or self._redirect is not None:  # while the socket was opened
            session.hang_up()
        self._set_status("in-progress")
        self.changed.set()
        try:
            return await session.run()
        finally:
            self._session = None

    def _setup(self, relay: twiml.Relay) -> dict[str, Any]:
        dialled = self.dialled
        return {
            "type": "setup",
            "sessionId": self._session_id,
            "callSid": dialled.sid,
            "parentCallSid": "",
            "from": dialled.caller,
            "to": dialled.number,
            "forwardedFrom": dialled.number if dialled.direction == "inbound" else "",
            "callerName": "",
            "direction": dialled.direction,
            "callType": "PSTN",
            "callStatus": "RINGING" if self._sessions == 1 and dialled.direction == "inbound" else "IN_PROGRESS",
            "accountSid": self._line.account.sid,
            "customParameters": dict(relay.parameters),
        }

    @property
    def _session_id(self) -> str:
        return f"VX{self.dialled.sid[2:-2]}{self._sessions:02}"

    async def _ask_action(self, verb: Verb, end: SessionEnd, seconds: float) -> Document | None:
        form = [
            ("SessionId", self._session_id),
            ("SessionStatus", end.status),
            ("SessionDuration", str(round(seconds))),
        ]
        further = {"HandoffData": end.handoff_data, "ErrorCode": end.error_code, "ErrorMessage": end.error_message}
        form += [(name, str(value)) for name, value in further.items() if value is not None]
        url = urljoin(self._base, verb.attributes["action"])
        method = verb.attributes.get("method", "POST")
        if self._is_hung_up:  # whatever it answers, there is no phone call to go on with
            await self._line.request(url, self._form() + form, self.log, method=method)
            return None
        return await self._ask(url, form, method=method)

    async def _say(self, verb: Verb) -> None:
        turn = len(self.log.of("said"))
        self.log.note("text", token=verb.text, last=True, turn=turn)
        await self._listen(len(verb.text) / SAY_CHARACTERS_PER_SECOND)
        self.log.note("spoken", text=f" {verb.text}", turn=turn)

    async def _pause(self, verb: Verb) -> None:
        await self._listen(float(verb.attributes.get("length", 1)))

    async def _listen(self, seconds: float) -> None:
        """Let time pass, until the caller hangs up."""
        until = self.clock.now() + seconds
        while not self._is_hung_up and (left := until - self.clock.now()) > 0:
            self.changed.clear()
            try:
                async with asyncio.timeout(left / self.clock.speed):
                    await self.changed.wait()
            except TimeoutError:
                return

    async def _redirected(self, verb: Verb) -> Document:
        return await self._ask(urljoin(self._base, verb.text), [], method=verb.attributes.get("method", "POST"))

    async def _dial(self, verb: Verb) -> None:
        numbers = [child.text for child in verb.children] or [verb.text]
        self.transferred_to = ", ".join(numbers)
        self.log.note("transfer", number=self.transferred_to)
        self._is_hung_up = True
        self.changed.set()

    async def _hangup(self, verb: Verb) -> None:
        self._is_hung_up = True
        if verb.name == "Reject":
            self.log.note(
                "warning", text=f"the server rejects the phone call: it has no agent for {self.dialled.number}"
            )
            self._set_status("busy" if verb.attributes.get("reason") == "busy" else "no-answer")

    # Requests

    async def _ask(self, url: str, form: Form, *, method: str = "POST") -> Document:
        self._base = url
        try:
            response = await self._line.request(url, self._form() + form, self.log, method=method)
        except Unreachable as problem:
            fallback = self.dialled.fallback_url
            if fallback is None:
                raise
            self.log.note("warning", text=f"{problem}: the fallback URL is asked")
            failed = [("ErrorCode", str(problem.code)), ("ErrorUrl", url)]
            self._base = fallback
            response = await self._line.request(fallback, self._form() + failed, self.log)
        return self._read(response.text, response.headers.get("content-type", ""))

    def _read(self, body: str, content_type: str) -> Document:
        document = twiml.read(body, content_type)
        for warning in document.warnings:
            self.log.note("warning", text=warning)
        return document

    def _form(self) -> Form:
        """The fields that every request of a phone call has."""
        dialled = self.dialled
        form = [
            ("CallSid", dialled.sid),
            ("AccountSid", self._line.account.sid),
            ("ApiVersion", "2010-04-01"),
            ("Direction", dialled.direction),
            ("CallStatus", "in-progress" if self.status == "queued" else self.status),
        ]
        for number, names in ((dialled.caller, ("From", "Caller")), (dialled.number, ("To", "Called"))):
            form += [(name, number) for name in names]
            form += [(f"{name}{part}", "") for name in names for part in ("City", "State", "Zip")]
            form += [(f"{name}Country", "US") for name in names]
        return form

    # Statuses

    def _set_status(self, status: str) -> None:
        if status != self.status:
            self.status = status
            if self.is_over:
                self._ended_at = self.clock.now()
            self.log.note("status", status=status)
        self.changed.set()

    def _fail(self, problem: str) -> None:
        self._error(problem)
        self._set_status("failed" if self.dialled.direction != "inbound" else "completed")

    def _error(self, problem: str) -> None:
        self.log.note("error", text=problem)

    async def _progress(self, event: str) -> None:
        """Queue or send the callback of an event."""
        dialled = self.dialled
        if dialled.direction != "inbound" and event != "completed":
            self._set_status({"answered": "in-progress"}.get(event, event))
        if dialled.status_url is None or event not in dialled.status_events or dialled.callbacks == "never":
            return
        if event in self._noted:
            return
        self._noted.add(event)
        form = self._form() + self._progress_form(event)
        sending = self._send_status(dialled.status_url, form)
        if dialled.callbacks == "in order":
            await sending
            return
        self._callbacks.append(sending)
        if dialled.callbacks == "twice":
            self._callbacks.append(self._send_status(dialled.status_url, form))

    async def _progress_early(self) -> None:
        """With shuffled callbacks, the last status may overtake the action callback."""
        dialled = self.dialled
        if dialled.callbacks == "shuffled" and fraction(dialled.seed, "overtakes") < 0.5:
            await self._progress("completed")
            await self._send_held()

    def _progress_form(self, event: str) -> Form:
        form = [
            ("Timestamp", format_datetime(datetime.now(UTC))),
            ("CallbackSource", "call-progress-events"),
            ("SequenceNumber", str(self.dialled.status_events.index(event))),
        ]
        if event == "completed":
            seconds = self.talked_seconds or 0.0
            form += [("CallDuration", str(round(seconds))), ("Duration", str(round(seconds / 60 + 0.5)))]
        return form

    async def _send_held(self) -> None:
        """Send the callbacks that were held back: in an order of the seed, or as they are."""
        held, self._callbacks = self._callbacks, []
        if self.dialled.callbacks == "shuffled":
            order = sorted(range(len(held)), key=lambda at: fraction(self.dialled.seed, "callbacks", at))
            held = [held[at] for at in order]
        for sending in held:
            await sending

    async def _send_status(self, url: str, form: Form) -> None:
        try:
            await self._line.request(url, form, self.log)
        except Unreachable as problem:
            self._error(str(problem))
