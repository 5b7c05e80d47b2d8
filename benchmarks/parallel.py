"""The speedup of parallel streams: 100 sessions, 1 s per reply, with 8 streams, 1 stream, and one session at a time.

The specification expects three minutes with parallel streams, and five with one session at a time, which has a request
per session in the discovery too, up to four of them at once.
"""

from benchmarks.chats import write_chats
from benchmarks.options import Figures, Options
from benchmarks.stack import Run, running

SESSIONS = 100
PARALLEL, ONE_STREAM, SEQUENTIAL = "8 streams", "1 stream", "one session at a time"
# The number of streams, and of sessions that each labels in a round.
CASES = {PARALLEL: (8, None), ONE_STREAM: (1, 4), SEQUENTIAL: (1, 1)}
TIMEOUT_SECONDS = 900


async def measure(options: Options) -> Figures:
    runs: dict[str, Run] = {}
    async with running() as bench:
        await bench.latency(seconds=1.0)
        path = write_chats(bench.directory / "chats.jsonl", options.sessions or SESSIONS)
        for name, (streams, sessions) in CASES.items():
            runs[name] = await bench.label(path, within=TIMEOUT_SECONDS, streams=streams, sessions_per_stream=sessions)
    speedups = {f"speedup over {name}": _speedup(runs[name], runs[PARALLEL]) for name in (ONE_STREAM, SEQUENTIAL)}
    return {**{name: _figures(run) for name, run in runs.items()}, **speedups}


def _speedup(slow: Run, fast: Run) -> dict[str, float]:
    return {
        "whole run": slow.seconds / fast.seconds,
        "phase 2": slow.phases.parallel_wall / fast.phases.parallel_wall,
    }


def _figures(run: Run) -> dict[str, float]:
    return {
        "seconds": run.seconds,
        "phase 2 seconds": run.phases.parallel_wall,
        "rounds": len(run.phases.rounds),
        "discovery requests": len(run.phases.discovery),
    }
