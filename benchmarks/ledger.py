"""Random schedules of the ledger's operations on a real PostgreSQL, with killed sessions and lost commits.

Triggers check the invariants at every commit, and the audit after every schedule: see `tests/ledger_checker`. Nine
batches of ten take turns, so that a schedule can be repeated; in the tenth, all actors run at once.
"""

import time
from secrets import randbelow

from sqlalchemy.engine import make_url

from benchmarks.options import MUST_BE_ZERO, Figures, Options
from benchmarks.stack import say
from tests.faults.postgres import own_postgres
from tests.ledger_checker.checker import Checker, Found, checking
from tests.parts import run_sql

SCHEDULES, BATCH = 1000, 20
BATCHES_PER_RUN_AT_ONCE = 10


async def measure(options: Options) -> Figures:
    seed = randbelow(1_000_000) if options.seed is None else options.seed
    say(f"--seed {seed}")
    began = time.monotonic()
    async with own_postgres() as server:
        await run_sql(server.url, "CREATE DATABASE checked TEMPLATE parley_template")
        url = make_url(server.url).set(database="checked").render_as_string(hide_password=False)
        async with checking(url) as checker:
            found = await _search(checker, options, seed)
            counts = await checker.counts()
    if found:
        say(str(found))
    seconds = time.monotonic() - began
    return {
        "schedules": {"seed": seed, "seconds": seconds, **counts},
        MUST_BE_ZERO: {"schedules that broke an invariant": int(found is not None)},
    }


async def _search(checker: Checker, options: Options, seed: int) -> Found | None:
    """Run batches of schedules, each with a seed of its own, for the given time or number of schedules."""
    ends = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    wanted = options.schedules or SCHEDULES
    batch = 0
    while (time.monotonic() < ends) if ends else (batch * BATCH < wanted):
        in_turns = batch % BATCHES_PER_RUN_AT_ONCE != BATCHES_PER_RUN_AT_ONCE - 1
        found = await checker.search(min(BATCH, wanted), seed=seed + batch, in_turns=in_turns)
        if found:
            say(f"found with --seed {seed + batch}, after {found.after} schedules")
            return found
        batch += 1
        if batch % BATCHES_PER_RUN_AT_ONCE == 0:
            say(f"{batch * BATCH} schedules: nothing found")
    return None
