"""Phone numbers and phone calls of a workspace: settings, outbound calls, what was said and how it was served."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Unpack
from urllib.parse import urlencode

import httpx2
from pydantic import TypeAdapter, ValidationError

from parley.client.backend import Backend, WorkflowStart
from parley.client.conversation import ConversationHandle, turn_report
from parley.client.generate import TurnOptions
from parley.client.reading import first_problem
from parley.domain.conversation.contract import Ended, NewTurn, turn_request_id
from parley.domain.errors import InvalidInput, NotFound, Unreachable
from parley.domain.generate.condensing import CAUTIOUS_BYTES_PER_TOKEN
from parley.domain.generate.contract import Meta
from parley.domain.phone.callers import is_withheld
from parley.domain.phone.contract import (
    WORKFLOW,
    CallStatus,
    NewCall,
    PhoneCallInput,
    PhoneCallReport,
    PhoneNumber,
    PhoneTurn,
    TurnMeasures,
    workflow_id,
)
from parley.domain.phone.keys import sealed
from parley.domain.phone.limits import exceeded
from parley.domain.phone.settings import Number, NumberSettings, instructions_of, masked
from parley.domain.requests import ChatReply
from parley.storage import conversations, phone_calls
from parley.storage.tables import CallSession, ConversationTurn, StoredPhoneNumber

REST_SECONDS = 15.0
CALLS, CALL = "/2010-04-01/Accounts/{}/Calls.json", "/2010-04-01/Accounts/{}/Calls/{}.json"
VOICE, STATUS = "/phone/voice", "/phone/status"
STATUS_EVENTS = ("initiated", "ringing", "answered", "completed")
PARAMETERS = "parameters"
"""The query of a voice webhook that has the parameters of an outbound phone call. Twilio signs it with the URL."""
NUMBER: TypeAdapter[str] = TypeAdapter(Number)
# A caller waits: after this time another worker takes over from one that died in a workflow task.
TASK_TIMEOUT = timedelta(seconds=2)
# Every turn of a phone call is in one page.
MOST_TURNS = 2000


class Phone:
    """The phone numbers and phone calls of one workspace: `client.phone`."""

    def __init__(self, backend: Backend, workspace_id: str) -> None:
        self._backend, self._workspace_id = backend, workspace_id

    async def set_number(self, number: str, settings: NumberSettings | Mapping[str, Any] | None = None) -> PhoneNumber:
        """Give a phone number to this workspace, or replace its settings.

        In Twilio the number's voice webhook is the gateway's `/phone/voice`.

        Args:
            number: for example `+15550100001`.
            settings: how its phone calls are held, whole; default: the defaults of `NumberSettings`.

        Raises:
            InvalidInput: the number or a setting is not valid, or the number belongs to another workspace.
            Unreachable: PostgreSQL does not answer.
        """
        checked = checked_settings(settings)
        kept = checked.model_dump(mode="json", exclude_defaults=True)
        async with self._backend.database.transaction() as tx:
            row = await phone_calls.save_number(tx, self._workspace_id, checked_number(number), kept)
            return _number(row)

    async def numbers(self) -> tuple[PhoneNumber, ...]:
        """The phone numbers of this workspace.

        Raises:
            Unreachable: PostgreSQL does not answer.
        """
        async with self._backend.database.reads() as tx:
            return tuple(map(_number, await phone_calls.numbers(tx, self._workspace_id)))

    async def remove_number(self, number: str) -> None:
        """Take no further phone call on a number. Its phone calls stay.

        Raises:
            NotFound: the workspace does not have the number.
            Unreachable: PostgreSQL does not answer.
        """
        async with self._backend.database.transaction() as tx:
            if not await phone_calls.remove_number(tx, self._workspace_id, number):
                raise NotFound(f"workspace {self._workspace_id!r} does not have the number {number!r}")

    async def dial(self, to: str, *, from_number: str, parameters: Mapping[str, str] | None = None) -> str:
        """Call a number. When the phone is answered, the phone call is held as an inbound one.

        A request whose answer is lost is not repeated: the phone may ring already.

        Args:
            to: the number to call.
            from_number: a number of this workspace.
            parameters: texts that go with the phone call, for example the id of a customer; default: none.

        Returns:
            The id of the phone call, its CallSid.

        Raises:
            InvalidInput: an argument is not valid, a limit of the number is reached, TWILIO_ACCOUNT_SID,
                TWILIO_AUTH_TOKEN or PARLEY_PHONE_PUBLIC_URL is not set, or Twilio refuses the request.
            NotFound: the workspace does not have the number.
            Unreachable: Twilio or PostgreSQL does not answer.
        """
        target, given = checked_number(to), dict(parameters or {})
        async with self._backend.database.reads() as tx:
            row = await phone_calls.find_number(tx, from_number)
            used = await phone_calls.used(tx, self._workspace_id, from_number, target)
        if row is None or row.workspace_id != self._workspace_id:
            raise NotFound(f"workspace {self._workspace_id!r} does not have the number {from_number!r}")
        settings = NumberSettings.model_validate(row.settings)
        _check_limit(exceeded(settings.limits, used, target), from_number)
        call_sid = await self._request(target, from_number, given)
        call = new_call(
            self._workspace_id,
            call_sid,
            settings,
            number=from_number,
            caller=target,
            direction="outbound",
            parameters=given,
            status=CallStatus.QUEUED,
        )
        limit = await self._begin(call, settings)
        if limit is not None:  # another phone call has begun meanwhile
            await self._hang_up(call_sid)
        _check_limit(limit, from_number)
        return call_sid

    async def _begin(self, call: NewCall, settings: NumberSettings) -> str | None:
        """Store a phone call that Twilio dials; returns the limit that leaves no room for it.

        What is not stored is refused by the voice webhook too.
        """
        where = (call.workspace_id, call.call_sid)
        async with self._backend.database.transaction() as tx:
            await phone_calls.lock_limits(tx, call.workspace_id)
            if (
                await phone_calls.find(tx, *where) is not None
            ):  # it was answered at once, and the webhook had room for it
                return None
            used = await phone_calls.used(tx, call.workspace_id, call.number, call.caller, call_sid=call.call_sid)
            if limit := exceeded(settings.limits, used, call.caller):
                return limit
            await phone_calls.begin(tx, call)
        return None

    def sealed(self, digits: str) -> str:
        """Secret digits as a parameter of `dial` can have them: see `KeyAction.expected`.

        Args:
            digits: what the caller is to enter, for example a PIN.

        Raises:
            InvalidInput: TWILIO_AUTH_TOKEN is not set.
        """
        token = self._backend.settings.twilio_auth_token
        if token is None:
            raise InvalidInput("set TWILIO_AUTH_TOKEN: the digits are sealed with it", where="sealed")
        return sealed(digits, token.get_secret_value())

    async def calls(
        self, *, before: datetime | None = None, limit: int = 50, is_open: bool | None = None
    ) -> tuple[PhoneCallReport, ...]:
        """The phone calls of this workspace, the newest first.

        Args:
            before: only those that began before this aware time; default: all.
            limit: the most to return; default 50.
            is_open: True for those that go on, False for those that are over; default: both.

        Raises:
            Unreachable: PostgreSQL does not answer.
        """
        async with self._backend.database.reads() as tx:
            rows = await phone_calls.newest(tx, self._workspace_id, before=before, limit=limit, is_open=is_open)
            counts = await phone_calls.turn_counts(tx, self._workspace_id, [row.call_sid for row in rows])
        return tuple(_call(row, *counts.get(row.call_sid, (0, Decimal(0)))) for row in rows)

    async def call(self, call_sid: str) -> PhoneCallReport:
        """A phone call, as it is now.

        Raises:
            NotFound: the workspace has no such phone call.
            Unreachable: PostgreSQL does not answer.
        """
        async with self._backend.database.reads() as tx:
            row = await self._find(tx, call_sid)
            counts = await phone_calls.turn_counts(tx, self._workspace_id, [call_sid])
            talk = await conversations.find(tx, self._workspace_id, call_sid)
        return _call(row, *counts.get(call_sid, (0, Decimal(0))), summary=talk.summary if talk else "")

    async def turns(self, call_sid: str) -> tuple[PhoneTurn, ...]:
        """What was said in a phone call, in order: what was answered, and what the caller heard of it.

        Raises:
            NotFound: the workspace has no such phone call.
            Unreachable: PostgreSQL does not answer.
        """
        async with self._backend.database.reads() as tx:
            await self._find(tx, call_sid)
            rows = await conversations.history(tx, self._workspace_id, call_sid, after=0, limit=MOST_TURNS)
        return tuple(map(_turn, rows))

    async def _find(self, tx: Any, call_sid: str) -> CallSession:
        row = await phone_calls.find(tx, self._workspace_id, call_sid)
        if row is None:
            raise NotFound(f"workspace {self._workspace_id!r} has no phone call {call_sid!r}")
        return row

    async def _request(self, to: str, from_number: str, parameters: Mapping[str, str]) -> str:
        """Ask Twilio to dial; returns the CallSid."""
        settings = self._backend.settings
        account, token, public = settings.twilio_account_sid, settings.twilio_auth_token, settings.phone_public_url
        if account is None or token is None or public is None:
            missing = "TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN and PARLEY_PHONE_PUBLIC_URL"
            raise InvalidInput(f"set {missing}: Twilio dials, and asks the gateway what to say", where="dial")
        query = f"?{urlencode({PARAMETERS: json.dumps(parameters, sort_keys=True)})}" if parameters else ""
        form = [
            ("To", to),
            ("From", from_number),
            ("Url", f"{public}{VOICE}{query}"),
            ("Method", "POST"),
            ("StatusCallback", f"{public}{STATUS}"),
            ("StatusCallbackMethod", "POST"),
            *(("StatusCallbackEvent", event) for event in STATUS_EVENTS),
        ]
        try:
            return _sid_of(await self._post(CALLS.format(account), form))
        except httpx2.HTTPError as error:
            raise Unreachable(f"Twilio does not answer ({type(error).__name__}); {masked(to)} may ring") from None

    async def _hang_up(self, call_sid: str) -> None:
        with suppress(httpx2.HTTPError):
            await self._post(
                CALL.format(self._backend.settings.twilio_account_sid, call_sid), [("Status", "completed")]
            )

    async def _post(self, path: str, form: list[tuple[str, str]]) -> httpx2.Response:
        settings = self._backend.settings
        token = settings.twilio_auth_token
        async with httpx2.AsyncClient(base_url=settings.twilio_base_url, timeout=REST_SECONDS) as http:
            return await http.post(
                path,
                content=urlencode(form),
                headers={"content-type": "application/x-www-form-urlencoded"},
                auth=(settings.twilio_account_sid or "", token.get_secret_value() if token else ""),
            )


class PhoneTalk(ConversationHandle):
    """The turns of a phone call: those of a conversation, answered by the workflow `PhoneCall`."""

    _takes_tools = True

    def __init__(
        self,
        backend: Backend,
        workspace_id: str,
        call_sid: str,
        user_id: str,
        *,
        longest_seconds: float,
        most_usd: Decimal | None = None,
    ) -> None:
        """`most_usd`: a turn that may cost more is refused before it is paid; None: no limit."""
        super().__init__(backend, workspace_id, call_sid, user_id)
        self._longest_seconds, self._most_usd = longest_seconds, most_usd

    def _turn(
        self, text: str, turn_id: str | None, action: str, options: TurnOptions, knowledge: bool | None
    ) -> NewTurn:
        turn = super()._turn(text, turn_id, action, options, knowledge)
        if self._most_usd is None:
            return turn
        return turn.model_copy(update={"terms": {**turn.terms, "max_cost_usd": str(self._most_usd)}})

    async def store_answered(
        self,
        text: str,
        turn_id: str,
        reply: ChatReply,
        cost_usd: Decimal = Decimal(0),
        *,
        knowledge: bool,
        action: str,
        **options: Unpack[TurnOptions],
    ) -> None:
        """Store a turn that was answered while the database was down. Its workflow may have ended it as cancelled.

        Raises:
            IdempotencyConflict: `turn_id` was used for a different text.
            Unreachable: PostgreSQL is still down.
        """
        meta = Meta(
            request_id=turn_request_id(self._workspace_id, self.id, turn_id),
            usage=reply.usage,
            answered_by=reply.model,
            cost_usd=cost_usd,
            finish=reply.finish,
            attempts=1,
        )
        await self._store_ended(
            self._turn(text, turn_id, action, options, knowledge),
            even_if_begun=True,
            outcome=Ended.COMPLETED.value,
            answer=reply.text,
            tokens=len(text.encode()) // CAUTIOUS_BYTES_PER_TOKEN + reply.usage.output_tokens,
            meta=meta.model_dump(mode="json"),
        )

    async def store_failed(
        self, text: str, turn_id: str, reason: str, *, knowledge: bool, action: str, **options: Unpack[TurnOptions]
    ) -> None:
        """Store a turn that was given up before it was begun. Of one that was begun, its workflow records the end.

        Raises:
            IdempotencyConflict: `turn_id` was used for a different text.
            Unreachable: PostgreSQL does not answer.
        """
        turn = self._turn(text, turn_id, action, options, knowledge)
        await self._store_ended(turn, even_if_begun=False, outcome=Ended.FAILED.value, reason=reason)

    async def _store_ended(self, turn: NewTurn, *, even_if_begun: bool, **known: Any) -> None:
        """Store a turn together with its end. `even_if_begun`: end it also where a workflow has begun it."""
        where = (turn.workspace_id, turn.conversation_id, turn.turn_id)
        async with self._backend.database.transaction() as tx:
            row = await conversations.begin_turn(tx, turn)
            if row.number is None or even_if_begun:
                await conversations.start_turn(tx, *where)
                await conversations.end_turn(tx, *where, even_if_cancelled=even_if_begun, **known)

    def _start(self) -> WorkflowStart:
        return phone_call_start(self._workspace_id, self.id, self.user_id, longest_seconds=self._longest_seconds)


def phone_call_start(workspace_id: str, call_sid: str, user_id: str, *, longest_seconds: float) -> WorkflowStart:
    """The workflow of a phone call. `longest_seconds`: when it is over, if nothing ends it before."""
    given = PhoneCallInput(
        workspace_id=workspace_id, call_sid=call_sid, user_id=user_id, longest_seconds=longest_seconds
    )
    return WorkflowStart(
        workflow=WORKFLOW,
        input=given,
        id=workflow_id(workspace_id, call_sid),
        summary=f"phone call {call_sid}",
        status="open",
        task_timeout=TASK_TIMEOUT,
    )


def new_call(workspace_id: str, call_sid: str, settings: NumberSettings, *, caller: str, **known: Any) -> NewCall:
    """A phone call that begins, of a number with these settings. A caller without a number is a user of its own."""
    parameters = {**settings.parameters, **known.pop(PARAMETERS, {})}
    return NewCall(
        workspace_id=workspace_id,
        call_sid=call_sid,
        caller=caller,
        user_id=user_of(workspace_id, call_sid if is_withheld(caller) else caller),
        language=settings.language,
        instructions=instructions_of(settings, settings.language),
        parameters=parameters,
        **known,
    )


def user_of(workspace_id: str, caller: str) -> str:
    """The user that a caller is: the same for each phone call, and without the number, because logs show users."""
    return f"phone-{hashlib.sha256(f'{workspace_id}/{caller}'.encode()).hexdigest()[:16]}"


def checked_settings(settings: NumberSettings | Mapping[str, Any] | None) -> NumberSettings:
    """The settings of a number; None: the defaults.

    Raises:
        InvalidInput: one is not valid.
    """
    try:
        return NumberSettings.model_validate(settings or {})
    except ValidationError as error:
        raise first_problem(error, where="settings") from None


def _check_limit(limit: str | None, number: str) -> None:
    if limit is not None:
        raise InvalidInput(f"the limit {limit} of {number} is reached: dial later, or raise it", where="dial")


def checked_number(number: str) -> str:
    """A telephone number.

    Raises:
        InvalidInput: it is not one.
    """
    try:
        return NUMBER.validate_python(number)
    except ValidationError as error:
        raise first_problem(error, where="number") from None


def _sid_of(answer: httpx2.Response) -> str:
    try:
        said = answer.json()
    except ValueError:
        said = {}
    said = said if isinstance(said, dict) else {}
    if answer.status_code >= httpx2.codes.INTERNAL_SERVER_ERROR:
        raise Unreachable(f"Twilio answers {answer.status_code}: dial again later")
    if answer.status_code >= httpx2.codes.BAD_REQUEST:
        message, code = str(said.get("message", "")).strip()[:300], said.get("code", answer.status_code)
        raise InvalidInput(f"Twilio refuses it ({code}): {message or 'no reason is given'}", where="dial")
    if not isinstance(sid := said.get("sid"), str):
        raise Unreachable("Twilio's answer names no phone call")
    return sid


def _number(row: StoredPhoneNumber) -> PhoneNumber:
    settings = NumberSettings.model_validate(row.settings)
    return PhoneNumber(number=row.number, settings=settings, updated_at=row.updated_at)


def _call(row: CallSession, turns: int, cost_usd: Decimal, *, summary: str = "") -> PhoneCallReport:
    known = row.model_dump(include=set(PhoneCallReport.model_fields))
    seconds = ((row.ended_at or datetime.now(UTC)) - row.started_at).total_seconds()
    return PhoneCallReport(**known, seconds=round(max(seconds, 0), 3), turns=turns, cost_usd=cost_usd, summary=summary)


def _turn(row: ConversationTurn) -> PhoneTurn:
    measures = {name: getattr(row, name) for name in TurnMeasures.model_fields}
    return PhoneTurn(**turn_report(row).model_dump(), **{**measures, "error": row.error or ""})
