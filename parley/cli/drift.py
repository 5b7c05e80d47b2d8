"""`parley drift`: how the labels of a later run differ from those of an earlier one."""

from typing import Annotated

import typer
from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape

from parley import Client, KindDrift, LabelDrift, LabelTrend
from parley.cli.console import Json, Workspace, out, show_json, with_client
from parley.cli.table import Table

app = typer.Typer()
MOST_SHOWN = 20
STYLES = {LabelTrend.NEW: "green", LabelTrend.GREW: "green", LabelTrend.GONE: "red", LabelTrend.SHRANK: "red"}


@app.command()
def drift(
    earlier: Annotated[str, typer.Argument(metavar="EARLIER", help="The id or key of the earlier run.")],
    later: Annotated[str, typer.Argument(metavar="LATER", help="The id or key of the later run.")],
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Compare the labels of two runs: which are new, gone, or have a larger or smaller share."""

    async def work(client: Client) -> None:
        found = await client.label_drift(earlier, later)
        show_json(found) if as_json else out.print(shown(found))

    with_client(workspace, work)


def shown(found: LabelDrift) -> RenderableType:
    """A table for each kind of label."""
    return Group(*map(_kind, found.kinds)) if found.kinds else "no labels in either run"


def _kind(found: KindDrift) -> RenderableType:
    table = Table(found.kind.value.replace("_", " "), "change", box=box.SIMPLE)
    for name in ("earlier", "share", "later", "share", "p"):
        table.add_column(name, justify="right")
    changed = [one for one in found.labels if one.change is not LabelTrend.STEADY]
    for one in changed[:MOST_SHOWN]:
        table.add_row(
            escape(one.label),
            f"[{STYLES[one.change]}]{one.change.value}[/]",
            f"{one.earlier_sessions:,}",
            f"{one.earlier_share:.1%}",
            f"{one.later_sessions:,}",
            f"{one.later_share:.1%}",
            "-" if one.p_value is None else f"{one.p_value:.2g}",
        )
    steady = len(found.labels) - len(changed)
    left = [f"{len(changed) - MOST_SHOWN:,} more changes"] if len(changed) > MOST_SHOWN else []
    left += [f"{steady:,} labels without a change that chance would not explain"] if steady else []
    distance = "-" if found.distance is None else f"{found.distance:.3f}"
    return Group(table, "; ".join([f"Jensen-Shannon distance {distance}", *left]))
