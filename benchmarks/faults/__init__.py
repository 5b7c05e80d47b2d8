"""A load of jobs under faults, then a comparison of the ledger with what the provider has billed.

Each case makes one kind of fault happen in the middle of its load: see `cases.py`. Afterwards every job has its result,
no user is charged twice, and the audit of the ledger agrees with the provider's list. The seed determines the random
faults and after how many jobs each happens, but not the step that each job has reached by then.
"""

import asyncio
import signal
from collections import Counter
from functools import partial
from secrets import randbelow

from benchmarks.faults.cases import CASES, Case
from benchmarks.faults.comparison import Comparison, compare
from benchmarks.faults.load import Load
from benchmarks.faults.stage import stage
from benchmarks.options import MUST_BE_ZERO, Figures, Options
from benchmarks.stack import say
from parley.cli.console import silence_temporal


async def measure(options: Options) -> Figures:
    silence_temporal()
    if running := asyncio.current_task():  # SIGTERM would leave workers and a mounted disk behind
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    seed = randbelow(10_000) if options.seed is None else options.seed
    say(f"--seed {seed}")
    lines: dict[str, dict[str, float] | str] = {}
    must_be_zero: Counter[str] = Counter()
    for name in options.chosen(CASES):
        case = CASES[name]
        if reason := case.reason_to_skip():
            lines[name] = f"skipped: {reason}"
            continue
        say(f"{name}: {case.inject.__doc__}")
        found = await _play(case, options.requests or case.jobs, seed)
        lines[name] = {**found.counts, **{check: n for check, n in found.must_be_zero.items() if n}}
        say(f"{name}: {'broken' if any(found.must_be_zero.values()) else 'passed'}")
        must_be_zero.update(found.must_be_zero)
    return {"cases": lines, MUST_BE_ZERO: must_be_zero}


async def _play(case: Case, jobs: int, seed: int) -> Comparison:
    """Run the load of a case and its faults at the same time."""
    load = partial(
        Load, jobs=jobs, analysis_every=case.analysis_every, behaviours=case.behaviours, providers=case.providers
    )
    with case.disk() as disk:
        async with stage(load, disk, seed) as running:
            await running.load.prepare()
            async with asyncio.timeout(300 + 3 * running.load.jobs):
                await asyncio.gather(running.load.run(), case.inject(running))
                return await compare(running, case.permitted)
