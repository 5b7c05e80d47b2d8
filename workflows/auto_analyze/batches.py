"""Label one batch: request less where a request was too much, repeat what is missing, end with a marked fallback."""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.auto_analyze.labelling import LabellingActivities
    from activities.auto_analyze.runs import RunActivities
    from parley.domain.auto_analyze.batching import Remainder, SubBatch, remainder, tighter
    from parley.domain.auto_analyze.contract import Job, Phase
    from parley.domain.auto_analyze.steps import (
        Batch,
        BatchReport,
        ClassifyOutcome,
        ClassifyStep,
        CondenseStep,
        FallbackStep,
        RequestOutcome,
        StepUsage,
    )
    from parley.domain.routing import Candidate
    from workflows.fallback import DurableEngine, NoProviderServed, first_success, raise_if_cancelled
    from workflows.policies import PAID_STEP, STORAGE_STEP

# Called with the problems of the providers and the pause before the next attempt.
OnWait = Callable[[str, timedelta], None]
REFUSAL_CHARACTERS = 120
# A request that is in flight when the job is cancelled is paid for: its outcome is stored and counted.
COUNTED_STEP: dict[str, Any] = {
    **PAID_STEP,
    "cancellation_type": workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
}


async def on_a_provider(
    job: Job, candidates: Sequence[Candidate], step: Callable[[Candidate], tuple[Any, Any]], on_wait: OnWait
) -> Any:
    """Run a paid activity on the first candidate that answers. While all providers are down, wait until one is up.

    Raises:
        NoProviderServed: every candidate refused the request, or all were down for longer than the job's wait limit.
    """
    engine = DurableEngine(COUNTED_STEP, on_wait)

    async def attempt(candidate: Candidate) -> Any:
        activity, argument = step(candidate)
        summary = f"{candidate.provider.value} {candidate.model}"
        return await engine.run_step(activity, argument, candidate, summary=summary)

    wait_limit = timedelta(seconds=job.input.wait_limit_seconds)
    return await first_success(engine, candidates, attempt, wait_limit=wait_limit)


def refusal_of(error: NoProviderServed) -> str:
    """The providers' messages for a request that all of them refuse. Raises the error if it is an outage instead."""
    if not error.refused:
        raise error
    return error.tried[:REFUSAL_CHARACTERS]


class BatchLabeller:
    """Labels batches, one after the other. `report` has the counters so far, also where a batch ends early.

    `next_batch`: the batch that the stream has taken with the labels of this one.
    """

    def __init__(
        self,
        job: Job,
        candidates: Sequence[Candidate],
        phase: Phase,
        on_wait: OnWait,
        wait_for_stream: Callable[[int, timedelta], Awaitable[None]] | None = None,
    ) -> None:
        """`wait_for_stream`: waits for another stream, after so long a wait already. Only streams need it."""
        self._job, self._candidates, self._phase = job, candidates, phase
        self._on_wait, self._wait_for_stream = on_wait, wait_for_stream
        self._takes_next = wait_for_stream is not None
        self.report = BatchReport()
        self.next_batch: Batch | None = None
        self._idle = timedelta(0)
        self._pending: deque[SubBatch] = deque()
        self._unlabelled: list[int] = []

    async def label(self, batch: Batch) -> BatchReport:
        """Label every session of the batch, by a reply or by the marked fallback."""
        started = workflow.now()
        self.report, self.next_batch = BatchReport(), None
        self._idle, self._batch = timedelta(0), batch
        self._pending = deque([SubBatch(batch.ordinals, sized_for=self._candidates[0].model)])
        self._unlabelled = []
        while self._pending:
            left = await self._label_sub_batch(self._pending[0])
            self._pending.popleft()
            self._pending += left.sub_batches
            self._unlabelled += left.unlabelled
        await self._apply_fallback(self._unlabelled)
        busy = workflow.now() - started - self._idle
        self.report = self.report.model_copy(update={"seconds": busy.total_seconds()})
        return self.report

    async def finish_with_fallback(self) -> BatchReport:
        """Label what is left of the batch by the marked fallback."""
        pending = [ordinal for sub_batch in self._pending for ordinal in sub_batch.ordinals]
        await self._apply_fallback([*self._unlabelled, *pending])
        return self.report

    async def _label_sub_batch(self, sub_batch: SubBatch) -> Remainder:
        outcome = await self._classify(sub_batch)
        self._add(outcome)
        left = remainder(sub_batch, outcome)
        if outcome.refused and left.unlabelled:
            self._add_refusal(outcome.refused)
        if outcome.oversized:
            return await self._condense(outcome.oversized, left)
        self._add_retries(len(left.sub_batches))
        return left

    async def _classify(self, sub_batch: SubBatch) -> ClassifyOutcome:
        """Request labels, once all streams have found those that the request must contain."""
        while True:
            outcome = await self._classify_once(sub_batch)
            self._idle += timedelta(seconds=outcome.waited_seconds)
            if outcome.waits_for is None or self._wait_for_stream is None:
                return outcome
            raise_if_cancelled()
            started = workflow.now()
            await self._wait_for_stream(outcome.waits_for, self._idle)
            self._idle += workflow.now() - started

    async def _classify_once(self, sub_batch: SubBatch) -> ClassifyOutcome:
        is_last = len(self._pending) == 1 and not self._unlabelled

        def step(candidate: Candidate) -> tuple[Any, ClassifyStep]:
            return LabellingActivities.classify, ClassifyStep(
                job=self._job,
                candidate=candidate,
                phase=self._phase,
                round=self._batch.round,
                stream=self._batch.stream,
                ends=self._batch.number if is_last else None,
                takes_next=self._takes_next,
                ask=sub_batch.ask,
                ordinals=sub_batch.ordinals,
                sized_for=sub_batch.sized_for,
            )

        try:
            return await self._on_a_provider(step)
        except NoProviderServed as error:
            return ClassifyOutcome(refused=refusal_of(error))

    async def _condense(self, oversized: Sequence[int], left: Remainder) -> Remainder:
        """Condense sessions of the one sub-batch that is left. One that cannot be condensed cannot be labelled."""
        [sub_batch] = left.sub_batches
        failed = [ordinal for ordinal in oversized if not await self._condense_session(ordinal, sub_batch.sized_for)]
        rest = sub_batch.excluding(failed)
        return Remainder((rest,) if rest.ordinals else (), tuple(failed))

    async def _condense_session(self, ordinal: int, sized_for: str) -> bool:
        """Condense a session, in smaller parts where a provider finds them too long. Returns whether it succeeded."""

        def step(candidate: Candidate) -> tuple[Any, CondenseStep]:
            return LabellingActivities.condense, CondenseStep(
                job=self._job,
                candidate=candidate,
                phase=self._phase,
                round=self._batch.round,
                ordinal=ordinal,
                sized_for=sized_for,
            )

        try:
            outcome: RequestOutcome = await self._on_a_provider(step)
        except NoProviderServed as error:
            self._add_refusal(refusal_of(error))
            return False
        self._add(outcome)
        if outcome.problem or not outcome.too_long_for:
            return not outcome.problem
        return await self._condense_session(ordinal, tighter(sized_for, outcome.too_long_for))

    def _on_a_provider(self, step: Callable[[Candidate], tuple[Any, Any]]) -> Awaitable[Any]:
        return on_a_provider(self._job, self._candidates, step, self._on_wait)

    async def _apply_fallback(self, ordinals: Sequence[int]) -> None:
        if not ordinals:
            return
        outcome: ClassifyOutcome = await workflow.execute_activity_method(
            RunActivities.apply_fallback,
            FallbackStep(
                job=self._job,
                phase=self._phase,
                round=self._batch.round,
                stream=self._batch.stream,
                ends=self._batch.number,
                takes_next=self._takes_next,
                ordinals=tuple(ordinals),
            ),
            summary=f"fallback labels for {len(ordinals)} sessions",
            **STORAGE_STEP,
        )
        self._add(outcome)

    def _add(self, outcome: StepUsage) -> None:
        """Count a step. If the job was cancelled while it ran, it is the last one."""
        report = self.report
        counted = {"tokens": report.tokens + outcome.tokens, "cost_usd": report.cost_usd + outcome.cost_usd}
        self.report = report.model_copy(update=counted)
        if isinstance(outcome, ClassifyOutcome):
            self._add_labels(outcome)
        raise_if_cancelled()

    def _add_labels(self, outcome: ClassifyOutcome) -> None:
        report, self.next_batch = self.report, outcome.next_batch
        counted = {
            "left_out": max(report.left_out, outcome.left_out),
            "labelled": report.labelled + outcome.labelled,
            "new_labels": report.new_labels + outcome.new_labels,
            "invented": report.invented + outcome.invented,
            "outside": report.outside + outcome.outside,
        }
        self.report = report.model_copy(update=counted)

    def _add_retries(self, count: int) -> None:
        self.report = self.report.model_copy(update={"retries": self.report.retries + count})

    def _add_refusal(self, refusal: str) -> None:
        self.report = self.report.model_copy(update={"refused": self.report.refused + 1, "refusal": refusal})
