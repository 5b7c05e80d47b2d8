"""`parley config`: see and set the configuration of a workspace and its users."""

import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from parley import Client, ConfigurationReport, InvalidInput
from parley.cli.console import Json, Workspace, err, out, show_json, with_client
from parley.cli.table import Table
from parley.client.reading import read_json
from parley.domain.configuration import SECTION_BYTES, SECTIONS, fields

app = typer.Typer(no_args_is_help=True, help="See and set the configuration of a workspace and its users.")

User = Annotated[str, typer.Argument(metavar="USER", help="The user whose configuration it is.")]


@app.command("show")
def show(user: User, workspace: Workspace = "default", as_json: Json = False) -> None:
    """Show a user's configuration, defaults marked."""

    async def work(client: Client) -> ConfigurationReport:
        return await client.configuration.show(user)

    found = with_client(workspace, work)
    if as_json:
        show_json(found)
        return
    out.print(_table(found))
    for warning in found.warnings:
        err.say(f"warning: {warning}")


@app.command("set")
def set_(
    section: Annotated[str, typer.Argument(metavar="SECTION", help=f"{', '.join(SECTIONS)}: replaced as a whole.")],
    file: Annotated[Path, typer.Option(help="The fields, as .json or .toml; an empty file restores the defaults.")],
    user: Annotated[str | None, typer.Option(help="The user, for ai_settings.")] = None,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Set a section. An error names every field that is not valid."""
    data = _read(file)

    async def work(client: Client) -> None:
        await client.configuration.set(section, data, user_id=user, where=file.name)

    with_client(workspace, work)
    if as_json:
        show_json({"section": section, "user_id": user, "set": True})
    else:
        out.say(f"{section} is set; every worker uses it for its next request")


@app.command("refresh")
def refresh(user: User, workspace: Workspace = "default", as_json: Json = False) -> None:
    """Make every worker load a user's configuration again."""

    async def work(client: Client) -> int:
        return await client.configuration.refresh(user)

    sections = with_client(workspace, work)
    if as_json:
        show_json({"user_id": user, "sections": sections})
    else:
        out.say(f"every worker loads it again for its next request (sections stored: {sections})")


def _read(path: Path) -> Any:
    if path.suffix not in (".json", ".toml"):
        raise InvalidInput("must end in .json or .toml", where=path.name)
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(SECTION_BYTES + 1)
    except UnicodeDecodeError as error:
        raise InvalidInput(f"is not UTF-8: byte {error.start}; save the file as UTF-8", where=path.name) from None
    except OSError as error:
        raise InvalidInput(f"cannot be read: {error.strerror}", where=str(path)) from None
    if len(text) > SECTION_BYTES:
        raise InvalidInput(f"has more than the {SECTION_BYTES:,} bytes allowed", where=path.name)
    if path.suffix == ".json":
        return read_json(text, where=path.name) if text.strip() else {}
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidInput(f"is not TOML: {error}", where=path.name) from None


def _table(found: ConfigurationReport) -> Table:
    table = Table("field", "value", "", title=Text(f"configuration of {found.user_id}"), title_justify="left")
    for name, value, is_set in fields(found.configuration):
        table.add_row(Text(name), Text(_shown(value)), "" if is_set else Text("default", style="dim"))
    return table


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, tuple):
        return "\n".join(str(getattr(entry, "name", entry)) for entry in value) or "-"
    return str(value) or "-"
