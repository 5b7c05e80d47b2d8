"""The money of a labelling run whose worker is killed with `kill -9` at 20 random points, and started again each time.

The run is made once undisturbed and once with the kills, with the same replies. Then the ledger is compared with the
requests that the simulator has billed, at the list price of their tokens: what is confirmed; what is uncertain, because
a worker was killed while it waited for the reply, and so has an upper bound only; and the sum, after the uncertain part
was confirmed by the simulator's list, as `parley ledger reconcile` does it. Exits with 1 if one of the sums differs by
a cent or more, or a label differs, or a session is lost.
"""

import asyncio
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from benchmarks.chats import write_chats
from benchmarks.faults.load import Load
from benchmarks.faults.stage import LOCAL_USD_PER_MILLION, Stage, stage
from benchmarks.options import MUST_BE_ZERO, Figures, Options
from benchmarks.stack import say
from parley.cli.billed import read_billed
from parley.client.auto_analyze import AutoAnalyzeHandle
from parley.domain.pricing import ConfiguredRates, cost, rates_for
from parley.domain.requests import Provider, Usage

SESSIONS, KILLS, STREAMS, SESSIONS_PER_STREAM = 400, 20, 8, 2
CENT = Decimal("0.01")
STATES = "SELECT id::text AS attempt_id, state, billed, cost_usd, upper_bound_usd FROM attempts"
TIMEOUT_SECONDS = 1800
RATES = ConfiguredRates(
    # Labelling hears and speaks nothing.
    elevenlabs_usd_per_hour=Decimal(0),
    elevenlabs_usd_per_thousand_characters=Decimal(0),
    local_usd_per_million_input=LOCAL_USD_PER_MILLION,
    local_usd_per_million_output=LOCAL_USD_PER_MILLION,
)


async def measure(options: Options) -> Figures:
    async with (
        asyncio.timeout(TIMEOUT_SECONDS),
        stage(lambda client: Load(client, 0), None, options.seed or 7) as scene,
    ):
        run = Run(scene, options.sessions or SESSIONS)
        await run.import_chats()
        undisturbed = await run.label(kills=0)
        alone = await scene.place.simulator.billed()
        killed = await run.label(kills=KILLS)
        billed = (await scene.place.simulator.billed())[len(alone) :]
        lost = await run.differing(undisturbed, killed)
        return await Sums(scene, alone, billed).figures(lost)


class Run:
    """A labelling run of the same sessions, again and again."""

    def __init__(self, scene: Stage, sessions: int) -> None:
        self._scene, self._sessions = scene, sessions
        self._dataset, self._requests = "", 0

    async def import_chats(self) -> None:
        """Import the sessions, and start the first worker."""
        path = write_chats(self._scene.place.directory / "chats.jsonl", self._sessions)
        self._dataset = (await self._scene.place.client.import_chats(path)).dataset_id
        self._worker = await self._scene.place.start_worker()

    async def label(self, kills: int) -> AutoAnalyzeHandle:
        """Label the sessions while the worker is killed so often, each time after a random number of requests."""
        place = self._scene.place
        before = len(await place.simulator.billed())
        job = await place.client.auto_analyze(
            self._dataset,
            user_id="bench",
            run_name=f"{kills} kills",
            streams=STREAMS,
            sessions_per_stream=SESSIONS_PER_STREAM,
        )
        for number, point in enumerate(sorted(self._scene.random.sample(range(1, self._requests), kills)), 1):
            await place.simulator.requests(at_least=before + point)
            self._worker.kill()
            await self._worker.wait()
            say(f"kill {number} of {kills}, after {point} of about {self._requests} requests")
            self._worker = await place.start_worker()
        await job.result()
        self._requests = len(await place.simulator.billed()) - before
        return job

    async def differing(self, one: AutoAnalyzeHandle, other: AutoAnalyzeHandle) -> int:
        """How many sessions have another result in the other run, beside the stream that labelled them, or none."""
        client = self._scene.place.client
        first, second = [
            {
                found.session_id: found.model_copy(update={"stream": None})
                async for found in client.labelled_sessions(job.id)
            }
            for job in (one, other)
        ]
        return sum(first[name] != second.get(name) for name in first) + abs(self._sessions - len(first))


class Sums:
    """Dollars of the ledger, and of the simulator's list."""

    def __init__(self, scene: Stage, alone: list[dict[str, Any]], billed: list[dict[str, Any]]) -> None:
        self._place, self._alone, self._billed = scene.place, alone, billed

    async def figures(self, differing: int) -> Figures:
        place, every = self._place, [*self._alone, *self._billed]
        await place.sweep()
        attempts = {str(row["attempt_id"]): row for row in await place.query(STATES)}
        confirmed = {name for name, row in attempts.items() if row["billed"] == "yes"}
        uncertain = [row for row in attempts.values() if row["billed"] == "unknown"]
        before = await place.client.costs()
        listed = _list_price(sent for sent in every if sent["attempt_id"] in confirmed)
        listing = place.directory / "billed.json"
        listing.write_text(json.dumps(every))
        rows = read_billed(listing)
        found = await place.client.audit(rows)
        await place.client.reconcile(rows, complete_until=datetime.now(UTC))
        found += await place.client.audit(rows)
        after = await place.client.costs()
        return {
            f"{KILLS} kills": {
                "requests billed without a kill": len(self._alone),
                "requests billed under kills": len(self._billed),
                "attempts whose reply was lost": len(uncertain),
                "confirmed, $": float(before.confirmed_usd),
                "uncertain, at most, $": float(before.uncertain_usd),
                "confirmed by the list, $": float(after.confirmed_usd),
                "billed by the simulator, $": float(_list_price(every)),
            },
            MUST_BE_ZERO: {
                "cents between confirmed and billed": _cents(before.confirmed_usd - listed),
                "cents between reconciled and billed": _cents(after.confirmed_usd - _list_price(every)),
                "cents still uncertain": _cents(after.uncertain_usd),
                "billed without an attempt": sum(sent["attempt_id"] not in attempts for sent in every),
                "sessions with other labels, or none": differing,
                "audit findings": len(found),
            },
        }


def _cents(difference: Decimal) -> int:
    return int(abs(difference) / CENT)


def _list_price(sent: Iterable[dict[str, Any]]) -> Decimal:
    """What requests cost by the vendors' price lists, as the simulator has counted their tokens."""
    return sum((_price(one) for one in sent), Decimal(0))


def _price(one: dict[str, Any]) -> Decimal:
    rates = rates_for(Provider(one["provider"]), one["model"], RATES)
    counted = {name: one.get(name, 0) for name in ("input_tokens", "cached_input_tokens", "cache_write_tokens")}
    return cost(Usage(**counted, output_tokens=one["output_tokens"]), rates)
