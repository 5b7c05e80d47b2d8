"""What an operator looks after: `parley events`, `alerts`, `health`, `forget`."""

from typing import Annotated

import typer
from rich import box
from rich.markup import escape
from rich.text import Text

from parley import Client, CostAlertReport, EventReport, HealthReport, InvalidInput
from parley.cli.console import Json, Workspace, out, show_json, with_client
from parley.cli.display import usd
from parley.cli.table import Table
from parley.domain.health import ProviderHealth, State

COLOURS = {State.UP: "green", State.DOWN: "red", State.NO_WORKER: "red", State.NOT_CONFIGURED: "dim"}

app = typer.Typer()


@app.command()
def events(
    undelivered: Annotated[bool, typer.Option("--undelivered", help="Only events that are not delivered.")] = False,
    retry: Annotated[
        int | None, typer.Option(metavar="ID", min=1, max=2**63 - 1, help="Deliver this event again.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The most events to list, the newest first.")] = 50,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """List events with the state of their delivery, or deliver one again."""

    async def work(client: Client) -> None:
        if retry is not None:
            await client.housekeeping.retry_event(retry)
            show_json({"retried": retry}) if as_json else out.say(f"event {retry} is due again")
            return
        found = await client.housekeeping.events(undelivered=undelivered, limit=limit)
        show_json(found) if as_json else out.print(_events(found))

    with_client(workspace, work)


def _events(found: list[EventReport]) -> Table | str:
    if not found:
        return "no events"
    shown = Table("id", "written", "event", "state", "tries", "last problem", box=box.SIMPLE)
    for event in found:
        written = event.created_at.strftime("%Y-%m-%d %H:%M:%S")
        cells = (str(event.id), written, event.kind, event.state, str(event.tries), event.problem)
        shown.add_row(*map(Text, cells))
    return shown


@app.command()
def alerts(workspace: Workspace = "default", as_json: Json = False) -> None:
    """List the weeks with costs above the policy's `weekly_alert_usd`."""

    async def work(client: Client) -> None:
        found = await client.housekeeping.alerts()
        show_json(found) if as_json else out.print(_alerts(found))

    with_client(workspace, work)


def _alerts(found: list[CostAlertReport]) -> Table | str:
    if not found:
        return "no alerts"
    shown = Table("week", "spent", "uncertain part", "threshold", box=box.SIMPLE)
    for alert in found:
        amounts = (alert.spent_usd, alert.uncertain_usd, alert.threshold_usd)
        shown.add_row(alert.period, *(f"${usd(amount)}" for amount in amounts))
    return shown


@app.command()
def health(workspace: Workspace = "default", as_json: Json = False) -> None:
    """Check each provider by a free request from its own workers; exit 1 if a configured provider does not answer."""

    async def work(client: Client) -> HealthReport:
        return await client.health()

    report = with_client(workspace, work)
    show_json(report) if as_json else out.print(_health(report))
    if not report.is_well:
        raise typer.Exit(1)


def _health(report: HealthReport) -> Table:
    shown = Table("provider", "state", box=box.SIMPLE)
    shown.add_column("ms", justify="right")
    shown.add_column("breaker")
    shown.add_column("reason", overflow="fold")
    for one in report.providers:
        state = f"[{COLOURS[one.state]}]{one.state.value}[/]{' (simulated)' if one.simulated else ''}"
        milliseconds = "" if one.milliseconds is None else str(one.milliseconds)
        shown.add_row(one.provider.value, state, milliseconds, _breaker(one), escape(one.reason))
    return shown


def _breaker(one: ProviderHealth) -> str:
    return f"[red]open for {one.breaker_seconds:.0f} s[/]" if one.breaker_seconds > 0 else "closed"


@app.command()
def forget(
    user: Annotated[str, typer.Argument(help="The user whose content is removed.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Remove what a user said and was answered, in every table.

    It does not come back; what it cost stays.
    """
    if as_json and not yes:
        raise InvalidInput("is needed with --json, which does not ask", where="--yes")
    if not yes and not typer.confirm(f"Remove all content of user {user!r} in workspace {workspace!r}?", err=True):
        raise typer.Abort

    async def work(client: Client) -> dict[str, int]:
        return await client.forget_user(user)

    counts = with_client(workspace, work)
    if as_json:
        show_json(counts)
    else:
        rows = ", ".join(f"{table} {count}" for table, count in counts.items())
        out.say(f"removed: {rows or 'nothing'}; the ledger is unchanged")
