"""How results, progress and costs look in a terminal."""

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from rich import box
from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from parley.cli.coaching import coaching, progress
from parley.cli.console import MICRO_DIGITS
from parley.cli.table import Column, Table
from parley.client.auto_analyze import AutoAnalyzeReport
from parley.client.jobs import JobHandle
from parley.client.listing import JobSummary
from parley.client.session_analysis import AnalysisHandle, AnalysisReport
from parley.domain.auto_analyze.consistency import AGREEMENT_AIM, CATCH_ALL_SHARE, Consistency
from parley.domain.auto_analyze.contract import (
    AutoAnalyzeProgress,
    LabelKind,
    Phase,
    RunControls,
    Statistics,
    StreamProgress,
)
from parley.domain.auto_analyze.estimate import RunEstimate
from parley.domain.auto_analyze.processing import BatchFigures
from parley.domain.conversation.contract import ConversationCost, TurnReport
from parley.domain.costs import Correction, Costs, Disagreement
from parley.domain.errors import Unreachable
from parley.domain.generate.contract import Meta
from parley.domain.habits import Habits
from parley.domain.money import MICRO_DOLLAR
from parley.domain.requests import Provider
from parley.domain.session_analysis import Analysis
from parley.domain.session_analysis import Progress as JobProgress
from parley.domain.text import one_line
from parley.domain.turn_taking import Interruptions
from parley.domain.voice_metrics import as_measured

POLL_SECONDS = 0.3
NAME_WIDTH = 10
SAID_CHARACTERS = 60
MOST_LABELS = 15  # of a kind
BAR_WIDTH = 24
SIMULATED = "the simulator answered in place of the vendor: it is for tests, not a model"


def usd(amount: Decimal) -> str:
    """An amount in USD as it is shown: with six places at most, or all of them where it would be rounded to 0."""
    rounded = amount.quantize(MICRO_DOLLAR)
    if not rounded:
        return f"{amount.normalize():f}"
    return f"{rounded if -int(amount.as_tuple().exponent) > MICRO_DIGITS else amount:f}"


def report(found: AnalysisReport | AutoAnalyzeReport) -> RenderableType:
    """A job's report: its result, the models that answered, the costs."""
    if isinstance(found, AutoAnalyzeReport):
        return labelling_report(found)
    if found.analysis is None:
        return Group(Panel(f"{escape(found.id)} is {_ended(found)}; nothing to show yet."), costs(found.costs))
    analysis = found.analysis
    coached = (coaching(analysis.coaching), *progress(analysis.trends))
    return Group(_header(found, analysis), *coached, _voice(analysis), costs(found.costs))


def _ended(found: AnalysisReport | AutoAnalyzeReport) -> str:
    """The status, and why the job ended without a result."""
    return f"{found.status}: {escape(found.reason)}" if found.reason else found.status


def jobs(found: list[JobSummary]) -> RenderableType:
    """Jobs with what each has cost, and why one failed."""
    if not found:
        return "no jobs"
    table = Table(box=box.SIMPLE)
    table.add_column("started (UTC)", no_wrap=True)
    table.add_column("job, and its key", overflow="fold")
    table.add_column("status, and why", overflow="fold")
    table.add_column("$", justify="right", no_wrap=True)
    for job in found:
        uncertain = f"\n≤ {usd(job.uncertain_usd)} of it uncertain" if job.uncertain_usd else ""
        what = f"{job.kind} of {escape(job.subject)} for {escape(job.user_id)}"
        table.add_row(
            f"{job.created_at:%Y-%m-%d %H:%M}",
            f"{escape(job.id)}\n[dim]{job.job_key}\n{what}[/dim]",
            f"{job.status}\n{escape(job.reason)}".rstrip(),
            f"{usd(job.cost_usd)}{uncertain}",
        )
    return table


def _header(found: AnalysisReport, analysis: Analysis) -> RenderableType:
    lines = [
        f"[bold]{escape(analysis.session_id)}[/bold] of {escape(analysis.user_id)}, {found.status}",
        f"strategy [bold]{analysis.strategy.value}[/bold]: {escape(analysis.strategy_reason)}",
    ]
    for source in analysis.provenance:
        place = " on this machine" if source.provider == Provider.WHISPER.value else ""
        by = f"[bold]{escape(source.answered_by)}[/bold]{place}"
        lines.append(f"{source.step.value} by {by} ({escape(source.reason)})")
    if any(source.simulated for source in analysis.provenance):
        lines.append(f"[yellow]{SIMULATED}[/yellow]")
    if analysis.coaching.fallback:
        lines.append("[yellow]rule-based result: no model assessed this session[/yellow]")
    if analysis.pending:
        later = " and ".join(step.value for step in analysis.pending)
        lines.append(f"[yellow]provisional: {later} will amend it; `parley progress ID --follow` follows it[/yellow]")
    lines += [f"[yellow]{escape(warning)}[/yellow]" for warning in analysis.warnings]
    return Panel("\n".join(lines), title="Session analysis", title_align="left")


def _voice(analysis: Analysis) -> RenderableType:
    voice, counted = analysis.voice_metrics, analysis.habits
    table = Table(box=box.SIMPLE)
    table.add_column(f"voice, measured on {'the recording' if voice.source == 'recording' else 'the transcript'}")
    table.add_column("score", justify="right")
    table.add_column("measure")
    for name, score, measure in as_measured(voice):
        table.add_row(name, "-" if score is None else str(score), escape(measure))
    fillers = counted.filler_words
    common = ", ".join(f"{word} {count}" for word, count in list(fillers.by_word.items())[:4])
    said = f"{fillers.count}, {fillers.per_minute} a minute: {common}" if common else "none"
    table.add_row("filler words", "-", escape(counted.not_measured.get("filler_words", said)))
    asked = "questions not counted" if counted.questions is None else f"{counted.questions} questions asked"
    share = "not measured" if counted.talk_time_ratio is None else f"{counted.talk_time_ratio:.0%}"
    longest = f"the longest monologue {counted.longest_monologue_seconds:.0f} s"
    table.add_row("talk time", "-", f"{share}, {asked}, {longest}")
    turns = _turns(counted, counted.interruptions) if counted.interruptions else ""
    table.add_row("turns", "-", turns or f"not measured: {counted.not_measured.get('interruptions', '-')}")
    return table


def _turns(counted: Habits, overlaps: Interruptions) -> str:
    latency = counted.response_latency_seconds
    answers = "never answers" if latency is None else f"answers after {latency:.1f} s"
    return f"{answers}, interrupts {overlaps.by_user} times, is interrupted {overlaps.by_others} times"


def story(meta: Meta) -> str:
    """One line on the origin of an answer and its cost."""
    simulated = " (simulated)" if meta.simulated else ""
    how = f"saved ${usd(meta.saved_usd)}" if meta.cached else f"${usd(meta.cost_usd)}, {meta.usage.total_tokens} tokens"
    notes = ["condensed"] if meta.condensed else []
    notes += [f"without {', '.join(meta.dropped)}, which it does not accept"] if meta.dropped else []
    details = "; ".join((how, meta.reason, *notes, f"{meta.energy_left} energy left"))
    return f"{meta.provider} {meta.model}{simulated}: {details}"


def conversation(turns: Sequence[TurnReport], cost: ConversationCost) -> RenderableType:
    """The turns of a conversation, each with its cost, and what it has cost in all."""
    table = Table(box=box.SIMPLE)
    table.add_column("turn", justify="right")
    table.add_column("said", overflow="fold")
    table.add_column("$", justify="right", no_wrap=True)
    for turn in turns:
        table.add_row(str(turn.number), escape(one_line(turn.text, SAID_CHARACTERS)), usd(turn.cost_usd))
    spent = f"${usd(cost.total_usd)}: answers ${usd(cost.answers_usd)}, between turns ${usd(cost.upkeep_usd)}"
    return Group(table, spent)


def estimate(found: RunEstimate) -> RenderableType:
    """What a labelling run will probably take, by phase."""
    table = Table(box=box.SIMPLE, show_footer=True)
    columns: tuple[tuple[str, str], ...] = (
        ("requests", f"{sum(one.requests for one in found.phases):,}"),
        ("one after another", f"{sum(one.rounds for one in found.phases):,}"),
        ("tokens in", f"{sum(one.input_tokens for one in found.phases):,}"),
        ("tokens out", f"{sum(one.output_tokens for one in found.phases):,}"),
        ("estimated $", usd(found.estimated_usd)),
        ("minutes", _minutes(found.minutes)),
    )
    table.add_column("phase", "total")
    for name, footer in columns:
        table.add_column(name, footer, justify="right")
    for one in found.phases:
        table.add_row(
            one.phase.value,
            f"{one.requests:,}",
            f"{one.rounds:,}",
            f"{one.input_tokens:,}",
            f"{one.output_tokens:,}",
            usd(one.estimated_usd),
            _minutes(one.minutes),
        )
    copies = f", {found.copies:,} of them copies that are not sent" if found.copies else ""
    with_what = f"{counted(found.sessions, 'session')}{copies}, with {found.provider.value} {escape(found.model)}"
    return Group(with_what, table, *map(escape, found.warnings))


def controls(found: RunControls) -> str:
    """What a labelling run does after an operator has changed it."""
    if found.held:
        return {
            "paused": "the run is paused",
            "budget": f"its budget of ${found.budget_usd}, or a cap of the workspace, is used up",
            "review": "its merges wait for a review",
        }[found.held]
    if found.finishing:
        return "the run ends with the labels that it has"
    return f"it runs with {counted(found.streams, 'stream')}, within ${found.budget_usd}"


def _minutes(minutes: float | None) -> str:
    return "" if minutes is None else f"{minutes:.1f}"


def costs(spent: Costs) -> RenderableType:
    """A cost report. Confirmed is what providers counted; uncertain is the upper bound of lost attempts."""
    table = Table(box=box.SIMPLE, show_footer=True)
    columns: tuple[tuple[str, str, JustifyMethod], ...] = (
        ("spent on", "total", "left"),
        ("attempts", f"{sum(line.attempts for line in spent.lines):,}", "right"),
        ("tokens", f"{sum(line.tokens_total for line in spent.lines):,}", "right"),
        ("confirmed $", usd(spent.confirmed_usd), "right"),
        ("uncertain $", f"≤ {usd(spent.uncertain_usd)}", "right"),
        ("energy", f"{spent.energy_charged:,}", "right"),
    )
    for name, footer, justify in columns:
        table.add_column(name, footer, justify=justify, overflow="fold")
    for line in spent.lines:
        simulated = ", simulated" if line.simulated else ""
        what = f"{escape(line.action)}\n[dim]{line.provider} {escape(line.model)}{simulated}[/dim]"
        uncertain = f"≤ {usd(line.uncertain_usd)}"
        table.add_row(
            what,
            f"{line.attempts:,}",
            f"{line.tokens_total:,}",
            usd(line.confirmed_usd),
            uncertain,
            f"{line.energy_charged:,}",
        )
    if not spent.simulated:
        return table
    return Group(table, "[yellow]Simulated attempts have the vendor's prices; no money was spent on them.[/yellow]")


def disagreements(found: list[Disagreement], *, with_list: bool = False) -> RenderableType:
    if not found:
        return f"[green]The ledger agrees with itself{' and with the list' if with_list else ''}.[/green]"
    table = Table("check", "workspace", "row", "expected", "found", box=box.SIMPLE)
    for row in found:
        table.add_row(row.check, *(escape(text) for text in (row.workspace_id, row.subject, row.expected, row.found)))
    return table


def corrections(found: list[Correction], *, dry_run: bool) -> RenderableType:
    if not found:
        return "no uncertain cost is decided by this list"
    table = Table("attempt", "in the list", "uncertain until now", "confirmed", box=box.SIMPLE)
    for one in found:
        table.add_row(str(one.attempt_id), escape(one.source), f"${one.upper_bound_usd}", f"${one.cost_usd}")
    return Group(table, "nothing was changed") if dry_run else table


async def watched(console: Console, job: JobHandle[Any, Any], *, final: bool = False) -> Any:
    """Wait for a job's result, and draw its progress if `console` is a terminal.

    `final`: wait until it ends; else a provisional result is returned as well.

    Raises:
        JobFailed: it failed or was cancelled.
    """
    ended = asyncio.create_task(job.result(final=final) if isinstance(job, AnalysisHandle) else job.result())
    if console.is_terminal:
        with progress_bars(console) as bar:
            await _draw(bar, job, ended)
    return await ended


def progress_bars(console: Console) -> Progress:
    """An empty list of bars; in a narrow terminal the text gives way, not the bar."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", table_column=Column(width=NAME_WIDTH, no_wrap=True)),
        BarColumn(bar_width=BAR_WIDTH, table_column=Column(width=BAR_WIDTH, no_wrap=True)),
        _Elapsed(table_column=Column(no_wrap=True, min_width=7)),
        _Note(),
    )
    return Progress(*columns, console=console, transient=True)


async def _draw(bar: Progress, job: JobHandle[Any, Any], ended: asyncio.Task[Any]) -> None:
    """Draw one bar per part of the job."""
    tasks: dict[str, TaskID] = {}
    while not ended.done():
        await asyncio.wait({ended}, timeout=POLL_SECONDS)
        try:
            state = await job.progress()
        except Unreachable:  # a worker that restarts answers again soon
            continue
        shown = {part.name: part for part in parts(state)}
        for name in tasks.keys() - shown.keys():
            bar.remove_task(tasks.pop(name))
        for name, part in shown.items():
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=part.total, text=part.text, timed=part.timed)
            bar.update(tasks[name], completed=part.done, total=part.total, text=part.text)


class _Elapsed(TimeElapsedColumn):
    """The time that a part has taken, if it is a timed part."""

    def render(self, task: Task) -> Text:
        return super().render(task) if task.fields["timed"] else Text()


class _Note(ProgressColumn):
    """The text of a part, on one line."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["text"], no_wrap=True, overflow="ellipsis")


class Part(NamedTuple):
    """One bar: how far a part of a job is. Without a total it only moves. `timed`: it also shows its time."""

    name: str
    done: int
    total: int | None
    text: str = ""
    timed: bool = True


def parts(state: JobProgress | AutoAnalyzeProgress) -> list[Part]:
    """The bars of a job's progress: one for an analysis; for a labelling run one per phase, and the streams at work."""
    if isinstance(state, JobProgress):
        return [Part("analysis", len(state.done), state.total_steps, describe(state))]
    if state.phase is Phase.PREPARE:
        return [Part("prepare", 0, None, state.note)]
    discovered = min(state.sessions_done, state.discovery_total)
    far = f"{discovered:,} of {state.discovery_total:,}"
    if state.phase is Phase.DISCOVERY:
        return [Part("discovery", discovered, state.discovery_total, f"{far}, {_spent(state)}")]
    rest = state.sessions_total - state.discovery_total
    bars = [Part("discovery", discovered, state.discovery_total, far)]
    if rest > 0:
        text = f"{counted(state.rounds, 'round')}, {_spent(state)}"
        bars.append(Part("streams", state.sessions_done - discovered, rest, text))
    if state.phase is Phase.PARALLEL:
        return [*bars, *map(_stream, state.streams)]
    last = {Phase.CONFLICTS: "conflicts", Phase.REASSIGNMENT: "second look"}.get(state.phase)
    return [*bars, Part(last, 0, None)] if last else bars


def _stream(stream: StreamProgress) -> Part:
    text = stream.waiting or f"{stream.done} of {counted(stream.sessions, 'session')}"
    return Part(f"stream {stream.stream}", stream.done, stream.sessions, text, timed=False)


def describe(state: JobProgress | AutoAnalyzeProgress) -> str:
    """One line on how far a job is."""
    note = f": {state.note}" if state.note else ""
    if isinstance(state, JobProgress):
        strategy = f" ({state.strategy.value})" if state.strategy else ""
        return f"{state.phase.value}{strategy}{note}, {len(state.done)} of {state.total_steps} steps done"
    far = f"{state.sessions_done:,} of {counted(state.sessions_total, 'session')}"
    return f"{state.phase.value}{note}, {far}, {_spent(state)}"


def _spent(state: AutoAnalyzeProgress) -> str:
    left = f", about {_clock(state.seconds_left)} left" if state.seconds_left is not None else ""
    labels, tokens = counted(state.new_labels, "label"), counted(state.tokens, "token")
    cached = f" ({state.cached_tokens:,} cached)" if state.cached_tokens else ""
    return f"{labels}, {tokens}{cached}, ${usd(state.cost_usd)}{_in_batches(state.batch)}{left}"


def _in_batches(figures: BatchFigures | None) -> str:
    if figures is None:
        return ""
    done = figures.answered + figures.left_over + figures.processed
    return f", {done:,} of {counted(figures.submitted, 'request')} in batches done"


def _clock(seconds: float) -> str:
    """h:mm:ss"""
    minutes, left = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{left:02}"


def counted(count: int, noun: str) -> str:
    """`1 session`, `1,200 sessions`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def labelling_report(found: AutoAnalyzeReport) -> RenderableType:
    """A labelling run: its labels, its statistics, its costs."""
    simulated = [f"[yellow]{SIMULATED}[/yellow]"] if found.costs.simulated else []
    header = Panel(
        "\n".join([f"[bold]{escape(found.id)}[/bold], {_ended(found)}", *simulated]),
        title="AutoAnalyze",
        title_align="left",
    )
    kinds = {label.kind for label in found.labels}
    tables = [_labels(found, kind) for kind in LabelKind if kind in kinds]
    statistics = _statistics(found.statistics) if found.statistics else []
    return Group(header, *tables, *statistics, costs(found.costs))


def _labels(found: AutoAnalyzeReport, kind: LabelKind) -> RenderableType:
    labels = [label for label in found.labels if label.kind is kind]
    table = Table(box=box.SIMPLE)
    table.add_column(f"{kind.value.replace('_', ' ')} ({len(labels):,})")
    table.add_column("sessions", justify="right")
    for label in labels[:MOST_LABELS]:
        table.add_row(escape(label.label), f"{label.sessions:,}")
    rest = labels[MOST_LABELS:]
    if rest:
        table.add_row(f"… {len(rest):,} more", f"{sum(label.sessions for label in rest):,}")
    return table


def _statistics(statistics: Statistics) -> list[RenderableType]:
    """The run's figures, and the warnings below them."""
    table = Table("statistic", "value", box=box.SIMPLE)
    refused = f", {statistics.refused:,} refused" if statistics.refused else ""
    degraded = ", degraded to sequential" if statistics.degraded else ""
    unmerged = counted(statistics.unmerged_chunks, "comparison")
    unmerged = f", {unmerged} without a usable reply" if statistics.unmerged_chunks else ""
    used = f"{statistics.stream_utilisation:.0%}" if statistics.sync_points else "-"
    rows = {
        "sessions labelled": f"{statistics.labelled:,} of {statistics.sessions:,}",
        "by fallback": f"{statistics.fallbacks:,}{refused}",
        "discovery sessions": f"{statistics.discovery_sessions:,}",
        "rounds, sync points": f"{statistics.rounds:,}, {statistics.sync_points:,}",
        "stream utilisation": used,
        "retries": f"{statistics.retries:,}",
        "stream failures": f"{statistics.stream_failures:,}{degraded}",
        **_started_from(statistics),
        "labels found": f"{sum(statistics.unique_labels.values()):,}",
        **_canonical(statistics),
        "conflicts resolved": f"{statistics.conflicts_resolved:,} of {statistics.conflicts_found:,}{unmerged}",
        **_reviewed(statistics),
        **_looked_at(statistics),
        **_batches(statistics.batch),
        **_consistency(statistics.consistency),
        "labels without a quote": f"{statistics.quotes_missing:,}",
        "tokens by phase": ", ".join(
            f"{phase.value} {tokens:,}" for phase, tokens in statistics.tokens_by_phase.items()
        ),
        **_cached(statistics),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return [table, *(f"[yellow]{escape(warning)}[/yellow]" for warning in statistics.warnings)]


def _consistency(found: Consistency | None) -> dict[str, str]:
    """The figures of consistency, beside the aim; empty for a run that ended early."""
    if found is None:
        return {}
    rows = {
        "singletons": f"{found.singletons:,}, {found.singletons_before:,} before merging",
        "duplicate labels": f"{found.duplicate_rate:.0%} of those found",
        "entropy, bits": f"{found.entropy}, {found.entropy_before} before merging",
        "coverage": f"{found.coverage:.1%}, the most frequent label {found.largest_share:.1%}",
        "catch-alls": f"{found.catch_alls:,} labels of more than {CATCH_ALL_SHARE:.0%}, other {found.other:.1%}",
        **_probes(found),
    }
    if found.agreement is None or found.agreement_before is None:
        return rows
    before, aim = f"{found.agreement_before:.0%} before merging", f"aim {AGREEMENT_AIM:.0%}"
    return {"pairs of copies agree": f"{found.agreement:.0%} ({aim}), {before}"} | rows


def _probes(found: Consistency) -> dict[str, str]:
    """How often sessions got the same label twice; empty for a run without probes."""
    if found.probe_agreement is None or found.probe_agreement_before is None or found.probe_interval is None:
        return {}
    low, high = found.probe_interval
    agreed = f"{found.probe_agreement:.0%} of {found.probes:,} ({low:.0%} to {high:.0%}; aim {AGREEMENT_AIM:.0%})"
    return {"probes agree": f"{agreed}, {found.probe_agreement_before:.0%} before merging"}


def _started_from(statistics: Statistics) -> dict[str, str]:
    """What the run started from; empty for a run that found all labels itself."""
    rows: dict[str, str] = {}
    if statistics.given_labels:
        rows["labels to start from"] = f"{statistics.given_labels:,}"
    if statistics.already_labelled:
        rows["left out"] = f"{counted(statistics.already_labelled, 'session')} that the earlier run has labelled"
    if statistics.outside:
        rows["outside closed labels"] = f"{statistics.outside:,} in replies: asked again, then `other`"
    return rows


def _cached(statistics: Statistics) -> dict[str, str]:
    """What the vendors' prompt caches saved; empty where they had nothing."""
    if not statistics.cached_tokens:
        return {}
    saved = usd(statistics.prompt_cache_saved_usd)
    return {"tokens from prompt caches": f"{statistics.cached_tokens:,}, saved ${saved}"}


def _reviewed(statistics: Statistics) -> dict[str, str]:
    """Whether a person approved the merges; empty for a run without a review."""
    if statistics.reviewed is None:
        return {}
    return {"review of merges": "approved" if statistics.reviewed else "none in time"}


def _looked_at(statistics: Statistics) -> dict[str, str]:
    """The results of the second look; empty for a run without it."""
    if not statistics.looked_at:
        return {}
    return {"looked at again": f"{statistics.looked_at:,}, of which {statistics.reassigned:,} have another label"}


def _batches(found: BatchFigures | None) -> dict[str, str]:
    """What was asked in batches; empty for a run that asked nothing there."""
    if found is None:
        return {}
    odd = f", {counted(found.odd_lines, 'odd line')}" if found.odd_lines else ""
    left = f", {found.left_over:,} asked again one by one" if found.left_over else ""
    return {
        "answered in batches": f"{found.answered:,} of {counted(found.submitted, 'request')}{left}{odd}",
        "saved by batches": f"${usd(found.saved_usd)}",
    }


def _canonical(statistics: Statistics) -> dict[str, str]:
    """The results of conflict resolution; empty for a run that did not reach it."""
    if not statistics.canonical_labels:
        return {}
    mappings = [f"{kind.value.replace('_', ' ')} {count:,}" for kind, count in statistics.canonical_mappings.items()]
    return {
        "canonical labels": f"{sum(statistics.canonical_labels.values()):,}",
        "canonical mappings": ", ".join(mappings),
    }
