"""The audit's work grows as the ledger does: each query reads a few rows for each row of the ledger."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncSession

from benchmarks.ledger_rows import fill
from parley.domain.costs import BilledAttempt
from parley.storage.audit import BILLED_CHECKS, CHECKS, audit, audit_billed
from parley.storage.database import Database

FEW, TIMES = 400, 4
COUNTED = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Join Filter", "Rows Removed by Index Recheck")


async def statements_of_audit(database: Database, tx: AsyncSession) -> list[tuple[str, Any]]:
    """The queries of an audit against a provider's list that agrees, with their parameters."""
    sent: list[tuple[str, Any]] = []

    def record(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        sent.append((statement, parameters))

    billed = await listed(tx)
    event.listen(database.engine.sync_engine, "before_cursor_execute", record)
    assert await audit(tx) == []
    assert await audit_billed(tx, "workspace-3", billed) == []
    event.remove(database.engine.sync_engine, "before_cursor_execute", record)
    return [(statement, parameters) for statement, parameters in sent if statement.lstrip().startswith("SELECT * FROM")]


async def listed(tx: AsyncSession) -> Sequence[BilledAttempt]:
    found = await tx.execute(text("SELECT id, cost_usd FROM attempts WHERE state = 'settled'"))
    return [
        BilledAttempt(source="list", attempt_id=row.id, cost_usd=row.cost_usd, input_tokens=20, output_tokens=5)
        for row in found
    ]


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)


def rows_read(plan: dict[str, Any]) -> float:
    """The rows that all steps of the plan returned or dropped, each time that they ran."""
    return sum(sum(node.get(name, 0) for name in COUNTED) * node["Actual Loops"] for node in nodes(plan))


async def rows_read_by_audit(database: Database) -> list[float]:
    async with database.transaction() as tx:
        connection = await tx.connection()
        counts: list[float] = []
        for statement, parameters in await statements_of_audit(database, tx):
            explained = f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {statement}"
            (explanation,) = (await connection.exec_driver_sql(explained, parameters)).scalar_one()
            counts.append(rows_read(explanation["Plan"]))
        return counts


@pytest.mark.parametrize("analyzed", [True, False], ids=["with statistics", "without statistics"])
async def test_four_times_the_requests_are_four_times_the_work(database: Database, *, analyzed: bool) -> None:
    reads: list[list[float]] = []
    for requests in (FEW, FEW * TIMES):
        async with database.transaction() as tx:
            await fill(tx, requests)
            if analyzed:
                await tx.execute(text("ANALYZE"))
        reads.append(await rows_read_by_audit(database))
        async with database.transaction() as tx:
            await tx.execute(
                text(
                    "TRUNCATE paid_requests, attempts, replies, ai_usage_logs, outbox, energy_entries, "
                    "energy_accounts, budgets, generations"
                )
            )
    few, many = reads
    growth = {
        name: round(after / max(before, FEW), 1)
        for name, before, after in zip((*CHECKS, *BILLED_CHECKS), few, many, strict=True)
    }
    assert {name: times for name, times in growth.items() if times > TIMES * 1.5} == {}
