"""The second look at the sessions of a run: which sessions are looked at together, and the labels that they get."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Integer,
    String,
    Subquery,
    cast,
    column,
    func,
    literal,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by, insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
from sqlmodel import col

from parley.domain.auto_analyze.contract import Aspect
from parley.storage.label_evidence import FIRST_MESSAGES, of_sessions
from parley.storage.tables import AutoReassignment, AutoSession

ASPECTS = [*Aspect]


class LabelledSession(NamedTuple):
    """A session with its canonical intent. `messages`: the first ones."""

    ordinal: int
    messages: list[dict[str, str]]
    intent: str


async def plan(tx: AsyncSession, workspace_id: str, job_key: str, size: int, aspect: Aspect = Aspect.ALONE) -> range:
    """Put the sessions that a model labelled into batches of `size`, those with one intent together.

    Each has the label that the aspects before have left. Copies are in none: they get what their originals get.
    Idempotent; a run that is reset looks at all batches again, from the replies that it has. Returns the numbers of the
    batches, which follow those of the aspects before.
    """
    first = await _count(tx, workspace_id, job_key, ASPECTS[: ASPECTS.index(aspect)])
    label = func.coalesce(AutoSession.better_intent, AutoSession.canonical_intent)
    place = func.row_number().over(order_by=(label, col(AutoSession.ordinal)))
    ordered = (
        select(col(AutoSession.ordinal), label.label("label"), ((place - 1) // size + first).label("number"))
        .where(*_asked(workspace_id, job_key))
        .subquery()
    )
    by_ordinal = ordered.c.ordinal.asc()
    batches = select(
        literal(workspace_id),
        literal(job_key),
        ordered.c.number,
        literal(aspect.value),
        func.array_agg(aggregate_order_by(ordered.c.ordinal, by_ordinal)),
        func.array_agg(aggregate_order_by(ordered.c.label, by_ordinal)),
    ).group_by(ordered.c.number)
    columns = ("workspace_id", "job_key", "number", "aspect", "ordinals", "labels")
    connection = await tx.connection()
    planned = insert(AutoReassignment).from_select(columns, batches)
    again = planned.on_conflict_do_update(index_elements=columns[:3], set_={"is_done": False})
    await connection.execute(again)
    return range(first, first + await _count(tx, workspace_id, job_key, [aspect]))


async def _count(tx: AsyncSession, workspace_id: str, job_key: str, aspects: Sequence[Aspect]) -> int:
    query = select(func.count()).where(*_of_run(workspace_id, job_key), col(AutoReassignment.aspect).in_(aspects))
    return (await tx.execute(query)).scalar_one()


async def open_numbers(tx: AsyncSession, workspace_id: str, job_key: str, *, after: int, limit: int) -> list[int]:
    """The next batches of sessions by themselves that are not done, by their number."""
    query = select(col(AutoReassignment.number)).where(
        *_of_run(workspace_id, job_key),
        col(AutoReassignment.aspect) == Aspect.ALONE,
        ~col(AutoReassignment.is_done),
        col(AutoReassignment.number) > after,
    )
    return list((await tx.execute(query.order_by(col(AutoReassignment.number)).limit(limit))).scalars())


async def complete(tx: AsyncSession, workspace_id: str, job_key: str, number: int) -> None:
    """A batch is done. Idempotent."""
    done = update(AutoReassignment).where(*_of_run(workspace_id, job_key), col(AutoReassignment.number) == number)
    await (await tx.connection()).execute(done.values(is_done=True))


async def batch(tx: AsyncSession, workspace_id: str, job_key: str, number: int) -> list[LabelledSession]:
    """The sessions of a batch with the labels that they had when it was planned, in processing order."""
    planned = _planned(workspace_id, job_key, col(AutoReassignment.number) == number)
    query = (
        of_sessions(workspace_id, job_key, col(AutoSession.ordinal), FIRST_MESSAGES, _label(planned))
        .join(planned, planned.c.ordinal == col(AutoSession.ordinal))
        .order_by(col(AutoSession.ordinal))
    )
    return [LabelledSession(*row) for row in (await tx.execute(query)).all()]


async def sample(tx: AsyncSession, workspace_id: str, job_key: str, most: int, aspect: Aspect) -> list[LabelledSession]:
    """The first sessions of each intent, up to `most`, with the labels that they had when an aspect was planned."""
    planned = _planned(workspace_id, job_key, col(AutoReassignment.aspect) == aspect)
    place = func.row_number().over(partition_by=planned.c.label, order_by=planned.c.ordinal)
    ranked = select(planned.c.ordinal, planned.c.label, place.label("place")).subquery()
    query = (
        of_sessions(workspace_id, job_key, ranked.c.ordinal, FIRST_MESSAGES, ranked.c.label)
        .join(ranked, ranked.c.ordinal == col(AutoSession.ordinal))
        .where(ranked.c.place <= most)
        .order_by(ranked.c.ordinal)
    )
    return [LabelledSession(*row) for row in (await tx.execute(query)).all()]


def _planned(workspace_id: str, job_key: str, which: ColumnElement[bool]) -> Subquery:
    """The sessions of some batches by ordinal, with the labels that they had when these were planned."""
    columns = column("ordinal", Integer), column("label", String)
    named = func.unnest(AutoReassignment.ordinals, AutoReassignment.labels).table_valued(*columns)
    unnested = named.render_derived(name="planned")
    query = select(unnested.c.ordinal, unnested.c.label).select_from(AutoReassignment).join(unnested, true())
    return query.where(*_of_run(workspace_id, job_key), which).subquery()


def _label(planned: Subquery) -> ColumnElement[str]:
    """The label of a planned session. Versions that looked once stored none: it was what merging had left."""
    return func.coalesce(planned.c.label, AutoSession.merged_intent, AutoSession.canonical_intent)


def _of_run(workspace_id: str, job_key: str) -> tuple[ColumnElement[bool], ...]:
    return col(AutoReassignment.workspace_id) == workspace_id, col(AutoReassignment.job_key) == job_key


def _asked(workspace_id: str, job_key: str) -> tuple[ColumnElement[bool], ...]:
    """The sessions that a model labelled. Copies get what their originals get."""
    return (
        col(AutoSession.workspace_id) == workspace_id,
        col(AutoSession.job_key) == job_key,
        col(AutoSession.canonical_intent).is_not(None),
        col(AutoSession.copy_of).is_(None),
        ~col(AutoSession.fallback),
        ~col(AutoSession.by_rule),
    )


async def store(tx: AsyncSession, workspace_id: str, job_key: str, better: Mapping[int, str]) -> None:
    """Store the labels that sessions get when all are looked at, by ordinal. Idempotent."""
    if not better:
        return
    arrays = cast([*better.keys()], ARRAY(Integer)), cast([*better.values()], ARRAY(String))
    given = func.unnest(*arrays).table_valued("ordinal", "label").render_derived()
    stored = update(AutoSession).where(
        col(AutoSession.workspace_id) == workspace_id,
        col(AutoSession.job_key) == job_key,
        col(AutoSession.ordinal) == given.c.ordinal,
    )
    await (await tx.connection()).execute(stored.values(better_intent=given.c.label))


async def apply(tx: AsyncSession, workspace_id: str, job_key: str) -> int:
    """Give the sessions and their copies the better labels, and keep what they had as `merged_intent`. Idempotent.

    Returns how many sessions have another label than after merging.
    """
    own = (
        col(AutoSession.workspace_id) == workspace_id,
        col(AutoSession.job_key) == job_key,
        col(AutoSession.better_intent).is_not(None),
    )
    original = aliased(AutoSession)
    of_copies = update(AutoSession).where(
        col(AutoSession.workspace_id) == workspace_id,
        col(AutoSession.job_key) == job_key,
        col(original.workspace_id) == workspace_id,
        col(original.job_key) == job_key,
        col(AutoSession.copy_of) == original.ordinal,
        col(original.better_intent).is_not(None),
    )
    await (await tx.connection()).execute(of_copies.values(better_intent=original.better_intent))
    changed = update(AutoSession).where(*own, col(AutoSession.better_intent) != col(AutoSession.canonical_intent))
    merged = func.coalesce(AutoSession.merged_intent, AutoSession.canonical_intent)
    values = {
        # A session may come back to the label that merging has left.
        "merged_intent": func.nullif(merged, AutoSession.better_intent),
        "canonical_intent": col(AutoSession.better_intent),
    }
    await (await tx.connection()).execute(changed.values(values))
    count = select(func.count()).select_from(AutoSession).where(*own, col(AutoSession.merged_intent).is_not(None))
    return (await tx.execute(count)).scalar_one()


async def intents_left(tx: AsyncSession, workspace_id: str, job_key: str) -> int:
    """How many intents the sessions that a model labelled have."""
    query = select(func.count(col(AutoSession.canonical_intent).distinct())).where(
        col(AutoSession.workspace_id) == workspace_id,
        col(AutoSession.job_key) == job_key,
        ~col(AutoSession.fallback),
        ~col(AutoSession.by_rule),
    )
    return (await tx.execute(query)).scalar_one()
