"""`parley events`: what a workspace's webhook was told, or was not."""

from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from parley.cli.console import Json, Workspace, out, show_json, with_client
from parley.client.client import Client
from parley.client.housekeeping import EventReport


def events(
    undelivered: Annotated[bool, typer.Option("--undelivered", help="Only those that have not arrived.")] = False,
    retry: Annotated[int | None, typer.Option(metavar="ID", help="Deliver this one anew.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, from the newest.")] = 50,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """List events with the state of their delivery, or have one delivered anew."""

    async def work(client: Client) -> None:
        if retry is not None:
            await client.housekeeping.retry_event(retry)
            show_json({"retried": retry}) if as_json else out.print(f"event {retry} is due again")
            return
        found = await client.housekeeping.events(undelivered=undelivered, limit=limit)
        show_json(found) if as_json else out.print(table(found))

    with_client(workspace, work)


def table(found: list[EventReport]) -> Table | str:
    if not found:
        return "no events"
    shown = Table("id", "written", "event", "state", "tries", "last problem", box=box.SIMPLE)
    for event in found:
        written = event.created_at.strftime("%Y-%m-%d %H:%M:%S")
        cells = (str(event.id), written, event.kind, event.state, str(event.tries), event.problem)
        shown.add_row(*map(Text, cells))
    return shown
