"""One turn of a conversation, in a workflow: its context, its answer, the record of its end."""

from temporalio.exceptions import ApplicationError, FailureError

from activities.conversation.context import ConversationSteps as Steps
from parley.domain.conversation.contract import (
    ComposeOutcome,
    ComposeStep,
    Ended,
    EndTurnStep,
    TurnOutcome,
    outcome_of,
)
from parley.domain.errors import ParleyError
from parley.domain.generate.contract import Job, Meta
from parley.domain.routing import Candidate
from parley.domain.streaming import StreamBroken
from workflows.answering import GenerateRun, cheapest_first
from workflows.fallback import DurableEngine
from workflows.generate import show_waiting, start_scoring
from workflows.policies import ANSWER_STEP


class TurnRun:
    """Answer one turn by the story of a `Generate`. `Conversation` and `PhoneCall` run their turns with it.

    What a turn has come to is known after `outcome()`: the rest keeps its default where the turn had ended before.

    meta: how the answer was made, and what it cost; None where nothing was asked. context_sha256: the stored prompt.
    action: what the answer was for. condense_through: see `EndTurnOutcome`.
    """

    def __init__(self, step: ComposeStep) -> None:
        """`step`: the turn, and where the deltas of its answer go."""
        self._turn = step
        self._engine = DurableEngine(ANSWER_STEP, show_waiting)
        self._job: Job | None = None
        self._run: GenerateRun | None = None
        self.meta: Meta | None = None
        self.context_sha256, self.action = "", ""
        self.condense_through: int | None = None

    async def outcome(self) -> TurnOutcome:
        """Answer the turn, and record how it ended. A turn never fails: it ends without an answer."""
        composed = await self._engine.decide(Steps.compose, self._turn, summary="compose the context")
        if composed.job is None:
            return _ended_before(composed)
        job, run = composed.job, GenerateRun(self._engine, composed.job)
        self._job, self._run = job, run
        self.action, self.context_sha256 = job.input.action, job.input.prompt.sha256 or ""
        step = await self._answer(run, job)
        ended = await self._engine.decide(Steps.end_turn, step, summary="record how the turn ended")
        if run.scoring is not None:
            await start_scoring(run.scoring, job.input)
        self.meta, self.condense_through = step.meta, ended.condense_through
        return TurnOutcome(turn_id=self._turn.turn_id, number=composed.number, outcome=step.outcome)

    def stream_broke(self, broken: StreamBroken) -> None:
        """The worker of an attempt of a stream died: if it is this answer's, it goes on by a further attempt."""
        if self._job is not None and self._job.workflow_id == broken.stream_id:
            self._engine.stream_broke(broken.attempt)

    @property
    def cheapest_first(self) -> tuple[Candidate, ...]:
        """The candidates of the answer, for the work that follows it; none where nothing had to be requested."""
        return tuple(cheapest_first(self._run.candidates)) if self._run else ()

    async def _answer(self, run: GenerateRun, job: Job) -> EndTurnStep:
        try:
            result = await run.result()
        except (FailureError, ParleyError) as error:
            reason = (error.type if isinstance(error, ApplicationError) else type(error).__name__) or ""
            failed = Meta(request_id=job.request_id, cost_usd=run.cost_usd)
            return self._end_step(Ended.FAILED, reason, failed)
        outcome, reason = outcome_of(result)
        return self._end_step(outcome, reason, result.meta)

    def _end_step(self, outcome: Ended, reason: str, meta: Meta) -> EndTurnStep:
        return EndTurnStep(
            workspace_id=self._turn.workspace_id,
            conversation_id=self._turn.conversation_id,
            turn_id=self._turn.turn_id,
            action=self.action,
            outcome=outcome,
            reason=reason,
            context_sha256=self.context_sha256,
            meta=meta,
        )


def _ended_before(composed: ComposeOutcome) -> TurnOutcome:
    assert composed.ended is not None  # noqa: S101 - a turn is to be answered, or has ended
    return composed.ended
