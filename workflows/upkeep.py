"""The paid work on a conversation that no answer waits for: its summary goes on, and facts are extracted."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow

from activities.conversation.condensing import CondensingStep
from activities.conversation.memory import ConversationMemory
from parley.domain.conversation.contract import CondenseTurnsOutcome, CondenseTurnsStep, upkeep_key
from parley.domain.conversation.extraction import ACTION as EXTRACTION
from parley.domain.conversation.memory import RememberOutcome, RememberStep
from parley.domain.routing import Candidate
from workflows.fallback import DurableEngine, first_success
from workflows.operating import show_waiting
from workflows.policies import ANSWER_STEP

S = TypeVar("S")
R = TypeVar("R")


@dataclass(frozen=True)
class Upkeep:
    """Pays for work on one conversation, on the first of `candidates` that serves it.

    label: when the work is done, as Temporal's UI shows it. Its methods raise an ApplicationError where no provider
    serves them, at once: they wait for no rate limit.
    """

    workspace_id: str
    conversation_id: str
    user_id: str
    candidates: Sequence[Candidate]
    label: str

    async def condense(self, through: int, action: str) -> CondenseTurnsOutcome:
        """Continue the running summary through the turn with the number `through`."""

        def step(candidate: Candidate) -> CondenseTurnsStep:
            return CondenseTurnsStep(
                workspace_id=self.workspace_id,
                conversation_id=self.conversation_id,
                user_id=self.user_id,
                action=action,
                through=through,
                candidate=candidate,
            )

        return await self._pay("condense", CondensingStep.condense, step)

    async def remember(self, turn_ids: tuple[str, ...]) -> RememberOutcome:
        """Extract facts from some turns, and store what they change."""

        def step(candidate: Candidate) -> RememberStep:
            return RememberStep(
                workspace_id=self.workspace_id,
                user_id=self.user_id,
                conversation_id=self.conversation_id,
                turn_ids=turn_ids,
                action=EXTRACTION,
                candidate=candidate,
                job_key=upkeep_key(self.workspace_id, self.conversation_id),
                workflow_id=workflow.info().workflow_id,
            )

        return await self._pay("extract facts", ConversationMemory.remember, step)

    async def _pay(self, what: str, activity: Callable[[Any, S], Awaitable[R]], step_on: Callable[[Candidate], S]) -> R:
        engine = DurableEngine(ANSWER_STEP, show_waiting)

        async def run(candidate: Candidate) -> R:
            summary = f"{self.label}: {what} on {candidate.provider.value} {candidate.model}"
            return await engine.run_step(activity, step_on(candidate), candidate, summary=summary)

        return await first_success(engine, self.candidates, run, wait_limit=timedelta(0))
