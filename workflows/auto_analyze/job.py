"""`AutoAnalyze`: chat sessions to consistent labels, in segments that continue as new with no child open."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NoReturn

from temporalio import workflow
from temporalio.exceptions import ApplicationError, FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from pydantic import ValidationError

    from activities.auto_analyze import AutoAnalyzeActivities as Activities
    from domain.auto_analyze.contract import (
        MAX_ASKS,
        WORKFLOW,
        ApplyConflicts,
        AutoAnalyzeInput,
        AutoAnalyzeProgress,
        AutoAnalyzeResult,
        Batch,
        BatchReport,
        CallOutcome,
        Carried,
        CloseStep,
        FinishStep,
        GoSignal,
        Job,
        LabelKind,
        OpenRound,
        Phase,
        PlanConflicts,
        ResolveOutcome,
        ResolveStep,
        Round,
        Statistics,
        StreamInput,
    )
    from domain.errors import BudgetExhausted, InvalidInput, NotFound, ParleyError, ProviderUnavailable
    from domain.routing import Candidate
    from workflows import visibility
    from workflows.auto_analyze.batches import BatchLabeller, on_a_provider
    from workflows.auto_analyze.stream import AutoAnalyzeStream
    from workflows.policies import STORAGE_STEP

# A segment ends well before a history grows long: a round costs the parent about sixty events with eight streams.
ROUNDS_PER_SEGMENT = 40
# After so many failed streams the rest is done one batch after the other.
TOLERATED_STREAM_FAILURES = 3
MAX_LEVELS = 4
# These end the whole run, with what it has: no other stream would fare better.
ENDS_THE_RUN = {error.__name__ for error in (BudgetExhausted, ProviderUnavailable, NotFound)}

Stream = workflow.ChildWorkflowHandle[Any, None]


@workflow.defn(name=WORKFLOW, failure_exception_types=[ParleyError, ValidationError])
class AutoAnalyze:
    """Discover labels on a sample, label the rest in synchronized streams, merge duplicate labels."""

    def __init__(self) -> None:
        self._progress = AutoAnalyzeProgress(phase=Phase.PREPARE)
        self._reports: dict[int, BatchReport] = {}

    @workflow.run
    async def run(self, start: AutoAnalyzeInput | None = None) -> AutoAnalyzeResult:
        """Run the job; cancelling it keeps what is labelled and paid.

        Raises:
            InvalidInput: the workflow was started without input.
            ApplicationError: typed after the `ParleyError` that stopped the run.
        """
        if start is None:
            raise InvalidInput("AutoAnalyze needs an AutoAnalyzeInput", where="input")
        if start.carried is not None and workflow.info().continued_run_id is None:
            raise InvalidInput("is set by the workflow itself", where="AutoAnalyzeInput", field="carried")
        visibility.record_start(start.workspace_id, WORKFLOW)
        self._job = Job(
            input=start.model_copy(update={"carried": None}),
            job_key=workflow.info().first_execution_run_id,
            workflow_id=workflow.info().workflow_id,
        )
        try:
            self._state = start.carried or await self._prepare()
            self._progress = self._state.progress
            return await self._analyse()
        except (FailureError, ParleyError, asyncio.CancelledError) as error:
            await self._close("cancelled" if is_cancelled_exception(error) else "failed")
            raise

    @workflow.query
    def get_progress(self) -> AutoAnalyzeProgress:
        return self._progress

    @workflow.signal
    def round_done(self, report: BatchReport) -> None:
        """A stream has reached the barrier."""
        self._reports[report.stream] = report

    async def _analyse(self) -> AutoAnalyzeResult:
        if self._state.next_ordinal < self._state.plan.discovery:
            await self._discover()
        if self._state.next_ordinal < self._state.plan.sessions:
            await self._label_in_streams()
        await self._resolve_conflicts()
        return await self._finish()

    async def _prepare(self) -> Carried:
        plan = await workflow.execute_activity_method(
            Activities.prepare, self._job, summary="sample, order, budget", **STORAGE_STEP
        )
        progress = AutoAnalyzeProgress(
            phase=Phase.PREPARE, discovery_total=plan.discovery, sessions_total=plan.sessions
        )
        return Carried(plan=plan, started_at=workflow.now(), progress=progress)

    # Phase 1: one session after the other, each call seeing the labels so far.

    async def _discover(self) -> None:
        self._enter(Phase.DISCOVERY)
        labeller = self._labeller(Phase.DISCOVERY)
        while (ordinal := self._state.next_ordinal) < self._state.plan.discovery:
            report = await labeller.label(self._state.next_round, Batch(start=ordinal, count=1))
            self._advance(ordinal + 1, (report,))
            if _history_is_long():
                self._continue_as_new()
        self._count(discovery_sessions=self._state.plan.discovery)

    # Phase 2: rounds of parallel streams; what a round finds is shared from the next.

    async def _label_in_streams(self) -> None:
        self._enter(Phase.PARALLEL)
        if self._state.statistics.degraded:
            await self._label_in_sequence(ROUNDS_PER_SEGMENT)
        else:
            await self._run_segment()
        if self._state.next_ordinal < self._state.plan.sessions:
            self._continue_as_new()

    async def _run_segment(self) -> None:
        streams = {number: await self._start_stream(number) for number in range(self._job.input.streams)}
        for _ in range(ROUNDS_PER_SEGMENT):
            done = self._state.next_ordinal >= self._state.plan.sessions
            if done or not streams or self._state.statistics.degraded or _history_is_long():
                break
            await self._run_round(streams)
        await self._stop(streams)

    async def _start_stream(self, number: int) -> Stream:
        """A stream lives within this run, so that none is orphaned when the run continues as new."""
        info = workflow.info()
        return await workflow.start_child_workflow(
            AutoAnalyzeStream.run,
            StreamInput(job=self._job, candidates=self._state.plan.candidates, stream=number),
            id=f"{info.workflow_id}/{self._job.job_key[-8:]}/round-{self._state.next_round}/stream-{number}",
            static_summary=f"stream {number}",
        )

    async def _run_round(self, streams: dict[int, Stream]) -> None:
        """Every living stream takes a batch; the barrier falls when each has reported or failed."""
        opened = await self._open_round(len(streams))
        self._reports.clear()
        working = dict(zip(streams, opened.batches, strict=False))
        self._update(streams=tuple(f"stream {number}: {batch.count} sessions" for number, batch in working.items()))
        await asyncio.gather(*(self._go(streams[number], opened.number, batch) for number, batch in working.items()))
        await workflow.wait_condition(
            lambda: all(number in self._reports or streams[number].done() for number in working)
        )
        failed = {number: batch for number, batch in working.items() if number not in self._reports}
        reports = [*self._reports.values()]
        for number, batch in failed.items():
            self._stream_failed(streams.pop(number))
            reports.append(await self._redo(number, opened.number, batch))
        self._advance(opened.next_ordinal, reports, at_barrier=True)

    async def _redo(self, number: int, round_number: int, batch: Batch) -> BatchReport:
        """A failed stream's batch, under its own request ids: what it has paid for is found again."""
        labeller = self._labeller(Phase.PARALLEL, number)
        try:
            return await labeller.label(round_number, batch)
        except ApplicationError as error:
            if error.type in ENDS_THE_RUN:
                raise
            return await labeller.give_up(round_number, batch)

    async def _open_round(self, streams: int) -> Round:
        return await workflow.execute_activity_method(
            Activities.open_round,
            OpenRound(
                job=self._job,
                candidate=self._state.plan.candidates[0],
                number=self._state.next_round,
                start=self._state.next_ordinal,
                streams=streams,
            ),
            summary=f"batches of round {self._state.next_round}",
            **STORAGE_STEP,
        )

    async def _go(self, stream: Stream, round_number: int, batch: Batch | None) -> None:
        """Call a stream. One that is gone cannot be called; the barrier notices that."""
        try:
            await stream.signal(AutoAnalyzeStream.go, GoSignal(round=round_number, batch=batch))
        except ApplicationError:
            workflow.logger.warning("a stream is gone")

    def _stream_failed(self, stream: Stream) -> None:
        """One stream's failure does not stop the others; repeated failure ends the parallel work, and says so."""
        error = stream.exception()
        cause = error.__cause__ if error else None
        if isinstance(cause, ApplicationError) and cause.type in ENDS_THE_RUN:
            raise cause
        failures = self._state.statistics.stream_failures + 1
        degraded = failures >= TOLERATED_STREAM_FAILURES or self._state.statistics.degraded
        self._count(stream_failures=failures, degraded=degraded)
        self._warn(f"a stream failed: {cause or error}" + ("; going on in sequence" if degraded else ""))

    async def _stop(self, streams: dict[int, Stream]) -> None:
        await asyncio.gather(*(self._go(stream, self._state.next_round, None) for stream in streams.values()))
        await asyncio.gather(*streams.values(), return_exceptions=True)

    async def _label_in_sequence(self, rounds: int) -> None:
        labeller = self._labeller(Phase.PARALLEL)
        for _ in range(rounds):
            if self._state.next_ordinal >= self._state.plan.sessions:
                return
            opened = await self._open_round(1)
            reports = [await labeller.label(opened.number, batch) for batch in opened.batches]
            self._advance(opened.next_ordinal, reports, at_barrier=True)

    # Phase 3: labels that mean the same get one name.

    async def _resolve_conflicts(self) -> None:
        self._enter(Phase.CONFLICTS)
        for kind in LabelKind:
            await self._resolve_kind(kind)
        applied = await workflow.execute_activity_method(
            Activities.apply_conflicts,
            ApplyConflicts(job=self._job),
            summary="canonical labels for all sessions",
            **STORAGE_STEP,
        )
        self._count(canonical_labels=applied.canonical_labels)

    async def _resolve_kind(self, kind: LabelKind) -> None:
        """Compare all labels at once where they fit one request, else in chunks that are dealt anew on each level."""
        for level in range(MAX_LEVELS):
            plan = await workflow.execute_activity_method(
                Activities.plan_conflicts,
                PlanConflicts(job=self._job, kind=kind, level=level),
                summary=f"{kind.value}s, level {level}",
                **STORAGE_STEP,
            )
            for chunk in range(plan.chunks):
                await self._resolve_chunk(kind, level, chunk)
            if plan.chunks <= 1:
                return

    async def _resolve_chunk(self, kind: LabelKind, level: int, chunk: int) -> None:
        problem = ""
        for ask in range(1, MAX_ASKS + 1):

            def step(candidate: Candidate, ask: int = ask) -> tuple[Any, ResolveStep]:
                return Activities.resolve, ResolveStep(
                    job=self._job, candidate=candidate, kind=kind, level=level, chunk=chunk, ask=ask
                )

            outcome: ResolveOutcome = await on_a_provider(self._job, self._state.plan.candidates, step, self._parked)
            self._spent(outcome)
            problem = outcome.problem
            if not problem:
                found = self._state.statistics.conflicts_found + outcome.merged
                self._count(conflicts_found=found, conflicts_resolved=found)
                return
            self._count(retries=self._state.statistics.retries + 1)
        self._warn(f"some {kind.value} labels stay unmerged: {problem}")

    async def _finish(self) -> AutoAnalyzeResult:
        self._enter(Phase.FINISH)
        statistics = await workflow.execute_activity_method(
            Activities.finish,
            FinishStep(job=self._job, statistics=self._state.statistics),
            summary="store the statistics",
            **STORAGE_STEP,
        )
        visibility.record(visibility.STATUS, "completed")
        return AutoAnalyzeResult(job_key=self._job.job_key, status="completed", statistics=statistics)

    async def _close(self, status: Any) -> None:
        visibility.record(visibility.STATUS, status)
        state = getattr(self, "_state", None)
        await workflow.execute_activity_method(
            Activities.close,
            CloseStep(job=self._job, status=status, statistics=state.statistics if state else Statistics()),
            summary=f"mark as {status}",
            **STORAGE_STEP,
        )

    # What is kept of the way here.

    def _labeller(self, phase: Phase, stream: int = 0) -> BatchLabeller:
        return BatchLabeller(self._job, self._state.plan.candidates, phase, stream, self._parked)

    def _advance(self, next_ordinal: int, reports: Sequence[BatchReport], *, at_barrier: bool = False) -> None:
        """A round is over: count it, and move on."""
        statistics, state = self._state.statistics, self._state
        slowest = max((report.seconds for report in reports), default=0.0)
        self._state = state.model_copy(
            update={
                "next_ordinal": next_ordinal,
                "next_round": state.next_round + 1,
                "busy_seconds": state.busy_seconds + at_barrier * sum(report.seconds for report in reports),
                "capacity_seconds": state.capacity_seconds + at_barrier * slowest * self._job.input.streams,
            }
        )
        busy, capacity = self._state.busy_seconds, self._state.capacity_seconds
        self._count(
            rounds=statistics.rounds + at_barrier,
            sync_points=statistics.sync_points + at_barrier,
            retries=statistics.retries + sum(report.retries for report in reports),
            invented=statistics.invented + sum(report.invented for report in reports),
            stream_utilisation=round(busy / capacity, 3) if capacity else 0.0,
        )
        for report in reports:
            self._spent(report)
        new = sum(report.new_labels for report in reports)
        self._update(new_labels=self._progress.new_labels + new, note="")
        if self._job.input.debug:
            workflow.logger.info(
                "round %s: %s sessions done, %s new labels, slowest %.1f s",
                self._state.next_round - 1, next_ordinal, new, slowest,
            )  # fmt: skip

    def _warn(self, warning: str) -> None:
        self._count(warnings=(*self._state.statistics.warnings, warning[:300])[-20:])
        self._update(warnings=len(self._state.statistics.warnings), degraded=self._state.statistics.degraded)

    def _count(self, **changes: Any) -> None:
        statistics = self._state.statistics.model_copy(update=changes)
        self._state = self._state.model_copy(update={"statistics": statistics})

    def _spent(self, outcome: CallOutcome) -> None:
        phase = self._progress.phase
        by_phase = self._state.statistics.tokens_by_phase
        self._count(tokens_by_phase={**by_phase, phase: by_phase.get(phase, 0) + outcome.tokens})
        self._update(tokens=self._progress.tokens + outcome.tokens, cost_usd=self._progress.cost_usd + outcome.cost_usd)

    def _enter(self, phase: Phase) -> None:
        visibility.record(visibility.PHASE, phase.value)
        self._update(phase=phase, streams=())

    def _parked(self, tried: str, pause: timedelta) -> None:
        self._update(note=f"waiting {pause.total_seconds():.0f} s for a provider to come back: {tried}")

    def _update(self, **changes: Any) -> None:
        state = self._state
        done, total = state.next_ordinal, state.plan.sessions
        elapsed = (workflow.now() - state.started_at).total_seconds()
        rate = done / elapsed if elapsed else 0.0
        derived = {
            "sessions_done": done,
            "sessions_total": total,
            "rounds": state.statistics.rounds,
            "rate": round(rate, 3),
            "seconds_left": round((total - done) / rate, 1) if rate else None,
        }
        self._progress = self._progress.model_copy(update={**derived, **changes})
        workflow.set_current_details(as_table(self._progress))

    def _continue_as_new(self) -> NoReturn:
        carried = self._state.model_copy(update={"progress": self._progress})
        workflow.continue_as_new(self._job.input.model_copy(update={"carried": carried}))


def _history_is_long() -> bool:
    return workflow.info().is_continue_as_new_suggested()


def as_table(progress: AutoAnalyzeProgress) -> str:
    """The progress as the Markdown table that the Temporal UI shows."""
    rows = {
        "phase": progress.phase.value,
        "sessions": f"{progress.sessions_done} of {progress.sessions_total}",
        "rounds": progress.rounds,
        "rate": f"{progress.rate} sessions/s",
        "streams": "; ".join(progress.streams) + (" (degraded to sequential)" if progress.degraded else ""),
        "new labels": progress.new_labels,
        "warnings": progress.warnings,
        "tokens": progress.tokens,
        "cost": f"${progress.cost_usd}",
        "left": f"{progress.seconds_left} s" if progress.seconds_left is not None else "",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"| | |\n|---|---|\n{table}" + (f"\n\n{visibility.plain(progress.note)}" if progress.note else "")
