"""How reports look in a terminal."""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import TypeVar

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape

from parley.cli.display import usd
from parley.cli.table import Table
from parley.domain.model import Model
from parley.domain.recommendations import Recommendation
from parley.domain.reports import (
    ActionSpend,
    ActionTokens,
    Arm,
    Attempts,
    Comparison,
    DaySpend,
    ErrorCount,
    Experiments,
    ModelReport,
    ModelUse,
    Report,
    Requests,
    Span,
    Spend,
    SpendReport,
    Summary,
    UserReport,
    WeekSpend,
)

SPENT = ("attempts", "tokens", "confirmed $", "uncertain $", "energy")
NO_ATTEMPTS, NO_REQUESTS = "no attempts", "no requests"
Row = Sequence[str]
LineT = TypeVar("LineT", bound=Model)


def summary(found: Summary) -> RenderableType:
    """Totals, the outcomes of attempts and requests, and the share of each provider."""
    rows = [*_attempts(found.attempts), *_requests(found.requests, found.reasons)]
    saved = f"${usd(found.total.prompt_cache_saved_usd)}"
    rows.append(("prompt caches saved", saved, "the vendors' own, below the price of other input"))
    shares = ", ".join(f"{provider} {percent(part)}" for provider, part in found.providers.items())
    return _page(
        found.span,
        _table(("", *SPENT), [("all attempts", *_spend(found.total))]),
        *_marks(found.total),
        _table(("", "", ""), [*rows, ("providers", shares or NO_ATTEMPTS, "of what was spent")], text=3),
        _models(found.models),
        *_errors(found.errors),
    )


def daily(found: SpendReport[DaySpend]) -> RenderableType:
    return _spending(found, "day", ((f"{line.day:%Y-%m-%d %a}", line) for line in found.lines))


def weekly(found: SpendReport[WeekSpend]) -> RenderableType:
    return _spending(found, "week", ((f"{line.week} from {line.monday}", line) for line in found.lines))


def users(found: UserReport) -> RenderableType:
    title = f"user, the top {len(found.lines)} of {found.users}"
    return _spending(found, title, ((escape(line.user_id), line) for line in found.lines))


def actions(found: SpendReport[ActionSpend]) -> RenderableType:
    rows = [(_named(escape(line.action), line), *_spend(line), _or_blank(line.average_usd)) for line in found.lines]
    table = _table(("action", *SPENT, "$ per attempt"), [*rows, ("total", *_spend(found.total), "")])
    return _page(found.span, table, *_marks(found.total))


def tokens(found: Report[ActionTokens]) -> RenderableType:
    rows = [
        (
            escape(line.action),
            str(line.attempts),
            *(f"{count:,}" for count in (line.tokens_prompt, line.tokens_cached, line.tokens_completion)),
            f"{line.prompt_per_attempt:,}",
            f"{line.completion_per_attempt:,}",
        )
        for line in found.lines
    ]
    columns = (
        "action",
        "attempts",
        "prompt",
        "of it cached",
        "completion",
        "prompt per attempt",
        "completion per attempt",
    )
    return _page(found.span, _table(columns, rows) if rows else NO_ATTEMPTS)


def models(found: ModelReport) -> RenderableType:
    return _page(found.span, _models(found.lines), *_marks(found.total), *_errors(found.errors))


def experiments(found: Experiments) -> RenderableType:
    columns = ("experiment", "arm", "requests", "$", "errors", "cached", "mean, p95 ms", "quality", "good of rated")
    if not found.lines:
        return _page(found.span, "no requests in an experiment")
    return _page(found.span, _table(columns, map(_arm, found.lines), text=2), *map(_compared, found.comparisons))


def recommendations(found: Report[Recommendation]) -> RenderableType:
    if not found.lines:
        return _page(found.span, "nothing to recommend")
    table = Table("rule", "about", "seen, and what to do", box=box.SIMPLE)
    table.add_column("saves $", justify="right")
    for line in found.lines:
        mark = "\n[yellow]based on the simulator, not on a model[/yellow]" if line.simulated else ""
        text = f"{escape(line.seen)}\n[bold]{escape(line.advice)}[/bold]{mark}"
        table.add_row(line.rule, escape(line.subject), text, _or_blank(line.saves_usd))
    return _page(found.span, table)


def _page(span: Span, *parts: RenderableType) -> RenderableType:
    return Group(f"from {span.since:%Y-%m-%d %H:%M} to {span.until:%Y-%m-%d %H:%M} UTC", *parts)


def _table(columns: Sequence[str], rows: Iterable[Row], *, text: int = 1) -> Table:
    """A table whose first `text` columns are words and whose other columns are figures."""
    table = Table(box=box.SIMPLE, show_header=any(columns))
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place < text else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _spending(found: SpendReport[LineT], title: str, lines: Iterable[tuple[str, Spend]]) -> RenderableType:
    rows = [(_named(name, line), *_spend(line)) for name, line in lines]
    return _page(found.span, _table((title, *SPENT), [*rows, ("total", *_spend(found.total))]), *_marks(found.total))


def _spend(spend: Spend) -> Row:
    tokens = spend.tokens_prompt + spend.tokens_completion
    uncertain = f"≤ {usd(spend.uncertain_usd)}" if spend.uncertain_usd else "0"
    return str(spend.attempts), f"{tokens:,}", usd(spend.confirmed_usd), uncertain, str(spend.energy_charged)


def _or_blank(amount: Decimal | None) -> str:
    return usd(amount) if amount else ""


def _named(name: str, spend: Spend) -> str:
    """A line's name, with the share that the simulator answered."""
    if not spend.simulated_attempts:
        return name
    part = "" if spend.simulated_attempts == spend.attempts else f"{spend.simulated_attempts} attempts "
    return f"{name} [dim]({part}simulated)[/dim]"


def _marks(total: Spend) -> list[str]:
    if not total.simulated_attempts:
        return []
    return [
        f"[yellow]${usd(total.simulated_usd)} of it was counted by the simulator: no money was spent on it.[/yellow]"
    ]


def _attempts(attempts: Attempts) -> list[Row]:
    """Attempts that ended, billed or not."""
    ends = f"{attempts.settled} settled, {attempts.duplicate} duplicate, {attempts.lost} lost, {attempts.failed} failed"
    return [
        ("provider attempts", str(attempts.ended), ends),
        ("their error rate", percent(attempts.error_rate, NO_ATTEMPTS), "lost and failed"),
        ("their latency", _seconds(attempts), "of attempts with a reply"),
    ]


def _requests(requests: Requests, reasons: dict[str, int]) -> list[Row]:
    ends = f"{requests.completed} completed, {requests.refused} refused, {requests.failed} failed"
    why = ", ".join(f"{reason} {count}" for reason, count in reasons.items())
    cached = f"{requests.cached_exact} exact, {requests.cached_similar} similar; {requests.cached_stale} stale"
    speed = _pair(requests.average_ms, requests.p95_ms, " ms", digits=0) or NO_REQUESTS
    return [
        ("requests", str(requests.total), f"{ends}, {requests.cancelled} cancelled{f' ({escape(why)})' * bool(why)}"),
        ("their error rate", percent(requests.error_rate, NO_REQUESTS), "failed, of those not refused or cancelled"),
        ("their latency", speed, "of completed requests, cached or not"),
        ("cache hit rate", percent(requests.cache_hit_rate, NO_REQUESTS), cached),
        ("saved by the cache", f"${usd(requests.saved_usd)}", "the original cost of its answers"),
        ("feedback", f"{requests.good} good", f"{requests.bad} bad"),
    ]


def _models(lines: Sequence[ModelUse]) -> RenderableType:
    columns = ("provider and model", *SPENT, "share", "errors", "latency: mean, p95")
    rows = [
        (
            _named(f"{line.provider} {escape(line.model)}", line.spend),
            *_spend(line.spend),
            percent(line.cost_share),
            percent(line.attempts.error_rate),
            _seconds(line.attempts),
        )
        for line in lines
    ]
    return _table(columns, rows) if rows else NO_ATTEMPTS


def _errors(errors: Sequence[ErrorCount]) -> list[RenderableType]:
    rows = [(escape(error.error), f"{error.provider} {escape(error.model)}", str(error.count)) for error in errors]
    return [_table(("error", "of", "attempts"), rows, text=2)] if rows else []


def _arm(arm: Arm) -> Row:
    interval = arm.good_interval
    rated = f"{arm.good} of {arm.good + arm.bad}"
    return (
        escape(arm.experiment),
        escape(arm.arm),
        str(arm.requests),
        usd(arm.cost_usd),
        percent(arm.error_rate),
        str(arm.cached),
        _pair(arm.average_ms, arm.p95_ms, "", digits=0),
        f"{arm.quality:.2f} of {arm.graded}" if arm.quality is not None else "",
        f"{rated} ({interval.low:.0%} to {interval.high:.0%})" if interval else "",
    )


def _compared(found: Comparison) -> str:
    low, high = (f"{100 * bound:+.0f}" for bound in (found.interval.low, found.interval.high))
    verdict = "the arms differ" if found.differs else "no difference shown"
    return (
        f"{escape(found.experiment)}: good answers of {escape(found.first)} over {escape(found.second)}: "
        f"{low} to {high} points (95%), {verdict}"
    )


def percent(part: float | None, missing: str = "") -> str:
    """A share as a percentage with one decimal; `missing` where there is none."""
    return missing if part is None else f"{part:.1%}"


def _seconds(attempts: Attempts) -> str:
    return _pair(attempts.average_seconds, attempts.p95_seconds, " s", digits=2) or NO_ATTEMPTS


def _pair(mean: float | None, p95: float | None, unit: str, *, digits: int) -> str:
    return "" if mean is None or p95 is None else f"{mean:.{digits}f}, p95 {p95:.{digits}f}{unit}"
