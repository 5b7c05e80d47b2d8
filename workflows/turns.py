"""One turn of a conversation: its context, its answer, the record of its end.

Written against `Engine`, so that `Conversation`, `PhoneCall` and a gateway without Temporal answer the same turns.
"""

import asyncio
from collections.abc import Awaitable, Callable

from temporalio.exceptions import ApplicationError, FailureError

from activities.conversation.context import ConversationSteps as Steps
from parley.domain.conversation.contract import (
    MOST_WAITING,
    TRY_AGAIN,
    ComposeOutcome,
    ComposeStep,
    ContextState,
    Ended,
    EndTurnStep,
    Say,
    TurnOutcome,
    outcome_of,
    turn_job_id,
)
from parley.domain.errors import ConversationBusy, ParleyError
from parley.domain.generate.contract import GenerateInput, Job, Meta
from parley.domain.generate.quality import ScoreInput
from parley.domain.routing import Candidate
from parley.domain.streaming import StreamBroken
from workflows.answering import GenerateRun, cheapest_first, is_superseded
from workflows.fallback import DurableEngine, Engine
from workflows.operating import refused, show_waiting
from workflows.policies import ANSWER_STEP
from workflows.quality import start_scoring


class TurnRun:
    """Answer one turn by the story of a `Generate`.

    What a turn has come to is known after `outcome()`: the rest keeps its default where the turn had ended before.

    meta: how the answer was made, and what it cost; None where nothing was asked. context_sha256: the stored prompt.
    context: what that was made of. asked: what was asked, and for what. condense_through: see `EndTurnOutcome`.
    """

    def __init__(self, engine: Engine, step: ComposeStep) -> None:
        """`step`: the turn, and where the deltas of its answer go."""
        self._engine, self._turn = engine, step
        self._run: GenerateRun | None = None
        self.asked: GenerateInput | None = None
        self.meta: Meta | None = None
        self.context_sha256, self.context = "", ContextState()
        self.condense_through: int | None = None

    async def outcome(self) -> TurnOutcome:
        """Answer the turn, and record how it ended. A turn never fails: it ends without an answer.

        Raises:
            ApplicationError: of the type `StreamSuperseded`: another run of the same turn answers it.
        """
        composed = await self._engine.decide(Steps.compose, self._turn, summary="context, budget, cache, routing")
        if composed.job is None:
            return _ended_before(composed)
        job, run = composed.job, GenerateRun(self._engine, composed.job, prepared=composed.prepared)
        self._run, self.asked = run, job.input
        self.context_sha256, self.context = job.input.prompt.sha256 or "", composed.context
        step = await self._answer(run, job)
        ended = await self._engine.decide(Steps.end_turn, step, summary="record how the turn ended")
        self.meta, self.condense_through = step.meta, ended.condense_through
        return TurnOutcome(turn_id=self._turn.turn_id, number=composed.number, outcome=step.outcome)

    @property
    def scoring(self) -> ScoreInput | None:
        """The grading to start after it; None for none."""
        return self._run.scoring if self._run else None

    @property
    def cheapest_first(self) -> tuple[Candidate, ...]:
        """The candidates of the answer, for the work that follows it; none where nothing had to be requested."""
        return tuple(cheapest_first(self._run.candidates)) if self._run else ()

    async def _answer(self, run: GenerateRun, job: Job) -> EndTurnStep:
        try:
            result = await run.result()
        except (FailureError, ParleyError) as error:
            if is_superseded(error):
                raise
            reason = (error.type if isinstance(error, ApplicationError) else type(error).__name__) or ""
            failed = Meta(request_id=job.request_id, cost_usd=run.cost_usd)
            return self._end_step(job, Ended.FAILED, reason, failed)
        outcome, reason = outcome_of(result)
        return self._end_step(job, outcome, reason, result.meta)

    def _end_step(self, job: Job, outcome: Ended, reason: str, meta: Meta) -> EndTurnStep:
        return EndTurnStep(
            workspace_id=self._turn.workspace_id,
            conversation_id=self._turn.conversation_id,
            turn_id=self._turn.turn_id,
            action=job.input.action,
            outcome=outcome,
            reason=reason,
            context_sha256=self.context_sha256,
            meta=meta,
        )


def _ended_before(composed: ComposeOutcome) -> TurnOutcome:
    assert composed.ended is not None  # noqa: S101 - a turn is to be answered, or has ended
    return composed.ended


class DurableTurn(TurnRun):
    """A turn in a workflow. A stream of it whose worker died goes on at once."""

    def __init__(self, step: ComposeStep) -> None:
        self._durable = DurableEngine(ANSWER_STEP, show_waiting)
        super().__init__(self._durable, step)
        self._stream_id = turn_job_id(step.workspace_id, step.conversation_id, step.turn_id)

    async def outcome(self) -> TurnOutcome:
        """Answer the turn, record how it ended, and start the grading of the answer if it is to be graded."""
        outcome = await super().outcome()
        if self.scoring is not None and self.asked is not None:
            await start_scoring(self.scoring, self.asked)
        return outcome

    def stream_broke(self, broken: StreamBroken) -> None:
        """The worker of an attempt of a stream died: if it is this answer's, it goes on by a further attempt."""
        if broken.stream_id == self._stream_id:
            self._durable.stream_broke(broken.attempt)


class TurnQueue:
    """The turns of a workflow. One is answered at a time; waiters are served in the order in which they came.

    Attributes: `waiting`, the number of turns that are not answered yet; `order`, held while nothing may come between.
    """

    def __init__(self) -> None:
        self.order, self.waiting = asyncio.Lock(), 0
        self._answering: DurableTurn | None = None

    def check(self, say: Say, *, ends: bool = False) -> None:
        """Check that a turn may wait. `ends`: the run takes no further turn.

        Raises:
            ApplicationError: it is refused; of the type TRY_AGAIN where its sender waits, and sends it again.
        """
        if say.when_busy == "refuse" and self.waiting:
            raise refused(ConversationBusy("another turn is being answered: send this one again later"))
        if ends or self.waiting >= MOST_WAITING:
            raise ApplicationError(f"{self.waiting} turns wait already", type=TRY_AGAIN, non_retryable=True)

    async def next(self, answer: Callable[[], Awaitable[TurnOutcome]]) -> TurnOutcome:
        """Answer a turn, after those that came before it."""
        self.waiting += 1
        try:
            async with self.order:
                return await answer()
        finally:
            self.waiting -= 1

    async def outcome(self, turn: DurableTurn) -> TurnOutcome:
        """Answer the turn whose time has come."""
        self._answering = turn
        try:
            return await turn.outcome()
        finally:
            self._answering = None

    def stream_broke(self, broken: StreamBroken) -> None:
        """The worker of an attempt of a turn's stream died: the answer goes on at once, by a further attempt."""
        if self._answering is not None:
            self._answering.stream_broke(broken)
