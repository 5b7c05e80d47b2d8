"""How a coaching analysis looks in a terminal: scores, moments with what was said there, and progress."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.text import Text

from parley.cli.table import Table
from parley.domain.coaching.contract import Coaching, CoachingPoint
from parley.domain.coaching.trends import Trend, Trends
from parley.report.filters import NONE, clock, figure

BARS = "▁▂▃▄▅▆▇█"
GAP = "·"


def coaching(found: Coaching) -> RenderableType:
    """Scores by the rubric, and the moments behind them."""
    return Group(
        _scores(found),
        *_points("strengths", found.strengths, found),
        *_points("improvements", found.improvements, found),
    )


def progress(found: Trends) -> Iterator[RenderableType]:
    """How scores and habits developed over the user's sessions; nothing for a first session."""
    if not found.lines:
        return
    table = Table(box=box.SIMPLE)
    table.add_column(f"progress over {len(found.sessions)} sessions")
    table.add_column("", no_wrap=True)
    for name in ("now", "change", "best"):
        table.add_column(name, justify="right", no_wrap=True)
    for line in found.lines:
        table.add_row(Text(line.title), _bars(line), *map(Text, _values(line)))
    yield table


def _scores(found: Coaching) -> RenderableType:
    table = Table(box=box.SIMPLE)
    table.add_column(Text(found.rubric.title))
    table.add_column("score", justify="right")
    table.add_column("comment", overflow="fold")
    table.add_row(
        "[bold]overall[/bold]",
        f"[bold]{_score(found.overall_score)}[/bold]",
        Text(f"by {found.rubric.reference}", style="dim"),
    )
    for skill in found.skills:
        table.add_row(Text(skill.title), _score(skill.score), Text(skill.comment))
    return table


def _points(title: str, points: Sequence[CoachingPoint], found: Coaching) -> Iterator[RenderableType]:
    if not points:
        return
    yield Text(f" {title}", style="bold")
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True, justify="right", width=6)
    grid.add_column(overflow="fold")
    titles = {skill.id: skill.title for skill in found.skills}
    for point in points:
        grid.add_row(
            clock(point.moment.start) if point.moment else "", _point(point, titles.get(point.skill, ""), found)
        )
    yield grid
    yield ""


def _point(point: CoachingPoint, skill: str, found: Coaching) -> Text:
    text = Text()
    if point.moment:
        text.append(f"“{point.moment.quote}”", style="italic")
        text.append(f"  {found.rubric.name_of(point.moment.role)}\n", style="dim")
    text.append(f"{skill}: " if skill else "", style="bold")
    text.append(point.text)
    if point.better:
        text.append("\nsay instead: ", style="green")
        text.append(f"“{point.better}”")
    return text


def _score(score: int | None) -> str:
    return NONE if score is None else str(score)


def _bars(line: Trend) -> str:
    """The values as bars: a score from 0 to 100, a habit from the lowest of its values to the highest one."""
    known = [value for value in line.values if value is not None]
    low, high = (0, 100) if line.kind == "score" else (min(known, default=0), max(known, default=0))
    step = (high - low) / (len(BARS) - 1) or 1
    return "".join(GAP if value is None else BARS[round((value - low) / step)] for value in line.values)


def _values(line: Trend) -> tuple[str, str, str]:
    """This session's value, the change, and the best value."""
    change = NONE if line.change is None else f"{line.change:+.3g}"
    return figure(line.values[-1]), change, figure(line.best)
