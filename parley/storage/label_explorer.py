"""What is behind a label of a run: the sessions that have it, and the labels that were merged into it."""

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from parley.domain.auto_analyze.contract import LabelKind, LabelledChat, LabelOrigin, MergeStep
from parley.domain.chat import ChatSession
from parley.storage.auto_analyze import CHAT_OF_SESSION, RUN_OF_SESSION
from parley.storage.tables import AutoLabel, AutoMerge, AutoRun, AutoSession, StoredChat


async def examples(
    tx: AsyncSession, workspace_id: str, job_key: str, kind: LabelKind, label: str, *, after: int, limit: int
) -> list[LabelledChat]:
    """Sessions with a canonical label, in the order of their file, after a position."""
    original = col(getattr(AutoSession, kind.value))
    canonical = func.coalesce(col(getattr(AutoSession, f"canonical_{kind.value}")), original)
    query = (
        select(
            col(AutoSession.position),
            original.label("original"),
            col(getattr(AutoSession, kind.quote_field)).label("quote"),
            func.coalesce(AutoSession.summary, "").label("summary"),
            *(col(getattr(AutoSession, name)) for name in ("fallback", "by_rule")),
            col(StoredChat.payload),
        )
        .join(AutoRun, RUN_OF_SESSION)
        .join(StoredChat, CHAT_OF_SESSION)
        .where(
            col(AutoSession.workspace_id) == workspace_id,
            col(AutoSession.job_key) == job_key,
            canonical == label,
            col(AutoSession.position) > after,
        )
        .order_by(col(AutoSession.position))
        .limit(limit)
    )
    rows = [dict(row) for row in (await tx.execute(query)).mappings()]
    return [LabelledChat(session=ChatSession.model_validate(row.pop("payload")), **row) for row in rows]


async def origins(tx: AsyncSession, workspace_id: str, job_key: str, kind: LabelKind, label: str) -> list[LabelOrigin]:
    """The labels that became a canonical label, itself included, with the merges of each: the oldest first."""
    same = (col(AutoLabel.workspace_id) == workspace_id, col(AutoLabel.job_key) == job_key)
    found = (
        select(col(AutoLabel.label), col(AutoLabel.first_round))
        .where(*same, col(AutoLabel.kind) == kind.value, func.coalesce(AutoLabel.canonical, AutoLabel.label) == label)
        .order_by(col(AutoLabel.first_round), col(AutoLabel.label))
    )
    labels = (await tx.execute(found)).all()
    merges = await _merges(tx, workspace_id, job_key, kind)
    return [LabelOrigin(label=name, first_round=first, merges=_path(name, merges)) for name, first in labels]


async def first_rounds(tx: AsyncSession, workspace_id: str, job_key: str, kind: LabelKind) -> dict[str, int]:
    """Which round found each label of a kind; 0 or less for the discovery."""
    query = select(col(AutoLabel.label), col(AutoLabel.first_round)).where(
        col(AutoLabel.workspace_id) == workspace_id,
        col(AutoLabel.job_key) == job_key,
        col(AutoLabel.kind) == kind.value,
    )
    return {row[0]: row[1] for row in (await tx.execute(query)).all()}


async def _merges(tx: AsyncSession, workspace_id: str, job_key: str, kind: LabelKind) -> dict[int, dict[str, str]]:
    """Which label became which other one, by level."""
    query = (
        select(col(AutoMerge.level), col(AutoMerge.label), col(AutoMerge.canonical))
        .where(
            col(AutoMerge.workspace_id) == workspace_id,
            col(AutoMerge.job_key) == job_key,
            col(AutoMerge.kind) == kind.value,
            col(AutoMerge.label) != col(AutoMerge.canonical),
        )
        .order_by(col(AutoMerge.level))
    )
    levels: dict[int, dict[str, str]] = {}
    for level, label, canonical in (await tx.execute(query)).all():
        levels.setdefault(level, {})[label] = canonical
    return levels


def _path(label: str, levels: dict[int, dict[str, str]]) -> tuple[MergeStep, ...]:
    """The merges that a label took part in, level by level."""
    path: list[MergeStep] = []
    for level, merged in levels.items():
        if label in merged:
            label = merged[label]
            path.append(MergeStep(level=level, into=label))
    return tuple(path)
