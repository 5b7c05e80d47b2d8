"""Label one batch to the end: ask, ask again for what is missing in smaller batches, give up with a mark."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.auto_analyze import AutoAnalyzeActivities as Activities
    from domain.auto_analyze.batching import halves
    from domain.auto_analyze.contract import (
        MAX_ASKS,
        Batch,
        BatchReport,
        CallOutcome,
        ClassifyOutcome,
        ClassifyStep,
        CondenseStep,
        GiveUpStep,
        Job,
        Phase,
    )
    from domain.queues import provider_queue
    from domain.routing import Candidate
    from workflows.policies import PAID_STEP, STORAGE_STEP
    from workflows.providers_in_turn import in_turn

Parked = Callable[[str, timedelta], None]


async def on_a_provider(
    job: Job, candidates: Sequence[Candidate], step: Callable[[Candidate], tuple[Any, Any]], parked: Parked
) -> Any:
    """Run a paid activity on the first candidate that answers; an outage parks it, it does not fill in for it."""

    async def attempt(candidate: Candidate) -> Any:
        activity, argument = step(candidate)
        return await workflow.execute_activity_method(
            activity,
            argument,
            task_queue=provider_queue(candidate.provider),
            summary=f"{candidate.provider.value} {candidate.model}",
            **PAID_STEP,
        )

    return await in_turn(candidates, attempt, patience=timedelta(seconds=job.input.patience_seconds), parked=parked)


class BatchLabeller:
    """Labels batches for one stream, and counts what it took."""

    def __init__(self, job: Job, candidates: Sequence[Candidate], phase: Phase, stream: int, parked: Parked) -> None:
        self._job, self._candidates, self._phase = job, candidates, phase
        self._stream, self._parked = stream, parked
        self._sized_for = candidates[0].model

    async def label(self, round_number: int, batch: Batch) -> BatchReport:
        """Every session of the batch ends labelled, by a reply or by the marked fallback."""
        started = workflow.now()
        report = BatchReport(stream=self._stream, round=round_number)
        missing = tuple(range(batch.start, batch.start + batch.count))
        for ask in range(1, MAX_ASKS + 1):
            asked, missing = [missing] if ask == 1 else halves(missing), ()
            for part, ordinals in enumerate(asked):
                outcome = await self._classify(round_number, ask, part, ordinals)
                report = _added(report, outcome, retry=ask > 1)
                missing += outcome.missing
            if not missing:
                break
        if missing:
            report = _given_up(report, await self._give_up(round_number, missing))
        return report.model_copy(update={"seconds": (workflow.now() - started).total_seconds()})

    async def give_up(self, round_number: int, batch: Batch) -> BatchReport:
        """The whole batch by the marked fallback."""
        ordinals = range(batch.start, batch.start + batch.count)
        return _given_up(
            BatchReport(stream=self._stream, round=round_number), await self._give_up(round_number, ordinals)
        )

    async def _classify(self, round_number: int, ask: int, part: int, ordinals: tuple[int, ...]) -> ClassifyOutcome:
        def step(candidate: Candidate) -> tuple[Any, ClassifyStep]:
            return Activities.classify, ClassifyStep(
                job=self._job,
                candidate=candidate,
                phase=self._phase,
                round=round_number,
                stream=self._stream,
                ask=ask,
                part=part,
                ordinals=ordinals,
                sized_for=self._sized_for,
            )

        outcome: ClassifyOutcome = await self._on_a_provider(step)
        if not outcome.oversized:
            return outcome
        condensed = [await self._condense(ordinal) for ordinal in outcome.oversized]
        outcome = await self._on_a_provider(step)
        return outcome.model_copy(
            update={
                "tokens": outcome.tokens + sum(used.tokens for used in condensed),
                "cost_usd": sum((used.cost_usd for used in condensed), outcome.cost_usd),
            }
        )

    async def _condense(self, ordinal: int) -> CallOutcome:
        def step(candidate: Candidate) -> tuple[Any, CondenseStep]:
            return Activities.condense, CondenseStep(
                job=self._job, candidate=candidate, ordinal=ordinal, sized_for=self._sized_for
            )

        return await self._on_a_provider(step)

    def _on_a_provider(self, step: Callable[[Candidate], tuple[Any, Any]]) -> Awaitable[Any]:
        return on_a_provider(self._job, self._candidates, step, self._parked)

    async def _give_up(self, round_number: int, ordinals: Sequence[int]) -> ClassifyOutcome:
        return await workflow.execute_activity_method(
            Activities.give_up,
            GiveUpStep(
                job=self._job,
                phase=self._phase,
                round=round_number,
                stream=self._stream,
                ordinals=tuple(ordinals),
            ),
            summary=f"fallback for {len(ordinals)} sessions",
            **STORAGE_STEP,
        )


def _added(report: BatchReport, outcome: ClassifyOutcome, *, retry: bool) -> BatchReport:
    return report.model_copy(
        update={
            "labelled": report.labelled + outcome.labelled,
            "new_labels": report.new_labels + outcome.new_labels,
            "invented": report.invented + outcome.invented,
            "retries": report.retries + retry,
            "tokens": report.tokens + outcome.tokens,
            "cost_usd": report.cost_usd + outcome.cost_usd,
        }
    )


def _given_up(report: BatchReport, outcome: ClassifyOutcome) -> BatchReport:
    return report.model_copy(
        update={
            "labelled": report.labelled + outcome.labelled,
            "new_labels": report.new_labels + outcome.new_labels,
        }
    )
