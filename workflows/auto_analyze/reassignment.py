"""After phase 3: look again at the sessions whose intent is in doubt, and give them a clearly better one."""

import asyncio
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.auto_analyze.labelling import LabellingActivities
    from activities.auto_analyze.runs import RunActivities
    from parley.domain.auto_analyze.batching import tighter
    from parley.domain.auto_analyze.contract import (
        ApplyReassignment,
        Job,
        PlanReassignment,
        ReassignOutcome,
        ReassignStep,
    )
    from parley.domain.routing import Candidate
    from workflows.auto_analyze.batches import on_a_provider, refusal_of
    from workflows.auto_analyze.run_state import RunState, history_is_long
    from workflows.fallback import NoProviderServed, is_over_budget, raise_if_cancelled
    from workflows.policies import BULK_STEP


class Reassigner:
    """Looks at the batches of sessions, as many at a time as the run has streams."""

    def __init__(self, job: Job, state: RunState) -> None:
        self._job, self._state = job, state
        self._candidates = state.plan.candidates
        self._is_over_budget = False
        # Batches for which the requests of others had reserved the rest of the budget.
        self._postponed: list[int] = []

    async def run(self) -> bool:
        """Look at all sessions and apply what is found. Returns False where the segment is full before."""
        if self._state.reassignment is None:
            self._state.reassignment = await workflow.execute_activity_method(
                RunActivities.plan_reassignment,
                PlanReassignment(job=self._job),
                summary="sessions to look at again",
                **BULK_STEP,
            )
            raise_if_cancelled()
        looks = [self._look() for _ in range(self._state.parallel_streams)]
        # A request that is in flight when another one fails is paid for: all are counted before the run ends.
        for ended in await asyncio.gather(*looks, return_exceptions=True):
            if ended is not None:
                raise ended
        await self._look_one_by_one()
        if self._is_pending:
            return False
        applied = await workflow.execute_activity_method(
            RunActivities.apply_reassignment,
            ApplyReassignment(job=self._job),
            summary="better labels for all sessions",
            **BULK_STEP,
        )
        self._state.set_reassigned(applied)
        return True

    @property
    def _is_pending(self) -> bool:
        plan = self._state.reassignment
        is_left = plan is not None and self._state.next_reassignment < plan.batches
        return is_left and not self._is_over_budget and not self._state.finishing

    async def _goes_on(self) -> bool:
        """Whether to take the next batch in this segment, as soon as the run is not paused."""
        await workflow.wait_condition(lambda: not self._state.paused)
        return self._is_pending and not history_is_long()

    async def _look(self) -> None:
        """Take the next batch until none is left, the segment is full, or concurrent requests reserve the budget."""
        while await self._goes_on() and not self._postponed:
            batch = self._take()
            if not await self._look_at(batch):
                self._postponed.append(batch)

    async def _look_one_by_one(self) -> None:
        """Look at what was postponed, and then at the rest, with no other request open."""
        if not self._postponed:
            return
        for batch in self._postponed:
            await workflow.wait_condition(lambda: not self._state.paused)
            if self._is_over_budget or self._state.finishing:
                break
            self._is_over_budget = not await self._look_at(batch)
        while await self._goes_on():
            self._is_over_budget = not await self._look_at(self._take())
        if self._is_over_budget:
            self._state.add_warning("some sessions keep their intent: the budget is used up")

    def _take(self) -> int:
        self._state.next_reassignment += 1
        return self._state.next_reassignment - 1

    async def _look_at(self, batch: int) -> bool:
        """Look at a batch. Returns False if the budget does not allow it now."""
        try:
            self._state.add_reassignment(await self._outcome(batch))
        except ApplicationError as error:
            if not is_over_budget(error):
                raise
            return False
        raise_if_cancelled()
        return True

    async def _outcome(self, batch: int) -> ReassignOutcome:
        sized_for = self._candidates[0].model
        while True:
            outcome = await self._ask(batch, sized_for)
            if not outcome.too_long_for:
                return outcome
            self._state.add_usage(outcome)
            sized_for = tighter(sized_for, outcome.too_long_for)

    async def _ask(self, batch: int, sized_for: str) -> ReassignOutcome:
        """The outcome of a batch. Its sessions keep their labels where no request can be made."""

        def step(candidate: Candidate) -> tuple[Any, ReassignStep]:
            return LabellingActivities.reassign, ReassignStep(
                job=self._job, candidate=candidate, batch=batch, sized_for=sized_for
            )

        try:
            return await on_a_provider(self._job, self._candidates, step, self._state.wait_for_provider)
        except NoProviderServed as error:
            return ReassignOutcome(refused=refusal_of(error))
