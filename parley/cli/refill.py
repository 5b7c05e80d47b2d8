"""`parley energy refill`: what midnight does, now."""

from parley.cli.console import Json, Workspace, err, out, show_json, with_client
from parley.client.client import Client


def refill(workspace: Workspace = "default", as_json: Json = False) -> None:
    """Top the users of every workspace up to their tier's daily energy now; each is given a day's refill once."""

    async def work(client: Client) -> None:
        done = await client.housekeeping.refill_energy()
        if as_json:
            show_json(done)
            return
        out.print(f"{done.day}: {done.energy:,} energy to {done.users:,} users", highlight=False)
        if done.skipped:
            tiers = ", ".join(done.unknown_tiers)
            err.print(f"skipped {done.skipped:,} users of tiers that the policy does not define: {tiers}", markup=False)

    with_client(workspace, work)
