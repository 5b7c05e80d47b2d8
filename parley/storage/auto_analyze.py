"""AutoAnalyze's runs: the processing order, what was labelled, and the labels with the round that first saw them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

from sqlalchemy import (
    Boolean,
    ColumnElement,
    FromClause,
    Integer,
    String,
    and_,
    case,
    cast,
    column,
    false,
    func,
    literal,
    literal_column,
    null,
    select,
    text,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
from sqlalchemy.types import TypeEngine
from sqlmodel import col

from parley.domain.auto_analyze.contract import ExportedSession, LabelCount, LabelKind, Phase
from parley.domain.auto_analyze.labels import composed
from parley.domain.auto_analyze.validation import SessionLabels
from parley.domain.chat import ChatSession
from parley.domain.errors import NotFound
from parley.domain.model import storable
from parley.storage.database import NOW
from parley.storage.tables import AutoBatch, AutoLabel, AutoMerge, AutoRun, AutoSession, StoredChat

RUN_OF_SESSION = and_(
    col(AutoRun.workspace_id) == AutoSession.workspace_id, col(AutoRun.job_key) == AutoSession.job_key
)
CHAT_OF_SESSION = and_(
    col(StoredChat.workspace_id) == AutoSession.workspace_id,
    col(StoredChat.dataset_id) == AutoRun.dataset_id,
    col(StoredChat.position) == AutoSession.position,
)


# What marks a session, beside its labels.
MARKS = frozenset({"fallback", "by_rule"})
NO_COPIES: Mapping[int, int] = {}


@dataclass(frozen=True)
class Work:
    """A session to label: its ordinal, content, and condensed text if it is larger than a prompt."""

    ordinal: int
    session: ChatSession
    tokens: int
    condensed: str | None


class Place(NamedTuple):
    """Where sessions are labelled. `ends`: the number of the batch that is complete with them."""

    phase: Phase
    round: int
    stream: int
    ends: int | None = None


async def begin(tx: AsyncSession, run: AutoRun, order: Sequence[int], copies: Mapping[int, int] = NO_COPIES) -> None:
    """Create the run and its processing order once. A run that is reset after it failed is running again.

    Args:
        order: the positions of sessions, in the order in which they are processed.
        copies: by position, the position of the session whose labels it gets.
    """
    made = await tx.execute(
        insert(AutoRun).values(**run.model_dump()).on_conflict_do_nothing().returning(col(AutoRun.job_key))
    )
    if made.first() is None:
        ended = update(AutoRun).where(*_of(AutoRun, run.workspace_id, run.job_key), col(AutoRun.status) != "completed")
        await tx.execute(ended.values(status="running", ended_at=None))
        return
    turns = {position: ordinal for ordinal, position in enumerate(order)} if copies else {}
    originals = [turns[copies[position]] if position in copies else None for position in order]
    given = _unnested(Integer, position=order, copy_of=originals, with_ordinality="turn")
    rows = select(
        literal(run.workspace_id), literal(run.job_key), given.c.turn - 1, given.c.position, given.c.copy_of,
        false(), false(),
    )  # fmt: skip
    columns = ("workspace_id", "job_key", "ordinal", "position", "copy_of", "fallback", "by_rule")
    await tx.execute(insert(AutoSession).from_select(columns, rows))
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


async def tokens_from(tx: AsyncSession, workspace_id: str, job_key: str, start: int, end: int) -> list[int]:
    """The sizes of the sessions from one ordinal to before another, in processing order."""
    query = (
        select(col(StoredChat.tokens))
        .select_from(AutoSession)
        .join(AutoRun, RUN_OF_SESSION)
        .join(StoredChat, CHAT_OF_SESSION)
        .where(
            *_of(AutoSession, workspace_id, job_key),
            col(AutoSession.ordinal) >= start,
            col(AutoSession.ordinal) < end,
        )
        .order_by(col(AutoSession.ordinal))
    )
    return list((await tx.execute(query)).scalars())


async def store_batches(
    tx: AsyncSession, workspace_id: str, job_key: str, start: int, counts: Sequence[int], streams: int, *, assign: bool
) -> None:
    """Store the batches of the streams: each round has one for every stream. Idempotent.

    Args:
        start: the ordinal of the first session.
        counts: the sessions of each batch.
        assign: give each batch its stream; else the streams take them.
    """
    starts = list(accumulate(counts, initial=start))[:-1]
    given = _unnested(Integer, start=starts, count=counts, with_ordinality="place")
    number = given.c.place - 1
    stream = number % streams + 1 if assign else null()
    rows = select(
        literal(workspace_id), literal(job_key), number, number // streams + 1, stream, given.c.start, given.c["count"],
        false(),
    )  # fmt: skip
    columns = ("workspace_id", "job_key", "number", "round", "stream", "start", "count", "labelled")
    await tx.execute(insert(AutoBatch).from_select(columns, rows).on_conflict_do_nothing())
    await tx.execute(text("ANALYZE auto_batches"))


async def open_batches(
    tx: AsyncSession, workspace_id: str, job_key: str, stream: int | None, limit: int
) -> list[AutoBatch]:
    """The next batches of a stream that are not labelled, in their order; `stream` None: those of all streams."""
    query = (
        select(AutoBatch)
        .where(
            *_of(AutoBatch, workspace_id, job_key),
            ~col(AutoBatch.labelled),
            true() if stream is None else col(AutoBatch.stream) == stream,
        )
        .order_by(col(AutoBatch.number))
        .limit(limit)
    )
    return list((await tx.execute(query)).scalars())


async def take_batch(tx: AsyncSession, workspace_id: str, job_key: str, stream: int) -> None:
    """Give a stream the next batch that no stream has taken, if there is one and it has none that is not labelled."""
    own = _of(AutoBatch, workspace_id, job_key)
    next_one = (
        select(col(AutoBatch.number))
        .where(*own, ~col(AutoBatch.labelled), col(AutoBatch.stream).is_(None))
        .order_by(col(AutoBatch.number))
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    holds_one = select(AutoBatch).where(*own, ~col(AutoBatch.labelled), col(AutoBatch.stream) == stream).exists()
    taken = update(AutoBatch).where(*own, col(AutoBatch.number) == next_one, ~holds_one)
    await tx.execute(taken.values(stream=stream), execution_options={"synchronize_session": False})


async def first_behind(tx: AsyncSession, workspace_id: str, job_key: str, horizon: int) -> int | None:
    """The stream of the first batch of the rounds up to `horizon` that is not labelled; None if all are."""
    query = (
        select(col(AutoBatch.round), col(AutoBatch.stream))
        .where(*_of(AutoBatch, workspace_id, job_key), ~col(AutoBatch.labelled))
        .order_by(col(AutoBatch.number))
        .limit(1)
    )
    first = (await tx.execute(query)).first()
    return first.stream if first and first.round <= horizon else None


async def progress(tx: AsyncSession, workspace_id: str, job_key: str) -> list[tuple[int, int, int, int]]:
    """Of each stream: its number, its round, the sessions that are assigned to it, and those that it has labelled."""
    is_open = ~col(AutoBatch.labelled)
    query = (
        select(
            col(AutoBatch.stream),
            func.coalesce(func.min(AutoBatch.round).filter(is_open), func.max(AutoBatch.round)),
            func.sum(AutoBatch.count),
            func.coalesce(func.sum(AutoBatch.count).filter(col(AutoBatch.labelled)), 0),
        )
        .where(*_of(AutoBatch, workspace_id, job_key), col(AutoBatch.stream).is_not(None))
        .group_by(col(AutoBatch.stream))
        .order_by(col(AutoBatch.stream))
    )
    rows = (await tx.execute(query)).all()
    return [(stream or 0, number, sessions, labelled) for stream, number, sessions, labelled in rows]


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
    tx: AsyncSession, workspace_id: str, job_key: str, *, after: int | None = None, up_to: int | None = None
) -> dict[LabelKind, list[str]]:
    """The labels that were first found in some rounds, by round and then by name. What is None has no bound."""
    query = (
        select(col(AutoLabel.kind), col(AutoLabel.label))
        .where(
            *_of(AutoLabel, workspace_id, job_key),
            true() if after is None else col(AutoLabel.first_round) > after,
            true() if up_to is None else col(AutoLabel.first_round) <= up_to,
        )
        .order_by(col(AutoLabel.first_round), col(AutoLabel.label))
    )
    known: dict[LabelKind, list[str]] = {kind: [] for kind in LabelKind}
    for kind, label in (await tx.execute(query)).all():
        known[LabelKind(kind)].append(label)
    return known


async def discovered_labels(tx: AsyncSession, workspace_id: str, job_key: str) -> dict[LabelKind, list[int]]:
    """By kind, how many sessions of the discovery each label has. Labels that no reply gave are left out."""
    found: dict[LabelKind, list[int]] = {}
    for kind in LabelKind:
        label = col(getattr(AutoSession, kind.value))
        query = (
            select(func.count())
            .where(
                *_of(AutoSession, workspace_id, job_key),
                col(AutoSession.phase) == Phase.DISCOVERY.value,
                label.is_not(None),
                ~col(AutoSession.fallback),
                ~col(AutoSession.by_rule),
            )
            .group_by(label)
        )
        found[kind] = list((await tx.execute(query)).scalars())
    return found


async def labels_found(
    tx: AsyncSession, workspace_id: str, job_key: str, *, after: int, has_ended: bool
) -> list[tuple[LabelKind, str]]:
    """The labels of a run in the order of their rounds, without the first `after` of them.

    Of a run that goes on, only rounds that all streams have completed count, and none that is the latest: others may
    come before their labels. So a label's place never changes.
    """
    own = _of(AutoLabel, workspace_id, job_key)
    found = select(col(AutoLabel.kind), col(AutoLabel.label)).where(*own)
    if not has_ended:
        latest = select(func.max(AutoLabel.first_round)).where(*own).scalar_subquery()
        open_round = select(func.min(AutoBatch.round)).where(*_of(AutoBatch, workspace_id, job_key))
        of_streams = open_round.where(~col(AutoBatch.labelled)).scalar_subquery()
        found = found.where(col(AutoLabel.first_round) < func.least(latest, of_streams))
    ordered = found.order_by(col(AutoLabel.first_round), col(AutoLabel.kind), col(AutoLabel.label)).offset(after)
    return [(LabelKind(kind), label) for kind, label in (await tx.execute(ordered)).all()]


async def store_labels(
    tx: AsyncSession,
    workspace_id: str,
    job_key: str,
    found: Mapping[int, SessionLabels],
    place: Place,
) -> int:
    """Store sessions' labels by ordinal. Returns the number of new labels.

    A label's first round is the lowest one that found it, in whatever order the streams store theirs.
    """
    await _label_sessions(tx, (workspace_id, job_key), found, place)
    # Fallback labels are not offered to other sessions.
    learnt = [labels for labels in found.values() if not (labels.fallback or labels.by_rule)]
    seen = sorted({(kind.value, label) for labels in learnt for kind in LabelKind if (label := labels.label(kind))})
    new = await _store_seen(tx, (workspace_id, job_key), seen, place.round) if seen else 0
    if place.ends is not None:
        ended = update(AutoBatch).where(*_of(AutoBatch, workspace_id, job_key), col(AutoBatch.number) == place.ends)
        await (await tx.connection()).execute(ended.values(labelled=True))
    return new


async def _label_sessions(
    tx: AsyncSession, run: tuple[str, str], found: Mapping[int, SessionLabels], place: Place
) -> None:
    """Give sessions their labels, all in one statement."""
    if not found:
        return
    rows = sorted(found.items())
    columns = {name: [getattr(labels, name) for _, labels in rows] for name in SessionLabels.model_fields}
    kinds = [Boolean if name in MARKS else String for name in columns]
    given = _table_of(
        [(Integer, "at", [ordinal for ordinal, _ in rows])]
        + [(kind, name, values) for kind, (name, values) in zip(kinds, columns.items(), strict=True)]
    )
    labelled = (
        update(AutoSession)
        .where(*_of(AutoSession, *run), col(AutoSession.ordinal) == given.c.at)
        .values({name: given.c[name] for name in columns})
        .values(phase=place.phase.value, round=place.round, stream=place.stream)
    )
    await (await tx.connection()).execute(labelled)


async def _store_seen(
    tx: AsyncSession, run: tuple[str, str], seen: Sequence[tuple[str, str]], round_number: int
) -> int:
    """Store labels, or that an earlier round found them. Returns how many are new."""
    columns_of = [(String, "kind", [kind for kind, _ in seen]), (String, "label", [label for _, label in seen])]
    given = _table_of(columns_of)
    rows = select(*map(literal, run), given.c.kind, given.c.label, literal(round_number))
    columns = ("workspace_id", "job_key", "kind", "label", "first_round")
    made = insert(AutoLabel).from_select(columns, rows.order_by(given.c.kind, given.c.label))
    stored = await (await tx.connection()).execute(
        made.on_conflict_do_update(
            index_elements=columns[:4],
            set_={"first_round": made.excluded.first_round},
            where=col(AutoLabel.first_round) > made.excluded.first_round,
        ).returning(literal_column("xmax = 0"))
    )
    return sum(stored.scalars())


async def copy_labels(tx: AsyncSession, workspace_id: str, job_key: str) -> int:
    """Give every copy the labels of its original, with the round and stream that found them. Returns how many."""
    original = aliased(AutoSession)
    copied = ("phase", "round", "stream", *SessionLabels.model_fields)
    statement = (
        update(AutoSession)
        .where(
            *_of(AutoSession, workspace_id, job_key),
            *_of(original, workspace_id, job_key),
            col(AutoSession.copy_of) == original.ordinal,
        )
        .values({name: getattr(original, name) for name in copied})
    )
    return (await (await tx.connection()).execute(statement)).rowcount


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
    return _table_of([(kind, name, values) for name, values in columns.items()], with_ordinality)


def _table_of(
    columns: Sequence[tuple[type[TypeEngine[Any]], str, Iterable[Any]]], with_ordinality: str | None = None
) -> FromClause:
    """Columns of values as a table. The text of its statement does not depend on how many there are."""
    arrays = [cast(list(values), ARRAY(kind)) for kind, _, values in columns]
    names = [column(name, kind) for kind, name, _ in columns]
    return func.unnest(*arrays).table_valued(*names, with_ordinality=with_ordinality).render_derived()


Scoped = type[AutoRun] | type[AutoSession] | type[AutoBatch] | type[AutoLabel] | type[AutoMerge]


def _of(table: Scoped, workspace_id: str, job_key: str) -> tuple[ColumnElement[bool], ...]:
    """The rows of one run of one workspace."""
    return col(table.workspace_id) == workspace_id, col(table.job_key) == job_key


def _of_kind(
    table: type[AutoLabel] | type[AutoMerge], workspace_id: str, job_key: str, kind: str
) -> tuple[ColumnElement[bool], ...]:
    return *_of(table, workspace_id, job_key), col(table.kind) == kind
