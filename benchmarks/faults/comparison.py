"""What a case leaves: the results of its jobs, the ledger, and the requests that the provider has billed."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString, cast

from benchmarks.faults.load import ANSWERED
from benchmarks.faults.stage import Stage
from benchmarks.stack import say
from parley.cli.billed import read_billed
from tests.faults.scene import Scene

SWEEPER = "parley-sweep"
OPEN = """
    SELECT (SELECT count(*) FROM attempts WHERE state = 'open') AS attempts,
           (SELECT sum(reserved) FROM energy_accounts) AS energy"""
# For each job: whether it was answered, the energy that its answer costs, the number and sum of its charges, the number
# of its replies, and whether they cost more than its row says.
JOBS = """
    WITH jobs AS (
        SELECT workspace_id, workflow_id, outcome = 'completed' AS answered, 1 AS price, cost_usd FROM generations
        UNION ALL
        SELECT workspace_id, workflow_id, status = 'completed' AND (result #>> '{coaching,processed}')::boolean, 5, NULL
        FROM session_analyses)
    SELECT j.workflow_id, j.answered, j.price, count(*) FILTER (WHERE u.energy_charged > 0) AS charges,
           coalesce(sum(u.energy_charged), 0) AS energy, count(*) FILTER (WHERE u.outcome = 'settled') AS replies,
           coalesce(j.cost_usd < sum(u.cost_usd) FILTER (WHERE u.confirmed), false) AS cost_more
    FROM jobs j LEFT JOIN paid_requests c USING (workspace_id, workflow_id)
         LEFT JOIN ai_usage_logs u ON (u.workspace_id, u.request_id) = (c.workspace_id, c.request_id)
    GROUP BY j.workspace_id, j.workflow_id, j.answered, j.price, j.cost_usd"""
ATTEMPTS = "SELECT concat_ws(': ', state, error_type) AS outcome, count(*) AS n FROM attempts GROUP BY 1 ORDER BY 1"
SPENT = """
    SELECT count(*) AS rows, count(*) FILTER (WHERE NOT confirmed) AS "of them uncertain",
           sum(cost_usd) FILTER (WHERE confirmed) AS "confirmed, $",
           coalesce(sum(cost_usd) FILTER (WHERE NOT confirmed), 0) AS "uncertain, at most, $" FROM ai_usage_logs"""
# Each query counts the rows of one table that are dated after now: those that a worker's own clock has dated.
MOMENTS = """
    SELECT concat_ws('.', table_name, column_name) AS name,
           format('SELECT count(*) AS n FROM %I WHERE %I > now()', table_name, column_name) AS query
    FROM information_schema.columns WHERE table_schema = 'public' AND column_name IN ('created_at', 'started_at',
        'ended_at', 'updated_at', 'stored_at', 'last_used_at', 'next_at', 'delivered_at')"""
LATER_DAYS = """
    SELECT count(*) AS n FROM budgets
    WHERE scope LIKE 'day:%' AND scope > 'day:' || (now() AT TIME ZONE 'UTC')::date"""


@dataclass(frozen=True)
class Comparison:
    """The counts of a case, and those that must be 0."""

    counts: dict[str, float]
    must_be_zero: dict[str, int]


async def compare(stage: Stage, permitted: Collection[str]) -> Comparison:
    """Compare, once the sweeper has ended what failed jobs left open. `permitted`: the results that a job may have."""
    await _sweep(stage)
    place = stage.place
    billed = await place.simulator.billed()
    jobs: list[dict[str, Any]] = await place.query(JOBS)
    logged = {str(row["attempt_id"]) for row in await place.query("SELECT attempt_id FROM ai_usage_logs")}
    disagreements = await place.client.audit(read_billed(_listing(place.directory, billed)))
    for disagreement in disagreements:
        say(str(disagreement))
    results, rows_of = Counter(stage.load.results), Counter(str(row["workflow_id"]) for row in jobs)

    def count(condition: Callable[[dict[str, Any]], bool]) -> int:
        return sum(map(condition, jobs))

    return Comparison(
        counts={
            "jobs": stage.load.jobs,
            **results,
            **stage.happened,
            **{
                f"refused with SQLSTATE {code}": n
                for code in ("25006", "53100")
                if (n := stage.logged(f"SQLSTATE {code}"))
            },
            **{f"attempts {row['outcome']}": int(str(row["n"])) for row in await place.query(ATTEMPTS)},
            "billed by the provider": len(billed),
            **await _spent(place),
            "charged, though no reply follows the schema": count(
                lambda row: row["energy"] > 0 and not row["answered"] and row["replies"] > 0
            ),
        },
        must_be_zero={
            "faults after the last job": stage.too_late,
            "ended with another result": sum(n for result, n in results.items() if result not in permitted),
            "billed without a row": sum(request["attempt_id"] not in logged for request in billed),
            "jobs without a row": stage.load.jobs - len(rows_of),
            "jobs with two rows": rows_of.total() - len(rows_of),
            "answered, but not in the ledger": abs(count(lambda row: row["answered"]) - results[ANSWERED]),
            "answered, not charged": count(lambda row: row["answered"] and not row["energy"]),
            "charged twice": count(lambda row: row["charges"] > 1 or row["energy"] > row["price"]),
            "cost more than their row says": count(lambda row: row["cost_more"]),
            "charged without a reply": count(lambda row: row["energy"] > 0 and not row["replies"]),
            "dated after now": await _later(place),
            "audit findings": len(disagreements),
        },
    )


async def _sweep(stage: Stage) -> None:
    """Wait until the sweeper has ended the attempts and reservations that failed jobs left open."""
    sweeper = stage.place.client.temporal.get_schedule_handle(SWEEPER)
    while any((await stage.place.query(OPEN))[0].values()):
        await sweeper.trigger()
        await asyncio.sleep(1)


async def _spent(place: Scene) -> dict[str, float]:
    [spent] = await place.query(SPENT)
    return {name: float(str(value)) if "$" in name else int(str(value)) for name, value in spent.items()}


async def _later(place: Scene) -> int:
    """The number of rows, and days of a budget, that are later than the database's time."""
    queries = {"budgets": LATER_DAYS, **{str(row["name"]): str(row["query"]) for row in await place.query(MOMENTS)}}
    later = {
        name: int(str((await place.query(cast("LiteralString", query)))[0]["n"])) for name, query in queries.items()
    }
    for name, rows in later.items():
        if rows:
            say(f"{rows} rows of {name} are dated after now")
    return sum(later.values())


def _listing(directory: Path, billed: list[dict[str, Any]]) -> Path:
    path = directory / "billed.json"
    path.write_text(json.dumps(billed), encoding="utf-8")
    return path
