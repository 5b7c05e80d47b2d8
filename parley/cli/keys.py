"""`parley keys`: the keys with which programs reach a workspace through the gateway."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich import box
from rich.text import Text

from parley import Client
from parley.cli.console import Json, Workspace, err, out, show_json, with_client
from parley.cli.table import Table
from parley.domain.errors import InvalidInput
from parley.domain.gateway_keys import (
    DEFAULT_CONCURRENT_STREAMS,
    DEFAULT_REQUESTS_PER_MINUTE,
    DEFAULT_SCOPES,
    MOST_CONCURRENT_STREAMS,
    MOST_REQUESTS_PER_MINUTE,
    GatewayKey,
    Scope,
)
from parley.domain.generate.contract import Mode

UNITS = {"h": "hours", "d": "days", "w": "weeks"}

app = typer.Typer(no_args_is_help=True, help="Make, list and revoke the keys of the gateway.")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    scope: Annotated[
        list[Scope] | None, typer.Option(help="A right of the key; may be repeated. Default: generate, jobs and read.")
    ] = None,
    expires: Annotated[str | None, typer.Option(help="How long it is valid, for example 90d; default: always.")] = None,
    requests_per_minute: Annotated[
        int, typer.Option(min=1, max=MOST_REQUESTS_PER_MINUTE, help="The most requests a minute, over all gateways.")
    ] = DEFAULT_REQUESTS_PER_MINUTE,
    concurrent_streams: Annotated[
        int, typer.Option(min=1, max=MOST_CONCURRENT_STREAMS, help="The most open streams in one gateway process.")
    ] = DEFAULT_CONCURRENT_STREAMS,
    mode: Annotated[
        Mode | None, typer.Option(help="How its generations run. Default: as the action's policy says.")
    ] = None,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Make a key, and print it once: only its hash is stored."""
    expires_in = None if expires is None else _span(expires)

    async def work(client: Client) -> None:
        made = await client.gateway_keys.create(
            name,
            scopes=scope or DEFAULT_SCOPES,
            expires_in=expires_in,
            requests_per_minute=requests_per_minute,
            concurrent_streams=concurrent_streams,
            mode=mode,
        )
        if as_json:
            show_json(made)
            return
        out.say(made.secret)
        err.say(f"{made.key_id} of workspace {workspace}: store the key now, it is not shown again")

    with_client(workspace, work)


@app.command("list")
def list_keys(workspace: Workspace = "default", as_json: Json = False) -> None:
    """List the keys with their rights, limits and state."""

    async def work(client: Client) -> None:
        found = await client.gateway_keys.list()
        show_json([key.model_dump(mode="json") for key in found]) if as_json else out.print(_table(found))

    with_client(workspace, work)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="The id of the key, from `parley keys list`.")],
    workspace: Workspace = "default",
) -> None:
    """Revoke a key. Every gateway refuses it within seconds."""

    async def work(client: Client) -> None:
        await client.gateway_keys.revoke(key_id)
        out.say(f"{key_id} is revoked")

    with_client(workspace, work)


def _table(found: list[GatewayKey]) -> Table | str:
    if not found:
        return "no keys: make one with `parley keys create NAME`"
    shown = Table("id", "key", "name", "scopes", "requests a minute", "last used", "state", box=box.SIMPLE)
    now = datetime.now(UTC)
    for key in found:
        used = key.last_used_at.strftime("%Y-%m-%d %H:%M") if key.last_used_at else "never"
        cells = (key.key_id, f"{key.prefix}…", key.name, " ".join(key.scopes), f"{key.requests_per_minute:,}", used)
        shown.add_row(*map(Text, (*cells, _state(key, now))))
    return shown


def _state(key: GatewayKey, now: datetime) -> str:
    if key.revoked_at is not None:
        return "revoked"
    if not key.is_valid(now):
        return "expired"
    return "valid" if key.expires_at is None else f"valid until {key.expires_at:%Y-%m-%d}"


def _span(text: str) -> timedelta:
    try:
        return timedelta(**{UNITS[text[-1:]]: float(text[:-1])})
    except (KeyError, ValueError, OverflowError):
        raise InvalidInput(f"must be a span such as 24h, 90d or 52w; got {text!r}", where="--expires") from None
