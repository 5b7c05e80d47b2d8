"""What a labelling run looks like in a terminal."""

from io import StringIO

from rich.console import Console

from domain.auto_analyze.contract import AutoAnalyzeProgress, LabelKind, Phase, Statistics, StreamProgress
from domain.costs import Costs
from starter.display import Part, parts, report
from starter.jobs import AutoAnalyzeReport


def shown(statistics: Statistics) -> str:
    job = AutoAnalyzeReport(
        id="auto-analyze/w/d",
        job_key="k",
        status="completed",
        dataset_id="d",
        statistics=statistics,
        labels=(),
        costs=Costs(lines=()),
    )
    console = Console(file=StringIO(), width=160)
    console.print(report(job))
    return console.file.getvalue()  # type: ignore[attr-defined]


def row(text: str, name: str) -> str:
    return next(line.removeprefix(name).strip() for line in map(str.strip, text.splitlines()) if line.startswith(name))


def test_each_stream_has_a_bar_of_its_own_that_says_what_it_waits_for():
    streams = (
        StreamProgress(stream=0, sessions=4, done=4),
        StreamProgress(stream=3, sessions=2, waiting="waiting for a provider: openai is down"),
    )
    state = AutoAnalyzeProgress(phase=Phase.PARALLEL, sessions_total=20, sessions_done=8, streams=streams)
    assert parts(state)[2:] == [
        Part("stream 0", 4, 4, "4 of 4 sessions"),
        Part("stream 3", 0, 2, "waiting for a provider: openai is down"),
    ]


def test_the_summary_tells_mappings_by_kind_and_conflicts_found_and_resolved():
    text = shown(
        Statistics(
            canonical_mappings={LabelKind.INTENT: 7, LabelKind.TRANSFER_REASON: 2},
            conflicts_found=12,
            conflicts_resolved=9,
            unmerged_chunks=1,
            fallbacks=5,
            refused=3,
        )
    )
    assert row(text, "canonical mappings") == "intent 7, transfer reason 2"
    assert row(text, "conflicts resolved") == "9 of 12, 1 comparisons without a usable reply"
    assert row(text, "by fallback") == "5, 3 refused"


def test_what_did_not_happen_is_not_told():
    text = shown(Statistics(conflicts_found=2, conflicts_resolved=2))
    assert row(text, "conflicts resolved") == "2 of 2"
    assert row(text, "by fallback") == "0"
