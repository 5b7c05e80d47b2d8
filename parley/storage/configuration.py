"""The sections of a workspace's configuration, and of its users', as they are stored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from parley.domain.configuration import PROFILE, USER_SECTIONS, read_configuration
from parley.storage.database import changed, changed_one
from parley.storage.driver import Query
from parley.storage.tables import StoredConfiguration

# The owner of sections that belong to the workspace, not to one user.
WORKSPACE = ""

ACCOUNT = """SELECT jsonb_build_object('tier', tier, 'energy', granted - charged - reserved) FROM energy_accounts
             WHERE workspace_id = :workspace AND user_id = :user"""
ROWS = "FROM configuration WHERE workspace_id = :workspace AND owner IN ('', :user)"
LOOK = text(
    f"SELECT (SELECT array_agg(updated_at ORDER BY owner, section) {ROWS}) AS version, ({ACCOUNT}) AS profile"
).columns(profile=JSONB)
LOAD = text(
    f"SELECT owner, section, payload, updated_at {ROWS} "
    f"UNION ALL SELECT NULL, '', ({ACCOUNT}), NULL ORDER BY owner, section"
).columns(payload=JSONB)

# When each row was changed. The latest time alone would miss a change that was committed late.
Version = tuple[datetime, ...]


@dataclass(frozen=True)
class Glance:
    """Which configuration is stored for a user, and the profile: which changes with every paid call."""

    version: Version
    profile: Mapping[str, Any]


@dataclass(frozen=True)
class Stored:
    """All that is stored for a user, the profile among the sections."""

    version: Version
    sections: Mapping[str, Any]


def look(workspace_id: str, user_id: str) -> Query[Glance]:
    """What is stored for a user, without the sections: one short SELECT over a handful of rows."""

    def read(rows: Sequence[Any]) -> Glance:
        (found,) = rows
        return Glance(tuple(found.version or ()), found.profile or {})

    return Query(LOOK, {"workspace": workspace_id, "user": user_id}, read)


async def load(tx: AsyncSession, workspace_id: str, user_id: str) -> Stored:
    """All sections of a user and its workspace, and the user's energy account, in one SELECT."""
    *rows, account = (await tx.execute(LOAD, {"workspace": workspace_id, "user": user_id})).all()
    # A user section stored for the workspace, or the reverse, is ignored: it would bypass the permission to set it.
    mine = {row.section: row.payload for row in rows if (row.owner != WORKSPACE) == (row.section in USER_SECTIONS)}
    return Stored(tuple(row.updated_at for row in rows), {**mine, PROFILE: account.payload or {}})


async def save(tx: AsyncSession, workspace_id: str, section: str, payload: dict[str, Any], *, owner: str) -> None:
    """Replace a section. `owner`: the user, or `WORKSPACE`."""
    row = {"workspace_id": workspace_id, "owner": owner, "section": section}
    content = {"payload": payload, "updated_at": func.clock_timestamp()}
    statement = insert(StoredConfiguration).values(**row, **content)
    await tx.execute(statement.on_conflict_do_update(index_elements=list(row), set_=content))


async def replace(tx: AsyncSession, workspace_id: str, section: str, payload: dict[str, Any], *, owner: str) -> None:
    """Replace a section as a whole; an empty one restores its defaults. `owner`: the user, or `WORKSPACE`."""
    if payload:
        await save(tx, workspace_id, section, payload, owner=owner)
    else:
        await remove(tx, workspace_id, section, owner=owner)


async def remove(tx: AsyncSession, workspace_id: str, section: str, *, owner: str) -> bool:
    """Delete a section, so that its defaults apply. Returns whether it existed."""
    statement = delete(StoredConfiguration).where(
        col(StoredConfiguration.workspace_id) == workspace_id,
        col(StoredConfiguration.owner) == owner,
        col(StoredConfiguration.section) == section,
    )
    return await changed_one(tx, statement)


async def content_days(tx: AsyncSession) -> dict[str, int]:
    """The workspaces that keep content for a limited time, with the days."""
    query = select(col(StoredConfiguration.workspace_id), col(StoredConfiguration.payload)).where(
        col(StoredConfiguration.owner) == WORKSPACE, col(StoredConfiguration.section) == "privacy"
    )
    read = {row.workspace_id: read_configuration({"privacy": row.payload})[0] for row in await tx.execute(query)}
    return {workspace: found.privacy.content_days for workspace, found in read.items() if found.privacy.content_days}


async def refresh(tx: AsyncSession, workspace_id: str, user_id: str) -> int:
    """Give the sections stored for a user a new version. Returns the number of its sections."""
    statement = (
        update(StoredConfiguration)
        .where(
            col(StoredConfiguration.workspace_id) == workspace_id,
            col(StoredConfiguration.owner).in_((WORKSPACE, user_id)),
        )
        .values(updated_at=func.clock_timestamp())
    )
    return await changed(tx, statement)
