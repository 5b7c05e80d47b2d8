"""`parley labels`: the labels of a labelling run, and what a person changes in them."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated

import typer
from rich import box
from rich.text import Text

from parley import (
    AutoAnalyzeHandle,
    CanonicalLabel,
    Client,
    InvalidInput,
    LabelKind,
    LabelMapVersion,
    LabelMapView,
    LabelPair,
    MergedLabel,
)
from parley.cli import display
from parley.cli.console import Json, Workspace, err, out, show_json, with_client
from parley.cli.jobs import labelling_run
from parley.cli.table import Table

app = typer.Typer(no_args_is_help=True, help="Show, merge, split, rename and review the labels of a labelling run.")

JobId = Annotated[str, typer.Argument(metavar="JOB", help="The run's id, or its key.")]
Kind = Annotated[LabelKind, typer.Option(help="The kind of the labels.")]
Reason = Annotated[str, typer.Option(help="Why, for the history.")]
Version = Annotated[
    int | None, typer.Option(help="The version that you have seen: if it is not the latest one, nothing is changed.")
]
BY = "operator, on the command line"


@app.command()
def show(
    job_id: JobId,
    kind: Annotated[LabelKind | None, typer.Option(help="Only labels of this kind.")] = None,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Show the labels with sessions, definition and examples, and what was merged into each and why."""

    async def work(client: Client) -> None:
        found = await (await _run(client, job_id)).labels.show(kind)
        if as_json:
            show_json(found)
            return
        out.print(_labels(found.labels, is_left="no labels yet"))
        err.say(_state(found))

    with_client(workspace, work)


@app.command()
def history(job_id: JobId, workspace: Workspace = "default", as_json: Json = False) -> None:
    """List the versions of the labels: what made each, who, when and why."""

    async def work(client: Client) -> None:
        found = await (await _run(client, job_id)).labels.history()
        show_json([one.model_dump(mode="json") for one in found]) if as_json else out.print(_history(found))

    with_client(workspace, work)


@app.command()
def merge(
    job_id: JobId,
    label: Annotated[str, typer.Argument(metavar="FROM", help="The label that is merged.")],
    into: Annotated[str, typer.Argument(metavar="INTO", help="The label that stays.")],
    kind: Kind = LabelKind.INTENT,
    reason: Reason = "",
    version: Version = None,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Merge a label into another one."""
    _change(
        job_id,
        workspace,
        lambda run: run.labels.merge(label, into, kind=kind, version=version, reason=reason, made_by=BY),
        as_json=as_json,
    )


@app.command()
def split(
    job_id: JobId,
    label: Annotated[str, typer.Argument(metavar="LABEL", help="The label that others were merged into.")],
    taken_out: Annotated[
        list[str], typer.Option("--out", metavar="MERGED", help="The label to take out; more than once.")
    ],
    kind: Kind = LabelKind.INTENT,
    reason: Reason = "",
    version: Version = None,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Take labels out of the one that they were merged into: each is its own again."""
    _change(
        job_id,
        workspace,
        lambda run: run.labels.split(label, taken_out, kind=kind, version=version, reason=reason, made_by=BY),
        as_json=as_json,
    )


@app.command()
def rename(
    job_id: JobId,
    label: Annotated[str, typer.Argument(metavar="OLD", help="The label.")],
    name: Annotated[str, typer.Argument(metavar="NEW", help="Its new name.")],
    kind: Kind = LabelKind.INTENT,
    reason: Reason = "",
    version: Version = None,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Give a label another name."""
    _change(
        job_id,
        workspace,
        lambda run: run.labels.rename(label, name, kind=kind, version=version, reason=reason, made_by=BY),
        as_json=as_json,
    )


@app.command()
def undo(
    job_id: JobId,
    reason: Reason = "",
    version: Version = None,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """Return to the labels before the last change: yours, or the second look or the merging of the run."""
    _change(job_id, workspace, lambda run: run.labels.undo(version=version, reason=reason, made_by=BY), as_json=as_json)


@app.command()
def review(
    job_id: JobId,
    approve: Annotated[bool, typer.Option("--approve", help="Approve all merges.")] = False,
    reject: Annotated[
        list[str] | None,
        typer.Option(metavar="MERGED", help="Approve all merges but that of this label; more than once."),
    ] = None,
    kind: Annotated[LabelKind | None, typer.Option(help="The kind of the rejected labels; default: any.")] = None,
    workspace: Workspace = "default",
    as_json: Json = False,
) -> None:
    """List the merges of a run that waits for a review of them, or approve them."""

    async def work(client: Client) -> None:
        run = await _run(client, job_id)
        found = await run.labels.show()
        if approve or reject:
            rejected = [_pair(found, label, kind) for label in reject or ()]
            controls = await run.approve(rejected=rejected, version=found.version, made_by=BY)
            show_json(controls) if as_json else out.say(display.controls(controls))
            return
        merged = [one for one in found.labels if one.merged]
        if as_json:
            show_json(found.model_copy(update={"labels": tuple(merged)}))
            return
        out.print(_labels(merged, is_left="no label is merged into another one"))
        err.say(_state(found))

    with_client(workspace, work)


async def _run(client: Client, job_id: str) -> AutoAnalyzeHandle:
    return await labelling_run(client, job_id, "have labels")


def _change(
    job_id: str, workspace: str, change: Callable[[AutoAnalyzeHandle], Awaitable[LabelMapVersion]], *, as_json: bool
) -> None:
    async def work(client: Client) -> None:
        made = await change(await _run(client, job_id))
        show_json(made) if as_json else out.say(f"version {made.version} of the labels: {_what(made)}")

    with_client(workspace, work)


def _pair(found: LabelMapView, label: str, kind: LabelKind | None) -> LabelPair:
    """The merge of a label, by its name.

    Raises:
        InvalidInput: no label of that name is merged, or labels of several kinds are.
    """
    pairs = [
        LabelPair(kind=one.kind, label=merged.label, into=one.label)
        for one in found.labels
        for merged in one.merged
        if merged.label == label and kind in (None, one.kind)
    ]
    if len(pairs) != 1:
        problem = "is a label of several kinds: add --kind" if pairs else "is not merged into another label"
        raise InvalidInput(f"{label!r} {problem}", where="--reject")
    return pairs[0]


def _labels(labels: Sequence[CanonicalLabel], *, is_left: str) -> Table | str:
    """The labels as a table. Texts of users and models are shown as they are, never as markup."""
    if not labels:
        return is_left
    shown = Table("kind", "label", "sessions", "what it means, and what users said", "merged into it", box=box.SIMPLE)
    shown.columns[2].justify = "right"
    for one in labels:
        meaning = "\n".join((one.definition, *(f"“{example}”" for example in one.examples))).strip()
        merged = "\n".join(map(_merged, one.merged))
        shown.add_row(*map(Text, (one.kind.value, one.label, f"{one.sessions:,}", meaning, merged)))
    return shown


def _merged(one: MergedLabel) -> str:
    why = f": {one.reason}" if one.reason else ""
    return f"{one.label} ({one.sessions:,}), by {one.merged_by.value}{why}"


def _history(found: Sequence[LabelMapVersion]) -> Table | str:
    if not found:
        return "no versions yet: labels are not merged"
    shown = Table("version", "made (UTC)", "by", "what", "why", box=box.SIMPLE)
    for one in found:
        when = f"{one.created_at:%Y-%m-%d %H:%M:%S}"
        shown.add_row(*map(Text, (str(one.version), when, one.made_by, _what(one), one.reason)))
    return shown


def _what(one: LabelMapVersion) -> str:
    """A version in words."""
    labels = ", ".join(map(repr, one.labels))
    of_kind = "" if one.kind in (None, LabelKind.INTENT) else f" ({one.kind.value})"
    words = {
        "found": "the labels as they were found",
        "merged": "the run merged labels",
        "second look": "the run gave sessions in doubt better intents",
        "approved": "the merges were approved",
        "merge": f"merged {labels} into {one.into!r}{of_kind}",
        "split": f"took {labels} out{f' of {one.into!r}' if one.into else ''}{of_kind}",
        "rename": f"renamed {labels} to {one.into!r}{of_kind}",
        "undo": f"returned to version {one.parent}",
    }
    return words[one.action.value]


def _state(found: LabelMapView) -> str:
    if found.version is None:
        return "labels are not merged yet"
    if found.review_until is None:
        return f"version {found.version}"
    until = f"{found.review_until:%Y-%m-%d %H:%M} UTC"
    return f"version {found.version}, not applied: the run waits for a review until {until}"
