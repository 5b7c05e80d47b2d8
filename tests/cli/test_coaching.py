"""A coaching analysis in a terminal of 80 columns."""

from io import StringIO

from rich.console import Console

from parley import AnalysisReport
from parley.cli.coaching import coaching, progress
from parley.cli.display import report
from parley.domain.coaching.trends import Trends
from parley.domain.costs import Costs
from parley.report.filters import clock
from tests.domain.coaching.material import coaching as made
from tests.report.analyses import OTHERS, SHORT, of_sample


def shown(*parts: object) -> str:
    console = Console(file=StringIO(), width=80)
    for part in parts:
        console.print(part)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_moments_are_shown_with_their_time_their_words_and_a_better_line():
    analysis, _ = of_sample(SHORT)
    text = shown(coaching(analysis.coaching))
    assert max(map(len, text.splitlines())) <= 80
    point = analysis.coaching.improvements[0]
    assert point.moment is not None
    when, whole = clock(point.moment.start), " ".join(text.split())
    for expected in (f"{when} “{point.moment.quote}” sales rep", f"say instead: “{point.better}”", "by sales@1"):
        assert expected in whole
    assert text.index("strengths") < text.index("improvements") < text.index(point.moment.quote, text.index("improv"))


def test_only_scores_are_in_the_column_of_scores():
    analysis, _ = of_sample(SHORT)
    counted = analysis.habits
    names = {"session_id": analysis.session_id, "user_id": analysis.user_id}
    found = AnalysisReport(id="j", job_key="k", status="completed", analysis=analysis, costs=Costs(lines=()), **names)
    text = shown(report(found))
    for name, measure in (
        ("filler words", f"{counted.filler_words.count}, {counted.filler_words.per_minute} a minute"),
        ("talk time", f"{counted.talk_time_ratio:.0%}, {counted.questions} questions asked"),
    ):
        line = next(line for line in text.splitlines() if line.strip().startswith(name))
        assert line.split(name)[1].split(maxsplit=1)[0] == "-"
        assert measure in line


def test_progress_has_a_line_for_each_score_and_habit():
    analysis, _ = of_sample(SHORT, earlier=OTHERS)
    text = shown(*progress(analysis.trends))
    assert "progress over 3 sessions" in text
    overall = next(line.split() for line in text.splitlines() if line.strip().startswith("overall"))
    assert (len(overall[1]), overall[2]) == (3, str(analysis.coaching.overall_score))
    assert list(progress(Trends())) == []


def test_markup_in_a_models_words_is_text():
    assert "[red]now[/red]" in shown(coaching(made(comment="[red]now[/red]", text="[link=x]y[/link]")))
