"""`parley prompts`: the templates by name and version."""

from typing import Annotated

import typer
from rich import box
from rich.table import Column, Table

from parley.cli.console import Json, out, show_json
from parley.domain.generate.prompts import PLACEHOLDERS, Template, template, templates


def prompts(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show this one; or name@version.")] = None,
    as_json: Json = False,
) -> None:
    """List the prompts, or show one with what is filled into it."""
    if name is None:
        show_json([_described(one) for one in templates()]) if as_json else out.print(_table())
        return
    found = template(name)
    if as_json:
        show_json(_described(found) | {"text": found.text})
        return
    out.print(f"{found.id}: {found.purpose}", markup=False, highlight=False)
    out.print(f"\n{found.text}", markup=False, highlight=False, soft_wrap=True)
    if found.placeholders:
        out.print(_filled_in(found))


def _described(one: Template) -> dict[str, object]:
    return {"id": one.id, **one.model_dump(exclude={"text"}), "placeholders": one.placeholders}


def _table() -> Table:
    shown = Table(Column("prompt", overflow="fold"), "used by", "what for", box=box.SIMPLE)
    for one in templates():
        shown.add_row(one.id, one.job or "any request", one.purpose)
    return shown


def _filled_in(one: Template) -> Table:
    shown = Table("filled in", "with", "else", box=box.SIMPLE)
    for name in one.placeholders:
        shown.add_row(name, PLACEHOLDERS[name].about, PLACEHOLDERS[name].neutral)
    return shown
