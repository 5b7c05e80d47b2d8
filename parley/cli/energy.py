"""`parley energy`: see and grant users' energy, and refill it now."""

from typing import Annotated
from uuid import uuid4

import typer

from parley import Client, Settings
from parley.cli.console import Json, Workspace, checked_key, err, known_in_policy, out, show_json, with_client
from parley.cli.display import counted

app = typer.Typer(no_args_is_help=True, help="See and grant users' energy.")


@app.command("show")
def show(user: str, workspace: Workspace = "default", as_json: Json = False) -> None:
    """Show a user's energy."""

    async def work(client: Client) -> None:
        balance = await client.energy(user)
        if as_json:
            show_json(balance)
            return
        parts = f"{balance.granted} granted, {balance.charged} charged, {balance.reserved} reserved"
        out.say(f"{balance.available} available: {parts} ({balance.tier} tier)")

    with_client(workspace, work)


@app.command("grant")
def grant(
    user: str,
    amount: Annotated[int, typer.Argument(min=1)],
    key: Annotated[str | None, typer.Option(help="Idempotency key: the same key grants once.")] = None,
    tier: Annotated[str | None, typer.Option(help="Also move the user to this tier.")] = None,
    workspace: Workspace = "default",
) -> None:
    """Grant energy to a user."""
    grant_key = checked_key(key) or uuid4().hex
    if tier is not None:
        known_in_policy("--tier", tier, Settings().policy().tier)

    async def work(client: Client) -> None:
        granted = await client.grant_energy(user, amount, key=grant_key)
        if tier:
            await client.set_tier(user, tier)
        line = f"granted {amount}" if granted else "this key was used before: no energy was granted"
        out.say(f"{line}; the tier is {tier}" if tier else line)

    with_client(workspace, work)


@app.command()
def refill(workspace: Workspace = "default", as_json: Json = False) -> None:
    """Refill the users of all workspaces to their tier's daily energy now. A user gets one refill a day."""

    async def work(client: Client) -> None:
        done = await client.housekeeping.refill_energy()
        if as_json:
            show_json(done)
            return
        out.say(f"{done.day}: {done.energy:,} energy to {counted(done.users, 'user')}")
        if done.skipped:
            tiers = ", ".join(done.unknown_tiers)
            err.say(f"skipped {done.skipped:,} users of tiers that the policy does not define: {tiers}")

    with_client(workspace, work)
