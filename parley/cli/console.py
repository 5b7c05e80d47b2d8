"""What every command shares: where output goes, whose data it is about, and a client that is connected."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar

import typer
from pydantic import BaseModel, TypeAdapter
from rich.console import Console

from parley.client.client import Client
from parley.domain.errors import InvalidInput
from parley.settings import Settings
from parley.stack_state import running_stack

T = TypeVar("T")

# Results go to stdout, everything else to stderr: `--json` leaves stdout to the machine.
out = Console()
err = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Machine output alone on stdout.")]
Workspace = Annotated[str, typer.Option("--workspace", "-w", envvar="PARLEY_WORKSPACE", help="Whose data.")]


def show_json(value: Any) -> None:
    data = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    sys.stdout.write(TypeAdapter(Any).dump_json(data, indent=2).decode() + "\n")


def with_client(workspace: str, work: Callable[[Client], Awaitable[T]]) -> T:
    """Run `work` with a client of the workspace, on the environment's or the running stack's addresses."""

    async def connected() -> T:
        async with await Client.connect(workspace_id=workspace) as client:
            return await work(client)

    return run(connected())


def use_running_stack() -> None:
    """Where the environment names no database, take the addresses of the stack that `parley up` runs here."""
    settings = Settings()
    if settings.database_url is not None:
        return
    stack = running_stack(settings.parley_state_dir)
    if stack is None:
        return
    os.environ["DATABASE_URL"] = stack.database_url
    os.environ["TEMPORAL_ADDRESS"] = stack.temporal_address
    if stack.simulator_url:
        os.environ.setdefault("PARLEY_SIMULATOR_URL", stack.simulator_url)


def parse_since(text: str) -> datetime:
    """A moment from `2026-11-01`, an ISO time, or a span back from now such as `24h` or `7d`."""
    units = {"h": "hours", "d": "days", "w": "weeks"}
    try:
        if text[-1:] in units:
            return datetime.now(UTC) - timedelta(**{units[text[-1]]: float(text[:-1])})
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise InvalidInput(f"{text!r} is neither a date nor a span such as 24h or 7d", where="--since") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def run(work: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
