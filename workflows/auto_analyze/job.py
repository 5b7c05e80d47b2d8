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
    from domain.auto_analyze.asking import MOST_REFUSED_IN_A_ROW
    from domain.auto_analyze.batching import tighter
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
        Ending,
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
        StreamParked,
        StreamProgress,
    )
    from domain.auto_analyze.segments import rounds_per_segment
    from domain.errors import BadRequest, BudgetExhausted, InvalidInput, NotFound, ParleyError, ProviderUnavailable
    from domain.routing import Candidate
    from workflows import visibility
    from workflows.auto_analyze.batches import BatchLabeller, on_a_provider, refusal_of
    from workflows.auto_analyze.stream import AutoAnalyzeStream
    from workflows.policies import BULK_STEP, STORAGE_STEP
    from workflows.providers_in_turn import NobodyServed, end_if_cancelled

# After so many failed streams the rest is done one batch after the other.
TOLERATED_STREAM_FAILURES = 3
MAX_LEVELS = 4
# What is kept of warnings, so that they do not swell the history.
WARNINGS, WARNING_CHARACTERS = 3, 140
WAITING_SHOWN = 3
# These end the whole run, with what it has: no other stream would fare better.
ENDS_THE_RUN = {error.__name__ for error in (BudgetExhausted, ProviderUnavailable, NotFound)}

Stream = workflow.ChildWorkflowHandle[Any, None]


@workflow.defn(name=WORKFLOW, failure_exception_types=[ParleyError, ValidationError])
class AutoAnalyze:
    """Discover labels on a sample, label the rest in synchronized streams, merge duplicate labels."""

    def __init__(self) -> None:
        self._progress = AutoAnalyzeProgress(phase=Phase.PREPARE)
        # Of the current round: who works, who has reported, and whose work ended before its time.
        self._streams: dict[int, Stream] = {}
        self._reports: dict[int, BatchReport] = {}
        self._stopped: dict[int, BatchReport] = {}
        self._own: BatchLabeller | None = None

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
        """A stream has reached the barrier, or tells what it took before it ends."""
        if report.ending is Ending.STOPPED:
            self._stopped[report.stream] = report
            return
        self._reports[report.stream] = report
        self._show_stream(report.stream, done=report.labelled, waiting="")

    @workflow.signal
    def stream_parked(self, told: StreamParked) -> None:
        """A stream waits for a provider."""
        self._show_stream(told.stream, waiting=told.waiting)

    async def _analyse(self) -> AutoAnalyzeResult:
        if self._state.next_ordinal < self._state.plan.discovery:
            await self._discover()
        if self._state.next_ordinal < self._state.plan.sessions:
            await self._label_in_streams()
        await self._resolve_conflicts()
        return await self._finish()

    async def _prepare(self) -> Carried:
        plan = await workflow.execute_activity_method(
            Activities.prepare, self._job, summary="sample, order, budget", **BULK_STEP
        )
        end_if_cancelled()
        progress = AutoAnalyzeProgress(
            phase=Phase.PREPARE, discovery_total=plan.discovery, sessions_total=plan.sessions
        )
        return Carried(plan=plan, started_at=workflow.now(), progress=progress)

    # Phase 1: one session after the other, each call seeing the labels so far.

    async def _discover(self) -> None:
        self._enter(Phase.DISCOVERY)
        labeller = self._labeller(Phase.DISCOVERY)
        while (ordinal := self._state.next_ordinal) < self._state.plan.discovery:
            self._reports[0] = await labeller.label(self._state.next_round, Batch(start=ordinal, count=1))
            self._advance(ordinal + 1)
            if _history_is_long():
                self._continue_as_new()

    # Phase 2: rounds of parallel streams; what a round finds is shared from the next.

    async def _label_in_streams(self) -> None:
        self._enter(Phase.PARALLEL)
        if self._state.statistics.degraded:
            await self._label_in_sequence()
        else:
            await self._run_segment()
        if self._unlabelled:
            self._continue_as_new()

    async def _run_segment(self) -> None:
        rounds = rounds_per_segment(self._job.input.streams, workflow.info().get_current_history_length())
        for number in range(self._job.input.streams if rounds else 0):
            self._streams[number] = await self._start_stream(number)
        for _ in range(rounds):
            tired = await self._run_round()
            over = not self._unlabelled or not self._streams or self._state.statistics.degraded
            if over or tired or _history_is_long():
                break
        await asyncio.gather(*(self._go(stream, self._state.next_round, None) for stream in self._streams.values()))
        await self._all_ended()

    @property
    def _unlabelled(self) -> bool:
        return self._state.next_ordinal < self._state.plan.sessions

    async def _start_stream(self, number: int) -> Stream:
        """A stream lives within this run, so that none is orphaned when the run continues as new."""
        info = workflow.info()
        return await workflow.start_child_workflow(
            AutoAnalyzeStream.run,
            StreamInput(job=self._job, candidates=self._state.plan.candidates, stream=number),
            id=f"{info.workflow_id}/{self._job.job_key[-8:]}/round-{self._state.next_round}/stream-{number}",
            static_summary=f"stream {number}",
        )

    async def _run_round(self) -> bool:
        """Every living stream takes a batch; the barrier falls when each has reported or failed.

        Returns whether a stream's history has grown long.
        """
        opened = await self._open_round(len(self._streams))
        working = dict(zip(self._streams, opened.batches, strict=False))
        shown = [StreamProgress(stream=number, sessions=batch.count) for number, batch in working.items()]
        self._update(streams=tuple(shown))
        await asyncio.gather(
            *(self._go(self._streams[number], opened.number, batch) for number, batch in working.items())
        )
        await workflow.wait_condition(
            lambda: all(number in self._reports or self._streams[number].done() for number in working)
        )
        for number in [number for number in working if number not in self._reports]:
            self._stream_failed(self._streams.pop(number))
        for number, batch in working.items():
            report = self._reports.get(number)
            if report is None or report.ending is Ending.UNAFFORDABLE:
                self._reports[number] = await self._redo(number, opened.number, batch)
        tired = any(report.tired for report in self._reports.values())
        self._advance(opened.next_ordinal, at_barrier=True)
        return tired

    async def _redo(self, number: int, round_number: int, batch: Batch) -> BatchReport:
        """A batch that its stream did not end, under its own request ids: what is paid for is found again.

        The other streams have ended theirs: money that is still missing now is held by nobody.
        """
        labeller = self._labeller(Phase.PARALLEL, number)
        try:
            return await labeller.label(round_number, batch)
        except ApplicationError as error:
            if error.type in ENDS_THE_RUN:
                raise
            return await labeller.give_up()

    async def _open_round(self, streams: int) -> Round:
        opened = await workflow.execute_activity_method(
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
        end_if_cancelled()
        return opened

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

    async def _all_ended(self) -> None:
        await asyncio.gather(*self._streams.values(), return_exceptions=True)
        self._streams.clear()

    async def _label_in_sequence(self) -> None:
        labeller = self._labeller(Phase.PARALLEL)
        while self._unlabelled and not _history_is_long():
            opened = await self._open_round(1)
            [batch] = opened.batches
            self._reports[0] = await labeller.label(opened.number, batch)
            self._advance(opened.next_ordinal, at_barrier=True)

    # Phase 3: labels that mean the same get one name.

    async def _resolve_conflicts(self) -> None:
        self._enter(Phase.CONFLICTS)
        for kind in [*LabelKind][self._state.kinds_resolved :]:
            if _history_is_long():
                self._continue_as_new()
            await self._resolve_kind(kind)
            self._keep(kinds_resolved=self._state.kinds_resolved + 1)
        applied = await workflow.execute_activity_method(
            Activities.apply_conflicts,
            ApplyConflicts(job=self._job),
            summary="canonical labels for all sessions",
            **BULK_STEP,
        )
        self._count(
            canonical_labels=applied.canonical_labels,
            canonical_mappings=applied.canonical_mappings,
            conflicts_resolved=sum(applied.canonical_mappings.values()),
        )

    async def _resolve_kind(self, kind: LabelKind) -> None:
        """Compare all labels at once where they fit one request, else in chunks that are dealt anew on each level.

        Where a chunk is too long for who is to answer, the next level is cut for that window.
        """
        sized_for = self._state.plan.candidates[0].model
        levels, level = MAX_LEVELS, 0
        while level < levels:
            plan = await workflow.execute_activity_method(
                Activities.plan_conflicts,
                PlanConflicts(job=self._job, kind=kind, level=level, sized_for=sized_for),
                summary=f"{kind.value}s, level {level}",
                **STORAGE_STEP,
            )
            end_if_cancelled()
            first = ResolveStep(
                job=self._job,
                candidate=self._state.plan.candidates[0],
                kind=kind,
                level=level,
                chunk=0,
                sized_for=sized_for,
            )
            too_long_for = await self._resolve_level(first, plan.chunks)
            level += 1
            if too_long_for:
                sized_for, levels = tighter(sized_for, too_long_for), levels + 1
            elif plan.chunks <= 1:
                return

    async def _resolve_level(self, first: ResolveStep, chunks: int) -> str:
        """Compare the labels of each chunk. Returns the model that one is too long for, if it is."""
        for chunk in range(chunks):
            outcome = await self._resolve_chunk(first.model_copy(update={"chunk": chunk}))
            if outcome.too_long_for:
                return outcome.too_long_for
            problem = outcome.refused or outcome.problem
            if problem:
                self._count(unmerged_chunks=self._state.statistics.unmerged_chunks + 1)
                self._warn(f"some {first.kind.value} labels stay unmerged: {problem}")
            self._count(conflicts_found=self._state.statistics.conflicts_found + outcome.found)
        return ""

    async def _resolve_chunk(self, first: ResolveStep) -> ResolveOutcome:
        """The outcome of the first usable reply, else of the last one."""
        outcome = ResolveOutcome()
        for ask in range(1, MAX_ASKS + 1):

            def step(candidate: Candidate, ask: int = ask) -> tuple[Any, ResolveStep]:
                return Activities.resolve, first.model_copy(update={"candidate": candidate, "ask": ask})

            try:
                outcome = await on_a_provider(self._job, self._state.plan.candidates, step, self._parked)
            except NobodyServed as error:
                return ResolveOutcome(refused=refusal_of(error))
            self._spent(outcome)
            end_if_cancelled()
            if not outcome.problem:
                return outcome
            self._count(retries=self._state.statistics.retries + 1)
        return outcome

    async def _finish(self) -> AutoAnalyzeResult:
        self._enter(Phase.FINISH)
        statistics = await workflow.execute_activity_method(
            Activities.finish,
            FinishStep(job=self._job, statistics=self._state.statistics),
            summary="store the statistics",
            **BULK_STEP,
        )
        visibility.record(visibility.STATUS, "completed")
        return AutoAnalyzeResult(job_key=self._job.job_key, status="completed", statistics=statistics)

    async def _close(self, status: Any) -> None:
        """End early: no stream works on, what they took is counted, and what is labelled stays."""
        visibility.record(visibility.STATUS, status)
        for stream in self._streams.values():
            stream.cancel()
        await self._all_ended()
        state = getattr(self, "_state", None)
        if state is not None:
            self._tally(self._unfinished())
        await workflow.execute_activity_method(
            Activities.close,
            CloseStep(job=self._job, status=status, statistics=self._state.statistics if state else Statistics()),
            summary=f"mark as {status}",
            **BULK_STEP,
        )

    def _unfinished(self) -> list[BatchReport]:
        """What was done of a round that was cut short: of each stream, the report that tells most."""
        told = [*self._reports.values(), *self._stopped.values(), *([self._own.report] if self._own else [])]
        current = [report for report in told if report.round == self._state.next_round]
        return [*{report.stream: report for report in sorted(current, key=lambda report: report.tokens)}.values()]

    # What is kept of the way here.

    def _labeller(self, phase: Phase, stream: int = 0) -> BatchLabeller:
        self._own = BatchLabeller(self._job, self._state.plan.candidates, phase, stream, self._parked)
        return self._own

    def _advance(self, next_ordinal: int, *, at_barrier: bool = False) -> None:
        """A round is over: count what is reported of it, and move on."""
        reports = [*self._reports.values()]
        self._reports.clear()
        state, statistics = self._state, self._state.statistics
        slowest = max((report.seconds for report in reports), default=0.0)
        busy = state.busy_seconds + at_barrier * sum(report.seconds for report in reports)
        capacity = state.capacity_seconds + at_barrier * slowest * self._job.input.streams
        self._keep(
            next_ordinal=next_ordinal,
            next_round=state.next_round + 1,
            busy_seconds=busy,
            capacity_seconds=capacity,
        )
        self._count(
            discovery_sessions=min(next_ordinal, state.plan.discovery),
            rounds=statistics.rounds + at_barrier,
            sync_points=statistics.sync_points + at_barrier,
            stream_utilisation=round(busy / capacity, 3) if capacity else 0.0,
        )
        self._tally(reports)
        self._update(note="")
        if self._job.input.debug:
            workflow.logger.info(
                "round %s: %s sessions done, %s labels, slowest %.1f s",
                state.next_round, next_ordinal, self._progress.new_labels, slowest,
            )  # fmt: skip
        self._end_if_nobody_takes_any(reports)

    def _tally(self, reports: Sequence[BatchReport]) -> None:
        """Count what streams have done and used."""
        for report in reports:
            statistics = self._state.statistics
            self._count(
                retries=statistics.retries + report.retries,
                invented=statistics.invented + report.invented,
                refused=statistics.refused + report.refused,
            )
            self._spent(report)
            self._update(new_labels=self._progress.new_labels + report.new_labels)
            if report.refused:
                self._warn(f"{report.refused} sessions by fallback, refused by every provider: {report.refusal}")

    def _end_if_nobody_takes_any(self, reports: Sequence[BatchReport]) -> None:
        """A content filter refuses some sessions. Where all are refused, in a row, it is the request: a wrong model."""
        refused = sum(report.refused for report in reports)
        others = sum(report.labelled for report in reports) > refused
        self._keep(refused_in_a_row=0 if others else self._state.refused_in_a_row + refused)
        if self._state.refused_in_a_row >= MOST_REFUSED_IN_A_ROW:
            last = self._state.statistics.warnings[-1]
            raise ApplicationError(f"every session is refused: {last}", type=BadRequest.__name__)

    def _warn(self, warning: str) -> None:
        self._count(warnings=(*self._state.statistics.warnings, warning[:WARNING_CHARACTERS])[-WARNINGS:])
        self._update(warnings=self._progress.warnings + 1, degraded=self._state.statistics.degraded)

    def _count(self, **changes: Any) -> None:
        self._keep(statistics=self._state.statistics.model_copy(update=changes))

    def _keep(self, **changes: Any) -> None:
        self._state = self._state.model_copy(update=changes)

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

    def _show_stream(self, number: int, **changes: Any) -> None:
        """A signal may come at any time: it touches nothing but what is shown."""
        shown = tuple(
            stream.model_copy(update=changes) if stream.stream == number else stream
            for stream in self._progress.streams
        )
        self._progress = self._progress.model_copy(update={"streams": shown})
        workflow.set_current_details(as_table(self._progress))

    def _continue_as_new(self) -> NoReturn:
        carried = self._state.model_copy(update={"progress": self._progress.model_copy(update={"streams": ()})})
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
        "streams": _streams(progress),
        "new labels": progress.new_labels,
        "warnings": progress.warnings,
        "tokens": progress.tokens,
        "cost": f"${progress.cost_usd}",
        "left": f"{progress.seconds_left} s" if progress.seconds_left is not None else "",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    waiting = [f"stream {stream.stream}: {stream.waiting}" for stream in progress.streams if stream.waiting]
    notes = [note for note in (progress.note, *waiting[:WAITING_SHOWN]) if note]
    return f"| | |\n|---|---|\n{table}" + "".join(f"\n\n{visibility.plain(note)}" for note in notes)


def _streams(progress: AutoAnalyzeProgress) -> str:
    """The streams of the round in few words, however many they are."""
    if progress.degraded:
        return "degraded to sequential"
    done = sum(stream.done >= stream.sessions for stream in progress.streams)
    waiting = sum(bool(stream.waiting) for stream in progress.streams)
    return f"{len(progress.streams)}, of which {done} are done and {waiting} wait" if progress.streams else ""
