"""Refill users' energy, a page at a time, over all workspaces."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from parley.storage.tables import EnergyAccount

# Accounts that have less than their tier's energy, locked in the order of their keys.
DUE = text("""
    SELECT a.workspace_id, a.user_id
    FROM energy_accounts a JOIN unnest(CAST(:tiers AS text[]), CAST(:energies AS int[])) AS t(tier, energy) USING (tier)
    WHERE (a.workspace_id, a.user_id) > (:workspace_id, :user_id) AND a.granted - a.charged - a.reserved < t.energy
    ORDER BY a.workspace_id, a.user_id LIMIT :page FOR UPDATE OF a""")

# The grant equals the entered amount, so that an account's grants remain the sum of its entries.
TOP_UP = text("""
    WITH entered AS (
        INSERT INTO energy_entries (workspace_id, user_id, kind, amount, grant_key, created_at)
        SELECT a.workspace_id, a.user_id, 'grant', t.energy - (a.granted - a.charged - a.reserved), :key,
               clock_timestamp()
        FROM energy_accounts a
             JOIN unnest(CAST(:tiers AS text[]), CAST(:energies AS int[])) AS t(tier, energy) USING (tier)
             JOIN unnest(CAST(:workspace_ids AS text[]), CAST(:user_ids AS text[])) AS due(workspace_id, user_id)
               USING (workspace_id, user_id)
        ON CONFLICT DO NOTHING
        RETURNING workspace_id, user_id, amount)
    UPDATE energy_accounts a SET granted = a.granted + e.amount FROM entered e
    WHERE (a.workspace_id, a.user_id) = (e.workspace_id, e.user_id)
    RETURNING e.amount""")


@dataclass(frozen=True)
class Page:
    """`last`: the cursor for the next page; None if there is none. `grants`: the energy granted to each user."""

    last: tuple[str, str] | None
    grants: tuple[int, ...] = ()


async def top_up(
    tx: AsyncSession, daily: Mapping[str, int], *, key: str, after: tuple[str, str] = ("", ""), page: int
) -> Page:
    """Refill the next users to their tier's daily energy, once per `key`."""
    tiers = {"tiers": list(daily), "energies": list(daily.values())}
    place = {"workspace_id": after[0], "user_id": after[1], "page": page}
    due = [(row.workspace_id, row.user_id) for row in await tx.execute(DUE, {**tiers, **place})]
    if not due:
        return Page(last=None)
    users = {"workspace_ids": [workspace for workspace, _ in due], "user_ids": [user for _, user in due]}
    granted = await tx.execute(TOP_UP, {**tiers, **users, "key": key})
    return Page(last=due[-1], grants=tuple(granted.scalars()))


async def of_other_tiers(tx: AsyncSession, tiers: Mapping[str, int]) -> dict[str, int]:
    """How many accounts have a tier that is not among these."""
    query = (
        select(col(EnergyAccount.tier), func.count().label("users"))
        .where(col(EnergyAccount.tier).not_in(list(tiers)))
        .group_by(col(EnergyAccount.tier))
        .order_by(col(EnergyAccount.tier))
    )
    return {row.tier: row.users for row in await tx.execute(query)}
