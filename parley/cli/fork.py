"""`parley fork` and `parley compare`: repeat a run with another model or prompt, and see what differs."""

from typing import Annotated

import typer
from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape

from parley import Client, Provider, RunComparison
from parley.cli import display
from parley.cli.console import Json, Workspace, err, out, parse_usd, show_json, with_client
from parley.cli.jobs import Instructions, JobId, OnlyModel, OnlyProvider
from parley.cli.table import Table
from parley.cli.tables import percent

app = typer.Typer()
MOST_LABELS = 8


@app.command()
def fork(
    job_id: JobId,
    provider: OnlyProvider = None,
    model: OnlyModel = None,
    instructions: Instructions = None,
    max_cost: Annotated[
        str | None, typer.Option(metavar="USD", help="The most that the new run may cost; default: as the first.")
    ] = None,
    run_name: Annotated[str, typer.Option(help="Separates two forks with one model and the same instructions.")] = "",
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Print the id and exit.")] = False,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Label the sessions of a completed run again with another model or prompt, and compare cost and labels."""
    budget_usd = None if max_cost is None else parse_usd(max_cost, where="--max-cost", least="0.000001")
    only = Provider(provider) if provider else None

    async def work(client: Client) -> None:
        original = await client.job(job_id)
        job = await client.fork_auto_analyze(
            job_id,
            provider=only,
            model=model,
            instructions=instructions,
            budget_usd=budget_usd,
            run_name=run_name,
        )
        if detach:
            show_json({"id": job.id}) if as_json else out.say(job.id)
            return
        err.say(job.id)
        await display.watched(err, job, final=True)
        found = await client.compare_runs(original.job_key, job.job_key)
        show_json(found) if as_json else out.print(shown(found))

    with_client(workspace, work)


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="FIRST", help="The id or key of a labelling run.")],
    second: Annotated[str, typer.Argument(metavar="SECOND", help="The id or key of another one on the same file.")],
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Compare two labelling runs on the same sessions: cost, agreement, and labels that only one has."""

    async def work(client: Client) -> None:
        found = await client.compare_runs(first, second)
        show_json(found) if as_json else out.print(shown(found))

    with_client(workspace, work)


def shown(found: RunComparison) -> RenderableType:
    """The figures of both runs, and the sessions whose intents do not match."""
    table = Table("", "first", "second", box=box.SIMPLE)
    one, other = found.first, found.second
    table.add_row("job", escape(one.id), escape(other.id))
    table.add_row("models", escape(", ".join(one.models)), escape(", ".join(other.models)))
    if one.instructions or other.instructions:
        table.add_row("instructions", escape(one.instructions) or "-", escape(other.instructions) or "-")
    table.add_row("cost", f"${display.usd(one.cost_usd)}", f"${display.usd(other.cost_usd)} ({_signed(found)})")
    table.add_row("tokens", f"{one.tokens:,}", f"{other.tokens:,}")
    table.add_row("intents", f"{one.intents:,}", f"{other.intents:,}")
    table.add_row("only there", _labels(found.only_first), _labels(found.only_second))
    alike = (
        f"{display.counted(found.sessions, 'session')} labelled in both: "
        f"{percent(found.same_label, '-')} have matching intents, {percent(found.same_name, '-')} the same ones; "
        f"adjusted Rand index {'-' if found.ari is None else f'{found.ari:.3f}'}"
    )
    return Group(table, alike, *_examples(found))


def _signed(found: RunComparison) -> str:
    difference = display.usd(found.cost_difference_usd)
    return difference if difference.startswith("-") else f"+{difference}"


def _examples(found: RunComparison) -> list[RenderableType]:
    if not found.examples:
        return []
    table = Table("session", "user said", "first", "second", "sessions", box=box.SIMPLE)
    moved = {(pair.first, pair.second): pair.sessions for pair in found.moved}
    for one in found.examples:
        sessions = f"{moved[one.first, one.second]:,}"
        table.add_row(escape(one.session_id), escape(one.said), escape(one.first), escape(one.second), sessions)
    return [table]


def _labels(labels: tuple[tuple[str, int], ...]) -> str:
    named = [f"{escape(label)} ({sessions:,})" for label, sessions in labels[:MOST_LABELS]]
    return ", ".join([*named, *([f"{len(labels) - MOST_LABELS:,} more"] if len(labels) > MOST_LABELS else [])]) or "-"
