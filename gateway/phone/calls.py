"""The phone calls of one gateway process: their workspaces, what may begin, and the reports to their workflows."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy.ext.asyncio import AsyncSession

from gateway.inline import InlineGenerate
from gateway.phone.database import WatchedDatabase
from gateway.phone.resuming import heard_characters
from parley.client.backend import Backend, start_workflow, temporal_errors
from parley.client.phone import PhoneTalk, phone_call_start
from parley.domain.budgets import least_left_usd
from parley.domain.conversation.contract import ComposeStep, Ended, Say, turn_job_id
from parley.domain.errors import NotFound, ParleyError, Unreachable
from parley.domain.model import Model
from parley.domain.phone.contract import (
    CONNECTED,
    ENDED,
    LEFT,
    CallEnd,
    CallStatus,
    Counts,
    Moment,
    NewCall,
    TurnMeasures,
    workflow_id,
)
from parley.domain.phone.keys import Keys, OpenEntry, possible_entry
from parley.domain.phone.limits import exceeded
from parley.domain.phone.settings import NumberSettings, Phrases, instructions_of
from parley.domain.phone.tools import tools_of
from parley.domain.requests import ChatReply
from parley.storage import budgets, phone_calls
from parley.storage.driver import fetch
from parley.storage.tables import CallSession, ConversationTurn

if TYPE_CHECKING:
    from gateway.phone.outage import Outage
    from gateway.phone.recordings import Recordings

# How long a process uses what it knows of a number; while PostgreSQL does not answer, it uses it for longer.
KNOWN_SECONDS = 2.0
MOST_KNOWN = 10_000
# How long Temporal is not asked again after it did not answer, and how long it has for an answer.
DOWN_SECONDS = 3.0
UP_SECONDS = 1.0
# How long the end of a session waits for its record. What is not recorded then is recorded later.
LEAVE_SECONDS = 5.0
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
# How often it is looked up whether a worker makes an answer; how much longer workers have that are connected; and the
# most answers that this process makes at once in their place.
LOOK_SECONDS, LONGER_IF_CONNECTED, MOST_TAKEN_OVER = 0.1, 2.5, 8
# After so long a report to a workflow is given up.
REPORT_SECONDS = 3600.0
# The reports of the spool, beside those of phone calls.
SPOOL = "spool"
FREE = Decimal(0)
# How much longer than its limit a phone call can last: for the last words.
GRACE_SECONDS = 600.0

log = logging.getLogger("parley.gateway.phone")


@dataclass(frozen=True)
class KnownNumber:
    """A phone number, with its workspace and settings."""

    workspace_id: str
    number: str
    settings: NumberSettings
    read_at: float


@dataclass
class OpenCall:
    """A phone call that this process holds.

    number: the workspace's. public_url: of the gateway, where Twilio is at the other end; else empty.
    language: that is spoken now. last_turn: the highest number in the ids of its turns.
    unfinished: the last turn, if it is not known that its answer was spoken. heard: so many characters of it were.
    is_resumed: an earlier session was lost. session: the number of this one; 0: it is not recorded yet. unrecorded: the
    phone call as it is stored then. began_at: when it began. entry: the secret entry that was open in the session
    before, or may have been. seconds: since the phone call began. costs: what turns have cost, or may have, by
    their ids; spooled: the same of answers that were made without PostgreSQL. exchanges: of this session, what was said
    and what was heard, by the ids of their turns. unstored: stores a turn that PostgreSQL does not have.
    recording: held while the session is recorded.
    """

    workspace_id: str
    call_sid: str
    user_id: str
    settings: NumberSettings
    language: str
    parameters: dict[str, str]
    number: str = ""
    public_url: str = ""
    last_turn: int = 0
    unfinished: ConversationTurn | None = None
    heard: int = 0
    is_resumed: bool = False
    session: int = 1
    unrecorded: NewCall | None = None
    began_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    entry: OpenEntry | None = None
    seconds: float = 0.0
    costs: dict[str, Decimal] = field(default_factory=dict[str, Decimal])
    spooled: dict[str, Decimal] = field(default_factory=dict[str, Decimal])
    exchanges: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    unstored: list[Callable[[], Awaitable[None]]] = field(default_factory=list[Callable[[], Awaitable[None]]])
    recording: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def phrases(self) -> Phrases:
        return self.settings.phrases_in(self.language)

    @property
    def left_usd(self) -> Decimal | None:
        """What the phone call may still cost, as far as is known; None: it has no limit."""
        most = self.settings.limits.call_usd
        if most is None:
            return None
        turns = self.costs.keys() | self.spooled.keys()
        return most - sum(max(self.costs.get(one, FREE), self.spooled.get(one, FREE)) for one in turns)

    @property
    def longest_seconds(self) -> float:
        return longest_seconds(self.settings)


def turn_options(settings: NumberSettings) -> dict[str, Any]:
    """How the turns of a number are answered."""
    return {
        "knowledge": settings.knowledge,
        "action": settings.action,
        "template": settings.template,
        "model": settings.model,
        **({"tools": tools_of(settings)} if settings.tools else {}),
    }


async def _begin_session(call: NewCall, tx: AsyncSession) -> int:
    """Store a phone call with a session that has begun; returns the number of the session."""
    await phone_calls.begin(tx, call)
    await phone_calls.count(tx, call.workspace_id, call.call_sid, Counts(sessions=1))
    row = await phone_calls.find(tx, call.workspace_id, call.call_sid)
    return row.sessions if row is not None else 0


def _entry_of(row: CallSession, settings: NumberSettings) -> OpenEntry | None:
    """The secret entry that was open when the last session of a phone call ended.

    Where that end is not recorded, one may have been opened while PostgreSQL did not answer.
    """
    if row.secret_entry is not None:
        return OpenEntry.model_validate(row.secret_entry)
    return possible_entry(settings) if row.left_session < row.sessions else None


def longest_seconds(settings: NumberSettings) -> float:
    """When a phone call is over for its workflow, if nothing ends it before."""
    return settings.limits.call_minutes * 60 + GRACE_SECONDS


class InlineTalk(PhoneTalk):
    """The turns of a phone call, answered by this process."""

    def __init__(self, inline: InlineGenerate, *of: Any, **known: Any) -> None:
        super().__init__(*of, **known)
        self._inline = inline

    async def _have_answered(self, say: Say) -> None:
        await self._answer_inline(say)

    async def _answer_inline(self, say: Say) -> None:
        step = ComposeStep(
            workspace_id=self._workspace_id,
            conversation_id=self.id,
            user_id=self.user_id,
            turn_id=say.turn_id,
            stream=say.stream,
            at=datetime.now(UTC),
        )
        await self._inline.turn(step)


class DurableTalk(InlineTalk):
    """The turns of a phone call, answered by its workflow; and by this process too, where no worker makes an answer.

    Both are runs of one turn, with one set of ids: each takes what the other has paid, and the first end is final.
    """

    def __init__(self, silent_seconds: float, taking_over: asyncio.Semaphore, *of: Any, **known: Any) -> None:
        """`silent_seconds`: for so long no worker may make an answer. `taking_over`: held while this process makes one.

        Workers that are only slow get more time, and few of their answers are made here: two runs of each turn would
        make all of them slower.
        """
        super().__init__(*of, **known)
        self._silent_seconds, self._taking_over = silent_seconds, taking_over

    async def _have_answered(self, say: Say) -> None:
        durable = asyncio.ensure_future(super(InlineTalk, self)._have_answered(say))
        silent = asyncio.ensure_future(self._until_silent(say.turn_id))
        running: set[asyncio.Future[None]] = {durable}
        try:
            await asyncio.wait({durable, silent}, return_when=asyncio.FIRST_COMPLETED)
            if not durable.done():
                log.warning("%s: no worker makes the answer: this process does", self.id)
                running.add(asyncio.ensure_future(self._take_over(say)))
            await _first_success(running)
        finally:
            for task in (silent, *running):
                task.cancel()
            await asyncio.wait({silent, *running})

    async def _take_over(self, say: Say) -> None:
        async with self._taking_over:
            await self._answer_inline(say)

    async def _until_silent(self, turn_id: str) -> None:
        """Return when no worker has made the answer for some time: none has begun it, or the one that did has died."""
        of = (self._workspace_id, turn_job_id(self._workspace_id, self.id, turn_id))
        clock, receiver = asyncio.get_running_loop(), self._backend.receiver
        since = clock.time()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if receiver.hub.is_fed(*of):
                since = clock.time()
            longest = self._silent_seconds * (LONGER_IF_CONNECTED if receiver.connections else 1)
            if clock.time() - since >= longest and not self._taking_over.locked():
                return


async def _first_success(running: Collection["asyncio.Future[None]"]) -> None:
    """Wait until one of them succeeds, or all have failed: then an error of theirs is raised."""
    failure: Exception | None = None
    for done in asyncio.as_completed(running):
        try:
            await done
            return
        except ParleyError as error:
            failure = error
    assert failure is not None  # noqa: S101 - one of them has ended
    raise failure


class PhoneCalls:
    """The phone calls of this process.

    draining: set when it begins to end: sessions end after their answers. recordings: of texts that no model makes.
    outage: answers while PostgreSQL is down; None: then there is no answer.
    """

    def __init__(
        self,
        backend: Backend,
        inline: InlineGenerate,
        draining: asyncio.Event,
        *,
        recordings: "Recordings",
        outage: "Outage | None" = None,
    ) -> None:
        self._backend, self._inline, self.draining, self.outage = backend, inline, draining, outage
        self.database, self.recordings = WatchedDatabase(backend.database), recordings
        self._taking_over = asyncio.Semaphore(MOST_TAKEN_OVER)
        self._known: dict[str, KnownNumber] = {}
        self._reports: dict[str, _Reports] = {}
        self._down_until = 0.0
        self._sessions, self._has_none = 0, asyncio.Event()
        self._has_none.set()

    @contextmanager
    def session(self) -> Iterator[None]:
        """Count a session that this process holds."""
        self._sessions += 1
        self._has_none.clear()
        try:
            yield
        finally:
            self._sessions -= 1
            if not self._sessions:
                self._has_none.set()

    @property
    def has_sessions(self) -> bool:
        return self._sessions > 0

    async def until_left(self) -> None:
        """Wait until this process holds no session."""
        await self._has_none.wait()

    # Numbers and limits

    async def number(self, number: str) -> KnownNumber | None:
        """A phone number; None: no workspace has it. While PostgreSQL does not answer, as it was known.

        Raises:
            Unreachable: PostgreSQL does not answer, and the number was not known.
        """
        known = self._known.get(number)
        if known is not None and time.monotonic() - known.read_at < KNOWN_SECONDS:
            return known
        try:
            row = await self.database.read(lambda tx: phone_calls.find_number(tx, number))
            if row is not None:  # an answer without PostgreSQL needs them
                await self.database.soon(self._inline.parts.workspaces.terms_of(row.workspace_id))
        except Unreachable:
            if known is None:
                raise
            return known
        if row is None:
            self._known.pop(number, None)
            return None
        if len(self._known) >= MOST_KNOWN:
            self._known.pop(next(iter(self._known)))
        settings = NumberSettings.model_validate(row.settings)
        self._known[number] = found = KnownNumber(row.workspace_id, number, settings, time.monotonic())
        return found

    async def begin(self, number: KnownNumber, call: NewCall) -> str | None:
        """Store a phone call that begins, once. Returns the limit that leaves no room for it; None if there is room.

        Raises:
            Unreachable: PostgreSQL does not answer.
        """

        async def work(tx: AsyncSession) -> str | None:
            if await phone_calls.find(tx, call.workspace_id, call.call_sid) is not None:
                return None
            await phone_calls.lock_limits(tx, call.workspace_id)
            used = await phone_calls.used(tx, call.workspace_id, call.number, call.caller, call_sid=call.call_sid)
            if limit := exceeded(number.settings.limits, used, call.caller):
                return limit
            await phone_calls.begin(tx, call)
            return None

        return await self.database.transaction(work)

    async def join(self, number: KnownNumber, call: NewCall) -> OpenCall:
        """The phone call of a session that begins. It is stored, if the webhook could not.

        Raises:
            Unreachable: PostgreSQL does not answer.
        """
        return await self.database.transaction(lambda tx: self._joined(tx, number, call))

    async def _joined(self, tx: AsyncSession, number: KnownNumber, call: NewCall) -> OpenCall:
        where, now = (call.workspace_id, call.call_sid), datetime.now(UTC)
        await phone_calls.begin(tx, call)
        row = await phone_calls.find(tx, *where)
        assert row is not None  # noqa: S101 - it was stored just now
        is_resumed, session, entry = row.sessions > 0, row.sessions + 1, _entry_of(row, number.settings)
        last_number = await phone_calls.last_turn_number(tx, *where)
        costs = await phone_calls.costs(tx, *where) if number.settings.limits.call_usd is not None else {}
        last = await phone_calls.last_turn(tx, *where) if is_resumed else None
        lost_at = now if row.left_session < row.sessions else None
        heard = heard_characters(last, number.settings, row.language, lost_at) if last is not None else None
        if last is not None and heard is not None and last.outcome == Ended.COMPLETED:
            await phone_calls.go_on(tx, *where, last.turn_id)
        await phone_calls.count(tx, *where, Counts(sessions=1))
        await phone_calls.set_status(tx, *where, CallStatus.IN_PROGRESS)
        return OpenCall(
            *where,
            user_id=row.user_id,
            settings=number.settings,
            language=row.language,
            parameters=row.parameters,
            number=number.number,
            last_turn=last_number,
            unfinished=last if heard is not None else None,
            heard=heard or 0,
            is_resumed=is_resumed,
            session=session,
            entry=entry,
            costs=costs,
            seconds=max((now - row.started_at).total_seconds(), 0.0),
        )

    def unrecorded(self, number: KnownNumber, call: NewCall) -> OpenCall:
        """The phone call of a session that begins while PostgreSQL does not answer. It is stored later.

        It may have had sessions before: the ids of its turns go on at the seconds of the clock, which none has reached,
        and a secret entry may be open.
        """
        opened = OpenCall(
            call.workspace_id,
            call.call_sid,
            user_id=call.user_id,
            settings=number.settings,
            language=call.language,
            parameters=call.parameters,
            number=number.number,
            last_turn=int(time.time()),
            session=0,
            unrecorded=call,
            entry=possible_entry(number.settings),
        )
        self._report(workflow_id(call.workspace_id, call.call_sid), partial(self._record, opened))
        return opened

    async def _record(self, call: OpenCall) -> None:
        """Record a session that began without PostgreSQL, once.

        Raises:
            Unreachable: PostgreSQL does not answer.
        """
        async with call.recording:
            if call.unrecorded is None:
                return
            call.session = await self.database.patiently(partial(_begin_session, call.unrecorded))
            call.unrecorded = None

    # Turns

    def keys_of(self, call: OpenCall) -> Keys:
        """The keys of a phone call."""
        token = self._backend.settings.twilio_auth_token
        return Keys(call.settings, call.parameters, token.get_secret_value() if token else "")

    def talk(self, call: OpenCall, most_usd: Decimal | None = None) -> PhoneTalk:
        """The turns of a phone call, answered by its workflow. `most_usd`: of each; None: no limit."""
        of = (self._inline, self._backend, call.workspace_id, call.call_sid, call.user_id)
        known = {"longest_seconds": call.longest_seconds, "most_usd": most_usd}
        return DurableTalk(call.settings.deadlines.worker, self._taking_over, *of, **known)

    def inline_talk(self, call: OpenCall, most_usd: Decimal | None = None) -> PhoneTalk:
        """The turns of a phone call, answered by this process. `most_usd`: of each; None: no limit."""
        of = (self._backend, call.workspace_id, call.call_sid, call.user_id)
        return InlineTalk(self._inline, *of, longest_seconds=call.longest_seconds, most_usd=most_usd)

    @property
    def is_temporal_down(self) -> bool:
        """Whether Temporal did not answer just now."""
        return time.monotonic() < self._down_until

    def note_temporal_is_down(self) -> None:
        """Do not ask Temporal for some seconds."""
        self._down_until = time.monotonic() + DOWN_SECONDS

    async def is_temporal_up(self) -> bool:
        """Whether Temporal answers at once."""
        try:
            async with asyncio.timeout(UP_SECONDS):
                with temporal_errors():
                    return await self._backend.temporal.service_client.check_health()
        except (Unreachable, TimeoutError):
            return False

    async def measure(self, call: OpenCall, turn_id: str, measures: TurnMeasures) -> bool:
        """Record what was measured of a turn; returns whether it is stored.

        Raises:
            Unreachable: PostgreSQL does not answer.
        """
        where = (call.workspace_id, call.call_sid, turn_id)

        async def store(tx: AsyncSession) -> bool:
            if measures.heard == "":
                await phone_calls.cut_short(tx, *where)
            return await phone_calls.measure(tx, *where, measures)

        return await self.database.patiently(store)

    async def read_costs(self, call: OpenCall) -> None:
        """Read what the turns of a phone call have cost until now.

        Raises:
            Unreachable: PostgreSQL does not answer.
        """
        await self.database.soon(self.store_unstored(call))
        where = (call.workspace_id, call.call_sid)
        call.costs.update(await self.database.read(lambda tx: phone_calls.costs(tx, *where)))

    async def caps_leave(self, call: OpenCall, usd: Decimal) -> bool:
        """Whether the caps of the workspace leave so much.

        Raises:
            Unreachable: PostgreSQL does not answer.
        """
        caps = await self.database.read(lambda tx: fetch(tx, budgets.caps(call.workspace_id)))
        left = least_left_usd(caps)
        return left is None or usd <= left

    async def change_language(self, call: OpenCall, language: str) -> None:
        """Record the language that a phone call changes to.

        Raises:
            Unreachable: PostgreSQL does not answer.
        """
        instructions = instructions_of(call.settings, language)
        where = (call.workspace_id, call.call_sid)
        await self.database.transaction(lambda tx: phone_calls.set_language(tx, *where, language, instructions))

    async def keep_entry(self, call: OpenCall, entry: OpenEntry | None) -> bool:
        """Record which secret entry is open, for a session that follows. Returns whether it is recorded.

        Raises:
            Unreachable: PostgreSQL does not answer.
        """
        if call.unrecorded is not None:
            return False
        where = (call.workspace_id, call.call_sid, call.session)
        return await self.database.transaction(lambda tx: phone_calls.set_secret_entry(tx, *where, entry))

    async def leave(
        self, call: OpenCall, counts: Counts, entry: OpenEntry | None, records: "asyncio.Future[None] | None"
    ) -> None:
        """Record the end of a session, after `records`: what happened in it, and the secret entry that is open.

        While PostgreSQL does not answer, this returns after some seconds, and it is recorded later.
        """

        async def store(tx: AsyncSession) -> None:
            where = (call.workspace_id, call.call_sid)
            await phone_calls.set_secret_entry(tx, *where, call.session, entry)
            await phone_calls.count(tx, *where, counts, left_session=call.session)

        async def work() -> None:
            if records is not None:
                await asyncio.wait({records})
            await self._record(call)
            await self.database.patiently(store)

        target = f"{workflow_id(call.workspace_id, call.call_sid)}/left"
        await self.database.wait(self._report(target, work), LEAVE_SECONDS)

    async def explain(self, workspace_id: str, call_sid: str, reason: str, handoff: Mapping[str, Any] | None) -> None:
        """Record why a phone call ends.

        Raises:
            Unreachable: PostgreSQL does not answer.
        """
        given = dict(handoff) if handoff else None
        await self.database.transaction(lambda tx: phone_calls.explain(tx, workspace_id, call_sid, reason, given))

    async def find(self, workspace_id: str, call_sid: str) -> CallSession | None:
        """A phone call, as it is stored; None where it is not.

        Raises:
            Unreachable: PostgreSQL does not answer.
        """
        return await self.database.read(lambda tx: phone_calls.find(tx, workspace_id, call_sid))

    async def set_status(self, workspace_id: str, call_sid: str, status: CallStatus, reason: str = "") -> None:
        """Record where a phone call is. `reason`: why it ends; one that is known already stays.

        Raises:
            Unreachable: PostgreSQL does not answer.
        """

        async def work(tx: AsyncSession) -> None:
            if reason:
                await phone_calls.explain(tx, workspace_id, call_sid, reason)
            await phone_calls.set_status(tx, workspace_id, call_sid, status)

        await self.database.transaction(work)

    # Reports to the workflow, sent later if Temporal does not answer now

    def report_start(self, workspace_id: str, call_sid: str, user_id: str, longest: float) -> None:
        """Start the workflow of a phone call."""
        start = phone_call_start(workspace_id, call_sid, user_id, longest_seconds=longest)

        async def work() -> None:
            await start_workflow(self._backend, workspace_id, start)

        self._report(start.id, work)

    def report_connected(self, call: OpenCall, session_id: str) -> None:
        """A session has begun."""
        self.report_start(call.workspace_id, call.call_sid, call.user_id, call.longest_seconds)
        self._signal(call.workspace_id, call.call_sid, CONNECTED, Moment(session_id=session_id, began_at=call.began_at))

    def report_left(self, call: OpenCall, session_id: str) -> None:
        """A session has ended."""
        self._signal(call.workspace_id, call.call_sid, LEFT, Moment(session_id=session_id, began_at=call.began_at))

    def keep_answered(
        self, call: OpenCall, turn_id: str, text: str, reply: ChatReply, measures: TurnMeasures, cost_usd: Decimal
    ) -> None:
        """Store a turn that was answered while PostgreSQL was down, and book its cost, when it is back."""
        talk = self.talk(call)

        async def store() -> None:
            await talk.store_answered(text, turn_id, reply, cost_usd, **turn_options(call.settings))
            await self.measure(call, turn_id, measures)

        self._store_later(call, store)
        self.report_spooled()

    async def keep_failed(self, call: OpenCall, turn_id: str, text: str, measures: TurnMeasures) -> None:
        """Store a turn that has no answer; when PostgreSQL is back, if it is down."""
        talk = self.talk(call)

        async def store() -> None:
            await talk.store_failed(text, turn_id, measures.error, **turn_options(call.settings))
            await self.measure(call, turn_id, measures)

        try:
            await store()
        except Unreachable:
            self._store_later(call, store)

    def _store_later(self, call: OpenCall, store: Callable[[], Awaitable[None]]) -> None:
        call.unstored.append(store)
        self._report(workflow_id(call.workspace_id, call.call_sid), partial(self.store_unstored, call))

    async def store_unstored(self, call: OpenCall) -> None:
        """Store the turns that were held while PostgreSQL was down, before the next one gets its number.

        Raises:
            Unreachable: it is still down.
        """
        for store in tuple(call.unstored):
            await store()
            if store in call.unstored:  # the report of the turn may have stored it meanwhile: it is idempotent
                call.unstored.remove(store)

    def report_spooled(self) -> None:
        """Book what the spool has, as soon as PostgreSQL answers."""
        if self.outage is not None and SPOOL not in self._reports:
            self._report(SPOOL, self.outage.book)

    def report_end(self, workspace_id: str, call_sid: str, end: CallEnd) -> None:
        """The phone call is over."""
        self._signal(workspace_id, call_sid, ENDED, end)

    def _signal(self, workspace_id: str, call_sid: str, name: str, given: Model) -> None:
        target = workflow_id(workspace_id, call_sid)

        async def work() -> None:
            with temporal_errors(missing=NotFound(f"{target} has ended")):
                await self._backend.temporal.get_workflow_handle(target).signal(name, given)

        self._report(target, work)

    def _report(self, target: str, work: Callable[[], Awaitable[None]]) -> "asyncio.Task[None]":
        """Do work after what was reported to `target` before, again until it can be done. Returns a task of all."""
        reports = self._reports.get(target)
        if reports is None:
            reports = self._reports[target] = _Reports(lambda: self._reports.pop(target, None))
        reports.add(work)
        return reports.sending

    async def reported(self) -> None:
        """Wait until every report is sent."""
        while self._reports:
            await asyncio.wait({one.sending for one in self._reports.values()})

    async def close(self, seconds: float) -> None:
        """End the reports, after those that can be sent in this time."""
        try:
            async with asyncio.timeout(seconds):
                await self.reported()
        except TimeoutError:
            log.warning("reports of phone calls could not be sent: those to %s receivers", len(self._reports))
        for one in list(self._reports.values()):
            one.sending.cancel()
        self.database.close()


class _Reports:
    """The reports to the workflow of one phone call, in order. Each is sent again until Temporal answers."""

    def __init__(self, on_end: Callable[[], object]) -> None:
        self._waiting: deque[Callable[[], Awaitable[None]]] = deque()
        self._on_end = on_end
        self.sending: asyncio.Task[None] = asyncio.ensure_future(self._send())

    def add(self, work: Callable[[], Awaitable[None]]) -> None:
        self._waiting.append(work)

    async def _send(self) -> None:
        await asyncio.sleep(0)
        try:
            while self._waiting:
                await self._until_sent(self._waiting.popleft())
        finally:
            self._on_end()

    async def _until_sent(self, work: Callable[[], Awaitable[None]]) -> None:
        deadline, pause = time.monotonic() + REPORT_SECONDS, FIRST_PAUSE
        while time.monotonic() < deadline:
            try:
                await work()
                return
            except Unreachable:
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
            except ParleyError as error:  # the workflow has ended: it needs to know nothing more
                log.debug("not reported: %s", error)
                return
            except Exception:  # a driver whose connection breaks off raises many: what is paid must be booked
                log.exception("a report failed: it is sent again")
                await asyncio.sleep(LONGEST_PAUSE)
