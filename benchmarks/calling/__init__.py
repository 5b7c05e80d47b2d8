"""Simulated phone calls: how fast they are answered, what they survive, and what memory they leave behind.

The simulator plays Twilio, the callers and the provider. Each case has services of its own.
"""

from collections.abc import Awaitable, Callable, Mapping

from benchmarks.calling.kills import under_kills
from benchmarks.calling.loads import under_load
from benchmarks.calling.memory import over_time
from benchmarks.calling.outage import without_database
from benchmarks.calling.speech import as_speech
from benchmarks.options import MUST_BE_ZERO, Figures, Options
from benchmarks.stack import say

Case = Callable[[Options], Awaitable[tuple[Figures, dict[str, int]]]]
CASES: Mapping[str, Case] = {
    "loads": under_load,
    "kills": under_kills,
    "database": without_database,
    "memory": over_time,
    "speech": as_speech,
}


async def measure(options: Options) -> Figures:
    figures: Figures = {}
    must_be_zero: dict[str, int] = {}
    for name in options.chosen(CASES):
        say(f"{name}: {CASES[name].__doc__}")
        found, faults = await CASES[name](options)
        figures |= found
        must_be_zero |= {f"{name}: {what}": count for what, count in faults.items()}
    return {**figures, MUST_BE_ZERO: must_be_zero}
