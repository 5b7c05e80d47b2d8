"""The labels that runs start from: stored once for each content, and given to a run before its first request."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from parley.domain.auto_analyze.contract import GIVEN_ROUND, LabelKind
from parley.domain.auto_analyze.taxonomy import GivenLabel, Taxonomy
from parley.domain.errors import NotFound
from parley.storage.tables import AutoLabel, StoredTaxonomy


async def store(tx: AsyncSession, workspace_id: str, taxonomy: Taxonomy) -> None:
    """Store labels. Storing them again renews their retention."""
    labels = [one.model_dump(mode="json") for one in taxonomy.labels]
    row = StoredTaxonomy(workspace_id=workspace_id, taxonomy_id=taxonomy.id, labels=labels)
    upsert = insert(StoredTaxonomy).values(**row.model_dump())
    identity = ["workspace_id", "taxonomy_id"]
    await tx.execute(upsert.on_conflict_do_update(index_elements=identity, set_={"created_at": row.created_at}))


async def load(tx: AsyncSession, workspace_id: str, taxonomy_id: str) -> list[GivenLabel]:
    """Stored labels.

    Raises:
        NotFound: the workspace has no such labels.
    """
    found = await tx.get(StoredTaxonomy, (workspace_id, taxonomy_id))
    if found is None:
        raise NotFound(f"workspace {workspace_id!r} has no labels {taxonomy_id[:16]!r}")
    return [GivenLabel.model_validate(one) for one in found.labels]


async def give(tx: AsyncSession, workspace_id: str, job_key: str, labels: Sequence[GivenLabel]) -> None:
    """Give a run the labels that it starts from. Idempotent."""
    rows = [
        {
            "workspace_id": workspace_id,
            "job_key": job_key,
            "kind": one.kind.value,
            "label": one.label,
            "first_round": GIVEN_ROUND,
            "meaning": one.definition or None,
            "example": "".join(one.examples[:1]) or None,
            "examples": list(one.examples) or None,
        }
        for one in labels
    ]
    if rows:
        await tx.execute(insert(AutoLabel).on_conflict_do_nothing(), rows)


async def given(tx: AsyncSession, workspace_id: str, job_key: str) -> dict[LabelKind, list[str]]:
    """The labels that a run started from, by kind and name."""
    query = (
        select(col(AutoLabel.kind), col(AutoLabel.label))
        .where(
            col(AutoLabel.workspace_id) == workspace_id,
            col(AutoLabel.job_key) == job_key,
            col(AutoLabel.first_round) == GIVEN_ROUND,
        )
        .order_by(col(AutoLabel.kind), col(AutoLabel.label))
    )
    found: dict[LabelKind, list[str]] = {kind: [] for kind in LabelKind}
    for kind, label in (await tx.execute(query)).all():
        found[LabelKind(kind)].append(label)
    return found
