"""What a run knows of itself: where it stands, what it has counted, and what it shows."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from parley import visibility
    from parley.domain.auto_analyze.asking import MOST_REFUSED_IN_A_ROW
    from parley.domain.auto_analyze.contract import (
        AutoAnalyzeInput,
        AutoAnalyzeProgress,
        Batch,
        BatchReport,
        Carried,
        Ending,
        Phase,
        Plan,
        Statistics,
        StreamParked,
        StreamProgress,
        UsedByStep,
    )
    from parley.domain.errors import BadRequest
    from workflows.auto_analyze.details import as_table

# What is kept of warnings, so that they do not swell the history.
WARNINGS, WARNING_CHARACTERS = 3, 140


class Books:
    """The books of one run: `state` goes from segment to segment, `reports` are of the current round."""

    def __init__(self) -> None:
        self.progress = AutoAnalyzeProgress(phase=Phase.PREPARE)
        nothing = Plan(candidates=(), discovery=0, sessions=0)
        self.state = Carried(plan=nothing, started_at=workflow.now(), progress=self.progress)
        self.reports: dict[int, BatchReport] = {}
        self._stopped: dict[int, BatchReport] = {}
        self._phase_since, self._phase_from = workflow.now(), 0

    def open(self, asked: AutoAnalyzeInput, state: Carried) -> None:
        """Go on from there."""
        self._asked, self.state, self.progress = asked, state, state.progress

    def carried(self) -> AutoAnalyzeInput:
        """The input of the next segment."""
        progress = self.progress.model_copy(update={"streams": ()})
        return self._asked.model_copy(update={"carried": self.state.model_copy(update={"progress": progress})})

    @property
    def statistics(self) -> Statistics:
        return self.state.statistics

    @property
    def undiscovered(self) -> bool:
        return self.state.next_ordinal < self.state.plan.discovery

    @property
    def unlabelled(self) -> bool:
        return self.state.next_ordinal < self.state.plan.sessions

    # What the job tells of its way.

    def enter(self, phase: Phase) -> None:
        visibility.record(visibility.PHASE, phase.value)
        self._phase_since, self._phase_from = workflow.now(), self.state.next_ordinal
        self._update(phase=phase, streams=())

    def round_opened(self, batches: Mapping[int, Batch]) -> None:
        """Streams take their batches."""
        shown = [StreamProgress(stream=number, sessions=batch.count) for number, batch in batches.items()]
        self._update(streams=tuple(shown))

    def advance(self, reports: Sequence[BatchReport], next_ordinal: int, *, at_barrier: bool = False) -> None:
        """A round is over: count what is reported of it, and move on.

        Raises:
            ApplicationError: nobody takes any session; it is typed after `BadRequest`.
        """
        self.reports.clear()
        state, statistics = self.state, self.statistics
        slowest = max((report.seconds for report in reports), default=0.0)
        busy = state.busy_seconds + at_barrier * sum(report.seconds for report in reports)
        capacity = state.capacity_seconds + at_barrier * slowest * self._asked.streams
        self.keep(
            next_ordinal=next_ordinal,
            next_round=state.next_round + 1,
            busy_seconds=busy,
            capacity_seconds=capacity,
        )
        self.count(
            discovery_sessions=min(next_ordinal, state.plan.discovery),
            rounds=statistics.rounds + at_barrier,
            sync_points=statistics.sync_points + at_barrier,
            stream_utilisation=round(busy / capacity, 3) if capacity else 0.0,
        )
        self._tally(reports)
        self._update(note="")
        if self._asked.debug:
            workflow.logger.info(
                "round %s: %s sessions done, %s labels, slowest %.1f s",
                state.next_round, next_ordinal, self.progress.new_labels, slowest,
            )  # fmt: skip
        self._end_if_nobody_takes_any(reports)

    def break_off(self, own: BatchReport | None) -> None:
        """The round is cut short: count what was done of it, by the report of each stream that tells most.

        `own`: what the run itself, rather than a stream, was at.
        """
        told = [*self.reports.values(), *self._stopped.values(), *([own] if own else [])]
        current = [report for report in told if report.round == self.state.next_round]
        by_stream = {report.stream: report for report in sorted(current, key=lambda report: report.tokens)}
        self._tally([*by_stream.values()])
        self._show(seconds_left=None)

    def spent(self, outcome: UsedByStep) -> None:
        phase = self.progress.phase
        by_phase = self.statistics.tokens_by_phase
        self.count(tokens_by_phase={**by_phase, phase: by_phase.get(phase, 0) + outcome.tokens})
        self._update(tokens=self.progress.tokens + outcome.tokens, cost_usd=self.progress.cost_usd + outcome.cost_usd)

    def warn(self, warning: str) -> None:
        self.count(warnings=(*self.statistics.warnings, warning[:WARNING_CHARACTERS])[-WARNINGS:])
        self._update(warnings=self.progress.warnings + 1, degraded=self.statistics.degraded)

    def parked(self, tried: str, pause: timedelta) -> None:
        self._update(note=f"waiting {pause.total_seconds():.0f} s for a provider to come back: {tried}")

    def count(self, **changes: Any) -> None:
        self.keep(statistics=self.statistics.model_copy(update=changes))

    def keep(self, **changes: Any) -> None:
        self.state = self.state.model_copy(update=changes)

    # What streams tell. It may come at any time: it touches nothing but what is reported and shown.

    def reported(self, report: BatchReport) -> None:
        if report.ending is Ending.STOPPED:
            self._stopped[report.stream] = report
            return
        self.reports[report.stream] = report
        self._show_stream(report.stream, done=report.labelled, waiting="")

    def stream_parked(self, told: StreamParked) -> None:
        self._show_stream(told.stream, waiting=told.waiting)

    def _show_stream(self, number: int, **changes: Any) -> None:
        shown = tuple(
            stream.model_copy(update=changes) if stream.stream == number else stream for stream in self.progress.streams
        )
        self._show(streams=shown)

    def _tally(self, reports: Sequence[BatchReport]) -> None:
        """Count what streams have done and used."""
        for report in reports:
            statistics = self.statistics
            self.count(
                retries=statistics.retries + report.retries,
                invented=statistics.invented + report.invented,
                refused=statistics.refused + report.refused,
            )
            self.spent(report)
            self._update(new_labels=self.progress.new_labels + report.new_labels)
            if report.refused:
                sessions = "1 session" if report.refused == 1 else f"{report.refused} sessions"
                self.warn(f"{sessions} by fallback, refused by every provider: {report.refusal}")

    def _end_if_nobody_takes_any(self, reports: Sequence[BatchReport]) -> None:
        """A content filter refuses some sessions. Where all are refused, in a row, it is the request: a wrong model."""
        refused = sum(report.refused for report in reports)
        others = sum(report.labelled for report in reports) > refused
        self.keep(refused_in_a_row=0 if others else self.state.refused_in_a_row + refused)
        if self.state.refused_in_a_row >= MOST_REFUSED_IN_A_ROW:
            last = self.statistics.warnings[-1]
            raise ApplicationError(f"every session is refused: {last}", type=BadRequest.__name__)

    def _update(self, **changes: Any) -> None:
        state = self.state
        elapsed = (workflow.now() - state.started_at).total_seconds()
        derived = {
            "sessions_done": state.next_ordinal,
            "sessions_total": state.plan.sessions,
            "rounds": state.statistics.rounds,
            "rate": round(state.next_ordinal / elapsed, 3) if elapsed else 0.0,
            "seconds_left": self._seconds_left(changes.get("phase", self.progress.phase)),
        }
        self._show(**{**derived, **changes})

    def _seconds_left(self, phase: Phase) -> float | None:
        """What labelling still takes at the pace of the phase; discovery goes one by one, the rest in streams."""
        if phase not in (Phase.DISCOVERY, Phase.PARALLEL):
            return None
        done, plan = self.state.next_ordinal, self.state.plan
        labelled = done - self._phase_from
        if not labelled:
            return self.progress.seconds_left
        pace = (workflow.now() - self._phase_since).total_seconds() / labelled
        one_by_one = max(plan.discovery - done, 0)
        rest = plan.sessions - done - one_by_one
        return round(pace * (one_by_one + rest / (self._asked.streams if phase is Phase.DISCOVERY else 1)), 1)

    def _show(self, **changes: Any) -> None:
        self.progress = self.progress.model_copy(update=changes)
        workflow.set_current_details(as_table(self.progress))


def history_is_long() -> bool:
    """Whether it is time for the next segment."""
    return workflow.info().is_continue_as_new_suggested()
