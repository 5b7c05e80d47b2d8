"""`parley knowledge`: the documents that a workspace's conversations are answered from."""

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.text import Text

from parley import AddedDocument, Client, KnowledgeDocument, KnowledgePassage
from parley.cli.console import Json, Workspace, err, out, show_json, with_client
from parley.cli.display import counted, progress_bars
from parley.cli.table import Table
from parley.domain.errors import InvalidInput

app = typer.Typer(no_args_is_help=True, help="Add, list, remove and search the documents that answers are made from.")

PASSAGE_CHARACTERS = 300
STDIN = "-"
NO_VECTORS = (
    "Vectors are not computed here, so passages are found by their words alone: install 'parley[local-embeddings]' and "
    "add the documents again."
)
Add = Callable[[Callable[[int, int], None]], Awaitable[AddedDocument]]


@app.command()
def add(
    sources: Annotated[
        list[str], typer.Argument(help="Files or directories of text, Markdown, HTML or PDF; - is stdin.")
    ],
    name: Annotated[str | None, typer.Option(help="The name of one document; default: that of its file.")] = None,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Add documents, or replace those that have the same names. What has not changed stays as it is.

    The name of a file in a directory is its path below the directory.
    """

    async def work(client: Client) -> None:
        documents = [one for source in sources for one in _documents(client, source, name)]
        if name is not None and len(documents) > 1:
            raise InvalidInput(f"names one document, and there are {len(documents)}", where="--name")
        added: list[AddedDocument] = []
        problems: list[InvalidInput] = []
        for title, one in documents:
            try:
                added.append(await _with_progress(title, one))
            except InvalidInput as error:
                problems.append(error)
        _show_added(added, as_json)
        if not client.knowledge.has_vectors and not as_json:
            err.say(NO_VECTORS)
        for problem in problems[:-1]:
            err.say(str(problem))
        if problems:
            raise problems[-1]

    with_client(workspace, work)


@app.command("list")
def list_documents(workspace: Workspace = "default", as_json: Json = False) -> None:
    """List the documents by their names."""

    async def work(client: Client) -> None:
        found: list[KnowledgeDocument] = []
        while page := await client.knowledge.list(after=found[-1].name if found else ""):
            found += page
        show_json([one.model_dump(mode="json") for one in found]) if as_json else out.print(_table(found))

    with_client(workspace, work)


@app.command()
def remove(
    names: Annotated[list[str], typer.Argument(help="The names of documents, from `parley knowledge list`.")],
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Remove documents. What was answered from them stays."""

    async def work(client: Client) -> None:
        for name in names:
            await client.knowledge.remove(name)
        show_json({"removed": len(names)}) if as_json else out.say(f"removed: {len(names)}")

    with_client(workspace, work)


@app.command()
def search(
    text: Annotated[str, typer.Argument(help="A question, or words.")],
    limit: Annotated[int, typer.Option(help="The most passages.")] = 5,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Show the passages that an answer to a text would be made from, the best first."""

    async def work(client: Client) -> None:
        found = await client.knowledge.search(text, limit=limit)
        if as_json:
            show_json([one.model_dump(mode="json") for one in found])
        elif not found:
            out.say("nothing is found")
        for at, passage in enumerate(() if as_json else found, 1):
            _show(at, passage)

    with_client(workspace, work)


def _documents(client: Client, source: str, name: str | None) -> list[tuple[str, Add]]:
    """What a source has: the name of each document, and how it is added."""
    from parley.client.knowledge import files_of  # noqa: PLC0415

    if source == STDIN:
        content = sys.stdin.buffer.read()
        given = name or "stdin"
        return [(given, lambda progress: client.knowledge.add(content, name=given, on_progress=progress))]
    root = Path(source)

    def adding(path: Path) -> tuple[str, Add]:
        known = name or (path.name if path == root else path.relative_to(root).as_posix())
        return known, lambda progress: client.knowledge.add_file(path, name=known, on_progress=progress)

    return [adding(path) for path in files_of(root)]


async def _with_progress(title: str, add_one: Add) -> AddedDocument:
    """Add a document, and draw the progress of its vectors in a terminal."""
    if not err.is_terminal:
        return await add_one(lambda _done, _of: None)
    with progress_bars(err) as bars:
        task = bars.add_task(title, total=None, note="")
        return await add_one(lambda done, of: bars.update(task, completed=done, total=of))


def _show_added(added: list[AddedDocument], as_json: bool) -> None:
    if as_json:
        show_json([one.model_dump(mode="json") for one in added])
        return
    for one in added:
        out.say(f"{one.outcome}: {one.document.name} ({counted(one.document.chunks, 'passage')})")


def _show(at: int, passage: KnowledgePassage) -> None:
    source = passage.heading or passage.title
    out.say(f"{at}. {source}  [{passage.name}, passage {passage.chunk}]", style="bold")
    text = " ".join(passage.text.split())
    out.say(text if len(text) <= PASSAGE_CHARACTERS else f"{text[:PASSAGE_CHARACTERS]}…")


def _table(found: list[KnowledgeDocument]) -> Table | str:
    if not found:
        return "there are no documents"
    shown = Table("name", "title", "form", "passages", "vectors", "changed", box=box.SIMPLE)
    for one in found:
        counts = (str(one.chunks), str(one.vectors), f"{one.updated_at:%Y-%m-%d %H:%M}")
        shown.add_row(*map(Text, (one.name, one.title, one.kind.value, *counts)))
    return shown
