"""`parley budget`: see and set what a workspace may spend."""

from typing import Annotated

import typer

from parley import Client, Period
from parley.cli.console import Json, Workspace, out, parse_usd, show_json, with_client
from parley.cli.display import usd

app = typer.Typer(no_args_is_help=True, help="See and set what a workspace may spend.")


@app.command("show")
def show(workspace: Workspace = "default", as_json: Json = False) -> None:
    """Show the spending caps, and what counts against them now."""

    async def work(client: Client) -> None:
        caps = await client.caps()
        if as_json:
            show_json(
                [
                    {
                        "period": cap.period.value,
                        "cap_usd": str(cap.cap_usd),
                        "left_usd": str(cap.left_usd),
                        "reserved_usd": str(cap.reserved_usd),
                        "confirmed_usd": str(cap.confirmed_usd),
                        "uncertain_usd": str(cap.uncertain_usd),
                    }
                    for cap in caps
                ]
            )
            return
        for cap in caps:
            confirmed, uncertain, reserved = map(usd, (cap.confirmed_usd, cap.uncertain_usd, cap.reserved_usd))
            used = f"${confirmed} confirmed, ${uncertain} uncertain, ${reserved} reserved"
            out.say(f"{cap.period.value}: ${usd(cap.left_usd)} of ${usd(cap.cap_usd)} left ({used})")
        if not caps:
            out.say("no cap is set: spending is not limited")

    with_client(workspace, work)


@app.command("set")
def set_cap(
    period: Period,
    amount: Annotated[str, typer.Argument(help="The most that may be spent per period, for example 12.50, or none.")],
    workspace: Workspace = "default",
) -> None:
    """Limit what the workspace may spend in a day, an ISO week or a month (UTC), from now on."""
    cap = None if amount == "none" else parse_usd(amount, where="budget")

    async def work(client: Client) -> None:
        await client.set_cap(period, cap)
        out.say(f"{period.value}: {'no cap' if cap is None else f'at most ${usd(cap)}'}")

    with_client(workspace, work)
