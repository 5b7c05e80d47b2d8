"""`parley doctor`: is this machine ready, and if not, what to do."""

import typer
from rich.text import Text

from parley.cli.console import Json, out, run, show_json
from parley.client.diagnosis import Check, diagnose

app = typer.Typer()


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check this machine, the settings and the servers, and say what to do.

    It exits with 1 if there is a problem. It shows which keys are set, and never a key.
    """
    found = run(diagnose())
    if as_json:
        show_json(found)
    else:
        for check in found:
            _show(check)
    if not all(check.ok for check in found):
        raise typer.Exit(1)


def _show(check: Check) -> None:
    mark = Text("ok     ", style="green") if check.ok else Text("problem", style="red")
    out.print(mark, Text(f"{check.name}: {check.found}"), soft_wrap=True)
    if check.advice:
        out.say(f"        {check.advice}")
