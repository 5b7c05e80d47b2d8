"""The speedup of parallel streams: 100 sessions, 1 s per reply, with 8 streams, 1 stream, and one session at a time.

The specification expects a reduction from five minutes to three, compared with sequential sessions. Discovery labels 50
sessions sequentially in every case, so the speedup of the whole run is less than that of phase 2.
"""

from benchmarks.chats import write_chats
from benchmarks.options import Figures, Options
from benchmarks.stack import Run, running

SESSIONS = 100
# Streams, and the quota of each in a round.
CASES = {"8 streams": (8, 4), "1 stream": (1, 4), "one session at a time": (1, 1)}
LIMIT_SECONDS = 900


async def measure(options: Options) -> Figures:
    runs: dict[str, Run] = {}
    async with running() as bench:
        await bench.latency(seconds=1.0)
        path = write_chats(bench.directory / "chats.jsonl", options.sessions or SESSIONS)
        for name, (streams, quota) in CASES.items():
            runs[name] = await bench.label(path, within=LIMIT_SECONDS, streams=streams, sessions_per_stream=quota)
    several, *others = runs.values()
    gains = {f"gain over {name}": _gain(other, several) for name, other in zip(list(runs)[1:], others, strict=True)}
    return {**{name: _figures(run) for name, run in runs.items()}, **gains}


def _gain(slow: Run, fast: Run) -> dict[str, float]:
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
