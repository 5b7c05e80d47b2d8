"""Sign-ins to the console. The token of the cookie is never stored, and the key neither: only hashes are."""

from datetime import timedelta

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from parley.domain.gateway_keys import GatewayKey, hash_of
from parley.storage.database import NOW, changed
from parley.storage.tables import ConsoleSession, StoredGatewayKey


async def begin(tx: AsyncSession, key: GatewayKey, token: str, *, lasts: timedelta) -> None:
    """Store a sign-in under the hash of its token, and delete those that have expired, of any workspace."""
    await tx.execute(delete(ConsoleSession).where(col(ConsoleSession.expires_at) <= NOW))
    now = (await tx.execute(select(NOW))).scalar_one()
    tx.add(
        ConsoleSession(sha256=hash_of(token), workspace_id=key.workspace_id, key_id=key.key_id, expires_at=now + lasts)
    )


async def find(tx: AsyncSession, token: str) -> str | None:
    """The hash of the key that a sign-in was made with; None if there is no such sign-in, or it has expired.

    Whether the key is still valid is for the caller to check.
    """
    query = (
        select(col(StoredGatewayKey.sha256))
        .join(ConsoleSession, col(ConsoleSession.key_id) == col(StoredGatewayKey.key_id))
        .where(
            col(ConsoleSession.sha256) == hash_of(token),
            col(ConsoleSession.workspace_id) == col(StoredGatewayKey.workspace_id),
            col(ConsoleSession.expires_at) > NOW,
        )
    )
    return (await tx.execute(query)).scalar()


async def end(tx: AsyncSession, token: str) -> bool:
    """End a sign-in. Returns whether there was one."""
    return await changed(tx, delete(ConsoleSession).where(col(ConsoleSession.sha256) == hash_of(token))) > 0
