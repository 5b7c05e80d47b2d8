"""A workspace's own rubrics, each version of which is stored once."""

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import distinct_on, insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from parley.domain.coaching.rubric import BUILT_IN, Rubric, built_in
from parley.domain.errors import InvalidInput
from parley.storage.tables import StoredRubric


async def save(tx: AsyncSession, workspace_id: str, rubric: Rubric) -> None:
    """Store a version of a rubric once.

    Raises:
        InvalidInput: the name is that of a built-in rubric, or this version was stored with another content.
    """
    own = built_in(rubric.id)
    if own is not None:
        if own != rubric:
            raise InvalidInput(f"{rubric.id!r} is one of Parley's rubrics: give yours another id", field="rubric.id")
        return
    payload = rubric.model_dump(mode="json")
    row = StoredRubric(workspace_id=workspace_id, rubric_id=rubric.id, version=rubric.version, payload=payload)
    await tx.execute(insert(StoredRubric).values(**row.model_dump()).on_conflict_do_nothing())
    if await load(tx, workspace_id, rubric.reference) != rubric:
        raise InvalidInput(
            f"{rubric.reference} was stored with another content, by which sessions may be rated already: increase "
            "the version",
            field="rubric.version",
        )


async def load(tx: AsyncSession, workspace_id: str, reference: str) -> Rubric:
    """A rubric by `name@version`, or by `name` in its newest version: one of Parley's, or of the workspace.

    Raises:
        InvalidInput: there is no such rubric; the error lists the names.
    """
    own = built_in(reference)
    if own is not None:
        return own
    name, _, version = reference.partition("@")
    query = select(col(StoredRubric.payload)).where(
        col(StoredRubric.workspace_id) == workspace_id, col(StoredRubric.rubric_id) == name
    )
    if version:
        query = query.where(col(StoredRubric.version) == int(version))
    payload = (await tx.execute(query.order_by(col(StoredRubric.version).desc()).limit(1))).scalar()
    if payload is None:
        known = ", ".join([*BUILT_IN, *(rubric.id for rubric in await stored(tx, workspace_id))])
        raise InvalidInput(f"there is no rubric {reference!r}; there are {known}", field="rubric")
    return Rubric.model_validate(payload)


async def stored(tx: AsyncSession, workspace_id: str) -> list[Rubric]:
    """The workspace's own rubrics by name, each in its newest version."""
    name, version = col(StoredRubric.rubric_id), col(StoredRubric.version)
    newest = (
        select(col(StoredRubric.payload))
        .where(col(StoredRubric.workspace_id) == workspace_id)
        .ext(distinct_on(name))
        .order_by(name, version.desc())
    )
    return [Rubric.model_validate(payload) for payload in (await tx.execute(newest)).scalars()]
