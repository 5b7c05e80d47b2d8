"""AutoAnalyze's runs: the processing order, what was labelled, and the labels with the round that first saw them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import Any, NamedTuple

from sqlalchemy import (
    Boolean,
    ColumnElement,
    FromClause,
    Integer,
    String,
    and_,
    any_,
    bindparam,
    case,
    cast,
    column,
    delete,
    false,
    func,
    literal,
    literal_column,
    null,
    or_,
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

from parley.domain.auto_analyze.contract import GIVEN_ROUND, PROBED_ROUND, ExportedSession, LabelCount, LabelKind, Phase
from parley.domain.auto_analyze.evidence import DEFINITION_CHARACTERS
from parley.domain.auto_analyze.labels import composed
from parley.domain.auto_analyze.quotes import QuoteCount
from parley.domain.auto_analyze.validation import SessionLabels
from parley.domain.chat import ChatSession
from parley.domain.errors import NotFound
from parley.domain.model import storable
from parley.domain.text import one_line
from parley.storage.database import NOW
from parley.storage.driver import Query, defer, fetch, fetch_together
from parley.storage.rows import table
from parley.storage.tables import AutoBatch, AutoLabel, AutoMerge, AutoRun, AutoSession, PaidRequest, StoredChat


def run_of(session: type[AutoSession]) -> ColumnElement[bool]:
    """Joins a session of a run with the run."""
    return and_(col(AutoRun.workspace_id) == session.workspace_id, col(AutoRun.job_key) == session.job_key)


def chat_of(session: type[AutoSession], chat: type[StoredChat]) -> ColumnElement[bool]:
    """Joins a session of a run, and the run, with the chat."""
    return and_(
        col(chat.workspace_id) == session.workspace_id,
        col(chat.dataset_id) == AutoRun.dataset_id,
        col(chat.position) == session.position,
    )


RUN_OF_SESSION, CHAT_OF_SESSION = run_of(AutoSession), chat_of(AutoSession, StoredChat)


# What marks a session, beside its labels.
MARKS = frozenset({"fallback", "by_rule"})
NO_COPIES: Mapping[int, int] = {}
NOTHING_SAID: Mapping[int, str] = {}
# The number of the round in the id of a paid request.
ROUND_OF_REQUEST = "^[^/]*/round-([0-9]+)/"


@dataclass(frozen=True)
class Work:
    """A session to label: its ordinal, content, and condensed text if it is larger than a prompt."""

    ordinal: int
    session: ChatSession
    tokens: int
    condensed: str | None


class Place(NamedTuple):
    """Where sessions are labelled.

    `ends`: the number of the batch that is complete with them. `takes_next`: its stream then takes the next free batch.
    """

    phase: Phase
    round: int
    stream: int
    ends: int | None = None
    takes_next: bool = False


@dataclass(frozen=True)
class OpenBatch:
    """A batch that is not labelled. `stream`: None while none has taken it."""

    number: int
    round: int
    stream: int | None
    start: int
    count: int

    def stream_of(self, streams: int) -> int:
        """Its stream. One that none of the streams has taken is that of its place in its round."""
        return self.stream or self.number % streams + 1


class Begun(NamedTuple):
    """The rounds that have begun: the last one, how many batches they have, and the ordinal after their sessions."""

    round: int
    batches: int
    end: int


class Stored(NamedTuple):
    """What follows from labels that are stored.

    `new`: how many labels are new. Where a batch is complete, `first_open`: the first one that is not labelled;
    `taken`: the one that the stream has taken.
    """

    new: int
    first_open: OpenBatch | None = None
    taken: OpenBatch | None = None


def _given(**columns: type[TypeEngine[Any]]) -> FromClause:
    """Parameters as a table: `given_{column}`, each a list. The statement's text is the same for any number of rows."""
    arrays = [cast(bindparam(f"given_{name}", type_=ARRAY(kind)), ARRAY(kind)) for name, kind in columns.items()]
    names = [column(name, kind) for name, kind in columns.items()]
    return func.unnest(*arrays).table_valued(*names).render_derived()


def _of_run(rows: FromClause) -> tuple[ColumnElement[bool], ...]:
    """The rows of the run of the parameters."""
    return rows.c.workspace_id == bindparam("of_workspace"), rows.c.job_key == bindparam("of_job")


# Statements that every request needs are built once: building one takes as long as running it.
SESSIONS, BATCHES, LABELS = table(AutoSession), table(AutoBatch), table(AutoLabel)
FREE, HOLDS = BATCHES.alias(), BATCHES.alias()
GIVEN_SESSIONS = _given(
    ordinal=Integer, **{name: Boolean if name in MARKS else String for name in SessionLabels.model_fields}
)
LABEL_SESSIONS = (
    update(SESSIONS)
    .where(*_of_run(SESSIONS), SESSIONS.c.ordinal == GIVEN_SESSIONS.c.ordinal)
    .values({name: GIVEN_SESSIONS.c[name] for name in SessionLabels.model_fields})
    .values(phase=bindparam("at_phase"), round=bindparam("at_round"), stream=bindparam("at_stream"))
)
GIVEN_SEEN = _given(kind=String, label=String, first_ordinal=Integer, meaning=String, example=String)
KEY_OF_LABEL = ("workspace_id", "job_key", "kind", "label")
OF_FIRST_SESSION = ("first_ordinal", "meaning", "example")
AT_ROUND = bindparam("at_round", type_=Integer)


def _is_earlier(round_number: ColumnElement[int], ordinal: ColumnElement[int]) -> ColumnElement[bool]:
    """Whether a session of this round comes before the one from which a label is known."""
    of_round = and_(LABELS.c.first_round == round_number, func.coalesce(LABELS.c.first_ordinal > ordinal, true()))
    return or_(LABELS.c.first_round > round_number, of_round)


# A label that is known from an earlier session is neither written nor locked.
IS_KNOWN = (
    select(LABELS)
    .where(
        *_of_run(LABELS),
        LABELS.c.kind == GIVEN_SEEN.c.kind,
        LABELS.c.label == GIVEN_SEEN.c.label,
        ~_is_earlier(AT_ROUND, GIVEN_SEEN.c.first_ordinal),
    )
    .exists()
)
SEEN = insert(LABELS).from_select(
    (*KEY_OF_LABEL, "first_round", *OF_FIRST_SESSION),
    select(
        bindparam("of_workspace", type_=String),
        bindparam("of_job", type_=String),
        GIVEN_SEEN.c.kind,
        GIVEN_SEEN.c.label,
        AT_ROUND,
        *(GIVEN_SEEN.c[name] for name in OF_FIRST_SESSION),
    )
    .where(~IS_KNOWN)
    .order_by(GIVEN_SEEN.c.kind, GIVEN_SEEN.c.label),
)
STORE_SEEN = SEEN.on_conflict_do_update(
    index_elements=KEY_OF_LABEL,
    set_={name: SEEN.excluded[name] for name in ("first_round", *OF_FIRST_SESSION)},
    where=_is_earlier(SEEN.excluded.first_round, SEEN.excluded.first_ordinal),
).returning(literal_column("xmax = 0").label("is_new"))
# A batch that no stream has taken is that of the stream whose place it has: what was labelled is counted by stream.
END_BATCH = (
    update(BATCHES)
    .where(*_of_run(BATCHES), BATCHES.c.number == bindparam("ended"))
    .values(labelled=true(), stream=func.coalesce(BATCHES.c.stream, bindparam("at_stream", type_=Integer)))
)
OPEN_BATCHES = (
    select(*(BATCHES.c[one.name] for one in fields(OpenBatch)))
    .where(*_of_run(BATCHES), ~BATCHES.c.labelled)
    .order_by(BATCHES.c.number)
    .limit(bindparam("most", type_=Integer))
)
ONE = literal_column("1")
FIRST_OPEN = OPEN_BATCHES.limit(ONE)
HELD_BATCHES = OPEN_BATCHES.where(BATCHES.c.stream == bindparam("taker"))
HELD_BATCH = HELD_BATCHES.limit(ONE)
TAKE_BATCH = (
    update(BATCHES)
    .where(
        *_of_run(BATCHES),
        BATCHES.c.number
        == select(FREE.c.number)
        .where(*_of_run(FREE), ~FREE.c.labelled, FREE.c.stream.is_(None))
        .order_by(FREE.c.number)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery(),
        ~select(HOLDS.c.number)
        .where(*_of_run(HOLDS), ~HOLDS.c.labelled, HOLDS.c.stream == bindparam("taker"))
        .exists(),
    )
    .values(stream=bindparam("taker"))
)
WORK = (
    select(col(AutoSession.ordinal), col(StoredChat.payload), col(StoredChat.tokens), col(AutoSession.condensed))
    .join(AutoRun, RUN_OF_SESSION)
    .join(StoredChat, CHAT_OF_SESSION)
    .where(
        col(AutoSession.workspace_id) == bindparam("of_workspace"),
        col(AutoSession.job_key) == bindparam("of_job"),
        col(AutoSession.ordinal) == any_(bindparam("asked", type_=ARRAY(Integer))),
    )
    .order_by(col(AutoSession.ordinal))
)


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


async def begun(tx: AsyncSession, workspace_id: str, job_key: str, start: int) -> Begun:
    """The rounds that have begun: those up to the last one of which a session is labelled or a request is paid.

    Args:
        start: the ordinal of the first session of the streams.
    """
    of_round = func.substring(PaidRequest.request_id, ROUND_OF_REQUEST)
    paid = select(func.max(cast(of_round, Integer))).where(*_of(PaidRequest, workspace_id, job_key))
    own = _of(AutoBatch, workspace_id, job_key)
    labelled = select(func.max(AutoBatch.round)).where(*own, col(AutoBatch.labelled))
    last = func.coalesce(func.greatest(paid.scalar_subquery(), labelled.scalar_subquery()), 0)
    kept = select(
        func.coalesce(func.max(AutoBatch.round), 0),
        func.count(),
        func.coalesce(func.max(AutoBatch.start + AutoBatch.count), start),
    ).where(*own, col(AutoBatch.round) <= last)
    return Begun(*(await tx.execute(kept)).one())


async def replan(tx: AsyncSession, workspace_id: str, job_key: str, plan: int, streams: int) -> bool:
    """Note that the batches of a run are cut for the `plan`th time, and lock the run. False if they are already."""
    noted = (
        update(AutoRun)
        .where(*_of(AutoRun, workspace_id, job_key), func.cardinality(AutoRun.plans) == plan - 1)
        .values(plans=func.array_append(AutoRun.plans, streams))
    )
    return bool((await (await tx.connection()).execute(noted)).rowcount)


async def plans(tx: AsyncSession, workspace_id: str, job_key: str) -> list[int]:
    """The number of streams of each plan by which the batches of a run were cut."""
    found = select(col(AutoRun.plans)).where(*_of(AutoRun, workspace_id, job_key))
    return (await tx.execute(found)).scalar() or []


async def drop_batches(tx: AsyncSession, workspace_id: str, job_key: str, after: int) -> None:
    """Drop the batches of the rounds after one, to be cut again. Earlier ones keep their round.

    No stream is open: those that begin afterwards, more or fewer, take what others have left of the earlier rounds.

    Args:
        after: the last round that is kept.
    """
    own = _of(AutoBatch, workspace_id, job_key)
    connection = await tx.connection()
    await connection.execute(delete(AutoBatch).where(*own, col(AutoBatch.round) > after))
    await connection.execute(update(AutoBatch).where(*own, ~col(AutoBatch.labelled)).values(stream=None))


async def open_count(tx: AsyncSession, workspace_id: str, job_key: str) -> int:
    """How many batches of a run are not labelled."""
    own = _of(AutoBatch, workspace_id, job_key)
    return (await tx.execute(select(func.count()).where(*own, ~col(AutoBatch.labelled)))).scalar() or 0


async def store_batches(
    tx: AsyncSession,
    workspace_id: str,
    job_key: str,
    start: int,
    counts: Sequence[int],
    streams: int,
    *,
    after: Begun | None = None,
) -> None:
    """Store the batches, which the streams take in their order. A round has one for every stream. Idempotent.

    Args:
        start: the ordinal of the first session.
        counts: the sessions of each batch.
        after: the rounds before the first one of these; None: there are none.
    """
    starts = list(accumulate(counts, initial=start))[:-1]
    given = _unnested(Integer, start=starts, count=counts, with_ordinality="place")
    before = after or Begun(0, 0, start)
    place = given.c.place - 1
    rows = select(
        literal(workspace_id), literal(job_key), place + before.batches, place // streams + 1 + before.round, null(),
        given.c.start, given.c["count"], false(),
    )  # fmt: skip
    columns = ("workspace_id", "job_key", "number", "round", "stream", "start", "count", "labelled")
    await tx.execute(insert(AutoBatch).from_select(columns, rows).on_conflict_do_nothing())
    await tx.execute(text("ANALYZE auto_batches"))


async def open_batches(
    tx: AsyncSession, workspace_id: str, job_key: str, stream: int | None, limit: int
) -> list[OpenBatch]:
    """The next batches of a stream that are not labelled, in their order; `stream` None: those of all streams."""
    run = {"of_workspace": workspace_id, "of_job": job_key}
    statement = OPEN_BATCHES if stream is None else HELD_BATCHES
    query = Query(statement, {**run, "taker": stream, "most": limit}, lambda rows: [OpenBatch(*row) for row in rows])
    return await fetch(tx, query)


async def take_batch(tx: AsyncSession, workspace_id: str, job_key: str, stream: int) -> None:
    """Give a stream the next batch that no stream has taken, if there is one and it has none that is not labelled."""
    await defer(tx, TAKE_BATCH, {"of_workspace": workspace_id, "of_job": job_key, "taker": stream})


async def first_open(tx: AsyncSession, workspace_id: str, job_key: str) -> OpenBatch | None:
    """The first batch that is not labelled; None if all are. The rounds before its round are complete."""
    return await fetch(tx, Query(FIRST_OPEN, {"of_workspace": workspace_id, "of_job": job_key, "most": 1}, _first))


async def progress(tx: AsyncSession, workspace_id: str, job_key: str) -> list[tuple[int, int, int, int]]:
    """Of each stream: its number, its round, the sessions that it has taken, and those that it has labelled."""
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
    values = {"of_workspace": workspace_id, "of_job": job_key, "asked": list(ordinals)}
    return await fetch(tx, Query(WORK, values, lambda rows: [_work(*row) for row in rows]))


def _work(ordinal: int, payload: object, tokens: int, condensed: str | None) -> Work:
    return Work(ordinal, ChatSession.model_validate(payload), tokens, condensed)


async def known_labels(
    tx: AsyncSession, workspace_id: str, job_key: str, *, after: int | None = None, up_to: int | None = None
) -> dict[LabelKind, list[str]]:
    """The labels that were first found in some rounds, by round and then by name; given ones come before all rounds.

    What is None has no bound. A label that only a probe has is not known to others.
    """
    query = (
        select(col(AutoLabel.kind), col(AutoLabel.label))
        .where(
            *_of(AutoLabel, workspace_id, job_key),
            true() if after is None else col(AutoLabel.first_round) > after,
            col(AutoLabel.first_round) < PROBED_ROUND if up_to is None else col(AutoLabel.first_round) <= up_to,
        )
        .order_by(col(AutoLabel.first_round), col(AutoLabel.label))
    )
    known: dict[LabelKind, list[str]] = {kind: [] for kind in LabelKind}
    for kind, label in (await tx.execute(query)).all():
        known[LabelKind(kind)].append(label)
    return known


async def found_labels(tx: AsyncSession, workspace_id: str, job_key: str) -> dict[LabelKind, set[str]]:
    """The labels that sessions of a run were given by replies: without those that it started from and none has."""
    found: dict[LabelKind, set[str]] = {}
    for kind in LabelKind:
        label = col(getattr(AutoSession, kind.value))
        query = select(label).where(*_of(AutoSession, workspace_id, job_key), label.is_not(None)).distinct()
        labels = select(col(AutoLabel.label)).where(
            *_of_kind(AutoLabel, workspace_id, job_key, kind.value), col(AutoLabel.label).in_(query)
        )
        found[kind] = set((await tx.execute(labels)).scalars())
    return found


async def discovered_labels(tx: AsyncSession, workspace_id: str, job_key: str) -> dict[LabelKind, list[str | None]]:
    """By kind, the label of each session of the discovery that a reply has labelled; None where it has none."""
    query = select(*(col(getattr(AutoSession, kind.value)) for kind in LabelKind)).where(
        *_of(AutoSession, workspace_id, job_key),
        col(AutoSession.phase) == Phase.DISCOVERY.value,
        col(AutoSession.intent).is_not(None),
        ~col(AutoSession.fallback),
        ~col(AutoSession.by_rule),
    )
    rows = (await tx.execute(query)).all()
    return {kind: [row[place] for row in rows] for place, kind in enumerate(LabelKind)}


async def labels_found(
    tx: AsyncSession, workspace_id: str, job_key: str, *, after: int, has_ended: bool
) -> list[tuple[LabelKind, str]]:
    """The labels that a run has found, in the order of their rounds, without the first `after` of them.

    Of a run that goes on, only rounds that all streams have completed count, and none that is the latest: others may
    come before their labels. So a label's place never changes.
    """
    own = _of(AutoLabel, workspace_id, job_key)
    # Given labels are not found, and what only a probe has is not a result.
    of_rounds = (col(AutoLabel.first_round) > GIVEN_ROUND, col(AutoLabel.first_round) < PROBED_ROUND)
    found = select(col(AutoLabel.kind), col(AutoLabel.label)).where(*own, *of_rounds)
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
    said: Mapping[int, str] = NOTHING_SAID,
) -> Stored:
    """Store sessions' labels by ordinal, and end their batch, in one round trip.

    A label's first round is the lowest one that found it, and its first session the lowest ordinal, in whatever order
    the streams store theirs. `said`: what the users of the sessions said first, which later prompts show.
    """
    run = {"of_workspace": workspace_id, "of_job": job_key}
    if found:
        await _label_sessions(tx, run, found, place)
    given = {f"given_{name}": values for name, values in _seen(found, said).items()}
    new = Query(STORE_SEEN, {**run, **given, "at_round": place.round}, lambda rows: sum(row.is_new for row in rows))
    if place.ends is None:
        return Stored(await fetch(tx, new))
    await defer(tx, END_BATCH, {**run, "ended": place.ends, "at_stream": place.stream})
    first_open = Query(FIRST_OPEN, run, _first)
    if not place.takes_next:
        return Stored(*await fetch_together(tx, new, first_open))
    await defer(tx, TAKE_BATCH, {**run, "taker": place.stream})
    taken = Query(HELD_BATCH, {**run, "taker": place.stream}, _first)
    return Stored(*await fetch_together(tx, new, first_open, taken))


def _seen(found: Mapping[int, SessionLabels], said: Mapping[int, str]) -> dict[str, list[Any]]:
    """The labels of sessions, each with its first session, as columns. Only intents are shown with what they mean."""
    first: dict[tuple[str, str], tuple[int, str | None, str | None]] = {}
    for ordinal, labels in sorted(found.items()):
        if labels.fallback or labels.by_rule:  # not offered to other sessions
            continue
        meaning, example = one_line(labels.summary, DEFINITION_CHARACTERS), said.get(ordinal)
        for kind in LabelKind:
            if label := labels.label(kind):
                session = (ordinal, meaning, example) if kind is LabelKind.INTENT else (ordinal, None, None)
                first.setdefault((kind.value, label), session)
    rows = [(*key, *session) for key, session in sorted(first.items())]
    names = ("kind", "label", *OF_FIRST_SESSION)
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


async def _label_sessions(
    tx: AsyncSession, run: Mapping[str, str], found: Mapping[int, SessionLabels], place: Place
) -> None:
    """Give sessions their labels, by one deferred statement."""
    rows = sorted(found.items())
    columns = {f"given_{name}": [getattr(labels, name) for _, labels in rows] for name in SessionLabels.model_fields}
    where = {"at_phase": place.phase.value, "at_round": place.round, "at_stream": place.stream}
    await defer(tx, LABEL_SESSIONS, {**run, "given_ordinal": [ordinal for ordinal, _ in rows], **columns, **where})


def _first(rows: Sequence[Any]) -> OpenBatch | None:
    return OpenBatch(*rows[0]) if rows else None


async def copy_labels(tx: AsyncSession, workspace_id: str, job_key: str) -> int:
    """Give every copy the labels of its original, with the round and stream that found them. Returns how many.

    The original has none where the run was asked to finish before.
    """
    original = aliased(AutoSession)
    copied = ("phase", "round", "stream", *SessionLabels.model_fields)
    statement = (
        update(AutoSession)
        .where(
            *_of(AutoSession, workspace_id, job_key),
            *_of(original, workspace_id, job_key),
            col(AutoSession.copy_of) == original.ordinal,
            col(original.intent).is_not(None),
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
    tx: AsyncSession,
    workspace_id: str,
    job_key: str,
    kind: LabelKind,
    level: int,
    merged: Mapping[str, str],
    request_id: str | None = None,
) -> None:
    """Store the merges of one chunk of labels, by the reply to a request or by their spelling. Idempotent."""
    rows = [
        AutoMerge(
            workspace_id=workspace_id,
            job_key=job_key,
            kind=kind.value,
            level=level,
            label=label,
            canonical=canonical,
            request_id=request_id,
        ).model_dump()
        for label, canonical in merged.items()
        if label != canonical
    ]
    if rows:
        await tx.execute(insert(AutoMerge).on_conflict_do_nothing(), rows)


async def counts(tx: AsyncSession, workspace_id: str, job_key: str) -> dict[str, int]:
    """How many sessions a run has, how many are labelled, and how many of those have fallback labels."""
    query = select(
        func.count(),
        func.count(col(AutoSession.intent)),
        func.count().filter(col(AutoSession.fallback)),
    ).where(*_of(AutoSession, workspace_id, job_key))
    sessions, labelled, fallbacks = (await tx.execute(query)).one()
    return {"sessions": sessions, "labelled": labelled, "fallbacks": fallbacks}


async def count_quotes(tx: AsyncSession, workspace_id: str, job_key: str) -> QuoteCount:
    """How many labels the replies of a run gave to sessions, and how many of those have no quote."""
    given = [col(getattr(AutoSession, kind.value)) for kind in LabelKind]
    quotes = [col(getattr(AutoSession, kind.quote_field)) for kind in LabelKind]
    missing = [func.count(label).filter(quote.is_(None)) for label, quote in zip(given, quotes, strict=True)]
    query = select(
        sum((func.count(label) for label in given[1:]), func.count(given[0])), sum(missing[1:], missing[0])
    ).where(*_of(AutoSession, workspace_id, job_key), ~col(AutoSession.fallback), ~col(AutoSession.by_rule))
    labels, without = (await tx.execute(query)).one()
    return QuoteCount(labels, without)


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
            *(col(getattr(AutoSession, kind.quote_field)) for kind in LabelKind),
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
    return _table_of([(kind, name, values) for name, values in columns.items()], with_ordinality)


def _table_of(
    columns: Sequence[tuple[type[TypeEngine[Any]], str, Iterable[Any]]], with_ordinality: str | None = None
) -> FromClause:
    """Columns of values as a table. The text of its statement does not depend on how many there are."""
    arrays = [cast(list(values), ARRAY(kind)) for kind, _, values in columns]
    names = [column(name, kind) for kind, name, _ in columns]
    return func.unnest(*arrays).table_valued(*names, with_ordinality=with_ordinality).render_derived()


Scoped = type[AutoRun] | type[AutoSession] | type[AutoBatch] | type[AutoLabel] | type[AutoMerge] | type[PaidRequest]


def _of(table: Scoped, workspace_id: str, job_key: str) -> tuple[ColumnElement[bool], ...]:
    """The rows of one run of one workspace."""
    return col(table.workspace_id) == workspace_id, col(table.job_key) == job_key


def _of_kind(
    table: type[AutoLabel] | type[AutoMerge], workspace_id: str, job_key: str, kind: str
) -> tuple[ColumnElement[bool], ...]:
    return *_of(table, workspace_id, job_key), col(table.kind) == kind
