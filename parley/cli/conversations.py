"""`parley conversations`: list the conversations of a workspace, and export one."""

from typing import Annotated

import typer
from rich import box
from rich.text import Text

from parley import Client, ListedConversation
from parley.cli.console import Json, Workspace, out, show_json, with_client
from parley.cli.table import Table

app = typer.Typer(no_args_is_help=True, help="List conversations, and export one.")


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="How many to list.")] = 50,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """List the conversations, those with the newest turns first."""

    async def work(client: Client) -> None:
        found = await client.conversations(limit=limit)
        show_json([one.model_dump(mode="json") for one in found]) if as_json else out.print(_table(found))

    with_client(workspace, work)


@app.command()
def export(
    conversation_id: Annotated[str, typer.Argument(metavar="ID", help="The conversation.")],
    workspace: Workspace = "default",
) -> None:
    """Print everything that is stored of a conversation as JSON: turns, summary, what was learned in it, its cost."""

    async def work(client: Client) -> None:
        show_json(await (await client.find_conversation(conversation_id)).export())

    with_client(workspace, work)


def _table(found: list[ListedConversation]) -> Table | str:
    if not found:
        return "no conversation"
    shown = Table("id", "user", "status", "turns", "last turn", box=box.SIMPLE)
    for one in found:
        cells = (one.id, one.user_id, one.status, str(one.turns), f"{one.last_turn_at:%Y-%m-%d %H:%M}")
        shown.add_row(*map(Text, cells))
    return shown
