"""The versions of a run's label map: read, added, and applied to the canonical labels of its sessions.

A change locks the run's row, so that each version is made from the one before it.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, String, case, cast, func, select, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from parley.domain.auto_analyze.contract import LabelKind
from parley.domain.auto_analyze.label_maps import LabelMap, LabelMapVersion, MapAction, map_of, read_map
from parley.domain.errors import LabelsChanged, NotFound
from parley.storage.auto_analyze import known_labels
from parley.storage.database import NOW
from parley.storage.tables import AutoLabel, AutoLabelMap, AutoMerge, AutoRun, AutoSession

RUN = "run"


class Change(NamedTuple):
    """What makes a version: who, why, and what a person changed."""

    action: MapAction
    made_by: str = RUN
    reason: str = ""
    kind: LabelKind | None = None
    sources: Sequence[str] = ()
    target: str | None = None


class RunMerge(NamedTuple):
    """How the run merged a label: into which one, on which level, and by the reply to which request.

    Below level 0 it is by their spelling, without a request.
    """

    into: str
    level: int
    request_id: str | None


async def lock(tx: AsyncSession, workspace_id: str, job_key: str) -> AutoRun:
    """The run, whose labels no other transaction changes until this one ends.

    Raises:
        NotFound: the workspace has no such run.
    """
    query = select(AutoRun).where(*_of_run(workspace_id, job_key)).with_for_update()
    run = (await tx.execute(query)).scalar()
    if run is None:
        raise NotFound(f"workspace {workspace_id!r} has no job {job_key!r}")
    return run


async def current(tx: AsyncSession, workspace_id: str, job_key: str) -> AutoLabelMap | None:
    """The latest version; None before labels are merged."""
    query = select(AutoLabelMap).where(*_of_map(workspace_id, job_key)).order_by(col(AutoLabelMap.version).desc())
    return (await tx.execute(query.limit(1))).scalar()


async def version(tx: AsyncSession, workspace_id: str, job_key: str, number: int) -> AutoLabelMap:
    """A version by its number.

    Raises:
        NotFound: the run has no such version.
    """
    query = select(AutoLabelMap).where(*_of_map(workspace_id, job_key), col(AutoLabelMap.version) == number)
    found = (await tx.execute(query)).scalar()
    if found is None:
        raise NotFound(f"the labels of {job_key!r} have no version {number}")
    return found


async def history(tx: AsyncSession, workspace_id: str, job_key: str) -> list[LabelMapVersion]:
    """All versions, the oldest first."""
    names = ("version", "parent", "action", "made_by", "reason", "kind", "sources", "target", "created_at")
    query = (
        select(*(col(getattr(AutoLabelMap, name)) for name in names))
        .where(*_of_map(workspace_id, job_key))
        .order_by(col(AutoLabelMap.version))
    )
    rows = [dict(row) for row in (await tx.execute(query)).mappings()]
    return [LabelMapVersion(labels=tuple(row.pop("sources")), into=row.pop("target"), **row) for row in rows]


async def state_of(tx: AsyncSession, row: AutoLabelMap) -> LabelMap:
    """The state of a version."""
    found = await known_labels(tx, row.workspace_id, row.job_key)
    return read_map(found, row.labels, reassigned=row.reassigned)


async def latest_state(tx: AsyncSession, workspace_id: str, job_key: str) -> tuple[int, LabelMap]:
    """The number and the state of the latest version; 0 before labels are merged.

    A run that ended before versions were recorded, or before its labels were merged, has none: then it is the state
    of its labels, as version 1 if some are merged.
    """
    found = await current(tx, workspace_id, job_key)
    if found is not None:
        return found.version, await state_of(tx, found)
    mappings = await canonical(tx, workspace_id, job_key)
    query = select(func.count()).where(*_of_session(workspace_id, job_key), col(AutoSession.merged_intent).is_not(None))
    reassigned = bool((await tx.execute(query)).scalar_one())
    state = LabelMap(map_of(mappings, 1).kinds, reassigned=reassigned)
    return int(any(one.places for one in state.kinds.values())), state


async def begin(tx: AsyncSession, workspace_id: str, job_key: str) -> AutoLabelMap:
    """The latest version. The first ones are made from the labels as they are, if there is none."""
    found = await current(tx, workspace_id, job_key)
    if found is not None:
        return found
    _, state = await latest_state(tx, workspace_id, job_key)
    await add(tx, workspace_id, job_key, LabelMap({}, reassigned=False), Change(MapAction.FOUND), parent=None)
    return await add(tx, workspace_id, job_key, state, Change(MapAction.MERGED), parent=0)


async def record_merges(
    tx: AsyncSession, workspace_id: str, job_key: str, mappings: Mapping[LabelKind, Mapping[str, str]]
) -> AutoLabelMap:
    """The version that the run has made by merging, which is added once."""
    found = await current(tx, workspace_id, job_key)
    if found is None:
        await add(tx, workspace_id, job_key, LabelMap({}, reassigned=False), Change(MapAction.FOUND), parent=None)
    elif found.action == MapAction.MERGED and found.labels == map_of(mappings, found.version).stored:
        return found
    number = 1 if found is None else found.version + 1
    return await add(tx, workspace_id, job_key, map_of(mappings, number), Change(MapAction.MERGED), parent=0)


async def record_second_look(tx: AsyncSession, workspace_id: str, job_key: str) -> None:
    """Add the version in which the second look counts, once."""
    found = await begin(tx, workspace_id, job_key)
    if found.reassigned:
        return
    state = await state_of(tx, found)
    with_looks = LabelMap(state.kinds, reassigned=True)
    await add(tx, workspace_id, job_key, with_looks, Change(MapAction.SECOND_LOOK), parent=parent_of(found))


async def add(
    tx: AsyncSession, workspace_id: str, job_key: str, state: LabelMap, change: Change, *, parent: int | None
) -> AutoLabelMap:
    """Add a version after the latest one. `parent`: the version on whose state it is made.

    Raises:
        IntegrityError: another transaction added one at the same time: lock the run before.
    """
    latest = await current(tx, workspace_id, job_key)
    row = AutoLabelMap(
        workspace_id=workspace_id,
        job_key=job_key,
        version=0 if latest is None else latest.version + 1,
        parent=parent,
        action=change.action.value,
        made_by=change.made_by,
        reason=change.reason,
        kind=change.kind.value if change.kind else None,
        sources=list(change.sources),
        target=change.target,
        labels=state.stored,
        reassigned=state.reassigned,
    )
    tx.add(row)
    await tx.flush()
    return row


def parent_of(row: AutoLabelMap) -> int:
    """The version whose state a version has: its own, or that to which it returned."""
    if row.action in (MapAction.UNDO, MapAction.APPROVED) and row.parent is not None:
        return row.parent
    return row.version


def check_version(row: AutoLabelMap, expected: int | None) -> None:
    """Refuse a change of another version than the latest one.

    Raises:
        LabelsChanged: `expected` is another one.
    """
    if expected is not None and expected != row.version:
        raise LabelsChanged(f"the labels have version {row.version}, not {expected}: look at them again")


async def apply(tx: AsyncSession, workspace_id: str, job_key: str, state: LabelMap) -> None:
    """Give the labels and the sessions of a run the canonical labels of a state. The labels as found are unchanged."""
    # Core statements: the ORM would fetch every changed row.
    connection = await tx.connection()
    for kind, labels in state.kinds.items():
        names = labels.names
        if not names:
            continue
        arrays = [cast([*values], ARRAY(String)) for values in (names.keys(), names.values())]
        given = func.unnest(*arrays).table_valued("old", "new").render_derived()
        of_label = (col(AutoLabel.workspace_id) == workspace_id, col(AutoLabel.job_key) == job_key)
        same_label = (*of_label, col(AutoLabel.kind) == kind.value, col(AutoLabel.label) == given.c.old)
        stored = col(AutoLabel.canonical).is_distinct_from(given.c.new)
        await connection.execute(update(AutoLabel).where(*same_label, stored).values(canonical=given.c.new))
        applied = col(getattr(AutoSession, f"canonical_{kind.value}"))
        changed = update(AutoSession).where(
            *_of_session(workspace_id, job_key),
            _given_label(kind, reassigned=state.reassigned) == given.c.old,
            applied.is_distinct_from(given.c.new),
        )
        await connection.execute(changed.values({applied: given.c.new}))


async def drop_second_look(tx: AsyncSession, workspace_id: str, job_key: str) -> None:
    """The second look counts no longer: no session has another intent than after merging."""
    looked_at = (*_of_session(workspace_id, job_key), col(AutoSession.merged_intent).is_not(None))
    await (await tx.connection()).execute(update(AutoSession).where(*looked_at).values(merged_intent=None))


def _given_label(kind: LabelKind, *, reassigned: bool) -> ColumnElement[str]:
    """What a session was given: by its reply, or by the second look if that counts and has changed it."""
    given: list[Any] = [col(getattr(AutoSession, kind.value))]
    if reassigned and kind is LabelKind.INTENT:
        # One that came back to the label that merging had left goes where its own label goes.
        given.insert(0, case((col(AutoSession.merged_intent).is_not(None), col(AutoSession.better_intent))))
    return func.coalesce(*given)


async def run_merges(tx: AsyncSession, workspace_id: str, job_key: str) -> dict[LabelKind, dict[str, RunMerge]]:
    """By kind, how the run merged labels, each once: a label that is merged is compared with no other."""
    names = ("kind", "label", "canonical", "level", "request_id")
    query = select(*(col(getattr(AutoMerge, name)) for name in names)).where(
        col(AutoMerge.workspace_id) == workspace_id,
        col(AutoMerge.job_key) == job_key,
        col(AutoMerge.label) != col(AutoMerge.canonical),
    )
    found: dict[LabelKind, dict[str, RunMerge]] = {kind: {} for kind in LabelKind}
    for kind, label, *merge in (await tx.execute(query)).all():
        found[LabelKind(kind)][label] = RunMerge(*merge)
    return found


async def session_counts(
    tx: AsyncSession, workspace_id: str, job_key: str, kind: LabelKind, *, reassigned: bool
) -> dict[str, int]:
    """How many sessions were given each label, before merging. `reassigned`: by the second look, if it gave one."""
    given = _given_label(kind, reassigned=reassigned)
    query = select(given, func.count()).where(*_of_session(workspace_id, job_key), given.is_not(None)).group_by(given)
    return {str(row[0]): row[1] for row in (await tx.execute(query)).all()}


async def begin_review(tx: AsyncSession, workspace_id: str, job_key: str, *, seconds: int) -> None:
    """The run waits for a review of its merges for so many seconds; asked again, until the same time."""
    until = NOW + timedelta(seconds=seconds)
    waits = update(AutoRun).where(*_of_run(workspace_id, job_key), col(AutoRun.review_until).is_(None))
    await tx.execute(waits.values(review_until=until))


async def end_review(tx: AsyncSession, workspace_id: str, job_key: str) -> None:
    """The run waits for a review no longer."""
    await tx.execute(update(AutoRun).where(*_of_run(workspace_id, job_key)).values(review_until=None))


async def canonical(tx: AsyncSession, workspace_id: str, job_key: str) -> dict[LabelKind, dict[str, str]]:
    """By kind, each label with its canonical one as it is stored."""
    query = (
        select(col(AutoLabel.kind), col(AutoLabel.label), func.coalesce(AutoLabel.canonical, AutoLabel.label))
        .where(col(AutoLabel.workspace_id) == workspace_id, col(AutoLabel.job_key) == job_key)
        .order_by(col(AutoLabel.label))
    )
    mappings: dict[LabelKind, dict[str, str]] = {kind: {} for kind in LabelKind}
    for kind, label, canonical in (await tx.execute(query)).all():
        mappings[LabelKind(kind)][label] = canonical
    return mappings


def _of_run(workspace_id: str, job_key: str) -> tuple[ColumnElement[bool], ...]:
    return col(AutoRun.workspace_id) == workspace_id, col(AutoRun.job_key) == job_key


def _of_map(workspace_id: str, job_key: str) -> tuple[ColumnElement[bool], ...]:
    return col(AutoLabelMap.workspace_id) == workspace_id, col(AutoLabelMap.job_key) == job_key


def _of_session(workspace_id: str, job_key: str) -> tuple[ColumnElement[bool], ...]:
    return col(AutoSession.workspace_id) == workspace_id, col(AutoSession.job_key) == job_key
