"""Jobs: `parley analyze`, `import`, `auto-analyze`, `jobs`, `progress`, `results`, `pause`, `cancel` …"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple, Unpack, cast

import typer
from rich.markup import escape

from parley import (
    AnalysisHandle,
    AutoAnalyzeHandle,
    AutoAnalyzeOptions,
    ChatFormat,
    ChatRole,
    Client,
    Imported,
    InvalidInput,
    Provider,
    ReadingOptions,
    Session,
    Transcript,
    UnpricedModel,
    read_labels,
)
from parley.cli import display
from parley.cli.console import Json, Workspace, command_in, err, out, parse_usd, show_json, with_client
from parley.cli.exporting import write_sessions
from parley.cli.reporting import in_a_directory, write_report
from parley.client.fetching import is_url
from parley.client.listing import KINDS, STATUSES
from parley.client.reading import read_conversation, read_recording, read_rubric
from parley.client.session_analysis import HearingOptions
from parley.domain.auto_analyze.contract import (
    DEFAULT_BUDGET_USD,
    DEFAULT_REVIEW_LIMIT_SECONDS,
    MAX_STREAMS,
    RunControls,
)
from parley.domain.auto_analyze.processing import Processing
from parley.domain.chat_formats import CHAT_FORMATS, CHAT_ROLES
from parley.domain.chat_formats.drafts import DEFAULT_SESSION_GAP_HOURS
from parley.domain.coaching.rubric import DEFAULT_RUBRIC
from parley.domain.requests import ChatProviderName
from parley.domain.session_analysis import (
    DEFAULT_TRANSCRIPT_TOKENS,
    DEFAULT_VOICE_DEADLINE_SECONDS,
    LEAST_TRANSCRIPT_TOKENS,
)

app = typer.Typer()

OnlyProvider = Annotated[ChatProviderName | None, typer.Option(help="Call this provider only.")]
OnlyModel = Annotated[
    str | None, typer.Option(help="Call this model only; --provider is optional where a provider has a price for it.")
]
Html = Annotated[
    Path | None,
    typer.Option(metavar="FILE", callback=in_a_directory, help="Write the report to this file, as one HTML page."),
]
Instructions = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="Add this to the prompts, for example how narrow labels are to be."),
]
ChatFile = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="Chat sessions: JSONL, CSV, or an export of another product; a file, a zip archive or a folder.",
    ),
]
ChatFileFormat = Annotated[
    ChatFormat | None,
    typer.Option(metavar="FORMAT", help=f"One of {', '.join(CHAT_FORMATS)}; default: as the content shows."),
]
RoleOfName = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=ROLE", help="The role of a name in the chats: user, agent or bot; more than once."),
]
SessionGap = Annotated[
    float, typer.Option(metavar="HOURS", help="The silence that ends a session, where a format has no sessions.")
]
JobId = Annotated[
    str, typer.Argument(metavar="ID", help="The job's id, as the command that started it printed it, or a job's key.")
]


@app.command()
def analyze(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="A recording, a transcript (Whisper, Deepgram, Zoom, SRT …), or a session (JSON); or "
            "the https URL of a recording.",
        ),
    ],
    audio: Annotated[
        str | None, typer.Option(metavar="FILE", help="The recording of a session or a transcript, or its https URL.")
    ] = None,
    user: Annotated[str | None, typer.Option(help="Whose session it is; default: operator.")] = None,
    user_channel: Annotated[int | None, typer.Option(min=1, help="The user's channel, from 1.")] = None,
    user_speaker: Annotated[str | None, typer.Option(help="The user's label or name in it.")] = None,
    user_role: Annotated[str | None, typer.Option(help="The user's role, where labels are roles: agent.")] = None,
    language: Annotated[str | None, typer.Option(help="Its language, for example en; default: as heard.")] = None,
    workspace: Workspace = "default",
    provider: OnlyProvider = None,
    model: OnlyModel = None,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait",
            help="Show the final result only; default: while every provider is down or limits the rate, or the voice is"
            " late, show a provisional result, which is amended later.",
        ),
    ] = False,
    voice_deadline: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="How long `hybrid` waits for the measures of a recording.")
    ] = DEFAULT_VOICE_DEADLINE_SECONDS,
    transcript_tokens: Annotated[
        int, typer.Option(min=LEAST_TRANSCRIPT_TOKENS, help="What `cost_optimized` reads of a long transcript at most.")
    ] = DEFAULT_TRANSCRIPT_TOKENS,
    rubric: Annotated[
        str,
        typer.Option(
            help="What is rated: sales, support, interview, teaching, a stored rubric, or a .toml or .json file."
        ),
    ] = DEFAULT_RUBRIC,
    html: Html = None,
    run_name: Annotated[str, typer.Option(help="Separates two analyses of the same content.")] = "",
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Print the id and exit.")] = False,
    as_json: Json = False,
) -> None:
    """Analyse one recording, transcript or session, and show the result."""
    given = _given(file, audio)
    only = Provider(provider) if provider else None
    rated_by = read_rubric(Path(rubric)) if rubric.endswith((".toml", ".json")) else rubric
    if html and detach:
        raise InvalidInput("the report is written when the job has ended: use it with `results`", where="--html")
    named = {
        "user_id": user,
        "user_channel": user_channel,
        "user_speaker": user_speaker,
        "user_role": user_role,
        "language": language,
    }
    heard = cast("HearingOptions", {name: value for name, value in named.items() if value is not None})

    async def work(client: Client) -> None:
        job = await client.analyze(
            given.session,
            audio=given.audio,
            audio_url=given.url,
            provider=only,
            model=model,
            wait=wait,
            voice_deadline_seconds=voice_deadline,
            transcript_tokens=transcript_tokens,
            run_name=run_name,
            rubric=rated_by,
            **heard,
        )
        await follow_started(client, job, detach=detach, final=wait, as_json=as_json, html=html, audio=given.path)

    with_client(workspace, work)


class _Given(NamedTuple):
    """What to analyse: a session or transcript, a recording by its bytes and the path of its file, or by its URL."""

    session: Session | Transcript | None = None
    audio: bytes | None = None
    path: Path | None = None
    url: str | None = None


def _given(file: str, audio: str | None) -> _Given:
    """What a file, or the URL of a recording, has; with the recording that is beside it."""
    content = None if is_url(file) else read_conversation(Path(file))
    if content is not None and not isinstance(content, bytes):
        return _recording(audio)._replace(session=content) if audio else _Given(session=content)
    if audio:
        raise InvalidInput("is a second recording: give a transcript or a session with it", where="--audio")
    return _Given(url=file) if content is None else _Given(audio=content, path=Path(file))


def _recording(audio: str) -> _Given:
    return _Given(url=audio) if is_url(audio) else _Given(audio=read_recording(Path(audio))[0], path=Path(audio))


@app.command("import")
def import_(
    file: ChatFile,
    format: ChatFileFormat = None,
    role: RoleOfName = None,
    session_gap: SessionGap = DEFAULT_SESSION_GAP_HOURS,
    skip_invalid: Annotated[bool, typer.Option("--skip-invalid", help="Leave out and list invalid lines.")] = False,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Import a file of chat sessions: the whole file, or nothing."""
    how = _reading_options(format, role, session_gap, skip_invalid=skip_invalid)

    async def work(client: Client) -> None:
        done = await import_file(client, file, **how)
        show_json(done) if as_json else out.say(done.dataset_id)

    with_client(workspace, work)


@app.command("auto-analyze")
def auto_analyze(
    file: ChatFile,
    format: ChatFileFormat = None,
    role: RoleOfName = None,
    session_gap: SessionGap = DEFAULT_SESSION_GAP_HOURS,
    user: Annotated[str, typer.Option(help="Whose energy pays.")] = "operator",
    provider: OnlyProvider = None,
    model: OnlyModel = None,
    streams: Annotated[int | None, typer.Option(min=1, max=MAX_STREAMS, help="Parallel streams.")] = None,
    sessions_per_stream: Annotated[str | None, typer.Option(help="Sessions per stream and round, or auto.")] = None,
    max_staleness: Annotated[
        str | None, typer.Option(help="Rounds by which a stream's labels may be old, or continuous.")
    ] = None,
    max_cost: Annotated[str | None, typer.Option(metavar="USD", help="The most that the run may cost.")] = None,
    seed: Annotated[int, typer.Option(help="Selects the discovery sample.")] = 7,
    reassign: Annotated[
        bool, typer.Option("--reassign/--no-reassign", help="Look again at the intents that are in doubt.")
    ] = True,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Start from these labels: JSON, CSV, or one label a line."),
    ] = None,
    closed: Annotated[
        bool | None,
        typer.Option("--closed/--open", help="Whether to take no labels but those of --labels, and `other`."),
    ] = None,
    since_analysis: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Label only sessions that this earlier run has not, starting from its labels."),
    ] = None,
    probes: Annotated[
        int | None, typer.Option(help="Sessions to label a second time, to measure agreement; default: 1%, 5 to 50.")
    ] = None,
    review: Annotated[
        bool, typer.Option("--review", help="Wait for `parley labels review` before labels are merged.")
    ] = False,
    review_hours: Annotated[
        float, typer.Option(min=0.01, max=720, help="How long a review may take; then the merges are made without one.")
    ] = DEFAULT_REVIEW_LIMIT_SECONDS / 3600,
    instructions: Instructions = None,
    processing: Annotated[
        Processing,
        typer.Option(
            help="batch: half price, by the provider's batch API within 24 hours; the second look takes 24 more."
        ),
    ] = "realtime",
    skip_invalid: Annotated[bool, typer.Option("--skip-invalid", help="Leave out and list invalid lines.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what the run will probably take, by phase, and start nothing.")
    ] = False,
    html: Html = None,
    run_name: Annotated[str, typer.Option(help="Separates two runs on the same file.")] = "",
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Print the id and exit.")] = False,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Import chat sessions and label them consistently."""
    if html and detach:
        raise InvalidInput("the report is written when the job has ended: use it with `results`", where="--html")
    how = _reading_options(format, role, session_gap, skip_invalid=skip_invalid)
    options: AutoAnalyzeOptions = {
        "provider": Provider(provider) if provider else None,
        "model": model,
        "seed": seed,
        "reassign": reassign,
        "probes": probes,
        "review": review,
        "review_limit_seconds": round(review_hours * 3600),
        "processing": processing,
    }
    if instructions is not None:
        options["instructions"] = instructions
    options |= _starting_options(labels, closed=closed, since_analysis=since_analysis)
    options |= _run_options(streams, sessions_per_stream, max_staleness, max_cost)
    limit = f"at most ${options.get('budget_usd', DEFAULT_BUDGET_USD)}, set by --max-cost"

    async def work(client: Client) -> None:
        client.check_auto_analyze_options(user_id=user, **options)
        if dry_run:
            await show_estimate(client, file, how, as_json=as_json, user_id=user, **options)
            return
        dataset = await import_file(client, file, **how)
        if found := await client.estimate_auto_analyze(dataset, user_id=user, **options):
            err.say(f"about ${display.usd(found.estimated_usd)} with {found.model} (estimated; {limit})")
            for warning in found.warnings:
                err.say(warning)
        job = await client.auto_analyze(dataset.dataset_id, user_id=user, run_name=run_name, **options)
        await follow_started(client, job, detach=detach, as_json=as_json, html=html)

    with_client(workspace, work)


def _reading_options(
    format: ChatFormat | None, role: Sequence[str] | None, session_gap: float, *, skip_invalid: bool
) -> ReadingOptions:
    return {
        "format": format,
        "roles": parse_roles(role or []),
        "session_gap_hours": session_gap,
        "skip_invalid": skip_invalid,
    }


def _starting_options(labels: Path | None, *, closed: bool | None, since_analysis: str | None) -> AutoAnalyzeOptions:
    """What the run starts from."""
    options: AutoAnalyzeOptions = {}
    if labels is not None:
        options["labels"] = read_labels(labels, closed=closed)
    elif closed is not None:
        raise InvalidInput("needs labels to start from: give --labels", where="--closed")
    if since_analysis is not None:
        options["since_analysis"] = since_analysis
    return options


def _run_options(
    streams: int | None, sessions_per_stream: str | None, max_staleness: str | None, max_cost: str | None
) -> AutoAnalyzeOptions:
    """The options that are given; the settings have the others."""
    options: AutoAnalyzeOptions = {}
    if streams is not None:
        options["streams"] = streams
    if sessions_per_stream is not None:
        options["sessions_per_stream"] = parse_number_or(sessions_per_stream, "auto", where="--sessions-per-stream")
    if max_staleness is not None:
        options["max_staleness"] = parse_number_or(max_staleness, "continuous", where="--max-staleness")
    if max_cost is not None:
        options["budget_usd"] = parse_usd(max_cost, where="--max-cost", least="0.000001")
    return options


@app.command()
def jobs(
    kind: Annotated[str | None, typer.Option(help=f"Only jobs of this kind: {', '.join(KINDS)}.")] = None,
    status: Annotated[str | None, typer.Option(help=f"Only jobs that are {', '.join(STATUSES)}.")] = None,
    job_id: Annotated[str | None, typer.Option("--id", help="Only the jobs under this id.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The most jobs to list.")] = 50,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """List jobs, the newest first, with status, cost and the reason of a failure.

    `results` takes an id, for the latest job under it, or a key, for exactly that job.
    """

    async def work(client: Client) -> None:
        found = await client.jobs(kind=kind, status=status, job_id=job_id, limit=limit)
        show_json(found) if as_json else out.print(display.jobs(found))

    with_client(workspace, work)


@app.command()
def progress(
    job_id: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait until the job ends.")] = False,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Show how far a job is."""

    async def work(client: Client) -> None:
        if follow:
            await show_job(client, job_id, as_json=as_json, final=True)
            return
        job = await client.job(job_id)
        status, state = await client.status(job.id), await job.progress()
        if as_json:
            show_json({"status": status, **state.model_dump(mode="json")})
        else:
            out.say(f"{status}: {display.describe(state)}")

    with_client(workspace, work)


@app.command()
def results(
    job_id: JobId,
    export: Annotated[
        Path | None, typer.Option(help="Write a labelling run's sessions to this file: .jsonl, .csv or .parquet.")
    ] = None,
    html: Html = None,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Show a job's result and what it cost."""

    async def work(client: Client) -> None:
        job = await client.job(job_id)
        found = await job.report()
        if html is not None:
            await write_report(job, found, html)
        if export is not None:
            if not isinstance(job, AutoAnalyzeHandle):
                raise InvalidInput("is not a labelling run: only those have sessions to export", where=job_id)
            written = await write_sessions(client.labelled_sessions(job_id), export)
            sessions = display.counted(written, "session")
            err.say(f"{sessions} written to {export}")
            if found.status == "running":
                err.say("the job is still running: sessions without a label are not labelled yet; export again later")
        show_json(found) if as_json else out.print(display.report(found))

    with_client(workspace, work)


@app.command()
def cancel(job_id: JobId, workspace: Workspace = "default", as_json: Json = False) -> None:
    """Request that a job stops. Results that are paid for stay stored."""

    async def work(client: Client) -> None:
        await (await client.job(job_id)).cancel()
        show_json({"id": job_id, "cancelled": True}) if as_json else out.say("cancellation requested")

    with_client(workspace, work)


@app.command()
def pause(job_id: JobId, workspace: Workspace = "default", as_json: Json = False) -> None:
    """Pause a labelling run: requests in flight are finished, and no other one starts."""
    _control(job_id, workspace, AutoAnalyzeHandle.pause, as_json=as_json)


@app.command()
def resume(
    job_id: JobId,
    max_cost: Annotated[
        str | None, typer.Option(metavar="USD", help="The new budget of the whole run; default: as before.")
    ] = None,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Resume a labelling run that is paused, or whose budget was used up."""
    budget_usd = None if max_cost is None else parse_usd(max_cost, where="--max-cost", least="0.000001")
    _control(job_id, workspace, lambda job: job.resume(budget_usd=budget_usd), as_json=as_json)


@app.command()
def finish(job_id: JobId, workspace: Workspace = "default", as_json: Json = False) -> None:
    """End a labelling run now: merge the labels that there are, and label no further session."""
    _control(job_id, workspace, AutoAnalyzeHandle.finish, as_json=as_json)


@app.command()
def streams(
    job_id: JobId,
    count: Annotated[
        int, typer.Argument(metavar="COUNT", min=1, max=MAX_STREAMS, help="How many streams label sessions, 1 to 64.")
    ],
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Change the number of parallel streams of a labelling run while it runs."""
    _control(job_id, workspace, lambda job: job.set_streams(count), as_json=as_json)


async def labelling_run(client: Client, job_id: str, only_those: str) -> AutoAnalyzeHandle:
    """The labelling run of an id.

    Raises:
        InvalidInput: the job is of another kind; the error says what `only_those` are, for example "have labels".
        NotFound: the workspace has no such job.
    """
    job = await client.job(job_id)
    if not isinstance(job, AutoAnalyzeHandle):
        raise InvalidInput(f"is not a labelling run: only those {only_those}", where=job_id)
    return job


def _control(
    job_id: str, workspace: str, change: Callable[[AutoAnalyzeHandle], Awaitable[RunControls]], *, as_json: bool
) -> None:
    async def work(client: Client) -> None:
        controls = await change(await labelling_run(client, job_id, "can be paused, resumed and finished"))
        show_json(controls) if as_json else out.say(display.controls(controls))

    with_client(workspace, work)


def parse_number_or(text: str, word: str, *, where: str) -> int | None:
    """A number; None for the word.

    Raises:
        InvalidInput: neither.
    """
    try:
        return None if text == word else int(text)
    except ValueError:
        raise InvalidInput(f"must be a number or {word}, not {text!r}", where=where) from None


def parse_roles(given: Sequence[str]) -> dict[str, ChatRole]:
    """Roles by name, from `NAME=ROLE`.

    Raises:
        InvalidInput: one of them is something else.
    """
    roles: dict[str, ChatRole] = {}
    for one in given:
        name, _, written = one.rpartition("=")
        role = CHAT_ROLES.get(written)
        if not name.strip() or role is None:
            raise InvalidInput(f"must be NAME=user, NAME=agent or NAME=bot, not {one!r}", where="--role")
        roles[name] = role
    return roles


async def import_file(client: Client, file: Path, **how: Unpack[ReadingOptions]) -> Imported:
    """Import a file with a progress line, and list the lines that were left out."""
    with err.status(f"importing {escape(file.name)}") as status:
        done = await client.import_chats(
            file,
            **how,
            on_progress=lambda read: status.update(f"importing {escape(file.name)}: {read:,} sessions"),
        )
    for line in done.skipped:
        text = ": ".join(filter(None, (f"{line.file or file.name}: line {line.line}", line.field, line.problem)))
        err.say(f"skipped {text}")
    when = "imported before" if done.known else "imported"
    sessions, tokens = display.counted(done.sessions, "session"), display.counted(done.tokens, "token")
    err.say(f"{sessions} {when}, {tokens}")
    return done


async def show_estimate(
    client: Client,
    file: Path,
    how: ReadingOptions,
    *,
    as_json: bool,
    user_id: str,
    **options: Unpack[AutoAnalyzeOptions],
) -> None:
    """Show what a run on a file will probably take."""
    with err.status(f"reading {escape(file.name)}"):
        found = await client.estimate_auto_analyze(file, how, user_id=user_id, **options)
    if found is None:
        raise UnpricedModel("no price is known for a model of the settings: name one with --model")
    show_json(found) if as_json else out.print(display.estimate(found))


async def follow_started(
    client: Client,
    job: AnalysisHandle | AutoAnalyzeHandle,
    *,
    detach: bool,
    as_json: bool,
    final: bool = False,
    html: Path | None = None,
    audio: Path | None = None,
) -> None:
    """Print the id of a started job; unless `detach`, follow it as `show_job` does."""
    job_id = job.id
    if [earlier for earlier in await client.jobs(job_id=job_id, limit=2) if earlier.job_key != job.job_key]:
        listed = command_in(client.workspace_id, "jobs", "--id", job_id)
        err.say(f"jobs on the same content have this id too: `{listed}` lists them; --run-name separates them")
    if detach:
        show_json({"id": job_id}) if as_json else out.say(job_id)
        return
    err.say(job_id)
    await show_job(client, job_id, as_json=as_json, final=final, html=html, audio=audio)


async def show_job(
    client: Client,
    job_id: str,
    *,
    as_json: bool,
    final: bool = False,
    html: Path | None = None,
    audio: Path | None = None,
) -> None:
    """Follow a job until it has a result, and show it.

    `final`: follow it to its end; else a provisional result is shown as well. `html`: the file that its report is
    written to. `audio`: the file of its recording.
    """
    try:
        found = await display.watched(err, await client.job(job_id), final=final)
    except asyncio.CancelledError:
        follow = command_in(client.workspace_id, "progress", job_id, "--follow")
        line = f"The job continues. Follow it again with: {follow}"
        err.say(line)
        raise
    # The result first: it is paid for, and the report may fail, for example on a full disk.
    show_json(found) if as_json else out.print(display.report(found))
    if html is not None:
        await write_report(await client.job(job_id), found, html, audio)
