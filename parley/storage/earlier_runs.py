"""What a run takes over from an earlier one: the sessions that are labelled already, and the labels."""

from collections.abc import Iterable, Sequence

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
from sqlmodel import col

from parley.domain.auto_analyze.contract import GIVEN_ROUND, LabelKind
from parley.domain.auto_analyze.evidence import EXAMPLES
from parley.domain.auto_analyze.taxonomy import EXPLANATION_CHARACTERS, GivenLabel
from parley.domain.errors import NotFound
from parley.domain.text import one_line
from parley.storage import auto_analyze as runs
from parley.storage.datasets import load_dataset
from parley.storage.tables import AutoBatch, AutoLabel, AutoRun, AutoSession, StoredChat

# A chain of runs is not longer than this.
MOST_RUNS = 1000


async def lineage(tx: AsyncSession, workspace_id: str, job_key: str) -> list[str]:
    """The keys of a run and of those that it and they continue, the latest first.

    Raises:
        NotFound: one of the runs, or its dataset, is purged: what it labelled is not known.
    """
    keys: list[str] = []
    key: str | None = job_key
    while key is not None and key not in keys and len(keys) < MOST_RUNS:
        row = await tx.get(AutoRun, (workspace_id, key))
        if row is None:
            raise NotFound(f"workspace {workspace_id!r} has no job {key!r}: the run that it continues is purged")
        await load_dataset(tx, workspace_id, row.dataset_id)
        keys.append(key)
        key = row.settings.get("since")
    return keys


async def labelled_positions(tx: AsyncSession, workspace_id: str, dataset_id: str, job_keys: Sequence[str]) -> set[int]:
    """The sessions of a dataset, by position, that runs have labelled by a reply or by rule.

    A session is the same if its id and what was said are the same.
    """
    old = aliased(StoredChat)
    query = (
        select(col(StoredChat.position))
        .select_from(AutoSession)
        .join(AutoRun, runs.RUN_OF_SESSION)
        .join(old, runs.chat_of(AutoSession, old))
        .join(
            StoredChat,
            and_(
                col(StoredChat.workspace_id) == old.workspace_id,
                col(StoredChat.session_id) == old.session_id,
                col(StoredChat.transcript_hash) == old.transcript_hash,
            ),
        )
        .where(*_labelled_in(workspace_id, job_keys), col(StoredChat.dataset_id) == dataset_id)
    )
    return set((await tx.execute(query)).scalars())


async def labelled_contents(
    tx: AsyncSession, workspace_id: str, job_keys: Sequence[str]
) -> set[tuple[str, bytes | None]]:
    """The ids and transcripts of the sessions that runs have labelled by a reply or by rule."""
    query = (
        select(col(StoredChat.session_id), col(StoredChat.transcript_hash))
        .select_from(AutoSession)
        .join(AutoRun, runs.RUN_OF_SESSION)
        .join(StoredChat, runs.CHAT_OF_SESSION)
        .where(*_labelled_in(workspace_id, job_keys))
    )
    return {(row[0], row[1]) for row in (await tx.execute(query)).all()}


async def final_labels(tx: AsyncSession, workspace_id: str, job_key: str) -> list[GivenLabel]:
    """The labels of a run that its sessions have, and those that it started from, with what is known of them."""
    labels: list[GivenLabel] = []
    for kind in LabelKind:
        counts = await sessions_of_labels(tx, workspace_id, job_key, kind)
        labels += await _explained(tx, workspace_id, job_key, kind, counts.keys())
    return labels


async def sessions_of_labels(tx: AsyncSession, workspace_id: str, job_key: str, kind: LabelKind) -> dict[str, int]:
    """How many sessions have each final label of a kind, of those that a reply labelled."""
    label = _final(AutoSession, kind)
    query = select(label, func.count()).where(*_labelled(AutoSession, workspace_id, job_key), label.is_not(None))
    return {row[0]: row[1] for row in (await tx.execute(query.group_by(label))).all()}


async def batch_sizes(tx: AsyncSession, workspace_id: str, job_key: str, start: int) -> list[int]:
    """The sizes of the batches of a run, if the first one begins at an ordinal; else none."""
    query = (
        select(col(AutoBatch.start), col(AutoBatch.count))
        .where(col(AutoBatch.workspace_id) == workspace_id, col(AutoBatch.job_key) == job_key)
        .order_by(col(AutoBatch.number))
    )
    rows = (await tx.execute(query)).all()
    return [row[1] for row in rows] if rows and rows[0][0] == start else []


async def pairs_of_labels(tx: AsyncSession, workspace_id: str, first: str, second: str) -> dict[tuple[str, str], int]:
    """The sessions that have each pair of final intents in two runs on one dataset."""
    one, other = aliased(AutoSession), aliased(AutoSession)
    labels = _final(one, LabelKind.INTENT), _final(other, LabelKind.INTENT)
    query = (
        select(*labels, func.count())
        .select_from(one)
        .join(other, col(one.position) == other.position)
        .where(*_labelled(one, workspace_id, first), *_labelled(other, workspace_id, second))
        .group_by(*labels)
    )
    return {(row[0], row[1]): row[2] for row in (await tx.execute(query)).all()}


async def session_with(
    tx: AsyncSession, workspace_id: str, first: str, second: str, labels: tuple[str, str]
) -> StoredChat | None:
    """The first session that has these two intents in two runs."""
    one, other = aliased(AutoSession), aliased(AutoSession)
    query = (
        select(StoredChat)
        .select_from(one)
        .join(other, col(one.position) == other.position)
        .join(AutoRun, runs.run_of(one))
        .join(StoredChat, runs.chat_of(one, StoredChat))
        .where(
            *_labelled(one, workspace_id, first),
            *_labelled(other, workspace_id, second),
            _final(one, LabelKind.INTENT) == labels[0],
            _final(other, LabelKind.INTENT) == labels[1],
        )
        .order_by(col(one.position))
        .limit(1)
    )
    return (await tx.execute(query)).scalar()


async def _explained(
    tx: AsyncSession, workspace_id: str, job_key: str, kind: LabelKind, used: Iterable[str]
) -> list[GivenLabel]:
    """The labels of a kind that are used or were given. A label that an operator has named has no evidence."""
    names = set(used)
    query = (
        select(AutoLabel)
        .where(
            col(AutoLabel.workspace_id) == workspace_id,
            col(AutoLabel.job_key) == job_key,
            col(AutoLabel.kind) == kind.value,
            or_(col(AutoLabel.first_round) == GIVEN_ROUND, col(AutoLabel.label).in_(names)),
        )
        .order_by(col(AutoLabel.label))
    )
    rows = list((await tx.execute(query)).scalars())
    unexplained = sorted(names - {row.label for row in rows})
    return [*map(_given, rows), *(GivenLabel(kind=kind, label=label) for label in unexplained)]


def _given(row: AutoLabel) -> GivenLabel:
    definition = row.meaning if row.first_round == GIVEN_ROUND else row.definition
    examples = [one for one in (row.examples or [row.example or ""]) if one]
    return GivenLabel(
        kind=LabelKind(row.kind),
        label=row.label,
        definition=one_line(definition or row.meaning or "", EXPLANATION_CHARACTERS),
        examples=tuple(one_line(one, EXPLANATION_CHARACTERS) for one in examples[:EXAMPLES]),
    )


def _final(table: type[AutoSession], kind: LabelKind) -> ColumnElement[str]:
    return func.coalesce(getattr(table, f"canonical_{kind.value}"), getattr(table, kind.value))


def _labelled_in(workspace_id: str, job_keys: Sequence[str]) -> tuple[ColumnElement[bool], ...]:
    """The sessions of runs that a reply or a rule labelled."""
    return (
        col(AutoSession.workspace_id) == workspace_id,
        col(AutoSession.job_key).in_(job_keys),
        col(AutoSession.intent).is_not(None),
        ~col(AutoSession.fallback),
    )


def _labelled(table: type[AutoSession], workspace_id: str, job_key: str) -> tuple[ColumnElement[bool], ...]:
    """The sessions of a run that a reply labelled."""
    return (
        col(table.workspace_id) == workspace_id,
        col(table.job_key) == job_key,
        col(table.intent).is_not(None),
        ~col(table.fallback),
        ~col(table.by_rule),
    )
