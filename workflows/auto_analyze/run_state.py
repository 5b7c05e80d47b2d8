"""The state of an `AutoAnalyze` run: its position, its counters, and the progress that it shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from parley import visibility
    from parley.domain.auto_analyze.contract import (
        AppliedConflicts,
        AppliedReassignment,
        AutoAnalyzeInput,
        AutoAnalyzeProgress,
        Batch,
        BatchReport,
        BatchStatus,
        LabelKind,
        Phase,
        Plan,
        ReassignmentPlan,
        ReassignOutcome,
        RunSnapshot,
        Statistics,
        StepUsage,
        StreamProgress,
        StreamWaiting,
    )
    from parley.domain.errors import BadRequest

# A content filter refuses some sessions. So many refusals in a row mean that the request itself is wrong.
MAX_REFUSED_IN_A_ROW = 20
# The last warnings are stored, each cut to a length, so that they do not swell the history.
MAX_WARNINGS, WARNING_CHARACTERS = 3, 140
WAITING_SHOWN = 3
NO_PLAN = Plan(candidates=(), discovery=0, sessions=0)


@dataclass
class RunState:
    """What a run knows of itself. The fields of `RunSnapshot` pass from segment to segment; the others do not.

    `last_warnings` holds the newest texts, `warnings` counts all. `busy_seconds` is the time that streams spent on
    batches, `capacity_seconds` the time that they had. `reports` are those of the current round by stream, and
    `interrupted` those of streams that ended before their batch did.
    """

    started_at: datetime = field(default_factory=workflow.now)
    plan: Plan = NO_PLAN
    parallel_streams: int = 1
    debug: bool = False

    next_round: int = 1
    next_ordinal: int = 0
    kinds_resolved: int = 0
    refused_in_a_row: int = 0

    rounds: int = 0
    sync_points: int = 0
    busy_seconds: float = 0.0
    capacity_seconds: float = 0.0
    retries: int = 0
    stream_failures: int = 0
    degraded: bool = False
    invented: int = 0
    refused: int = 0
    new_labels: int = 0
    conflicts_found: int = 0
    kept_apart: int = 0
    unmerged_chunks: int = 0
    reassignment: ReassignmentPlan | None = None
    next_reassignment: int = 0
    omitted_labels: int = 0
    looked_at: int = 0
    reassigned: int = 0
    canonical_labels: dict[LabelKind, int] = field(default_factory=dict[LabelKind, int])
    canonical_mappings: dict[LabelKind, int] = field(default_factory=dict[LabelKind, int])
    tokens_by_phase: dict[Phase, int] = field(default_factory=dict[Phase, int])
    cost_usd: Decimal = Decimal(0)
    warnings: int = 0
    last_warnings: tuple[str, ...] = ()

    phase: Phase = Phase.PREPARE
    phase_started_at: datetime = field(default_factory=workflow.now)
    phase_first_ordinal: int = 0
    rate: float = 0.0
    seconds_left: float | None = None
    note: str = ""
    streams: dict[int, StreamProgress] = field(default_factory=dict[int, StreamProgress])
    reports: dict[int, BatchReport] = field(default_factory=dict[int, BatchReport])
    interrupted: dict[int, BatchReport] = field(default_factory=dict[int, BatchReport])

    # Start, and continue as new.

    def begin(self, given: AutoAnalyzeInput, plan: Plan) -> None:
        """Start with the first segment."""
        self.parallel_streams, self.debug = given.streams, given.debug
        self.plan, self.started_at = plan, workflow.now()
        self.next_round = 1 - plan.discovery  # so that the first round of the streams is 1

    def restore(self, given: AutoAnalyzeInput, snapshot: RunSnapshot) -> None:
        """Go on where the previous segment ended."""
        self.parallel_streams, self.debug = given.streams, given.debug
        for name in RunSnapshot.model_fields:
            setattr(self, name, getattr(snapshot, name))

    def snapshot(self) -> RunSnapshot:
        """What the next segment has to know."""
        return RunSnapshot.model_validate({name: getattr(self, name) for name in RunSnapshot.model_fields})

    @property
    def discovery_pending(self) -> bool:
        return self.next_ordinal < self.plan.discovery

    @property
    def labelling_pending(self) -> bool:
        return self.next_ordinal < self.plan.sessions

    # Phases and rounds.

    def start_phase(self, phase: Phase) -> None:
        visibility.record(visibility.PHASE, phase.value)
        self.phase, self.phase_started_at, self.phase_first_ordinal = phase, workflow.now(), self.next_ordinal
        self.streams = {}
        self._update()

    def start_round(self, batches: Mapping[int, Batch]) -> None:
        """Each stream has its batch."""
        self.streams = {number: StreamProgress(stream=number, sessions=batches[number].count) for number in batches}
        self._update()

    def complete_round(self, reports: Sequence[BatchReport], next_ordinal: int, *, parallel: bool = False) -> None:
        """Count the reports of a round, and move to the next one. `parallel`: it was a round of the streams.

        Raises:
            ApplicationError: `MAX_REFUSED_IN_A_ROW` sessions in a row were refused; its type is `BadRequest`.
        """
        self.reports.clear()
        slowest = max((report.seconds for report in reports), default=0.0)
        if parallel:
            self.busy_seconds += sum(report.seconds for report in reports)
            self.capacity_seconds += slowest * self.parallel_streams
            self.rounds += 1
            self.sync_points += 1
        self.next_ordinal = next_ordinal
        self.next_round += 1
        self.note = ""
        self._add_reports(reports)
        if self.debug:
            workflow.logger.info(
                "%s: %s sessions done, %s labels, slowest %.1f s",
                f"round {self.rounds}" if parallel else "discovery", next_ordinal, self.new_labels, slowest,
            )  # fmt: skip
        self._fail_if_all_refused(reports)

    def interrupt_round(self, own: BatchReport | None) -> None:
        """Count what was done in a round that is cut short, by the report of each stream with the most tokens.

        `own`: the report of the batch that the run itself was labelling, if it was.
        """
        reports = [*self.reports.values(), *self.interrupted.values(), *([own] if own else [])]
        current = [report for report in reports if report.round == self.next_round]
        by_stream = {report.stream: report for report in sorted(current, key=lambda report: report.tokens)}
        self._add_reports([*by_stream.values()])
        self.seconds_left = None
        self._show()

    def complete_kind(self) -> None:
        """The labels of one more kind are compared."""
        self.kinds_resolved += 1

    # Counters.

    def add_usage(self, usage: StepUsage) -> None:
        self.tokens_by_phase[self.phase] = self.tokens_by_phase.get(self.phase, 0) + usage.tokens
        self.cost_usd += usage.cost_usd
        self._update()

    def add_retry(self) -> None:
        self.retries += 1

    def add_conflicts(self, found: int, kept_apart: int) -> None:
        self.conflicts_found += found
        self.kept_apart += kept_apart

    def add_unmerged_chunk(self, kind: LabelKind, problem: str) -> None:
        self.unmerged_chunks += 1
        self.add_warning(f"some {kind.value} labels stay unmerged: {problem}")

    def set_canonical(self, applied: AppliedConflicts) -> None:
        self.canonical_labels, self.canonical_mappings = applied.canonical_labels, applied.canonical_mappings

    def add_reassignment(self, outcome: ReassignOutcome) -> None:
        """Count a batch of sessions that were looked at again."""
        self.looked_at += outcome.looked_at
        self.add_usage(outcome)
        problem = outcome.refused or outcome.problem
        if problem:
            self.add_warning(f"some sessions keep their intent: {problem}")

    def set_reassigned(self, applied: AppliedReassignment) -> None:
        self.reassigned = applied.sessions
        self.canonical_labels = {**self.canonical_labels, LabelKind.INTENT: applied.intents}

    def add_stream_failure(self, problem: str, *, tolerated: int) -> None:
        """Count a stream that failed. After `tolerated` failures the rest is labelled sequentially."""
        self.stream_failures += 1
        self.degraded = self.degraded or self.stream_failures >= tolerated
        self.add_warning(f"a stream failed: {problem}" + ("; going on in sequence" if self.degraded else ""))

    def add_warning(self, warning: str) -> None:
        self.last_warnings = (*self.last_warnings, warning[:WARNING_CHARACTERS])[-MAX_WARNINGS:]
        self.warnings += 1
        self._update()

    # What happens within a round. Signals come at any time, so these change only reports and what is shown.

    def record_report(self, report: BatchReport) -> None:
        if report.status is BatchStatus.STOPPED:
            self.interrupted[report.stream] = report
            return
        self.reports[report.stream] = report
        self._show_stream(report.stream, done=report.labelled, waiting="")

    def record_waiting(self, notice: StreamWaiting) -> None:
        if notice.stream in self.streams:
            self._show_stream(notice.stream, done=self.streams[notice.stream].done, waiting=notice.waiting)

    def wait_for_provider(self, problems: str, pause: timedelta) -> None:
        """The run itself waits for a provider."""
        self.note = f"waiting {pause.total_seconds():.0f} s for a provider to become available: {problems}"
        self._update()

    # What is reported and shown.

    def statistics(self) -> Statistics:
        """The counters of the run. Counts of sessions and labels come from the database as the run ends."""
        utilisation = self.busy_seconds / self.capacity_seconds if self.capacity_seconds else 0.0
        return Statistics(
            discovery_sessions=min(self.next_ordinal, self.plan.discovery),
            refused=self.refused,
            rounds=self.rounds,
            sync_points=self.sync_points,
            stream_utilisation=round(utilisation, 3),
            retries=self.retries,
            stream_failures=self.stream_failures,
            degraded=self.degraded,
            invented=self.invented,
            canonical_labels=self.canonical_labels,
            canonical_mappings=self.canonical_mappings,
            conflicts_found=self.conflicts_found,
            conflicts_resolved=sum(self.canonical_mappings.values()),
            kept_apart=self.kept_apart,
            unmerged_chunks=self.unmerged_chunks,
            omitted_labels=self.omitted_labels,
            looked_at=self.looked_at,
            reassigned=self.reassigned,
            tokens_by_phase=self.tokens_by_phase,
            warnings=self.last_warnings,
        )

    def progress(self) -> AutoAnalyzeProgress:
        return AutoAnalyzeProgress(
            phase=self.phase,
            discovery_total=self.plan.discovery,
            sessions_total=self.plan.sessions,
            sessions_done=self.next_ordinal,
            rounds=self.rounds,
            streams=tuple(self.streams.values()),
            new_labels=self.new_labels,
            tokens=sum(self.tokens_by_phase.values()),
            cost_usd=self.cost_usd,
            rate=self.rate,
            seconds_left=self.seconds_left,
            degraded=self.degraded,
            warnings=self.warnings,
            note=self.note,
        )

    def _add_reports(self, reports: Sequence[BatchReport]) -> None:
        """Count what streams have done and used."""
        for report in reports:
            self.retries += report.retries
            self.invented += report.invented
            self.refused += report.refused
            self.new_labels += report.new_labels
            self.add_usage(report)
            self._count_omitted(report.omitted_labels)
            if report.refused:
                sessions = "1 session" if report.refused == 1 else f"{report.refused} sessions"
                self.add_warning(f"{sessions} by fallback, refused by every provider: {report.refusal}")

    def _count_omitted(self, labels: int) -> None:
        """Count known labels that a prompt had no room for, and warn at the first ones."""
        if labels and not self.omitted_labels:
            self.add_warning("prompts have no room for all labels: those least alike to the sessions are left out")
        self.omitted_labels += labels

    def _fail_if_all_refused(self, reports: Sequence[BatchReport]) -> None:
        refused = sum(report.refused for report in reports)
        some_accepted = sum(report.labelled for report in reports) > refused
        self.refused_in_a_row = 0 if some_accepted else self.refused_in_a_row + refused
        if self.refused_in_a_row >= MAX_REFUSED_IN_A_ROW:
            raise ApplicationError(f"every session is refused: {self.last_warnings[-1]}", type=BadRequest.__name__)

    def _show_stream(self, number: int, *, done: int, waiting: str) -> None:
        if number in self.streams:
            self.streams[number] = self.streams[number].model_copy(update={"done": done, "waiting": waiting})
        self._show()

    def _update(self) -> None:
        """Compute the pace again, and show the progress."""
        elapsed = (workflow.now() - self.started_at).total_seconds()
        self.rate = round(self.next_ordinal / elapsed, 3) if elapsed else 0.0
        self.seconds_left = self._estimated_seconds_left()
        self._show()

    def _estimated_seconds_left(self) -> float | None:
        """The time that labelling still takes at the pace of the phase; discovery labels one session at a time."""
        if self.phase not in (Phase.DISCOVERY, Phase.PARALLEL):
            return None
        labelled = self.next_ordinal - self.phase_first_ordinal
        if not labelled:
            return self.seconds_left
        pace = (workflow.now() - self.phase_started_at).total_seconds() / labelled
        one_by_one = max(self.plan.discovery - self.next_ordinal, 0)
        rest = self.plan.sessions - self.next_ordinal - one_by_one
        streams = self.parallel_streams if self.phase is Phase.DISCOVERY else 1
        return round(pace * (one_by_one + rest / streams), 1)

    def _show(self) -> None:
        workflow.set_current_details(as_table(self.progress()))


def as_table(progress: AutoAnalyzeProgress) -> str:
    """The progress as a Markdown table for the Temporal UI, and below it what the run waits for."""
    left = progress.seconds_left
    rows = {
        "phase": progress.phase.value,
        "sessions": f"{progress.sessions_done:,} of {progress.sessions_total:,}",
        "rounds": progress.rounds,
        "rate": f"{progress.rate} sessions/s",
        "streams": _streams(progress),
        "new labels": progress.new_labels,
        "warnings": progress.warnings,
        "tokens": f"{progress.tokens:,}",
        "cost": f"${progress.cost_usd}",
        "left": "" if left is None else f"about {timedelta(seconds=round(left))}",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    waiting = [f"stream {stream.stream}: {stream.waiting}" for stream in progress.streams if stream.waiting]
    notes = [note for note in (progress.note, *waiting[:WAITING_SHOWN]) if note]
    return f"| | |\n|---|---|\n{table}" + "".join(f"\n\n{visibility.plain(note)}" for note in notes)


def _streams(progress: AutoAnalyzeProgress) -> str:
    """A summary of the streams, of the same length for any number of them."""
    if progress.degraded:
        return "degraded to sequential"
    done = sum(stream.done >= stream.sessions for stream in progress.streams)
    waiting = sum(bool(stream.waiting) for stream in progress.streams)
    return f"{len(progress.streams)}, of which {done} are done and {waiting} wait" if progress.streams else ""


def history_is_long() -> bool:
    """Whether it is time for the next segment."""
    return workflow.info().is_continue_as_new_suggested()
