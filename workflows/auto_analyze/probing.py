"""After the streams: label a few sessions a second time, to measure how often two streams agree."""

import asyncio
from collections import deque
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.auto_analyze.labelling import LabellingActivities
    from activities.auto_analyze.runs import RunActivities
    from parley.domain.auto_analyze.contract import Job, Phase
    from parley.domain.auto_analyze.steps import ClassifyOutcome, ClassifyStep, PlanProbes
    from parley.domain.routing import Candidate
    from workflows.auto_analyze.batches import on_a_provider, refusal_of
    from workflows.auto_analyze.run_state import RunState
    from workflows.fallback import NoProviderServed, is_over_budget, raise_if_cancelled
    from workflows.policies import BULK_STEP


class Prober:
    """Asks for probes, as many requests at a time as the run has streams. A request that fails is left out."""

    def __init__(self, job: Job, state: RunState) -> None:
        self._job, self._state = job, state
        self._candidates = state.plan.candidates
        self._is_over_budget = False

    async def run(self) -> None:
        """Ask for all probes. Their labels are not a result, so the run neither parks nor fails for them."""
        probes = await workflow.execute_activity_method(
            RunActivities.plan_probes,
            PlanProbes(job=self._job, end=self._state.plan.requested, rounds=self._state.rounds),
            summary="sessions to label a second time",
            **BULK_STEP,
        )
        raise_if_cancelled()
        self._left = deque(probes.batches)
        asking = [self._ask() for _ in range(min(self._job.input.streams, len(self._left)))]
        # A request that is in flight when another one fails is paid for: all are counted before the run ends.
        for ended in await asyncio.gather(*asking, return_exceptions=True):
            if ended is not None:
                raise ended
        if self._is_over_budget:
            self._state.add_warning("some probes are left out: the budget is used up")

    async def _ask(self) -> None:
        while self._left and not self._is_over_budget:
            await workflow.wait_condition(lambda: not self._state.paused)
            if self._state.finishing or not self._left:
                return
            try:
                self._state.add_usage(await self._outcome(*self._left.popleft()))
            except ApplicationError as error:
                if not is_over_budget(error):
                    raise
                self._is_over_budget = True
            raise_if_cancelled()

    async def _outcome(self, round_number: int, ordinals: tuple[int, ...]) -> ClassifyOutcome:
        def step(candidate: Candidate) -> tuple[Any, ClassifyStep]:
            return LabellingActivities.classify, ClassifyStep(
                job=self._job,
                candidate=candidate,
                phase=Phase.PROBES,
                round=round_number,
                stream=0,
                ordinals=ordinals,
                sized_for=self._candidates[0].model,
            )

        try:
            return await on_a_provider(self._job, self._candidates, step, self._state.wait_for_provider)
        except NoProviderServed as error:
            return ClassifyOutcome(refused=refusal_of(error))
