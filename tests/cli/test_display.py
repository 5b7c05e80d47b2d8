"""The progress and the report of a labelling run in a terminal."""

import asyncio
import re
from decimal import Decimal
from io import StringIO
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress

from parley.cli import display
from parley.cli.console import SafeConsole
from parley.cli.display import Part, describe, parts, report, usd
from parley.cli.table import Table
from parley.client.auto_analyze import AutoAnalyzeReport
from parley.domain.auto_analyze.consistency import Consistency
from parley.domain.auto_analyze.contract import (
    AutoAnalyzeProgress,
    LabelCount,
    LabelKind,
    Phase,
    Statistics,
    StreamProgress,
)
from parley.domain.costs import CostLine, Costs


def shown(statistics: Statistics, *labels: LabelCount) -> str:
    job = AutoAnalyzeReport(
        id="auto-analyze/w/d",
        job_key="k",
        status="completed",
        dataset_id="d",
        statistics=statistics,
        labels=labels,
        costs=Costs(lines=()),
    )
    console = Console(file=StringIO(), width=160)
    console.print(report(job))
    return console.file.getvalue()  # type: ignore[attr-defined]


def row(text: str, name: str) -> str:
    return next(line.removeprefix(name).strip() for line in map(str.strip, text.splitlines()) if line.startswith(name))


def test_each_stream_has_a_bar_with_its_wait_reason():
    streams = (
        StreamProgress(stream=0, sessions=4, done=4),
        StreamProgress(stream=3, sessions=2, waiting="waiting for a provider: openai is down"),
    )
    state = AutoAnalyzeProgress(phase=Phase.PARALLEL, sessions_total=20, sessions_done=8, streams=streams)
    assert parts(state)[2:] == [
        Part("stream 0", 4, 4, "4 of 4 sessions", timed=False),
        Part("stream 3", 0, 2, "waiting for a provider: openai is down", timed=False),
    ]


@pytest.mark.parametrize(
    ("phase", "names"),
    [
        (Phase.PREPARE, ["prepare"]),
        (Phase.DISCOVERY, ["discovery"]),
        (Phase.PARALLEL, ["discovery", "streams", "stream 0"]),
        (Phase.CONFLICTS, ["discovery", "streams", "conflicts"]),
        (Phase.REASSIGNMENT, ["discovery", "streams", "second look"]),
        (Phase.FINISH, ["discovery", "streams"]),
    ],
)
def test_each_phase_has_its_bars(phase: Phase, names: list[str]):
    streams = (StreamProgress(stream=0, sessions=4),)
    state = AutoAnalyzeProgress(phase=phase, discovery_total=5, sessions_total=9, streams=streams)
    assert [part.name for part in parts(state)] == names


def test_without_sessions_beyond_the_sample_there_are_no_streams():
    state = AutoAnalyzeProgress(phase=Phase.CONFLICTS, discovery_total=5, sessions_total=5, sessions_done=5)
    assert [part.name for part in parts(state)] == ["discovery", "conflicts"]


def test_discovery_shows_its_progress_and_cost():
    state = AutoAnalyzeProgress(
        phase=Phase.DISCOVERY,
        discovery_total=1_500,
        sessions_total=9_000,
        sessions_done=1_200,
        new_labels=1,
        tokens=12_345,
        seconds_left=3_725.4,
    )
    details = "1 label, 12,345 tokens, $0, about 1:02:05 left"
    assert parts(state) == [Part("discovery", 1_200, 1_500, f"1,200 of 1,500, {details}")]
    assert describe(state) == f"discovery, 1,200 of 9,000 sessions, {details}"


class FollowedJob:
    """A job that reports one state after another, and ends after the last."""

    def __init__(self, *states: AutoAnalyzeProgress) -> None:
        self._states, self._reported = list(states), asyncio.Event()

    async def progress(self) -> AutoAnalyzeProgress:
        if len(self._states) == 1:
            self._reported.set()
        return self._states.pop(0) if len(self._states) > 1 else self._states[0]

    async def result(self) -> str:
        await self._reported.wait()
        return "the report"


async def test_bars_are_aligned_and_a_stream_shows_no_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(display, "POLL_SECONDS", 0.01)
    streams = (StreamProgress(stream=0, sessions=4, done=1), StreamProgress(stream=11, sessions=4))
    state = AutoAnalyzeProgress(phase=Phase.PARALLEL, discovery_total=5, sessions_total=20, streams=streams)
    later = state.model_copy(update={"phase": Phase.CONFLICTS})
    drawn: list[list[str]] = []

    class Watched(Progress):
        def update(self, *args: Any, **kwargs: Any) -> None:
            super().update(*args, **kwargs)
            console = Console(file=StringIO(), width=160)
            console.print(self.make_tasks_table(self.tasks))
            drawn.append(console.file.getvalue().splitlines())  # type: ignore[attr-defined]

    monkeypatch.setattr(display, "Progress", Watched)
    screen = Console(file=StringIO(), force_terminal=True, width=160)
    job = FollowedJob(AutoAnalyzeProgress(phase=Phase.PREPARE, note="reading"), state, later)
    assert await display.watched(screen, job) == "the report"  # pyright: ignore[reportArgumentType]
    bars = next(lines for lines in drawn if len(lines) == 4)
    lines = (*drawn[0], *bars)
    texts = ("reading", "0 of 5", "0 rounds", "1 of 4", "0 of 4")
    assert len({line.index(text) for line, text in zip(lines, texts, strict=True)}) == 1
    assert [bool(re.search(r"\d:\d\d:\d\d", line)) for line in bars] == [True, True, False, False]
    assert [line.split()[1] for line in drawn[-1]] == ["discovery", "streams", "conflicts"]


def test_the_summary_shows_mappings_by_kind_and_conflicts():
    text = shown(
        Statistics(
            canonical_labels={LabelKind.INTENT: 1_234},
            canonical_mappings={LabelKind.INTENT: 7, LabelKind.TRANSFER_REASON: 2},
            conflicts_found=12,
            conflicts_resolved=9,
            unmerged_chunks=1,
            fallbacks=5,
            refused=3,
        )
    )
    assert row(text, "canonical mappings") == "intent 7, transfer reason 2"
    assert row(text, "conflicts resolved") == "9 of 12, 1 comparison without a usable reply"
    assert row(text, "by fallback") == "5, 3 refused"
    assert row(text, "canonical labels") == "1,234"


def test_the_summary_shows_how_consistent_the_labels_are():
    figures = Consistency(
        copies=4, agreement_before=0.5, agreement=1.0, entropy=1.5, entropy_before=2.0, coverage=0.998
    )
    text = shown(Statistics(consistency=figures))
    assert row(text, "pairs of copies agree") == "100% (aim 95%), 50% before merging"
    assert row(text, "entropy, bits") == "1.5, 2.0 before merging"
    assert row(text, "coverage") == "99.8%, the most frequent label 0.0%"
    assert "copies" not in shown(Statistics(consistency=Consistency()))


def test_the_summary_shows_what_the_second_look_changed():
    text = shown(Statistics(looked_at=1200, reassigned=31))
    assert row(text, "looked at again") == "1,200, of which 31 have another label"


def test_missing_steps_have_no_rows():
    text = shown(Statistics(conflicts_found=2, conflicts_resolved=2))
    assert row(text, "conflicts resolved") == "2 of 2"
    assert row(text, "by fallback") == "0"
    assert row(text, "stream utilisation") == "-"
    for absent in ("canonical", "intent", "transfer reason", "drop off location"):
        assert absent not in text


def test_only_kinds_with_labels_have_a_table_and_counts_are_grouped():
    text = shown(
        Statistics(labelled=1_200, sessions=1_300), LabelCount(kind=LabelKind.INTENT, label="a", sessions=1_200)
    )
    assert row(text, "intent (1)") == "sessions"
    assert row(text, "a ") == "1,200"
    assert "transfer reason" not in text
    assert row(text, "sessions labelled") == "1,200 of 1,300"


def test_streams_that_ran_have_a_utilisation():
    assert row(shown(Statistics(sync_points=2, stream_utilisation=0.5)), "stream utilisation") == "50%"


def test_warnings_are_below_the_figures():
    text = shown(Statistics(warnings=("openai has no [key]", "a second")))
    assert text.index("tokens by phase") < text.index("openai has no [key]") < text.index("a second")


WIDE = CostLine(
    provider="anthropic",
    model="claude-3-5-sonnet-20241022",
    action="auto_analyze_classification",
    simulated=True,
    attempts=12_345,
    tokens_total=12_345_678,
    audio_seconds=Decimal(0),
    confirmed_usd=Decimal("1234.567890"),
    uncertain_usd=Decimal("0.001234"),
    energy_charged=123,
)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_word_of_a_table_is_broken(width: int):
    console = Console(file=StringIO(), width=width)
    console.print(display.costs(Costs(lines=(WIDE,))))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    for word in ("auto_analyze_classification", "claude-3-5-sonnet-20241022", "12,345,678", "1234.567890", "confirmed"):
        assert word in text
    assert all(len(line.rstrip()) <= width for line in text.splitlines())


def test_a_bar_keeps_its_width_in_a_narrow_terminal():
    screen = Console(file=StringIO(), force_terminal=True, width=80)
    with display.progress_bars(screen) as bars:
        bars.add_task("stream 0", total=4, completed=2, text="waiting for a provider: " + "x" * 200, timed=False)
        console = Console(file=StringIO(), width=80)
        console.print(bars.make_tasks_table(bars.tasks))
    [line] = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert line.count("━") == display.BAR_WIDTH / 2
    assert "waiting for a provider" in line


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0", "0"),
        ("2.50", "2.50"),
        ("0.054628950000", "0.054629"),
        ("-0.000012400000", "-0.000012"),
        ("0.000000120000", "0.00000012"),
        ("0.052680000000", "0.052680"),
        ("0.000000000000", "0"),
        ("100", "100"),
    ],
)
def test_an_amount_has_six_places_at_most_and_is_never_rounded_to_0(amount: str, text: str):
    assert usd(Decimal(amount)) == text


@pytest.mark.parametrize("width", range(40, 160, 7))
def test_a_table_cuts_no_id_at_any_width(width: int):
    """Another command needs the id: it is whole in a cell, or on a line of its own."""
    table = Table("id", "name", "scopes", "created")
    table.add_row("key-246e5aed56c1aa", "a name with several words", "generate jobs read", "2026-11-30 12:00")
    file = StringIO()
    console = SafeConsole(file=file, width=width)
    console.print(table)
    assert "key-246e5aed56c1aa" in file.getvalue()
