"""After phase 3: look again at the sessions whose intent is in doubt, and give them a clearly better one.

At first each session is looked at by itself; then the near copies among them, with the labels that they have by then.
"""

import asyncio
from collections import deque
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.auto_analyze.labelling import LabellingActivities
    from activities.auto_analyze.runs import RunActivities
    from parley.domain.auto_analyze.batching import tighter
    from parley.domain.auto_analyze.contract import Aspect, Job, ReassignmentPlan
    from parley.domain.auto_analyze.steps import (
        ApplyReassignment,
        LooksLeft,
        PlanReassignment,
        ReadLooks,
        ReassignOutcome,
        ReassignStep,
    )
    from parley.domain.routing import Candidate
    from workflows.auto_analyze.batches import on_a_provider, refusal_of
    from workflows.auto_analyze.run_state import RunState
    from workflows.auto_analyze.submissions import BatchProcessing
    from workflows.fallback import NoProviderServed, is_over_budget, raise_if_cancelled
    from workflows.operating import history_is_long
    from workflows.policies import BULK_STEP, LOCAL_STEP

# So many numbers of batches are in a payload of less than 2 KB.
READ_AT_ONCE = 250


class Reassigner:
    """Looks at the batches of sessions, as many at a time as the run has streams."""

    def __init__(self, job: Job, state: RunState, batches: BatchProcessing | None) -> None:
        """`batches`: asks first what a provider's batches can ask; what they leave is looked at after that.

        They ask about sessions by themselves. Near copies are few, and wait for the labels of all.
        """
        self._job, self._state, self._batches = job, state, batches
        self._candidates = state.plan.candidates
        self._is_over_budget = False
        self._left: deque[int] = deque()
        # Batches for which the requests of others had reserved the rest of the budget.
        self._postponed: list[int] = []

    async def run(self) -> bool:
        """Look at all sessions and apply what is found. Returns False where the segment is full before."""
        for aspect in Aspect:
            if self._is_done(aspect) or self._has_ended:
                continue
            if not await self._look_at_all(await self._plan(aspect)):
                return False
        if self._is_over_budget:
            self._state.add_warning("some sessions keep their intent: the budget is used up")
        applied = await workflow.execute_activity_method(
            RunActivities.apply_reassignment,
            ApplyReassignment(job=self._job),
            summary="better labels for all sessions",
            **BULK_STEP,
        )
        self._state.set_reassigned(applied)
        return True

    def _is_done(self, aspect: Aspect) -> bool:
        """Whether a later aspect is planned already."""
        planned = self._state.reassignment
        order = [*Aspect]
        return planned is not None and order.index(aspect) < order.index(planned.aspect)

    async def _plan(self, aspect: Aspect) -> ReassignmentPlan:
        planned = self._state.reassignment
        if planned is not None and planned.aspect is aspect:
            return planned
        planned = await workflow.execute_activity_method(
            RunActivities.plan_reassignment,
            PlanReassignment(job=self._job, aspect=aspect),
            summary=f"sessions to look at again: {aspect.value}",
            **BULK_STEP,
        )
        raise_if_cancelled()
        self._state.reassignment = planned
        self._state.next_reassignment = planned.first
        return planned

    async def _look_at_all(self, planned: ReassignmentPlan) -> bool:
        """Look at all sessions of an aspect. Returns False where the segment is full before."""
        batches = self._batches if planned.aspect is Aspect.ALONE else None
        if batches is not None and not await self._ask_in_batches(batches):
            return False
        while await self._find_left(planned, in_batches=batches is not None):
            await self._look_at_what_is_left()
            if self._is_pending:
                return False
        return True

    async def _ask_in_batches(self, batches: BatchProcessing) -> bool:
        """Ask what batches can ask. Returns False where the segment is full before."""
        while True:
            try:
                if await batches.run():
                    return True
            except ApplicationError as error:
                if not is_over_budget(error):
                    raise
                self._is_over_budget = True
                return True
            if history_is_long():
                return False
            await workflow.wait_condition(lambda: not self._state.paused)

    async def _find_left(self, planned: ReassignmentPlan, *, in_batches: bool) -> bool:
        """Find the next batches to look at. Returns whether there are any, and the run is to look at them.

        `in_batches`: a provider's batches have asked about some of them.
        """
        if self._has_ended:
            return False
        next_one = self._state.next_reassignment
        if in_batches:
            self._left = deque((await self._read_left(next_one - 1)).batches)
        else:
            self._left = deque(range(next_one, planned.batches))
        return bool(self._left)

    async def _read_left(self, after: int) -> LooksLeft:
        left = await workflow.execute_local_activity_method(
            RunActivities.read_looks,
            ReadLooks(job=self._job, after=after, most=READ_AT_ONCE),
            summary="what batches have left",
            **LOCAL_STEP,
        )
        raise_if_cancelled()
        return left

    async def _look_at_what_is_left(self) -> None:
        looks = [self._look() for _ in range(self._state.parallel_streams)]
        # A request that is in flight when another one fails is paid for: all are counted before the run ends.
        for ended in await asyncio.gather(*looks, return_exceptions=True):
            if ended is not None:
                raise ended
        await self._look_one_by_one()

    @property
    def _has_ended(self) -> bool:
        return self._is_over_budget or self._state.finishing

    @property
    def _is_pending(self) -> bool:
        return bool(self._left) and not self._has_ended

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
            if self._has_ended:
                break
            self._is_over_budget = not await self._look_at(batch)
        while await self._goes_on():
            self._is_over_budget = not await self._look_at(self._take())
        self._postponed.clear()

    def _take(self) -> int:
        batch = self._left.popleft()
        self._state.next_reassignment = batch + 1
        return batch

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
        aspect = self._state.reassignment.aspect if self._state.reassignment else Aspect.ALONE

        def step(candidate: Candidate) -> tuple[Any, ReassignStep]:
            return LabellingActivities.reassign, ReassignStep(
                job=self._job, candidate=candidate, batch=batch, sized_for=sized_for, aspect=aspect
            )

        try:
            return await on_a_provider(self._job, self._candidates, step, self._state.wait_for_provider)
        except NoProviderServed as error:
            return ReassignOutcome(refused=refusal_of(error))
