"""`parley phone`: phone calls."""

import typer

from parley.cli.phone_simulate import simulate

app = typer.Typer(no_args_is_help=True, help="Make simulated phone calls to an agent.")
app.command()(simulate)


@app.callback()
def phone() -> None:
    """A group, also while it has one command."""
