"""The keys of the gateway: hashes, rights and limits. A secret is never stored."""

from typing import Any

from sqlalchemy import case, extract, func, literal, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from parley.domain.errors import NotFound
from parley.domain.gateway_keys import GatewayKey, hash_of
from parley.storage.database import NOW, changed_one
from parley.storage.tables import StoredGatewayKey

MINUTE = func.date_trunc("minute", NOW)
SECONDS_LEFT = 60 - extract("second", NOW)


async def create(tx: AsyncSession, key: GatewayKey, secret: str) -> None:
    """Store a key under the hash of its secret."""
    tx.add(StoredGatewayKey(**{**key.model_dump(), "scopes": [*key.scopes]}, sha256=hash_of(secret)))


async def find(tx: AsyncSession, sha256: str) -> GatewayKey | None:
    """The key with this hash, of any workspace: it decides the workspace. None if there is none."""
    query = select(StoredGatewayKey).where(col(StoredGatewayKey.sha256) == sha256)
    row = (await tx.execute(query)).scalar()
    return _view(row) if row else None


async def list_keys(tx: AsyncSession, workspace_id: str) -> list[GatewayKey]:
    """The workspace's keys, the newest first; also revoked and expired ones."""
    query = select(StoredGatewayKey).where(col(StoredGatewayKey.workspace_id) == workspace_id)
    rows = (await tx.execute(query.order_by(col(StoredGatewayKey.created_at).desc()))).scalars()
    return [_view(row) for row in rows]


async def revoke(tx: AsyncSession, workspace_id: str, key_id: str) -> None:
    """End a key. Revoking it again changes nothing.

    Raises:
        NotFound: the workspace has no such key.
    """
    own = (col(StoredGatewayKey.workspace_id) == workspace_id, col(StoredGatewayKey.key_id) == key_id)
    revoked_at = func.coalesce(col(StoredGatewayKey.revoked_at), NOW)
    if not await changed_one(tx, update(StoredGatewayKey).where(*own).values(revoked_at=revoked_at)):
        raise NotFound(f"workspace {workspace_id!r} has no gateway key {key_id!r}")


async def take(tx: AsyncSession, key: GatewayKey, requests: int) -> tuple[int, float]:
    """Take up to that many requests from the key's allowance of this minute.

    Returns how many were taken, 0 where the minute is used up, and the seconds until the next minute. All gateway
    processes take from one row, so that together they never serve more than the key allows.
    """
    same_key = col(StoredGatewayKey.key_id) == key.key_id
    used = case((col(StoredGatewayKey.minute) == MINUTE, col(StoredGatewayKey.minute_requests)), else_=literal(0))
    locked = select(used, SECONDS_LEFT).where(same_key).with_for_update()
    before, seconds = (await tx.execute(locked)).one()
    taken = max(0, min(requests, key.requests_per_minute - before))
    if taken:
        await tx.execute(
            update(StoredGatewayKey)
            .where(same_key)
            .values(minute=MINUTE, minute_requests=before + taken, last_used_at=NOW)
        )
    return taken, float(seconds)


def _view(row: StoredGatewayKey) -> GatewayKey:
    fields: dict[str, Any] = {name: getattr(row, name) for name in GatewayKey.model_fields}
    return GatewayKey.model_validate(fields)
