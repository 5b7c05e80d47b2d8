"""The overhead of Parley: wall time of a run over its critical path, with fixed and with lognormal latency.

The critical path is computed from the requests of the run in the simulator's log: sequential discovery, then for each
round its slowest stream, then conflict resolution. It is how long the same replies take at the same concurrency
without overhead. `barrier` is the cost of waiting for the slowest stream: the duration of the rounds over that of the
same requests without rounds, where each goes to the first free stream.
"""

from itertools import pairwise

from benchmarks.chats import write_chats
from benchmarks.options import Figures, Options
from benchmarks.stack import Run, running

SESSIONS, STREAMS, SESSIONS_PER_STREAM = 1000, 8, 4
LATENCIES = {"fixed 1 s": {"seconds": 1.0}, "lognormal, median 1 s, sigma 0.8": {"median": 1.0, "sigma": 0.8}}
TIMEOUT_SECONDS = 1200


async def measure(options: Options) -> Figures:
    figures: Figures = {}
    async with running() as bench:
        path = write_chats(bench.directory / "chats.jsonl", options.sessions or SESSIONS)
        for name, latency in LATENCIES.items():
            await bench.latency(**latency)
            run = await bench.label(
                path, within=TIMEOUT_SECONDS, streams=STREAMS, sessions_per_stream=SESSIONS_PER_STREAM
            )
            figures[name] = _figures(run)
    return figures


def _figures(run: Run) -> dict[str, float]:
    phases = run.phases
    return {
        "seconds": run.seconds,
        "critical path seconds": phases.critical_path,
        "whole run over critical path": run.seconds / phases.critical_path,
        "phase 2 seconds": phases.parallel_wall,
        "phase 2 over its critical path": phases.parallel_wall / phases.with_barrier,
        "rounds": len(phases.rounds),
        "milliseconds of overhead per round": 1000 * (phases.parallel_wall - phases.with_barrier) / len(phases.rounds),
        "milliseconds of overhead per discovery request": 1000 * _mean_gap(run),
        "barrier": phases.with_barrier / phases.without_barrier(STREAMS),
    }


def _mean_gap(run: Run) -> float:
    """The mean time from one discovery reply to the next request."""
    requests = run.phases.discovery
    gaps = [after.received - before.ended for before, after in pairwise(requests)]
    return sum(gaps) / len(gaps)
