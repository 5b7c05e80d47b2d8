"""AutoAnalyze's runs: the processing order, what was labelled, and the labels with the round that first saw them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    FromClause,
    Integer,
    String,
    and_,
    bindparam,
    case,
    cast,
    false,
    func,
    literal,
    select,
    text,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.types import TypeEngine
from sqlmodel import col

from parley.domain.auto_analyze.contract import ExportedSession, LabelCount, LabelKind, Phase
from parley.domain.auto_analyze.labels import composed
from parley.domain.auto_analyze.validation import SessionLabels
from parley.domain.chat import ChatSession
from parley.domain.errors import NotFound
from parley.domain.model import storable
from parley.storage.database import NOW
from parley.storage.tables import AutoLabel, AutoMerge, AutoRun, AutoSession, StoredChat

RUN_OF_SESSION = and_(
    col(AutoRun.workspace_id) == AutoSession.workspace_id, col(AutoRun.job_key) == AutoSession.job_key
)
CHAT_OF_SESSION = and_(
    col(StoredChat.workspace_id) == AutoSession.workspace_id,
    col(StoredChat.dataset_id) == AutoRun.dataset_id,
    col(StoredChat.position) == AutoSession.position,
)


@dataclass(frozen=True)
class Work:
    """A session to label: its ordinal, content, and condensed text if it is larger than a prompt."""

    ordinal: int
    session: ChatSession
    tokens: int
    condensed: str | None


async def begin(tx: AsyncSession, run: AutoRun, positions: Sequence[int]) -> None:
    """Create the run and its processing order once. A run that is reset after it failed is running again."""
    made = await tx.execute(
        insert(AutoRun).values(**run.model_dump()).on_conflict_do_nothing().returning(col(AutoRun.job_key))
    )
    if made.first() is None:
        ended = update(AutoRun).where(*_of(AutoRun, run.workspace_id, run.job_key), col(AutoRun.status) != "completed")
        await tx.execute(ended.values(status="running", ended_at=None))
        return
    given = _unnested(Integer, position=positions, with_ordinality="turn")
    turns = select(
        literal(run.workspace_id), literal(run.job_key), given.c.turn - 1, given.c.position, false(), false()
    )
    columns = ("workspace_id", "job_key", "ordinal", "position", "fallback", "by_rule")
    await tx.execute(insert(AutoSession).from_select(columns, turns))
    # Without fresh statistics, PostgreSQL plans a scan of the whole dataset for each step of the run.
    await tx.execute(text("ANALYZE chat_sessions, auto_runs, auto_sessions"))


async def find(tx: AsyncSession, workspace_id: str, run_id: str) -> AutoRun:
    """A run by its key, or the latest one of a workflow id.

    Raises:
        NotFound: the workspace has no such run.
    """
    query = (
        select(AutoRun)
        .where(
            col(AutoRun.workspace_id) == workspace_id,
            (col(AutoRun.workflow_id) == run_id) | (col(AutoRun.job_key) == run_id),
        )
        .order_by(col(AutoRun.created_at).desc())
        .limit(1)
    )
    row = (await tx.execute(query)).scalar()
    if row is None:
        raise NotFound(f"workspace {workspace_id!r} has no job {run_id!r}")
    return row


async def end(
    tx: AsyncSession, workspace_id: str, job_key: str, status: str, statistics: dict[str, Any], reason: str = ""
) -> None:
    """Close a run. After a reset it may end again: a result replaces any other end, and nothing replaces it."""
    await tx.execute(
        update(AutoRun)
        .where(
            *_of(AutoRun, workspace_id, job_key),
            true() if status == "completed" else col(AutoRun.status) != "completed",
        )
        .values(status=status, statistics=statistics, reason=reason, ended_at=NOW)
    )


async def tokens_from(tx: AsyncSession, workspace_id: str, job_key: str, start: int, limit: int) -> list[int]:
    """The sizes of the next sessions in processing order."""
    query = (
        select(col(StoredChat.tokens))
        .select_from(AutoSession)
        .join(AutoRun, RUN_OF_SESSION)
        .join(StoredChat, CHAT_OF_SESSION)
        .where(
            *_of(AutoSession, workspace_id, job_key),
            col(AutoSession.ordinal) >= start,
        )
        .order_by(col(AutoSession.ordinal))
        .limit(limit)
    )
    return list((await tx.execute(query)).scalars())


async def load_work(tx: AsyncSession, workspace_id: str, job_key: str, ordinals: Sequence[int]) -> list[Work]:
    """The sessions behind some ordinals, in processing order."""
    query = (
        select(col(AutoSession.ordinal), col(StoredChat.payload), col(StoredChat.tokens), col(AutoSession.condensed))
        .join(AutoRun, RUN_OF_SESSION)
        .join(StoredChat, CHAT_OF_SESSION)
        .where(
            *_of(AutoSession, workspace_id, job_key),
            col(AutoSession.ordinal).in_(ordinals),
        )
        .order_by(col(AutoSession.ordinal))
    )
    return [
        Work(ordinal, ChatSession.model_validate(payload), tokens, condensed)
        for ordinal, payload, tokens, condensed in (await tx.execute(query)).all()
    ]


async def known_labels(
    tx: AsyncSession, workspace_id: str, job_key: str, before_round: int
) -> dict[LabelKind, list[str]]:
    """The labels that earlier rounds found, by round and then by name: the same for every caller in this round."""
    query = (
        select(col(AutoLabel.kind), col(AutoLabel.label))
        .where(
            *_of(AutoLabel, workspace_id, job_key),
            col(AutoLabel.first_round) < before_round,
        )
        .order_by(col(AutoLabel.first_round), col(AutoLabel.label))
    )
    known: dict[LabelKind, list[str]] = {kind: [] for kind in LabelKind}
    for kind, label in (await tx.execute(query)).all():
        known[LabelKind(kind)].append(label)
    return known


async def labels_found(
    tx: AsyncSession, workspace_id: str, job_key: str, *, after: int, has_ended: bool
) -> list[tuple[LabelKind, str]]:
    """The labels of a run in the order of their rounds, without the first `after` of them.

    Of a run that goes on, the labels of the latest round are left out: others may come before them. So a label's place
    never changes.
    """
    own = _of(AutoLabel, workspace_id, job_key)
    found = select(col(AutoLabel.kind), col(AutoLabel.label)).where(*own)
    if not has_ended:
        latest = select(func.max(AutoLabel.first_round)).where(*own).scalar_subquery()
        found = found.where(col(AutoLabel.first_round) < latest)
    ordered = found.order_by(col(AutoLabel.first_round), col(AutoLabel.kind), col(AutoLabel.label)).offset(after)
    return [(LabelKind(kind), label) for kind, label in (await tx.execute(ordered)).all()]


async def store_labels(
    tx: AsyncSession,
    workspace_id: str,
    job_key: str,
    found: Mapping[int, SessionLabels],
    *,
    phase: Phase,
    round_number: int,
    stream: int,
) -> int:
    """Store sessions' labels by ordinal. Returns the number of new labels."""
    if not found:
        return 0
    sessions = (
        update(AutoSession)
        .where(*_of(AutoSession, workspace_id, job_key), col(AutoSession.ordinal) == bindparam("at"))
        .values({name: bindparam(f"new_{name}") for name in SessionLabels.model_fields})
        .values(phase=phase.value, round=round_number, stream=stream)
    )
    rows = [
        {"at": ordinal, **{f"new_{name}": value for name, value in labels.model_dump().items()}}
        for ordinal, labels in sorted(found.items())
    ]
    await (await tx.connection()).execute(sessions, rows)
    scope = {"workspace_id": workspace_id, "job_key": job_key, "first_round": round_number}
    # Fallback labels are not offered to other sessions.
    learnt = [labels for labels in found.values() if not (labels.fallback or labels.by_rule)]
    seen = sorted({(kind.value, label) for labels in learnt for kind in LabelKind if (label := labels.label(kind))})
    if not seen:
        return 0
    made = await tx.execute(
        insert(AutoLabel)
        .values([{**scope, "kind": kind, "label": label} for kind, label in seen])
        .on_conflict_do_nothing()
        .returning(col(AutoLabel.label))
    )
    return len(made.all())


async def store_condensed(tx: AsyncSession, workspace_id: str, job_key: str, ordinal: int, text: str) -> None:
    await tx.execute(
        update(AutoSession)
        .where(
            *_of(AutoSession, workspace_id, job_key),
            col(AutoSession.ordinal) == ordinal,
        )
        .values(condensed=storable(text))
    )


async def canonical_labels(
    tx: AsyncSession, workspace_id: str, job_key: str, kind: LabelKind, before_level: int
) -> dict[str, str]:
    """Every label of a kind with its canonical label after the earlier levels of conflict resolution."""
    scope = (workspace_id, job_key, kind.value)
    labels = select(col(AutoLabel.label)).where(*_of_kind(AutoLabel, *scope)).order_by(col(AutoLabel.label))
    mapping = {label: label for label in (await tx.execute(labels)).scalars()}
    merges = (
        select(col(AutoMerge.level), col(AutoMerge.label), col(AutoMerge.canonical))
        .where(*_of_kind(AutoMerge, *scope), col(AutoMerge.level) < before_level)
        .order_by(col(AutoMerge.level))
    )
    levels: defaultdict[int, dict[str, str]] = defaultdict(dict)
    for level, label, canonical in (await tx.execute(merges)).all():
        levels[level][label] = canonical
    for level in sorted(levels):
        mapping = composed(mapping, levels[level])
    return mapping


async def store_merges(
    tx: AsyncSession, workspace_id: str, job_key: str, kind: LabelKind, level: int, merged: Mapping[str, str]
) -> None:
    """Store the merges of one chunk of labels. Idempotent."""
    rows = [
        AutoMerge(
            workspace_id=workspace_id, job_key=job_key, kind=kind.value, level=level, label=label, canonical=canonical
        ).model_dump()
        for label, canonical in merged.items()
        if label != canonical
    ]
    if rows:
        await tx.execute(insert(AutoMerge).on_conflict_do_nothing(), rows)


async def apply_canonical(
    tx: AsyncSession, workspace_id: str, job_key: str, kind: LabelKind, canonical: Mapping[str, str]
) -> None:
    """Store the canonical label of labels and of all sessions with them. The original label is unchanged."""
    if not canonical:
        return
    scope = (workspace_id, job_key, kind.value)
    given = _unnested(String, old=canonical.keys(), new=canonical.values())
    labels = update(AutoLabel).where(*_of_kind(AutoLabel, *scope), col(AutoLabel.label) == given.c.old)
    # Core statements: the ORM would fetch every changed row.
    connection = await tx.connection()
    await connection.execute(labels.values(canonical=given.c.new))
    applied = col(getattr(AutoSession, f"canonical_{kind.value}"))
    sessions = update(AutoSession).where(
        *_of(AutoSession, workspace_id, job_key),
        *_of_kind(AutoLabel, *scope),
        col(AutoLabel.label) == getattr(AutoSession, kind.value),
        applied.is_distinct_from(col(AutoLabel.canonical)),
    )
    await connection.execute(sessions.values({applied: col(AutoLabel.canonical)}))


async def counts(tx: AsyncSession, workspace_id: str, job_key: str) -> dict[str, int]:
    """How many sessions a run has, how many are labelled, and how many of those have fallback labels."""
    query = select(
        func.count(),
        func.count(col(AutoSession.intent)),
        func.count().filter(col(AutoSession.fallback)),
    ).where(*_of(AutoSession, workspace_id, job_key))
    sessions, labelled, fallbacks = (await tx.execute(query)).one()
    return {"sessions": sessions, "labelled": labelled, "fallbacks": fallbacks}


async def label_counts(tx: AsyncSession, workspace_id: str, job_key: str) -> list[LabelCount]:
    """How many sessions carry each canonical label, by kind, the most frequent first."""
    found: list[LabelCount] = []
    for kind in LabelKind:
        label = _label(kind)
        query = (
            select(label, func.count())
            .where(*_of(AutoSession, workspace_id, job_key), label.is_not(None))
            .group_by(label)
            .order_by(func.count().desc(), label)
        )
        found += [LabelCount(kind=kind, label=row[0], sessions=row[1]) for row in (await tx.execute(query)).all()]
    return found


async def export_rows(
    tx: AsyncSession, workspace_id: str, job_key: str, *, after: int, limit: int
) -> list[tuple[int, ExportedSession]]:
    """Some sessions of a run with their labels, by their place in the file, after a position."""
    of_streams = col(AutoSession.phase) == Phase.PARALLEL.value
    query = (
        select(
            col(AutoSession.position),
            *(col(getattr(StoredChat, name)) for name in ("session_id", "user_id", "containment")),
            *(_label(kind).label(kind.value) for kind in LabelKind),
            *(col(getattr(AutoSession, kind.value)).label(f"original_{kind.value}") for kind in LabelKind),
            col(AutoSession.merged_intent).label("reassigned_from"),
            *(col(getattr(AutoSession, name)) for name in ("summary", "fallback", "by_rule", "phase")),
            case((of_streams, col(AutoSession.round))).label("round"),
            case((of_streams, col(AutoSession.stream))).label("stream"),
        )
        .join(AutoRun, RUN_OF_SESSION)
        .join(StoredChat, CHAT_OF_SESSION)
        .where(*_of(AutoSession, workspace_id, job_key), col(AutoSession.position) > after)
        .order_by(col(AutoSession.position))
        .limit(limit)
    )
    rows = (await tx.execute(query)).mappings()
    return [
        (row["position"], ExportedSession(**{name: row[name] for name in ExportedSession.model_fields})) for row in rows
    ]


def _label(kind: LabelKind) -> ColumnElement[str]:
    """A session's canonical label, or its original label before there is one."""
    return func.coalesce(col(getattr(AutoSession, f"canonical_{kind.value}")), col(getattr(AutoSession, kind.value)))


def _unnested(
    kind: type[TypeEngine[Any]], *, with_ordinality: str | None = None, **columns: Iterable[Any]
) -> FromClause:
    """Values as a table: a statement on a million of them costs little more than one on a few."""
    arrays = [cast(list(values), ARRAY(kind)) for values in columns.values()]
    return func.unnest(*arrays).table_valued(*columns, with_ordinality=with_ordinality).render_derived()


Scoped = type[AutoRun] | type[AutoSession] | type[AutoLabel] | type[AutoMerge]


def _of(table: Scoped, workspace_id: str, job_key: str) -> tuple[ColumnElement[bool], ...]:
    """The rows of one run of one workspace."""
    return col(table.workspace_id) == workspace_id, col(table.job_key) == job_key


def _of_kind(
    table: type[AutoLabel] | type[AutoMerge], workspace_id: str, job_key: str, kind: str
) -> tuple[ColumnElement[bool], ...]:
    return *_of(table, workspace_id, job_key), col(table.kind) == kind
