"""`parley rubrics`: by what sessions can be rated."""

import typer
from rich import box
from rich.text import Text

from parley import Client, Rubric
from parley.cli.console import Json, Workspace, out, show_json, with_client
from parley.cli.table import Column, Table

app = typer.Typer()


@app.command()
def rubrics(workspace: Workspace = "default", as_json: Json = False) -> None:
    """List the rubrics by which sessions are rated, with their skills."""

    async def work(client: Client) -> None:
        found = await client.rubrics()
        show_json(found) if as_json else out.print(_table(found))

    with_client(workspace, work)


def _table(found: list[Rubric]) -> Table:
    shown = Table(Column("rubric", no_wrap=True), "title", "rates", "skills and weights", box=box.SIMPLE)
    for rubric in found:
        skills = ", ".join(f"{skill.title} {skill.weight}" for skill in rubric.skill)
        shown.add_row(rubric.reference, Text(rubric.title), Text(rubric.user), Text(skills))
    return shown
