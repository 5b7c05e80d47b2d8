"""The labels of a labelling run over HTTP: show them, change them, approve them.

`version` in a body is that of the labels that the caller has seen: if it is not the latest one, the answer is 409 and
nothing is changed.
"""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from gateway.auth import Caller, CurrentCaller, KeyedRoute, requires
from gateway.jobs import PREFIX, JobId, labelling_run
from parley.domain.auto_analyze.contract import LabelKind, RunControls
from parley.domain.auto_analyze.label_maps import LabelMapVersion, LabelMapView, LabelPair
from parley.domain.gateway_keys import Scope
from parley.domain.model import Model, Text

MOST_LABELS = 1000

router = APIRouter(prefix=PREFIX, tags=["jobs"], route_class=KeyedRoute)

Label = Annotated[Text, Field(min_length=1, max_length=500)]


class LabelChange(Model):
    """What every change of labels has. `reason`: why, for the history."""

    version: int | None = Field(default=None, ge=0)
    reason: Text = Field(default="", max_length=500)


class MergeLabels(LabelChange):
    """Merge a canonical label into another one."""

    kind: LabelKind = LabelKind.INTENT
    label: Label
    into: Label


class SplitLabels(LabelChange):
    """Take labels out of the canonical label that they were merged into."""

    kind: LabelKind = LabelKind.INTENT
    label: Label
    out: tuple[Label, ...] = Field(min_length=1, max_length=MOST_LABELS)


class RenameLabel(LabelChange):
    """Give a canonical label another name."""

    kind: LabelKind = LabelKind.INTENT
    label: Label
    name: Label


class UndoLabels(LabelChange):
    """Return to the labels before the last change."""


class ApproveMerges(Model):
    """Approve the merges of a run that waits for a review, but those that are rejected, and those that are added."""

    version: int | None = Field(default=None, ge=0)
    rejected: tuple[LabelPair, ...] = Field(default=(), max_length=MOST_LABELS)
    added: tuple[LabelPair, ...] = Field(default=(), max_length=MOST_LABELS)


class LabelHistory(Model):
    """The versions of a run's labels, the oldest first."""

    versions: tuple[LabelMapVersion, ...]


@router.get("/{job_id:path}/labels", openapi_extra=requires(Scope.READ))
async def show(
    caller: CurrentCaller,
    job_id: JobId,
    kind: Annotated[LabelKind | None, Query(description="Only labels of this kind.")] = None,
) -> LabelMapView:
    """The labels of a run, with sessions, definition and examples, and what was merged into each and why."""
    return await (await labelling_run(caller, job_id)).labels.show(kind)


@router.get("/{job_id:path}/labels/history", openapi_extra=requires(Scope.READ))
async def history(caller: CurrentCaller, job_id: JobId) -> LabelHistory:
    """The versions of a run's labels: what made each, who, when and why."""
    return LabelHistory(versions=tuple(await (await labelling_run(caller, job_id)).labels.history()))


@router.post("/{job_id:path}/labels/merge", openapi_extra=requires(Scope.JOBS))
async def merge(caller: CurrentCaller, job_id: JobId, body: MergeLabels) -> LabelMapVersion:
    """Merge a canonical label into another one."""
    labels = (await labelling_run(caller, job_id)).labels
    how = {"version": body.version, "reason": body.reason, "made_by": author(caller)}
    return await labels.merge(body.label, body.into, kind=body.kind, **how)


@router.post("/{job_id:path}/labels/split", openapi_extra=requires(Scope.JOBS))
async def split(caller: CurrentCaller, job_id: JobId, body: SplitLabels) -> LabelMapVersion:
    """Take labels out of the canonical label that they were merged into: each is its own again."""
    labels = (await labelling_run(caller, job_id)).labels
    how = {"version": body.version, "reason": body.reason, "made_by": author(caller)}
    return await labels.split(body.label, body.out, kind=body.kind, **how)


@router.post("/{job_id:path}/labels/rename", openapi_extra=requires(Scope.JOBS))
async def rename(caller: CurrentCaller, job_id: JobId, body: RenameLabel) -> LabelMapVersion:
    """Give a canonical label another name."""
    labels = (await labelling_run(caller, job_id)).labels
    how = {"version": body.version, "reason": body.reason, "made_by": author(caller)}
    return await labels.rename(body.label, body.name, kind=body.kind, **how)


@router.post("/{job_id:path}/labels/undo", openapi_extra=requires(Scope.JOBS))
async def undo(caller: CurrentCaller, job_id: JobId, body: UndoLabels) -> LabelMapVersion:
    """Return to the labels before the last change."""
    labels = (await labelling_run(caller, job_id)).labels
    return await labels.undo(version=body.version, reason=body.reason, made_by=author(caller))


@router.post("/{job_id:path}/labels/approve", openapi_extra=requires(Scope.JOBS))
async def approve(caller: CurrentCaller, job_id: JobId, body: ApproveMerges) -> RunControls:
    """Approve the merges of a run that waits for a review of them, and let it go on."""
    run = await labelling_run(caller, job_id)
    return await run.approve(rejected=body.rejected, added=body.added, version=body.version, made_by=author(caller))


def author(caller: Caller) -> str:
    """Who changes labels, for their history: the name of the key."""
    return f"key {caller.key.name}"
