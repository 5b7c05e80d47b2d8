"""`parley memory`: what is remembered of a user, from the user's conversations."""

from typing import Annotated
from uuid import UUID

import typer
from rich import box
from rich.text import Text

from parley import Client, Memory
from parley.cli.console import Json, Workspace, out, show_json, with_client
from parley.cli.table import Table
from parley.domain.errors import InvalidInput

app = typer.Typer(no_args_is_help=True, help="See, correct and forget what is remembered of a user.")

User = Annotated[str, typer.Argument(help="The user.")]
MemoryId = Annotated[str, typer.Argument(help="The id of the memory, from `parley memory show USER`.")]


@app.command()
def show(
    user: User,
    with_ended: Annotated[bool, typer.Option("--all", help="Also what was superseded or ended.")] = False,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Show what is remembered of a user, the newest first."""

    async def work(client: Client) -> None:
        found = await client.memory.show(user, with_ended=with_ended)
        show_json([memory.model_dump(mode="json") for memory in found]) if as_json else out.print(_table(found))

    with_client(workspace, work)


@app.command()
def correct(
    user: User,
    memory_id: MemoryId,
    value: Annotated[str, typer.Argument(help="The right value, for example Oslo.")],
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Replace the value of a memory. The old one ends, and is not recalled any more."""

    async def work(client: Client) -> None:
        made = await client.memory.correct(user, _uuid(memory_id), value)
        show_json(made) if as_json else out.say(made.text)

    with_client(workspace, work)


@app.command()
def forget(
    user: User,
    memory_id: Annotated[str | None, typer.Argument(help="The memory to forget, from `parley memory show`.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Forget all that is remembered of the user.")] = False,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Remove the content of a memory, or of all of a user. It does not come back; what it cost stays in the ledger.

    `parley forget USER` also removes what the user said and was answered.
    """
    if (memory_id is not None) + everything != 1:
        raise InvalidInput("give either the id of one memory, or --all", where="parley memory forget")

    async def work(client: Client) -> None:
        forgotten = await client.memory.forget(user, None if memory_id is None else _uuid(memory_id))
        show_json({"forgotten": forgotten}) if as_json else out.say(f"forgotten: {forgotten}")

    with_client(workspace, work)


def _table(found: list[Memory]) -> Table | str:
    if not found:
        return "nothing is remembered"
    shown = Table("id", "memory", "since", "until", "from", box=box.SIMPLE)
    for memory in found:
        until = f"{memory.valid_until:%Y-%m-%d %H:%M}" if memory.valid_until else ""
        source = f"{memory.conversation_id} {memory.turn_id}".strip() or "a correction"
        shown.add_row(*map(Text, (str(memory.id), memory.text, f"{memory.valid_from:%Y-%m-%d %H:%M}", until, source)))
    return shown


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise InvalidInput(f"must be an id from `parley memory show`; got {text!r}", where="MEMORY_ID") from None
