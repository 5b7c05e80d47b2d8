"""`parley health`: does each provider answer?"""

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from parley.cli.console import Json, Workspace, out, show_json, with_client
from parley.client.client import Client
from parley.domain.health import HealthReport, ProviderHealth, State

COLOURS = {State.UP: "green", State.DOWN: "red", State.NO_WORKER: "red", State.NOT_CONFIGURED: "dim"}


def health(workspace: Workspace = "default", as_json: Json = False) -> None:
    """Ask each provider for something free, from its own workers; exit 1 if one that is configured does not answer."""

    async def work(client: Client) -> HealthReport:
        return await client.health()

    report = with_client(workspace, work)
    show_json(report) if as_json else out.print(table(report))
    if not report.is_well:
        raise typer.Exit(1)


def table(report: HealthReport) -> Table:
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
