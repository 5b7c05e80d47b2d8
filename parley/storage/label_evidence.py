"""The evidence of a run's labels: collected from its sessions before labels are compared, and read by comparisons."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Integer, Select, String, cast, column, func, select, true, update
from sqlalchemy.dialects.postgresql import JSONB, JSONPATH
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped
from sqlmodel import col

from parley.domain.auto_analyze.contract import GIVEN_ROUND, PROBED_ROUND, LabelKind
from parley.domain.auto_analyze.evidence import LabelEvidence
from parley.storage.auto_analyze import CHAT_OF_SESSION, RUN_OF_SESSION
from parley.storage.tables import AutoLabel, AutoMerge, AutoRun, AutoSession, StoredChat

# Of a long session, the messages at its beginning are enough to see what the user came for.
FIRST_MESSAGES = func.jsonb_path_query_array(col(StoredChat.payload), cast("$.messages[0 to 9]", JSONPATH))


class SampledSession(NamedTuple):
    """A session of a label: its first messages, and the summary that a reply gave."""

    messages: list[dict[str, str]]
    summary: str


class Sample(NamedTuple):
    """How many sessions a label has, and the first ones in processing order."""

    sessions: int
    first: list[SampledSession]


def of_sessions(workspace_id: str, job_key: str, *columns: ColumnElement[Any] | Mapped[Any]) -> Select[Any]:
    """Columns of the sessions of a run, and of their chats."""
    return (
        select(*columns)
        .select_from(AutoSession)
        .join(AutoRun, RUN_OF_SESSION)
        .join(StoredChat, CHAT_OF_SESSION)
        .where(col(AutoSession.workspace_id) == workspace_id, col(AutoSession.job_key) == job_key)
    )


async def sample(tx: AsyncSession, workspace_id: str, job_key: str, kind: LabelKind, most: int) -> dict[str, Sample]:
    """The first sessions of each original label, up to `most`, and how many it has."""
    label = col(getattr(AutoSession, kind.value))
    ranked = (
        select(
            label.label("label"),
            col(AutoSession.ordinal),
            func.count().over(partition_by=label).label("sessions"),
            func.row_number().over(partition_by=label, order_by=col(AutoSession.ordinal)).label("place"),
        )
        .where(col(AutoSession.workspace_id) == workspace_id, col(AutoSession.job_key) == job_key, label.is_not(None))
        .subquery()
    )
    query = (
        of_sessions(
            workspace_id,
            job_key,
            ranked.c.label,
            ranked.c.sessions,
            FIRST_MESSAGES,
            func.coalesce(AutoSession.summary, ""),
        )
        .join(ranked, ranked.c.ordinal == col(AutoSession.ordinal))
        .where(ranked.c.place <= most)
        .order_by(ranked.c.label, ranked.c.place)
    )
    found: defaultdict[str, list[SampledSession]] = defaultdict(list)
    counts: dict[str, int] = {}
    rows: Sequence[Any] = (await tx.execute(query)).all()
    for name, sessions, messages, summary in rows:
        counts[name] = sessions
        found[name].append(SampledSession(messages, summary))
    return {name: Sample(counts[name], first) for name, first in found.items()}


async def store_evidence(
    tx: AsyncSession, workspace_id: str, job_key: str, kind: LabelKind, evidence: Sequence[LabelEvidence]
) -> None:
    """Store the evidence of labels of a run. Idempotent."""
    if not evidence:
        return
    columns = (("label", String), ("sessions", Integer), ("definition", String), ("examples", JSONB))
    rows = cast([one.model_dump(mode="json") for one in evidence], JSONB)
    typed = [column(name, type_) for name, type_ in columns]
    given = func.jsonb_to_recordset(rows).table_valued(*typed).render_derived(name="given", with_types=True)
    stored = update(AutoLabel).where(
        col(AutoLabel.workspace_id) == workspace_id,
        col(AutoLabel.job_key) == job_key,
        col(AutoLabel.kind) == kind.value,
        col(AutoLabel.label) == given.c.label,
    )
    values = {name: given.c[name] for name in ("sessions", "definition", "examples")}
    await (await tx.connection()).execute(stored.values(values))


async def evidence(tx: AsyncSession, workspace_id: str, job_key: str, kind: LabelKind) -> list[LabelEvidence]:
    """The evidence of all original labels of a kind, by name."""
    query = (
        select(AutoLabel)
        .where(
            col(AutoLabel.workspace_id) == workspace_id,
            col(AutoLabel.job_key) == job_key,
            col(AutoLabel.kind) == kind.value,
        )
        .order_by(col(AutoLabel.label))
    )
    return [_evidence(row) for row in (await tx.execute(query)).scalars()]


def _evidence(row: AutoLabel) -> LabelEvidence:
    """The evidence of a label: of one without sessions, what it was given or a probe's reply said of it."""
    given = row.first_round == GIVEN_ROUND
    definition, examples = row.definition, row.examples
    if given:
        definition = row.meaning or definition
    if given or row.first_round == PROBED_ROUND:
        definition, examples = definition or row.meaning, examples or [row.example or ""]
    return LabelEvidence(
        label=row.label,
        sessions=row.sessions or 0,
        definition=definition or "",
        examples=tuple(filter(None, examples or ())),
        given=given,
    )


async def merged_on(tx: AsyncSession, workspace_id: str, job_key: str, kind: LabelKind, level: int) -> dict[str, str]:
    """What the requests of a level have merged so far."""
    query = select(col(AutoMerge.label), col(AutoMerge.canonical)).where(
        col(AutoMerge.workspace_id) == workspace_id,
        col(AutoMerge.job_key) == job_key,
        col(AutoMerge.kind) == kind.value,
        col(AutoMerge.level) == level,
    )
    return {row[0]: row[1] for row in (await tx.execute(query)).all()}


async def first_sessions(
    tx: AsyncSession,
    workspace_id: str,
    job_key: str,
    kind: LabelKind,
    *,
    after: int | None = None,
    up_to: int | None = None,
) -> list[LabelEvidence]:
    """The labels that were first found in some rounds, each with the evidence of its first session.

    The order is that of `known_labels`. What is None has no bound.
    """
    query = (
        select(*(col(getattr(AutoLabel, name)) for name in ("label", "meaning", "example")))
        .where(
            col(AutoLabel.workspace_id) == workspace_id,
            col(AutoLabel.job_key) == job_key,
            col(AutoLabel.kind) == kind.value,
            true() if after is None else col(AutoLabel.first_round) > after,
            col(AutoLabel.first_round) < PROBED_ROUND if up_to is None else col(AutoLabel.first_round) <= up_to,
        )
        .order_by(col(AutoLabel.first_round), col(AutoLabel.label))
    )
    rows = (await tx.execute(query)).all()
    return [
        LabelEvidence(label=row[0], definition=row[1] or "", examples=tuple(filter(None, [row[2]]))) for row in rows
    ]
