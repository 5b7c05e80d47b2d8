"""A load of generations under faults, then a comparison of the ledger with what the provider has billed.

Providers refuse, time out, truncate and corrupt replies. Meanwhile the worker is killed with `kill -9` or frozen until
another has taken over its work, and PostgreSQL crashes, at random moments. The seed determines the faults and after how
many generations each happens, but not the step that each generation has reached by then.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from decimal import Decimal
from pathlib import Path
from random import Random  # noqa: TID251 - the plan is random
from secrets import randbelow
from typing import Any

from benchmarks.chaos import FROZEN_SECONDS, Chaos
from benchmarks.options import MUST_BE_ZERO, Figures, Options
from benchmarks.stack import running, say
from parley.cli.billed import read_billed
from parley.domain.budgets import Period
from parley.domain.errors import JobFailed, Unreachable
from parley.domain.generate.contract import GenerateResult
from parley.domain.requests import ChatProvider, Provider
from tests.faults.gated_simulator import gated_simulator
from tests.faults.postgres import own_postgres
from tests.faults.scene import Scene, scene

LOAD, CONCURRENCY, USERS = 300, 20, 5
BEHAVIOURS = ("ok", "ok", "rate_limit", "server_error", "hang", "cut", "no_finish", "malformed")
PROVIDERS: tuple[ChatProvider | None, ...] = (None, Provider.OPENAI, Provider.ANTHROPIC, Provider.LOCAL)
# Long enough that the prompt is stored, and passed by reference.
ASIDE = " I mean my voice, my words, the pauses, and what a listener makes of them." * 30
# The permitted results. A generation finds no provider if a worker is killed during each of its attempts.
ANSWERED, NO_PROVIDER = "answered", "failed: ProviderUnavailable"
SCHEMA = {
    "type": "object",
    "properties": {"mood": {"type": "string"}, "sure": {"type": "boolean"}},
    "required": ["mood", "sure"],
    "additionalProperties": False,
}
SWEEPER = "parley-sweep"
OPEN = """
    SELECT (SELECT count(*) FROM attempts WHERE state = 'open') AS attempts,
           (SELECT sum(reserved) FROM energy_accounts) AS energy"""
# For each generation: whether it was answered, the number and sum of its charges, the number of its replies, and
# whether they cost more than its row says.
GENERATIONS = """
    SELECT g.workflow_id, g.outcome = 'completed' AS answered, count(*) FILTER (WHERE u.energy_charged > 0) AS charges,
           coalesce(sum(u.energy_charged), 0) AS energy, count(*) FILTER (WHERE u.outcome = 'settled') AS replies,
           g.cost_usd < coalesce(sum(u.cost_usd) FILTER (WHERE u.confirmed), 0) AS cost_more
    FROM generations g LEFT JOIN paid_requests c USING (workspace_id, workflow_id)
         LEFT JOIN ai_usage_logs u ON (u.workspace_id, u.request_id) = (c.workspace_id, c.request_id)
    GROUP BY g.workspace_id, g.request_id"""
ATTEMPTS = "SELECT concat_ws(': ', state, error_type) AS outcome, count(*) AS n FROM attempts GROUP BY 1"
SPENT = """
    SELECT count(*) AS rows, count(*) FILTER (WHERE NOT confirmed) AS "of them uncertain",
           sum(cost_usd) FILTER (WHERE confirmed) AS "confirmed, $",
           coalesce(sum(cost_usd) FILTER (WHERE NOT confirmed), 0) AS "uncertain, at most, $" FROM ai_usage_logs"""


async def measure(options: Options) -> Figures:
    generations = options.requests or LOAD
    seed = randbelow(10_000) if options.seed is None else options.seed
    say(f"--seed {seed}")
    async with AsyncExitStack() as parts:
        bench = await parts.enter_async_context(running(worker=None))
        server = await parts.enter_async_context(own_postgres())
        simulator = await parts.enter_async_context(gated_simulator())
        directory = bench.directory / "scene"
        place = await parts.enter_async_context(scene(bench.addresses, server.url, directory, simulator))
        place.environment |= {
            # Longer than a worker is frozen, so that a reply that arrived meanwhile is still used.
            "PARLEY_PROVIDER_TIMEOUT_SECONDS": f"{FROZEN_SECONDS + 4}",
            "PARLEY_LEASE_SECONDS": "6",
            "PARLEY_BREAKER_OPEN_SECONDS": "2",
            "LOCAL_BASE_URL": f"{simulator.url}/local/v1",
            "LOCAL_USD_PER_MILLION_INPUT": "1",
            "LOCAL_USD_PER_MILLION_OUTPUT": "1",
        }
        await simulator.post("latency", median=0.3, sigma=0.8)
        load = Load(place, generations)
        await load.prepare()
        chaos = Chaos(place, server, Random(seed), generations, ended=lambda: len(load.results))
        await chaos.start()
        async with asyncio.timeout(300 + 3 * generations):
            await asyncio.gather(load.run(), chaos.run())
            await _sweep(place)
        return {
            "load and faults": {"generations": generations, "seed": seed, **chaos.planned},
            **await _compare(place, load),
        }


class Load:
    """Concurrent callers, each of which runs one generation after the other, and their results."""

    def __init__(self, place: Scene, generations: int) -> None:
        self._client, self.generations = place.client, generations
        self.results: list[str] = []

    async def prepare(self) -> None:
        """Give the users enough energy, and set a cap whose row every generation locks."""
        for user in range(USERS):
            await self._client.set_tier(f"user-{user}", "pro")
            await self._client.grant_energy(f"user-{user}", 10 * self.generations, key="bench")
        await self._client.set_cap(Period.DAY, Decimal(1000))

    async def run(self) -> None:
        waiting = iter(range(self.generations))

        async def caller() -> None:
            for number in waiting:
                self.results.append(await self._ask(number))

        await asyncio.gather(*(caller() for _ in range(CONCURRENCY)))

    async def _ask(self, number: int) -> str:
        """Run one generation. Returns `answered`, or why it was refused or failed."""
        behaviour = BEHAVIOURS[number % len(BEHAVIOURS)]
        provider = PROVIDERS[number // len(BEHAVIOURS) % len(PROVIDERS)]
        text = f"How do I sound? [{behaviour} for call-{number}]{ASIDE if number % 3 == 0 else ''}"
        terms: dict[str, Any] = {"response_schema": SCHEMA, "key": f"call-{number}", "provider": provider}
        try:
            result = await self._generate(text, user_id=f"user-{number % USERS}", **terms)
        except JobFailed as failure:
            return f"failed: {failure.reason}"
        if result.refusal:
            return f"refused: {result.refusal.code}"
        return ANSWERED if result.parsed else "without a value"

    async def _generate(self, text: str, **terms: Any) -> GenerateResult:
        """Retry while the database is unreachable; the key makes the generation idempotent."""
        while True:
            try:
                return await self._client.generate(text, **terms)
            except Unreachable:
                await asyncio.sleep(0.5)


async def _sweep(place: Scene) -> None:
    """Wait until the sweeper has ended the attempts and reservations that failed generations left open."""
    sweeper = place.client.temporal.get_schedule_handle(SWEEPER)
    while any((await place.query(OPEN))[0].values()):
        await sweeper.trigger()
        await asyncio.sleep(1)


async def _compare(place: Scene, load: Load) -> Figures:
    """Compare the results of the generations, the ledger and the requests that the provider has billed."""
    billed = await place.simulator.billed()
    generations: list[dict[str, Any]] = await place.query(GENERATIONS)
    logged = {str(row["attempt_id"]) for row in await place.query("SELECT attempt_id FROM ai_usage_logs")}
    disagreements = await place.client.audit(read_billed(_listing(place.directory, billed)))
    for disagreement in disagreements:
        say(str(disagreement))
    results, rows_of = Counter(load.results), Counter(str(row["workflow_id"]) for row in generations)
    spent = (await place.query(SPENT))[0]

    def count(condition: Callable[[dict[str, Any]], bool]) -> int:
        return sum(map(condition, generations))

    return {
        "results of the generations": results,
        "outcomes of the attempts": {str(row["outcome"]): int(str(row["n"])) for row in await place.query(ATTEMPTS)},
        "the ledger": {
            "billed by the provider": len(billed),
            **{name: float(str(value)) if "$" in name else int(str(value)) for name, value in spent.items()},
            "charged, though no reply follows the schema": count(
                lambda row: row["energy"] > 0 and not row["answered"] and row["replies"] > 0
            ),
        },
        MUST_BE_ZERO: {
            "ended with another result": results.total() - results[ANSWERED] - results[NO_PROVIDER],
            "billed without a row": sum(request["attempt_id"] not in logged for request in billed),
            "generations without a row": load.generations - len(rows_of),
            "generations with two rows": rows_of.total() - len(rows_of),
            "answered, but not in the ledger": abs(count(lambda row: row["answered"]) - results[ANSWERED]),
            "answered, not charged": count(lambda row: row["answered"] and not row["energy"]),
            "charged twice": count(lambda row: row["charges"] > 1 or row["energy"] > 1),
            "cost more than their row says": count(lambda row: row["cost_more"]),
            "charged without a reply": count(lambda row: row["energy"] > 0 and not row["replies"]),
            "audit findings": len(disagreements),
        },
    }


def _listing(directory: Path, billed: list[dict[str, Any]]) -> Path:
    path = directory / "billed.json"
    path.write_text(json.dumps(billed), encoding="utf-8")
    return path
