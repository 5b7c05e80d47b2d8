"""What AI work cost and how good it was: `parley report`, `costs`, `feedback`, `ledger audit`."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from pydantic import TypeAdapter
from rich.console import RenderableType

from parley import Client, Disagreement, Feedback, InvalidInput, Reports
from parley.cli import display, tables
from parley.cli.billed import read_billed
from parley.cli.console import Json, Workspace, out, parse_since, show_json, with_client
from parley.cli.exporting import write_csv

app = typer.Typer()
ledger = typer.Typer(no_args_is_help=True, help="Check the ledger of paid calls.")
app.add_typer(ledger, name="ledger")


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


@app.command()
def report(
    kind: Annotated[Kind, typer.Argument(help="Which report.")] = Kind.SUMMARY,
    since: Annotated[str, typer.Option(help="The start: 2026-11-01, 24h or 7d.")] = "30d",
    to_csv: Annotated[str | None, typer.Option("--csv", metavar="FILE", help="Write CSV; - is stdout.")] = None,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Report costs, tokens, latency and errors, and recommendations on them."""
    if to_csv is not None and as_json:
        raise InvalidInput("cannot be combined with --json: use one of them", where="--csv")
    start, view = parse_since(since), VIEWS[kind]

    async def work(client: Client) -> None:
        found = await view.read(client.reports, start)
        if to_csv is not None:
            write_csv(found, to_csv)
        else:
            show_json(found) if as_json else out.print(view.show(found))

    with_client(workspace, work)


@app.command()
def feedback(
    request: Annotated[str, typer.Argument(metavar="REQUEST", help="The request's id; `generate` prints it.")],
    verdict: Annotated[Feedback, typer.Argument(help="The rating of the answer.")],
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Rate an answer as good or bad; reports count the rating for its arm of an experiment."""

    async def work(client: Client) -> None:
        await client.feedback(request, verdict)
        rated = {"request_id": request, "feedback": verdict.value}
        show_json(rated) if as_json else out.say(f"rated: {verdict.value}")

    with_client(workspace, work)


@app.command()
def costs(
    user: Annotated[str | None, typer.Option(help="Only this user's costs.")] = None,
    since: Annotated[str | None, typer.Option(help="The start: 2026-11-01, 24h or 7d.")] = None,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Show what was spent, and what users were charged."""
    start = None if since is None else parse_since(since)

    async def work(client: Client) -> None:
        spent = await client.costs(user_id=user, since=start)
        if as_json:
            totals = {"confirmed_usd": str(spent.confirmed_usd), "uncertain_usd": str(spent.uncertain_usd)}
            show_json({**spent.model_dump(mode="json"), **totals, "energy_charged": spent.energy_charged})
        else:
            out.print(display.costs(spent))

    with_client(workspace, work)


@ledger.command("audit")
def ledger_audit(
    billed: Annotated[
        Path | None, typer.Option(help="Also compare a provider's own list by attempt_id: CSV, JSONL or a JSON array.")
    ] = None,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Check balances, budgets, attempts and rows against each other; exit 1 if any disagree."""
    listed = read_billed(billed) if billed else None

    async def work(client: Client) -> int:
        found = await client.audit(listed)
        show_json(TypeAdapter(list[Disagreement]).dump_python(found, mode="json")) if as_json else out.print(
            display.disagreements(found, with_list=listed is not None)
        )
        return len(found)

    if with_client(workspace, work):
        raise typer.Exit(1)


@ledger.command("reconcile")
def ledger_reconcile(
    billed: Annotated[Path, typer.Option(help="A provider's own list by attempt_id: CSV, JSONL or a JSON array.")],
    complete_until: Annotated[
        str | None,
        typer.Option(
            help="Until when the list is complete: an attempt that it lacks was not billed. 2026-11-01 or 24h."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the corrections, and change nothing.")] = False,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Confirm uncertain costs by a provider's list, with an entry for each."""
    listed = read_billed(billed)
    until = parse_since(complete_until, where="--complete-until") if complete_until else None

    async def work(client: Client) -> None:
        found = await client.reconcile(listed, complete_until=until, dry_run=dry_run)
        show_json(found) if as_json else out.print(display.corrections(found, dry_run=dry_run))

    with_client(workspace, work)
