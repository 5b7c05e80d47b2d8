"""Uncertain costs that a provider's list decides: found by one query, then corrected one transaction each."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from parley.domain.costs import BilledAttempt, Correction
from parley.domain.pricing import Rates, counted_cost
from parley.domain.requests import Usage
from parley.storage import generations, ledger
from parley.storage.audit import load_billed
from parley.storage.ledger import Counted
from parley.storage.rows import save
from parley.storage.tables import CostCorrection

# A list is complete for the providers that it mentions, from the first attempt that it mentions until :until.
UNCERTAIN = text("""
    SELECT t.id, t.upper_bound_usd, t.rates, b.source, coalesce(b.billed, false) AS billed,
           b.cost_usd, b.input_tokens, b.cached_input_tokens, b.cache_write_tokens, b.output_tokens, b.audio_seconds
    FROM attempts t LEFT JOIN billed b ON b.attempt_id = t.id
    WHERE t.workspace_id = :workspace AND t.state <> 'open' AND t.cost_usd IS NULL
      AND (b.attempt_id IS NOT NULL
           OR t.started_at < CAST(:until AS timestamptz)
              AND t.started_at >= (SELECT min(k.started_at) FROM billed l JOIN attempts k ON k.id = l.attempt_id
                                   WHERE (k.workspace_id, k.provider, k.simulated)
                                         = (t.workspace_id, t.provider, t.simulated)))
    ORDER BY t.started_at, t.id""")


async def find(
    tx: AsyncSession, workspace_id: str, billed: Sequence[BilledAttempt], complete_until: datetime | None
) -> list[Correction]:
    """The uncertain costs of a workspace that a provider's list decides.

    `complete_until`: before it, an attempt that the list lacks was not billed; None: such an attempt stays uncertain.
    So does one for which the list has no cost, and counts that cannot be true or whose rates are not known.
    """
    await load_billed(tx, billed)
    rows = (await tx.execute(UNCERTAIN, {"workspace": workspace_id, "until": complete_until})).mappings().all()
    found: list[Correction] = []
    for row in rows:
        usage = Usage(
            input_tokens=row["input_tokens"] or 0,
            cached_input_tokens=row["cached_input_tokens"] or 0,
            cache_write_tokens=row["cache_write_tokens"] or 0,
            output_tokens=row["output_tokens"] or 0,
            audio_seconds=float(row["audio_seconds"] or 0),
        )
        known = _cost(row["cost_usd"], usage, Rates.model_validate(row["rates"])) if row["billed"] else Decimal(0)
        if known is None:
            continue
        found.append(
            Correction(
                attempt_id=row["id"],
                source=row["source"] or "not in the list",
                upper_bound_usd=row["upper_bound_usd"],
                cost_usd=known,
                billed=row["billed"],
                usage=usage if row["billed"] else Usage(),
            )
        )
    return found


def _cost(listed: Decimal | None, usage: Usage, rates: Rates) -> Decimal | None:
    """The listed cost, else that of the listed counts; None where they cannot be true, or their rates are not known."""
    return counted_cost(usage, rates) if listed is None else listed


async def apply(tx: AsyncSession, workspace_id: str, correction: Correction) -> bool:
    """Confirm an attempt's cost, with an entry. False if it is not uncertain any more, and nothing was changed."""
    counted = Counted(correction.cost_usd, correction.usage, is_billed=correction.billed)
    row = correction.model_dump(include={"attempt_id", "source", "upper_bound_usd", "cost_usd"})

    async def record(tx: AsyncSession, job_key: str) -> None:
        await generations.record_cost(tx, workspace_id, job_key)
        await save(tx, CostCorrection(workspace_id=workspace_id, **row))

    return await ledger.confirm(tx, workspace_id, correction.attempt_id, counted, record)
