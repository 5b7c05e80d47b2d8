"""`parley phone`: the phone numbers of a workspace, and its phone calls."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.text import Text

from parley import Client, PhoneCallReport, PhoneNumber, PhoneTurn
from parley.cli.console import Json, Workspace, out, show_json, with_client
from parley.cli.phone_simulate import simulate
from parley.cli.table import Table
from parley.client.reading import read_json, read_text
from parley.domain.errors import InvalidInput

app = typer.Typer(no_args_is_help=True, help="Set up phone numbers, dial, simulate and see phone calls.")
numbers = typer.Typer(no_args_is_help=True, help="Set, list and remove the phone numbers of a workspace.")
app.add_typer(numbers, name="numbers")
app.command()(simulate)

Number = Annotated[str, typer.Argument(help="The number, for example +15550100001.")]
CallSid = Annotated[str, typer.Argument(help="The id of the phone call, from `parley phone calls`.")]


@numbers.command("set")
def set_number(
    number: Number,
    settings: Annotated[
        Path | None, typer.Option("--settings", help="A JSON file with the settings, whole; default: the defaults.")
    ] = None,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Give a number to the workspace, or replace its settings."""
    given = {} if settings is None else _read(settings)

    async def work(client: Client) -> None:
        made = await client.phone.set_number(number, given)
        show_json(made) if as_json else out.say(f"{made.number}: its voice webhook is POST /phone/voice of the gateway")

    with_client(workspace, work)


@numbers.command("list")
def list_numbers(workspace: Workspace = "default", as_json: Json = False) -> None:
    """List the numbers of the workspace with their settings."""

    async def work(client: Client) -> None:
        found = await client.phone.numbers()
        show_json([one.model_dump(mode="json") for one in found]) if as_json else out.print(_numbers(found))

    with_client(workspace, work)


@numbers.command("remove")
def remove_number(number: Number, workspace: Workspace = "default", as_json: Json = False) -> None:
    """Take no further phone call on a number. Its phone calls stay."""

    async def work(client: Client) -> None:
        await client.phone.remove_number(number)
        show_json({"removed": number}) if as_json else out.say(f"{number} is removed")

    with_client(workspace, work)


@app.command()
def dial(
    to: Number,
    from_number: Annotated[str, typer.Option("--from", help="A number of the workspace.")],
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", help="NAME=VALUE, sent with the phone call; may be repeated.")
    ] = None,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Call a number, and hold the phone call when it is answered. It is dialled once: a repetition rings again."""
    parameters = dict(map(_parameter, parameter or ()))

    async def work(client: Client) -> None:
        call_sid = await client.phone.dial(to, from_number=from_number, parameters=parameters)
        show_json({"call_sid": call_sid}) if as_json else out.say(call_sid)

    with_client(workspace, work)


@app.command()
def calls(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The most to list.")] = 20,
    is_open: Annotated[bool, typer.Option("--open", help="Only those that go on.")] = False,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """List phone calls, the newest first."""

    async def work(client: Client) -> None:
        found = await client.phone.calls(limit=limit, is_open=True if is_open else None)
        show_json([one.model_dump(mode="json") for one in found]) if as_json else out.print(_calls(found))

    with_client(workspace, work)


@app.command()
def show(call_sid: CallSid, workspace: Workspace = "default", as_json: Json = False) -> None:
    """Show a phone call: what was said, what was heard of it, and how long each answer took."""

    async def work(client: Client) -> None:
        call, turns = await client.phone.call(call_sid), await client.phone.turns(call_sid)
        if as_json:
            said = [turn.model_dump(mode="json") for turn in turns]
            show_json({**call.model_dump(mode="json"), "transcript": said})
            return
        out.print(_calls([call]))
        if call.summary:
            out.print(Text(f"Summary: {call.summary}\n"))
        out.print(_turns(turns))

    with_client(workspace, work)


def _read(path: Path) -> dict[str, Any]:
    given = read_json(read_text(path), where=path.name)
    if not isinstance(given, dict):
        raise InvalidInput("must be a JSON object", where=str(path))
    return given


def _parameter(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise InvalidInput(f"must be NAME=VALUE; got {text!r}", where="--parameter")
    return name, value


def _numbers(found: Sequence[PhoneNumber]) -> Table | str:
    if not found:
        return "no numbers"
    shown = Table("number", "language", "voice", "hand-over", "since", box=box.SIMPLE)
    for one in found:
        settings = one.settings
        cells = (one.number, settings.language, settings.voice, settings.transfer_to or "")
        shown.add_row(*map(Text, (*cells, f"{one.updated_at:%Y-%m-%d %H:%M}")))
    return shown


def _calls(found: Sequence[PhoneCallReport]) -> Table | str:
    if not found:
        return "no phone calls"
    titles = ("id", "began", "caller", "number", "state", "seconds", "turns", "barge-ins", "errors", "USD")
    shown = Table(*titles, box=box.SIMPLE)
    for one in found:
        state = f"{one.status} ({one.reason})" if one.reason else one.status.value
        counts = (f"{one.seconds:.0f}", str(one.turns), str(one.interruptions), str(one.errors), f"{one.cost_usd:.6f}")
        ends = (one.call_sid, f"{one.started_at:%Y-%m-%d %H:%M:%S}", one.caller, one.number, state)
        shown.add_row(*map(Text, (*ends, *counts)))
    return shown


def _turns(found: Sequence[PhoneTurn]) -> Table | str:
    if not found:
        return "nothing was said"
    shown = Table("", "caller", "agent", "heard", "answered after", "problem", box=box.SIMPLE)
    for one in found:
        heard = "all" if one.heard is None else one.heard or "nothing"
        after = "" if one.response_ms is None else f"{one.response_ms} ms"
        shown.add_row(*map(Text, (str(one.number), one.text, one.answer or "", heard, after, one.error)))
    return shown
