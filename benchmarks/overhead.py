"""What Parley adds to the replies: wall time of a run over its critical path, at fixed and at lognormal latency.

The critical path is made of the very calls of the run, by the simulator's log: discovery one after the other, then per
round its slowest stream, then the calls of conflict resolution. It is what the same replies would take at the same
concurrency if nothing else took time. `barrier` is what waiting for the slowest costs: those rounds, over a schedule of
the same calls without rounds, where each goes to the stream that is free first.
"""

from itertools import pairwise

from benchmarks.chats import write_chats
from benchmarks.options import Figures, Options
from benchmarks.stack import Run, running

SESSIONS, STREAMS, QUOTA = 1000, 8, 4
LATENCIES = {"fixed 1 s": {"seconds": 1.0}, "lognormal, median 1 s, sigma 0.8": {"median": 1.0, "sigma": 0.8}}
LIMIT_SECONDS = 1200


async def measure(options: Options) -> Figures:
    figures: Figures = {}
    async with running() as bench:
        path = write_chats(bench.directory / "chats.jsonl", options.sessions or SESSIONS)
        for name, latency in LATENCIES.items():
            await bench.latency(**latency)
            run = await bench.label(path, within=LIMIT_SECONDS, streams=STREAMS, sessions_per_stream=QUOTA)
            figures[name] = _figures(run)
    return figures


def _figures(run: Run) -> dict[str, float]:
    phases = run.phases
    return {
        "seconds": run.seconds,
        "critical path seconds": phases.critical_path,
        "whole run over ideal": run.seconds / phases.critical_path,
        "phase 2 seconds": phases.parallel_wall,
        "phase 2 over ideal": phases.parallel_wall / phases.with_barrier,
        "rounds": len(phases.rounds),
        "milliseconds a round beside its slowest call": 1000
        * (phases.parallel_wall - phases.with_barrier)
        / len(phases.rounds),
        "milliseconds a discovery call beside its reply": 1000 * _between(run),
        "barrier": phases.with_barrier / phases.without_barrier(STREAMS),
    }


def _between(run: Run) -> float:
    """The mean time from one discovery reply to the next call."""
    calls = run.phases.discovery
    gaps = [after.received - before.ended for before, after in pairwise(calls)]
    return sum(gaps) / len(gaps)
