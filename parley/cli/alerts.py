"""`parley alerts`: the weeks in which a workspace spent more than the threshold."""

from rich import box
from rich.table import Table

from parley.cli.console import Json, Workspace, out, show_json, with_client
from parley.client.client import Client
from parley.client.housekeeping import CostAlertReport


def alerts(workspace: Workspace = "default", as_json: Json = False) -> None:
    """List the weeks that cost more than the policy's `weekly_alert_usd`."""

    async def work(client: Client) -> None:
        found = await client.housekeeping.alerts()
        show_json(found) if as_json else out.print(table(found))

    with_client(workspace, work)


def table(found: list[CostAlertReport]) -> Table | str:
    if not found:
        return "no alerts"
    shown = Table("week", "spent", "of it uncertain", "threshold", box=box.SIMPLE)
    for alert in found:
        shown.add_row(alert.period, f"${alert.spent_usd}", f"${alert.uncertain_usd}", f"${alert.threshold_usd}")
    return shown
