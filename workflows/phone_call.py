"""`PhoneCall`: one phone call. Its turns are those of a conversation; a gateway holds the socket and the deadlines."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal

from temporalio import workflow
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, FailureError, WorkflowAlreadyStartedError

with workflow.unsafe.imports_passed_through():
    from pydantic import ValidationError

    from activities.phone.calls import PhoneCallSteps as Steps
    from parley import visibility
    from parley.domain.conversation.contract import (
        TURNS_PER_EXTRACTION,
        ComposeStep,
        Ended,
        Say,
        TurnOutcome,
    )
    from parley.domain.errors import ConversationClosed, InvalidInput, ParleyError
    from parley.domain.phone.contract import (
        ACTION,
        CONNECT_SECONDS,
        CONNECTED,
        ENDED,
        LEFT,
        RECONNECT_SECONDS,
        SAY,
        STATE,
        WORKFLOW,
        CallEnd,
        FinishCallOutcome,
        FinishCallStep,
        Moment,
        PhoneCallInput,
        PhoneCallState,
    )
    from parley.domain.routing import Candidate
    from parley.domain.session_analysis import WORKFLOW as SESSION_ANALYSIS
    from parley.domain.session_analysis import SessionAnalysisInput
    from parley.domain.session_analysis import workflow_id as analysis_id
    from parley.domain.streaming import StreamBroken
    from workflows.fallback import DurableEngine
    from workflows.operating import refused, show_waiting
    from workflows.policies import ANSWER_STEP
    from workflows.turns import DurableTurn, TurnQueue
    from workflows.upkeep import Upkeep

LOST = CallEnd(reason="lost")
TOO_LONG = CallEnd(reason="too_long")


@workflow.defn(name=WORKFLOW, failure_exception_types=[ParleyError, ValidationError])
class PhoneCall:
    """Answer the turns of one phone call in their order, and record its end, however that becomes known.

    The workflow never sees a token or a frame. A phone call ends by a callback of Twilio's or by the gateway. Where
    neither comes, because the gateway was lost, it ends some time after its last session.
    """

    @workflow.init
    def __init__(self, given: PhoneCallInput | None = None) -> None:
        self._input = given or PhoneCallInput(workspace_id="", call_sid="", user_id="")
        self._queue = TurnQueue()
        self._known: dict[str, TurnOutcome] = {}
        self._cost_usd = Decimal(0)
        # Of the last answer: what is paid after the hang-up runs on them.
        self._candidates: tuple[Candidate, ...] = ()
        self._action = ACTION
        # `None`: there was no session yet.
        self._session_id: str | None = None
        self._is_connected = False
        self._began_at: datetime | None = None
        self._end: CallEnd | None = None

    @workflow.update(name=SAY)
    async def say(self, say: Say) -> TurnOutcome:
        """Answer a turn, after those that came before it."""
        return await self._queue.next(lambda: self._answer(say))

    @say.validator
    def _check_say(self, say: Say) -> None:
        if self._end is not None:
            raise refused(ConversationClosed("the phone call is over"))
        self._queue.check(say)

    @workflow.signal
    async def stream_broken(self, broken: StreamBroken) -> None:
        """The worker of an attempt of a turn's stream died: the answer goes on at once, by a further attempt."""
        self._queue.stream_broke(broken)

    @workflow.signal(name=CONNECTED)
    async def connected(self, session: Moment) -> None:
        """A session has begun; a second one, where the first was lost. That of an earlier one may be known late."""
        if self._began_at is not None and session.began_at is not None and session.began_at < self._began_at:
            return
        self._session_id, self._is_connected = session.session_id, True
        self._began_at = session.began_at or self._began_at

    @workflow.signal(name=LEFT)
    async def left(self, session: Moment) -> None:
        """A session has ended. It may be an earlier one, whose end is known late."""
        if self._session_id in (None, session.session_id):
            self._session_id, self._is_connected = session.session_id, False
            self._began_at = session.began_at or self._began_at

    @workflow.signal(name=ENDED)
    async def ended(self, end: CallEnd) -> None:
        """The phone call is over. The first who says so is right; the others repeat it."""
        self._end = self._end or end

    @workflow.query(name=STATE)
    def get_state(self) -> PhoneCallState:
        """Where the phone call is."""
        return PhoneCallState(
            status="ended" if self._end else "open",
            connected=self._is_connected,
            turns=len(self._known),
            waiting=self._queue.waiting,
            cost_usd=self._cost_usd,
        )

    @workflow.run
    async def run(self, given: PhoneCallInput | None = None) -> PhoneCallState:
        """Wait for the end of the phone call, record it, and do what its number wants done after it.

        Raises:
            InvalidInput: the workflow was started without input.
        """
        if given is None:
            raise InvalidInput("PhoneCall needs a PhoneCallInput", where="input")
        visibility.record_owner(given.workspace_id, WORKFLOW)
        self._end = await self._until_over()
        await workflow.wait_condition(workflow.all_handlers_finished)
        step = FinishCallStep(
            workspace_id=given.workspace_id, call_sid=given.call_sid, end=self._end, at=workflow.now()
        )
        engine = DurableEngine(ANSWER_STEP, show_waiting)
        finished = await engine.decide(Steps.finish, step, summary=f"record the end: {self._end.reason or 'ended'}")
        if finished.analysis is not None:
            await _start_analysis(finished.analysis)
        await self._keep_up(finished)
        visibility.record_end(self._end.status.value, cost_usd=self._cost_usd)
        return self.get_state()

    async def _keep_up(self, finished: FinishCallOutcome) -> None:
        """Summarize what was said, and extract facts of the caller. A failure is only in the history."""
        if not self._candidates:  # this workflow has answered no turn
            return
        upkeep = Upkeep(
            workspace_id=self._input.workspace_id,
            conversation_id=self._input.call_sid,
            user_id=self._input.user_id,
            candidates=self._candidates,
            label="after the hang-up",
        )
        if finished.summarize_through is not None:
            with suppress(ApplicationError):
                self._cost_usd += (await upkeep.condense(finished.summarize_through, self._action)).cost_usd
        for turn_ids in self._remembered(finished):
            with suppress(ApplicationError):
                self._cost_usd += (await upkeep.remember(turn_ids)).cost_usd

    def _remembered(self, finished: FinishCallOutcome) -> Iterator[tuple[str, ...]]:
        """The turns that facts are extracted from, in the parts of which each is one paid request."""
        if finished.remember:
            answered = tuple(one.turn_id for one in self._known.values() if one.outcome is Ended.COMPLETED)
            for first in range(0, len(answered), TURNS_PER_EXTRACTION):
                yield answered[first : first + TURNS_PER_EXTRACTION]

    async def _until_over(self) -> CallEnd:
        """How the phone call ended. Without a session it has some time to get one."""
        longest = workflow.now() + timedelta(seconds=self._input.longest_seconds)
        while workflow.now() < longest:
            state = (self._session_id, self._is_connected)
            wait = min(self._longest_wait(), longest - workflow.now())
            try:
                await workflow.wait_condition(
                    lambda before=state: self._end is not None or (self._session_id, self._is_connected) != before,
                    timeout=wait,
                )
            except TimeoutError:
                if not self._is_connected:
                    return LOST
            if self._end is not None:
                return self._end
        return TOO_LONG

    def _longest_wait(self) -> timedelta:
        if self._is_connected:
            return timedelta(seconds=self._input.longest_seconds)
        return timedelta(seconds=CONNECT_SECONDS if self._session_id is None else RECONNECT_SECONDS)

    async def _answer(self, say: Say) -> TurnOutcome:
        if known := self._known.get(say.turn_id):
            return known
        turn = DurableTurn(self._compose_step(say))
        outcome = await self._queue.outcome(turn)
        self._known[say.turn_id] = outcome
        self._candidates = turn.cheapest_first or self._candidates
        self._action = turn.asked.action if turn.asked is not None else self._action
        if turn.meta is not None:
            self._cost_usd += turn.meta.cost_usd
            workflow.set_current_details(f"{len(self._known)} turns, ${self._cost_usd}")
        return outcome

    def _compose_step(self, say: Say) -> ComposeStep:
        return ComposeStep(
            workspace_id=self._input.workspace_id,
            conversation_id=self._input.call_sid,
            user_id=self._input.user_id,
            turn_id=say.turn_id,
            stream=say.stream,
            at=workflow.now(),
        )


async def _start_analysis(given: SessionAnalysisInput) -> None:
    """Start `SessionAnalysis`, without waiting for it. The phone call has ended even if it cannot be started."""
    try:
        await workflow.start_child_workflow(
            SESSION_ANALYSIS,
            given,
            id=analysis_id(given),
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            parent_close_policy=workflow.ParentClosePolicy.ABANDON,
            cancellation_type=workflow.ChildWorkflowCancellationType.ABANDON,
            search_attributes=visibility.of_start(given.workspace_id, SESSION_ANALYSIS, "running"),
            static_summary=visibility.plain(f"phone call {given.session_id}"[:200]),
        )
    except (WorkflowAlreadyStartedError, FailureError) as problem:
        workflow.logger.info("the phone call is not analysed: %s", problem)
