"""What all commands share: the consoles, common options, and a connected client."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar

import typer
from pydantic import BaseModel, TypeAdapter
from rich.console import Console

from parley.client.client import Client
from parley.domain.errors import InvalidInput

T = TypeVar("T")

# Results go to stdout, everything else to stderr, so that stdout is only JSON with `--json`.
out = Console()
err = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON only on stdout.")]

Workspace = Annotated[str, typer.Option("--workspace", "-w", envvar="PARLEY_WORKSPACE", help="The workspace.")]


def show_json(value: Any) -> None:
    data = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    sys.stdout.write(TypeAdapter(Any).dump_json(data, indent=2).decode() + "\n")


def with_client(workspace: str, work: Callable[[Client], Awaitable[T]]) -> T:
    """Run `work` with a client of the workspace, connected as `Client.connect` does by default."""

    async def connected() -> T:
        async with await Client.connect(workspace_id=workspace) as client:
            return await work(client)

    return run(connected())


def parse_since(text: str, *, where: str = "--since") -> datetime:
    """The time that `2026-11-01`, an ISO time, or a span back from now such as `24h` or `7d` means.

    Raises:
        InvalidInput: it is none of these.
    """
    units = {"h": "hours", "d": "days", "w": "weeks"}
    try:
        if text[-1:] in units:
            return datetime.now(UTC) - timedelta(**{units[text[-1]]: float(text[:-1])})
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise InvalidInput(
            f"must be a date such as 2026-11-01 or a span such as 24h or 7d; got {text!r}", where=where
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def run(work: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
