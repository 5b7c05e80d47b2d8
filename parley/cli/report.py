"""`parley report` and `parley feedback`."""

import csv
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import RenderableType

from parley.cli import tables
from parley.cli.console import Json, Workspace, err, out, parse_since, show_json, with_client
from parley.cli.exporting import FORMULA
from parley.client.client import Client
from parley.client.reports import Reports
from parley.domain.errors import InvalidInput
from parley.domain.reports import Feedback, Spend, Summary


class Kind(StrEnum):
    SUMMARY = "summary"
    DAILY = "daily"
    WEEKLY = "weekly"
    USERS = "users"
    ACTIONS = "actions"
    TOKENS = "tokens"
    MODELS = "models"
    EXPERIMENTS = "experiments"
    RECOMMENDATIONS = "recommendations"


class View(NamedTuple):
    read: Callable[[Reports, datetime], Awaitable[Any]]
    show: Callable[[Any], RenderableType]


VIEWS = {
    Kind.SUMMARY: View(Reports.summary, tables.summary),
    Kind.DAILY: View(Reports.daily, tables.daily),
    Kind.WEEKLY: View(Reports.weekly, tables.weekly),
    Kind.USERS: View(Reports.users, tables.users),
    Kind.ACTIONS: View(Reports.actions, tables.actions),
    Kind.TOKENS: View(Reports.tokens, tables.tokens),
    Kind.MODELS: View(Reports.models, tables.models),
    Kind.EXPERIMENTS: View(Reports.experiments, tables.experiments),
    Kind.RECOMMENDATIONS: View(Reports.recommendations, tables.recommendations),
}


def report(
    kind: Annotated[Kind, typer.Argument(help="What about.")] = Kind.SUMMARY,
    since: Annotated[str, typer.Option(help="From then on: 2026-11-01, 24h or 7d.")] = "30d",
    to_csv: Annotated[str | None, typer.Option("--csv", metavar="FILE", help="Write CSV there; - is stdout.")] = None,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Report costs, tokens, latency and errors, and what could be done about them."""
    if to_csv is not None and as_json:
        raise InvalidInput("goes without --json", where="--csv")
    start, view = parse_since(since), VIEWS[kind]

    async def work(client: Client) -> None:
        found = await view.read(client.reports, start)
        if to_csv is not None:
            write_csv(found, to_csv)
        else:
            show_json(found) if as_json else out.print(view.show(found))

    with_client(workspace, work)


def feedback(
    request: Annotated[str, typer.Argument(metavar="REQUEST", help="The request's id, as its result tells it.")],
    verdict: Annotated[Feedback, typer.Argument(help="What somebody thought of the answer.")],
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Say that an answer was good or bad; reports count it for its arm of an experiment."""

    async def work(client: Client) -> None:
        await client.feedback(request, verdict)
        kept = {"request_id": request, "feedback": verdict.value}
        show_json(kept) if as_json else out.print(f"kept: {verdict.value}")

    with_client(workspace, work)


def write_csv(found: Any, to: str) -> None:
    """One row per line of the report; a summary has a row per figure.

    Raises:
        InvalidInput: the file cannot be written.
    """
    rows = [*csv_rows(found)]
    text = StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    if to == "-":
        sys.stdout.write(text.getvalue())
        return
    try:
        Path(to).write_text(text.getvalue(), encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"cannot be written: {error.strerror}", where=to) from None
    err.print(f"{len(rows)} rows written to {to}", markup=False, highlight=False, soft_wrap=True)


def csv_rows(found: Any) -> Iterator[dict[str, Any]]:
    if isinstance(found, Summary):
        for figure, value in flat(found.model_dump(mode="json", exclude={"models", "errors"})):
            yield {"figure": figure, "value": value}
        return
    for line in found.lines:
        row = dict(flat(line.model_dump(mode="json")))
        # What a line is about comes first, and then what it cost.
        yield {name: row[name] for name in sorted(row, key=lambda name: name in Spend.model_fields)}


def flat(values: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested figures, under dotted names."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{within}{name}.")
        else:
            yield f"{within}{name}", f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
