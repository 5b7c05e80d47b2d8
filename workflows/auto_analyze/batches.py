"""Label one batch to the end: ask for less where it was too much, again for what is missing, give up with a mark."""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.auto_analyze.labelling import LabellingActivities as Activities
    from parley.domain.auto_analyze.asking import Left, Piece, left_of, without
    from parley.domain.auto_analyze.batching import tighter
    from parley.domain.auto_analyze.contract import (
        AskOutcome,
        Batch,
        BatchReport,
        ClassifyOutcome,
        ClassifyStep,
        CondenseStep,
        GiveUpStep,
        Job,
        Phase,
        UsedByStep,
    )
    from parley.domain.routing import Candidate
    from workflows.fallback import DurableEngine, NoProviderServed, first_success, raise_if_cancelled
    from workflows.policies import PAID_STEP, STORAGE_STEP

Parked = Callable[[str, timedelta], None]
REFUSAL_CHARACTERS = 120
# A call that is under way when the job is cancelled is paid for: what it brings is kept, and counted.
COUNTED_STEP: dict[str, Any] = {
    **PAID_STEP,
    "cancellation_type": workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
}


async def on_a_provider(
    job: Job, candidates: Sequence[Candidate], step: Callable[[Candidate], tuple[Any, Any]], parked: Parked
) -> Any:
    """Run a paid activity on the first candidate that answers; an outage parks it, it does not fill in for it.

    Raises:
        NoProviderServed: every candidate refused the request, or all were out for longer than the job's patience.
    """

    engine = DurableEngine(COUNTED_STEP, parked)

    async def attempt(candidate: Candidate) -> Any:
        activity, argument = step(candidate)
        summary = f"{candidate.provider.value} {candidate.model}"
        return await engine.run_step(activity, argument, candidate, summary=summary)

    wait_limit = timedelta(seconds=job.input.patience_seconds)
    return await first_success(engine, candidates, attempt, wait_limit=wait_limit)


def refusal_of(error: NoProviderServed) -> str:
    """What was said of a request that everybody refuses; an outage ends the run as it is."""
    if not error.refused:
        raise error
    return error.tried[:REFUSAL_CHARACTERS]


class BatchLabeller:
    """Labels batches for one stream. `report` tells what it took so far, also where a batch ends before its time."""

    def __init__(self, job: Job, candidates: Sequence[Candidate], phase: Phase, stream: int, parked: Parked) -> None:
        self._job, self._candidates, self._phase = job, candidates, phase
        self._stream, self._parked = stream, parked
        self.report = BatchReport(stream=stream, round=0)
        self._pieces: deque[Piece] = deque()
        self._lost: list[int] = []

    async def label(self, round_number: int, batch: Batch) -> BatchReport:
        """Every session of the batch ends labelled, by a reply or by the marked fallback."""
        started = workflow.now()
        self.report = BatchReport(stream=self._stream, round=round_number)
        ordinals = tuple(range(batch.start, batch.start + batch.count))
        self._pieces, self._lost = deque([Piece(ordinals, sized_for=self._candidates[0].model)]), []
        while self._pieces:
            left = await self._label_piece(self._pieces[0])
            self._pieces.popleft()
            self._pieces += left.pieces
            self._lost += left.lost
        await self._give_up(self._lost)
        return self._noted(seconds=(workflow.now() - started).total_seconds())

    async def give_up(self) -> BatchReport:
        """What is not labelled of the batch by the marked fallback."""
        await self._give_up([*self._lost, *(ordinal for piece in self._pieces for ordinal in piece.ordinals)])
        return self.report

    async def _label_piece(self, piece: Piece) -> Left:
        outcome = await self._classify(piece)
        self._add(outcome)
        left = left_of(piece, outcome)
        if outcome.refused and left.lost:
            self._refused(outcome.refused)
        if outcome.oversized:
            left = await self._condense(outcome.oversized, left)
        elif left.pieces:
            self._noted(retries=self.report.retries + len(left.pieces))
        return left

    async def _classify(self, piece: Piece) -> ClassifyOutcome:
        def step(candidate: Candidate) -> tuple[Any, ClassifyStep]:
            return Activities.classify, ClassifyStep(
                job=self._job,
                candidate=candidate,
                phase=self._phase,
                round=self.report.round,
                stream=self._stream,
                ask=piece.ask,
                ordinals=piece.ordinals,
                sized_for=piece.sized_for,
            )

        try:
            return await self._on_a_provider(step)
        except NoProviderServed as error:
            return ClassifyOutcome(refused=refusal_of(error))

    async def _condense(self, oversized: Sequence[int], left: Left) -> Left:
        """Condense sessions of the one piece that is left. One that cannot be condensed cannot be labelled either."""
        [piece] = left.pieces
        lost = [ordinal for ordinal in oversized if not await self._condensed(ordinal, piece.sized_for)]
        rest = without(piece, lost)
        return Left((rest,) if rest.ordinals else (), tuple(lost))

    async def _condensed(self, ordinal: int, sized_for: str) -> bool:
        """Whether a session stands condensed in the end, in parts that a provider took."""

        def step(candidate: Candidate) -> tuple[Any, CondenseStep]:
            return Activities.condense, CondenseStep(
                job=self._job, candidate=candidate, ordinal=ordinal, sized_for=sized_for
            )

        try:
            outcome: AskOutcome = await self._on_a_provider(step)
        except NoProviderServed as error:
            self._refused(refusal_of(error))
            return False
        self._add(outcome)
        if not outcome.too_long_for:
            return True
        return await self._condensed(ordinal, tighter(sized_for, outcome.too_long_for))

    def _on_a_provider(self, step: Callable[[Candidate], tuple[Any, Any]]) -> Awaitable[Any]:
        return on_a_provider(self._job, self._candidates, step, self._parked)

    async def _give_up(self, ordinals: Sequence[int]) -> None:
        if not ordinals:
            return
        outcome: ClassifyOutcome = await workflow.execute_activity_method(
            Activities.give_up,
            GiveUpStep(
                job=self._job,
                phase=self._phase,
                round=self.report.round,
                stream=self._stream,
                ordinals=tuple(ordinals),
            ),
            summary=f"fallback for {len(ordinals)} sessions",
            **STORAGE_STEP,
        )
        self._add(outcome)

    # What it took so far.

    def _add(self, outcome: UsedByStep) -> None:
        """Count a step. It may have been waited for although the job is cancelled: then nothing more is asked."""
        report = self.report
        self._noted(tokens=report.tokens + outcome.tokens, cost_usd=report.cost_usd + outcome.cost_usd)
        if isinstance(outcome, ClassifyOutcome):
            self._noted(
                labelled=report.labelled + outcome.labelled,
                new_labels=report.new_labels + outcome.new_labels,
                invented=report.invented + outcome.invented,
            )
        raise_if_cancelled()

    def _refused(self, refusal: str) -> None:
        self._noted(refused=self.report.refused + 1, refusal=refusal)

    def _noted(self, **changes: Any) -> BatchReport:
        self.report = self.report.model_copy(update=changes)
        return self.report
