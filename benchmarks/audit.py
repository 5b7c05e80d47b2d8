"""How long `parley ledger audit` takes on a ledger of N paid requests, and on one of N/4 for the ratio.

PostgreSQL makes the rows itself (ledger_rows.py). The audit finds nothing in them, and compares all of them.
"""

import time

from pydantic import SecretStr
from sqlalchemy import text

from benchmarks.ledger_rows import fill
from benchmarks.options import MUST_BE_ZERO, Figures, Options
from benchmarks.stack import Bench, running, say
from parley.storage.audit import audit
from parley.storage.database import Database
from starter.embedded.postgres import Postgres

REQUESTS = 100_000
COUNTED = (
    "paid_requests",
    "attempts",
    "replies",
    "ai_usage_logs",
    "outbox",
    "energy_entries",
    "budgets",
    "generations",
)


async def measure(options: Options) -> Figures:
    requests = options.requests or REQUESTS
    async with running(worker=None) as bench:
        database = Database(SecretStr(bench.addresses.database_url))
        try:
            quarter = await _measure(bench, database, requests // 4)
            whole = await _measure(bench, database, requests)
        finally:
            await database.close()
    found = quarter.pop("disagreements") + whole.pop("disagreements")
    seconds = {name: whole[name] / quarter[name] for name in whole if name.startswith("audit") and quarter[name]}
    return {
        f"{requests // 4:,} paid requests": quarter,
        f"{requests:,} paid requests": whole,
        "ratio; 4 is linear": seconds,
        MUST_BE_ZERO: {"disagreements": found},
    }


async def _measure(bench: Bench, database: Database, requests: int) -> dict[str, float]:
    """Fill an empty ledger, audit it, and empty it again."""
    began = time.perf_counter()
    async with database.transaction(bulk=True) as tx:
        await fill(tx, requests)
    async with database.transaction(bulk=True) as tx:
        await tx.execute(text("ANALYZE"))
        rows = {one: (await tx.execute(text(f"SELECT count(*) FROM {one}"))).scalar_one() for one in COUNTED}
    say(f"{requests:,} paid requests made in {time.perf_counter() - began:.1f} s")
    figures: dict[str, float] = {f"rows in {table}": count for table, count in rows.items()}
    disagreements = 0
    for name, workspace_id in (("audit", None), ("audit of one workspace in ten", "workspace-3")):
        began, used = time.perf_counter(), bench.cpu()[Postgres.name]
        async with database.transaction(bulk=True) as tx:
            disagreements += len(await audit(tx, workspace_id))
        figures[f"{name}, s"] = time.perf_counter() - began
        figures[f"{name}, CPU of PostgreSQL, s"] = bench.cpu()[Postgres.name] - used
        say(f"{name}: {figures[f'{name}, s']:.1f} s")
    async with database.transaction(bulk=True) as tx:
        await tx.execute(text(f"TRUNCATE {', '.join(COUNTED)}, energy_accounts"))
    return {**figures, "disagreements": disagreements}
