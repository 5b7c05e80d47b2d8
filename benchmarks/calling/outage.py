"""Phone calls while PostgreSQL does not answer for ten seconds.

The gateways answer from the spool meanwhile. Afterwards every turn and its cost is booked, once.
"""

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

from benchmarks.calling.callers import script
from benchmarks.calling.found import found
from benchmarks.calling.processes import Calling, calling
from benchmarks.options import Figures, Options
from benchmarks.stack import say
from parley.storage.spool import Spool

CALLS, TURNS = 20, 6
# The callers have begun to talk, and talk for longer than that and the outage.
BEFORE_SECONDS, OUTAGE_SECONDS = 15.0, 10.0
# How long the gateways have to book what the spool has, after PostgreSQL answers again.
SETTLE_SECONDS = 60.0
SPOOL_USD = Decimal(1)


async def _freeze(one: Calling) -> None:
    one.server.freeze()


async def _thaw(one: Calling) -> None:
    one.server.thaw()


async def _crash(one: Calling) -> None:
    await one.server.crash()


async def _start(one: Calling) -> None:
    await one.server.start()


Change = Callable[[Calling], Awaitable[None]]
# Frozen, it accepts connections and answers nothing. Crashed, it refuses them.
WAYS: dict[str, tuple[Change, Change]] = {"frozen": (_freeze, _thaw), "crashed": (_crash, _start)}


async def without_database(options: Options) -> tuple[Figures, dict[str, int]]:
    """20 phone calls, in the middle of which PostgreSQL is frozen for ten seconds; then 20 in which it crashes."""
    figures: Figures = {}
    faults: dict[str, int] = {}
    for way, (stop, start) in WAYS.items():
        found_then, faults_then = await _outage(options.seed or 7, way, stop, start)
        figures[f"{CALLS} phone calls, PostgreSQL {way} for {OUTAGE_SECONDS:g} s"] = found_then
        faults |= {f"{way}: {what}": count for what, count in faults_then.items()}
    return figures, faults


async def _outage(seed: int, way: str, stop: Change, start: Change) -> tuple[dict[str, Any], dict[str, int]]:
    async with calling(seed, PARLEY_ON_LEDGER_DOWN="spool", PARLEY_SPOOL_USD=str(SPOOL_USD)) as one:

        async def outage(_: "asyncio.Task[Any]") -> None:
            await asyncio.sleep(BEFORE_SECONDS)
            say(f"PostgreSQL is {way}")
            await stop(one)
            await asyncio.sleep(OUTAGE_SECONDS)
            await start(one)
            say("PostgreSQL answers again")

        held = await one.talk([script(one.random, TURNS) for _ in range(CALLS)], outage)
        left = await _unsettled(Spool(Path(one.place.environment["PARLEY_SPOOL_DIR"]), SPOOL_USD))
        figures, faults = await found(one.place, held)
        spooled = await one.place.query("SELECT count(*) AS n FROM attempts WHERE request_id LIKE '%/spooled/%'")
    return {"requests of the spool": spooled[0]["n"], **figures}, {**faults, "attempts left in the spool": left}


async def _unsettled(spool: Spool) -> int:
    """How many attempts the spool still has when the gateways have had time to book them."""
    clock = asyncio.get_running_loop()
    until = clock.time() + SETTLE_SECONDS
    while (left := len(spool.attempts())) and clock.time() < until:  # noqa: ASYNC110 - files of other processes
        await asyncio.sleep(0.2)
    return left
