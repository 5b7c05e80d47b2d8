"""The state of an `AutoAnalyze` run: its position, its counters, and the progress that it shows."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from parley import visibility
    from parley.domain.auto_analyze.batching import discovery_width
    from parley.domain.auto_analyze.contract import (
        AutoAnalyzeInput,
        AutoAnalyzeProgress,
        Held,
        LabelKind,
        Phase,
        Plan,
        PlannedBatches,
        ReassignmentPlan,
        RunControls,
        RunProgress,
        RunSnapshot,
        Statistics,
        StreamProgress,
    )
    from parley.domain.auto_analyze.processing import OpenSubmission, Purpose, Submissions
    from parley.domain.auto_analyze.steps import (
        AppliedConflicts,
        AppliedReassignment,
        BatchReport,
        ReassignOutcome,
        StepUsage,
        StreamWaiting,
    )
    from parley.domain.auto_analyze.submissions import SettledSubmission, Submitted
    from parley.domain.errors import BadRequest
    from workflows.operating import waiting_note

# A content filter refuses some sessions. So many refusals in a row mean that the request itself is wrong.
MAX_REFUSED_IN_A_ROW = 20
# The last warnings are stored, each cut to a length, so that they do not swell the history.
MAX_WARNINGS, WARNING_CHARACTERS = 3, 140
WAITING_SHOWN = 3
FOUND_AGAIN = "some may be found again by other names"
NO_PLAN = Plan(candidates=(), discovery=0, sessions=0)


class Conflicts(NamedTuple):
    """Counters of the comparison of labels; see `Statistics`."""

    found: int = 0
    kept_apart: int = 0
    unmerged_chunks: int = 0

    def plus(self, other: "Conflicts") -> "Conflicts":
        return Conflicts(*(one + more for one, more in zip(self, other, strict=True)))


@dataclass
class RunState:
    """What a run knows of itself. The fields of `RunSnapshot` pass from segment to segment; the others do not.

    `last_warnings` holds the newest texts, `warnings` counts all. `busy_seconds` is the time that streams spent on
    batches, `capacity_seconds` the time that they had. `discovery_steps` counts the rounds of the discovery, and
    `discovered` its sessions, once it has ended. `next_ordinal` is the next session of the discovery.
    `comparing` counts the conflicts of kinds that are not compared to their end: these are compared again.
    """

    started_at: datetime = field(default_factory=workflow.now)
    plan: Plan = NO_PLAN
    parallel_streams: int = 1
    debug: bool = False

    discovery_steps: int = 0
    next_ordinal: int = 0
    discovered: int = 0
    planned: PlannedBatches | None = None
    sequential: bool = False
    labelled_by_streams: int = 0
    kinds_resolved: tuple[LabelKind, ...] = ()
    refused_in_a_row: int = 0
    paused: bool = False
    finishing: bool = False
    budget_usd: Decimal = Decimal(0)

    rounds: int = 0
    busy_seconds: float = 0.0
    capacity_seconds: float = 0.0
    retries: int = 0
    stream_failures: int = 0
    failures_in_a_row: int = 0
    degraded: bool = False
    probed: bool = False
    invented: int = 0
    outside: int = 0
    refused: int = 0
    new_labels: int = 0
    labels_left_out: int = 0
    conflicts_found: int = 0
    kept_apart: int = 0
    unmerged_chunks: int = 0
    comparing: dict[LabelKind, Conflicts] = field(default_factory=dict)
    reviewed: bool | None = None
    reassignment: ReassignmentPlan | None = None
    next_reassignment: int = 0
    submissions: Submissions = field(default_factory=Submissions)
    looked_at: int = 0
    reassigned: int = 0
    canonical_labels: dict[LabelKind, int] = field(default_factory=dict[LabelKind, int])
    canonical_mappings: dict[LabelKind, int] = field(default_factory=dict[LabelKind, int])
    tokens: int = 0
    cached_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    warnings: int = 0
    last_warnings: tuple[str, ...] = ()

    phase: Phase = Phase.PREPARE
    phase_started_at: datetime = field(default_factory=workflow.now)
    phase_first_done: int = 0
    rate: float = 0.0
    seconds_left: float | None = None
    note: str = ""
    over_budget: str = ""
    in_review: bool = False
    streams: dict[int, StreamProgress] = field(default_factory=dict[int, StreamProgress])

    # Start, and continue as new.

    def begin(self, given: AutoAnalyzeInput, plan: Plan) -> None:
        """Start with the first segment."""
        self.parallel_streams, self.debug = given.streams, given.debug
        self.plan, self.started_at, self.budget_usd = plan, workflow.now(), given.budget_usd
        for warning in plan.warnings:
            self.add_warning(warning)

    def restore(self, given: AutoAnalyzeInput, snapshot: RunSnapshot) -> None:
        """Go on where the previous segment ended."""
        self.debug = given.debug
        for name in RunSnapshot.model_fields:
            setattr(self, name, getattr(snapshot, name))

    def snapshot(self) -> RunSnapshot:
        """What the next segment has to know."""
        return RunSnapshot.model_validate({name: getattr(self, name) for name in RunSnapshot.model_fields})

    @property
    def has_begun(self) -> bool:
        return self.plan is not NO_PLAN

    @property
    def is_held(self) -> bool:
        """Whether no further session is labelled now."""
        return self.paused or self.finishing

    @property
    def has_finished_labelling(self) -> bool:
        """Whether the run is to finish, and no batch has a reply that is paid for and not taken."""
        return self.finishing and not self.submissions.open

    @property
    def controls(self) -> RunControls:
        return RunControls(
            held=self._held, finishing=self.finishing, budget_usd=self.budget_usd, streams=self.parallel_streams
        )

    @property
    def is_planned(self) -> bool:
        """Whether the batches of the streams are cut, for the number of streams that an operator wants."""
        return self.planned is not None and self.planned.streams == self.parallel_streams

    @property
    def has_streams(self) -> bool:
        """Whether streams label sessions, or will."""
        return self.phase in (Phase.PREPARE, Phase.DISCOVERY, Phase.PARALLEL) and not self.finishing

    @property
    def awaits_review(self) -> bool:
        """Whether the merges are neither approved nor applied."""
        return self.in_review and not self.reviewed

    @property
    def _held(self) -> Held:
        return "paused" if self.paused else "budget" if self.over_budget else "review" if self.awaits_review else ""

    @property
    def is_labelled(self) -> bool:
        """Whether the segments before have labelled all sessions that are to be labelled."""
        return self.phase in (Phase.PROBES, Phase.CONFLICTS, Phase.REASSIGNMENT)

    def reassigns(self, given: AutoAnalyzeInput) -> bool:
        """Whether sessions in doubt are looked at again. What a look has found already is applied in any case."""
        if given.has_closed_intents:  # every request had all labels to choose from
            return False
        return given.reassign and (not self.finishing or self.reassignment is not None)

    @property
    def discovery_pending(self) -> bool:
        return self.next_ordinal < self.plan.discovery and not self.discovered

    @property
    def sessions_done(self) -> int:
        return self.next_ordinal + self.labelled_by_streams

    # Phases, and what is labelled in them.

    def start_phase(self, phase: Phase) -> None:
        visibility.record(visibility.PHASE, phase.value)
        self.phase, self.phase_started_at, self.phase_first_done = phase, workflow.now(), self.sessions_done
        self.streams, self.note = {}, ""
        self._update()

    def complete_discovery_round(self, reports: Sequence[BatchReport], next_ordinal: int) -> None:
        """Count the reports of a round of the discovery.

        Raises:
            ApplicationError: `MAX_REFUSED_IN_A_ROW` sessions in a row were refused; its type is `BadRequest`.
        """
        self.next_ordinal, self.note = next_ordinal, ""
        self.discovery_steps += 1
        self.add_reports(reports)
        if self.debug:
            workflow.logger.info("discovery: %s sessions done, %s labels", next_ordinal, self.new_labels)
        self.refused_in_a_row = refused_in_a_row(self.refused_in_a_row, reports)

    def complete_discovery(self) -> None:
        """The sample is labelled, or enough of it. What is left of it is labelled by the streams."""
        self.discovered = self.next_ordinal

    def show_streams(self, progress: RunProgress) -> None:
        """What the streams have done, by the database."""
        if self.debug and progress.rounds > self.rounds:
            workflow.logger.info(
                "round %s: %s sessions done, %s labels",
                progress.rounds, self.next_ordinal + progress.labelled, progress.new_labels,
            )  # fmt: skip
        self.add_left_out(progress.left_out)
        self.labelled_by_streams, self.rounds = progress.labelled, progress.rounds
        self.new_labels, self.tokens, self.cost_usd = progress.new_labels, progress.tokens, progress.cost_usd
        self.cached_tokens = progress.cached_tokens
        most = self.planned.streams if self.planned else self.parallel_streams
        self.streams = {row[0]: self._stream(*row) for row in progress.streams if row[0] <= most}
        self._update()

    def _stream(self, number: int, round_number: int, sessions: int, done: int) -> StreamProgress:
        """A stream as it is now. What it waited for is over once it has labelled more."""
        before = self.streams.get(number)
        waiting = before.waiting if before and before.done == done else ""
        return StreamProgress(stream=number, round=round_number, sessions=sessions, done=done, waiting=waiting)

    def begin_submissions(self, purpose: Purpose) -> None:
        """What is asked for a purpose is asked in batches from its first step on, unless that has begun."""
        if self.submissions.purpose != purpose:
            self.submissions = self.submissions.model_copy(update={"purpose": purpose, "next_step": 0})

    def add_submission(self, number: int, submitted: Submitted) -> None:
        """Requests were sent to a batch API. If it refuses them, no further one is sent there."""
        done, lines = self.submissions, submitted.lines
        opened = () if submitted.refused or not lines else (OpenSubmission(number=number, sent_at=workflow.now()),)
        self.submissions = Submissions(
            number=number,
            purpose=done.purpose,
            next_step=None if submitted.refused else submitted.next_step,
            open=(*done.open, *opened),
            ended=done.ended.model_copy(update={"submitted": done.ended.submitted + lines}),
        )
        if submitted.refused:
            self.add_warning(f"no batch, each request costs the usual price: {submitted.refused}")
        self._update()

    def show_submission(self, number: int, processed: int) -> None:
        """The provider has done so many requests of an open submission."""
        done = self.submissions
        opened = [one.model_copy(update={"processed": processed}) if one.number == number else one for one in done.open]
        self.submissions = done.model_copy(update={"open": tuple(opened)})
        self._update()

    def cancel_submission(self, number: int) -> OpenSubmission:
        """The provider is asked to cancel an open submission, again or from now on. Returns the submission."""
        done = self.submissions
        opened = {one.number: one for one in done.open}
        before = opened[number]
        opened[number] = before.model_copy(update={"cancelled_at": before.cancelled_at or workflow.now()})
        self.submissions = done.model_copy(update={"open": tuple(opened.values())})
        return opened[number]

    def settle_submission(self, number: int, settled: SettledSubmission) -> None:
        """Count how the requests of a submission ended."""
        done, before = self.submissions, self.submissions.ended
        ended = before.model_copy(
            update={
                "answered": before.answered + settled.answered,
                "left_over": before.left_over + settled.left_over,
                "odd_lines": before.odd_lines + settled.odd_lines,
                "saved_usd": before.saved_usd + settled.saved_usd,
            }
        )
        opened = tuple(one for one in done.open if one.number != number)
        self.submissions = done.model_copy(update={"open": opened, "ended": ended})
        self.invented += settled.invented
        if settled.second_look is not None:
            self.add_reassignment(settled.second_look)
        self.add_left_out(settled.labels_left_out)
        if settled.problem and not settled.answered:
            # The next one would end the same way.
            self.submissions = self.submissions.model_copy(update={"next_step": None})
        if settled.left_over and not self.finishing:
            why = f": {settled.problem}" if settled.problem else ""
            self.add_warning(f"{settled.left_over} requests of a batch are asked one by one{why}")
        self._update()

    def complete_copies(self, copied: int) -> None:
        """So many copies have their labels."""
        self.labelled_by_streams += copied
        self._update()

    def add_capacity(self, seconds: float, streams: int) -> None:
        self.capacity_seconds += seconds * streams

    def end_early(self) -> None:
        """Nothing more will be labelled."""
        self.seconds_left = None
        self._show()

    def set_ended(self, statistics: Statistics) -> None:
        """Show what the database has counted."""
        self.cost_usd, self.tokens = statistics.cost_usd, sum(statistics.tokens_by_phase.values())
        self.cached_tokens = statistics.cached_tokens
        self._show()

    def start_kind(self, kind: LabelKind) -> None:
        """The labels of a kind are compared from the beginning."""
        self.comparing[kind] = Conflicts()

    def complete_kind(self, kind: LabelKind) -> None:
        """The labels of one more kind are compared."""
        self.kinds_resolved = (*self.kinds_resolved, kind)
        counted = self._conflicts_with(self.comparing.pop(kind))
        self.conflicts_found, self.kept_apart, self.unmerged_chunks = counted

    def _conflicts_with(self, *comparing: Conflicts) -> Conflicts:
        """What is counted of the kinds that are compared, and of these."""
        counted = Conflicts(self.conflicts_found, self.kept_apart, self.unmerged_chunks)
        for one in comparing:
            counted = counted.plus(one)
        return counted

    # What an operator changes, at any time.

    def pause(self) -> None:
        self.paused = True
        self._show()

    def resume(self, budget_usd: Decimal | None) -> None:
        """Go on. `budget_usd`: the new budget; None: as before."""
        self.paused = False
        self.budget_usd = budget_usd or self.budget_usd
        self.try_again()

    def set_streams(self, streams: int) -> None:
        """Label what is left with so many streams."""
        self.parallel_streams = streams
        self._update()

    def set_planned(self, planned: PlannedBatches) -> None:
        """The batches of the streams are cut."""
        self.planned = planned
        self.plan = self.plan.model_copy(update={"warnings": planned.warnings})

    def finish_now(self) -> None:
        """Label no further session."""
        self.finishing, self.paused, self.over_budget = True, False, ""
        self._show()

    def begin_review(self, merges: int, until: datetime) -> None:
        """The merges wait for a person."""
        self.in_review = True
        self.note = f"{merges} merges wait for a review until {until:%Y-%m-%d %H:%M} UTC"
        self._show()

    def approve(self) -> None:
        """A person has approved the labels."""
        self.reviewed, self.note = True, ""
        self._show()

    def end_review(self) -> None:
        """The labels are applied now."""
        self.in_review, self.reviewed, self.note = False, bool(self.reviewed), ""
        if not self.reviewed:
            self.add_warning("the merges are applied without a review")
        self._show()

    def park(self, problem: str) -> None:
        """The budget of the run or a cap of the workspace is used up: nothing goes on."""
        self.over_budget = problem
        self._show()

    def try_again(self) -> None:
        """Make requests again, by all streams: there may be room in the budget and the caps."""
        self.over_budget, self.sequential = "", self.degraded
        self._update()

    # Counters.

    def add_usage(self, usage: StepUsage) -> None:
        self.tokens += usage.tokens
        self.cost_usd += usage.cost_usd
        self._update()

    def add_retry(self) -> None:
        self.retries += 1

    def add_conflicts(self, kind: LabelKind, counted: Conflicts) -> None:
        """Count conflicts of a kind whose labels are being compared."""
        self.comparing[kind] = self.comparing[kind].plus(counted)

    def warn_of_unmerged(self, kind: LabelKind, problem: str) -> None:
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

    def add_stream_failure(self, problem: str, *, has_labelled: bool, tolerated: int) -> None:
        """Count a stream that failed. After `tolerated` failures in a row the rest is labelled sequentially.

        `has_labelled`: whether the stream had labelled sessions before: then it is the first failure of a row.
        """
        self.stream_failures += 1
        self.failures_in_a_row = 1 if has_labelled else self.failures_in_a_row + 1
        self.degraded = self.degraded or self.failures_in_a_row >= tolerated
        self.sequential = self.sequential or self.degraded
        self.add_warning(f"a stream failed: {problem}" + ("; going on in sequence" if self.degraded else ""))

    def add_left_out(self, count: int) -> None:
        """Count known labels that a request has no room for. The first time is a warning; the number grows."""
        if count > self.labels_left_out:
            is_first, self.labels_left_out = self.labels_left_out == 0, count
            if is_first:
                self.add_warning(f"a request has no room for all known labels: {FOUND_AGAIN}")

    def add_warning(self, warning: str) -> None:
        self.last_warnings = (*self.last_warnings, warning[:WARNING_CHARACTERS])[-MAX_WARNINGS:]
        self.warnings += 1
        self._update()

    # Signals come at any time, so these change only what is shown.

    def record_waiting(self, notice: StreamWaiting) -> None:
        before = self.streams.get(notice.stream, StreamProgress(stream=notice.stream, sessions=0))
        self.streams[notice.stream] = before.model_copy(update={"waiting": notice.waiting})
        self._show()

    def wait_for_provider(self, problems: str, pause: timedelta) -> None:
        """The run itself waits for a provider."""
        self.note = waiting_note(problems, pause)
        self._update()

    # What is reported and shown.

    def statistics(self) -> Statistics:
        """The counters of the run. Counts of sessions and labels come from the database as the run ends."""
        utilisation = self.busy_seconds / self.capacity_seconds if self.capacity_seconds else 0.0
        conflicts = self._conflicts_with(*self.comparing.values())
        return Statistics(
            discovery_sessions=self.next_ordinal,
            copies=self.plan.copies,
            labels_left_out=self.labels_left_out,
            refused=self.refused,
            rounds=self.rounds,
            sync_points=self.rounds,
            stream_utilisation=round(min(utilisation, 1.0), 3),
            retries=self.retries,
            stream_failures=self.stream_failures,
            degraded=self.degraded,
            invented=self.invented,
            outside=self.outside,
            already_labelled=self.plan.already_labelled,
            canonical_labels=self.canonical_labels,
            canonical_mappings=self.canonical_mappings,
            conflicts_found=conflicts.found,
            conflicts_resolved=sum(self.canonical_mappings.values()),
            kept_apart=conflicts.kept_apart,
            unmerged_chunks=conflicts.unmerged_chunks,
            looked_at=self.looked_at,
            reassigned=self.reassigned,
            reviewed=self.reviewed,
            batch=self.submissions.figures,
            warnings=self.last_warnings,
        )

    def progress(self) -> AutoAnalyzeProgress:
        return AutoAnalyzeProgress(
            phase=self.phase,
            discovery_total=self.discovered or self.plan.discovery,
            sessions_total=self.plan.sessions,
            sessions_done=self.sessions_done,
            rounds=self.rounds,
            parallel_streams=self.parallel_streams,
            streams=tuple(self.streams.values()),
            new_labels=self.new_labels,
            tokens=self.tokens,
            cached_tokens=self.cached_tokens,
            cost_usd=self.cost_usd,
            rate=self.rate,
            seconds_left=self.seconds_left,
            batch=self.submissions.figures,
            degraded=self.degraded,
            warnings=self.warnings,
            held=self._held,
            note=self._held_note() or self.note or self._lasting_note(),
        )

    def add_reports(self, reports: Sequence[BatchReport]) -> None:
        """Count what streams have done and used."""
        for report in reports:
            self.busy_seconds += report.seconds if self.phase is Phase.PARALLEL else 0.0
            self.retries += report.retries
            self.invented += report.invented
            self.outside += report.outside
            self.refused += report.refused
            self.new_labels += report.new_labels
            self.add_left_out(report.left_out)
            self.add_usage(report)
            if report.refused:
                sessions = "1 session" if report.refused == 1 else f"{report.refused} sessions"
                self.add_warning(f"{sessions} by fallback, refused by every provider: {report.refusal}")

    def _held_note(self) -> str:
        if self.paused:
            return "paused"
        return f"{self.over_budget}: raise that limit, or finish now" if self.over_budget else ""

    def _lasting_note(self) -> str:
        """What makes the labelling slower or worse than it could be, while sessions are labelled."""
        slow = self.plan.warnings if self.phase is Phase.PARALLEL else ()
        if self.planned is not None and not self.is_planned and self.phase is Phase.PARALLEL:
            slow = (f"the streams end their batches, and {self.parallel_streams} go on", *slow)
        if self.labels_left_out and self.phase in (Phase.DISCOVERY, Phase.PARALLEL):
            slow = (*slow, f"a request has no room for {self.labels_left_out} known labels: {FOUND_AGAIN}")
        return "; ".join(slow)

    def _update(self) -> None:
        """Compute the pace again, and show the progress."""
        elapsed = (workflow.now() - self.started_at).total_seconds()
        self.rate = round(self.sessions_done / elapsed, 3) if elapsed else 0.0
        self.seconds_left = self._estimated_seconds_left()
        self._show()

    def _estimated_seconds_left(self) -> float | None:
        """The time that labelling still takes: a phase at its own pace, and the streams at that of the discovery.

        How long a provider takes for a batch is not known.
        """
        if self.submissions.open:
            return None
        if self.phase not in (Phase.DISCOVERY, Phase.PARALLEL):
            return None
        labelled = self.sessions_done - self.phase_first_done
        if not labelled:
            return self.seconds_left
        pace = (workflow.now() - self.phase_started_at).total_seconds() / labelled
        in_discovery = self.plan.discovery - self.next_ordinal if self.discovery_pending else 0
        rest = self.plan.requested - self.sessions_done - in_discovery
        faster = self.parallel_streams / self._discovery_at_once() if self.phase is Phase.DISCOVERY else 1
        return round(pace * (in_discovery + max(rest, 0) / faster), 1)

    def _discovery_at_once(self) -> float:
        """How many requests the rounds of the discovery had at once, on average."""
        steps = max(self.discovery_steps, 1)
        return sum(map(discovery_width, range(steps))) / steps

    def _show(self) -> None:
        workflow.set_current_details(as_table(self.progress()))


def refused_in_a_row(before: int, reports: Sequence[BatchReport]) -> int:
    """The sessions that were refused since one was labelled by a reply.

    Raises:
        ApplicationError: there are `MAX_REFUSED_IN_A_ROW`; its type is `BadRequest`.
    """
    refused = sum(report.refused for report in reports)
    if sum(report.labelled for report in reports) > refused:
        return 0
    if before + refused >= MAX_REFUSED_IN_A_ROW:
        last = next((report.refusal for report in reversed(reports) if report.refusal), "")
        raise ApplicationError(f"every session is refused: {last}", type=BadRequest.__name__)
    return before + refused


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
        **_batches(progress),
        "warnings": progress.warnings,
        "tokens": f"{progress.tokens:,}" + (f", {progress.cached_tokens:,} cached" if progress.cached_tokens else ""),
        "cost": f"${progress.cost_usd}",
        "left": "" if left is None else f"about {timedelta(seconds=round(left))}",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    waiting = [f"stream {stream.stream}: {stream.waiting}" for stream in progress.streams if stream.waiting]
    notes = [note for note in (progress.note, *waiting[:WAITING_SHOWN]) if note]
    return f"| | |\n|---|---|\n{table}" + "".join(f"\n\n{visibility.plain(note)}" for note in notes)


def _batches(progress: AutoAnalyzeProgress) -> dict[str, str]:
    """A row on the requests in batches, if there are any."""
    figures = progress.batch
    if figures is None:
        return {}
    done = figures.answered + figures.left_over + figures.processed
    return {"in batches": f"{done:,} of {figures.submitted:,} requests, ${figures.saved_usd} saved"}


def _streams(progress: AutoAnalyzeProgress) -> str:
    """A summary of the streams, of the same length for any number of them."""
    if progress.degraded:
        return "degraded to sequential"
    done = sum(stream.done >= stream.sessions > 0 for stream in progress.streams)
    waiting = sum(bool(stream.waiting) for stream in progress.streams)
    return f"{len(progress.streams)}, of which {done} are done and {waiting} wait" if progress.streams else ""
