"""The overhead of Parley: 1,000 sessions, 8 streams, replies of 1 s, fixed and lognormal, for each `max_staleness`.

`over work stealing` is the duration of phase 2 over that of the same replies if each request went to the first free
stream and only replies took time. `milliseconds beside a reply` is what a stream spends on each request beside the
reply, without waiting for other streams. `CPU` is of worker, Temporal and PostgreSQL together. One case has as many
sessions in a request as the model takes, which is the default.
"""

from benchmarks.chats import write_chats
from benchmarks.options import Figures, Options
from benchmarks.stack import Bench, Run, running
from starter.embedded.postgres import Postgres
from starter.embedded.services import Temporal, Worker

SESSIONS, STREAMS, SESSIONS_PER_STREAM = 1000, 8, 4
LATENCIES = {"fixed 1 s": {"seconds": 1.0}, "lognormal, median 1 s, sigma 0.8": {"median": 1.0, "sigma": 0.8}}
STALENESS = (0, 1, 2, 4)
TIMEOUT_SECONDS = 1200
COUNTED = (Worker.name, Temporal.name, Postgres.name)


async def measure(options: Options) -> Figures:
    figures: Figures = {}
    cases = {
        f"{name}, max_staleness {bound}": (name, bound, SESSIONS_PER_STREAM)
        for name in LATENCIES
        for bound in STALENESS
    }
    cases |= {f"{name}, default batches": (name, 2, None) for name in LATENCIES}
    async with running() as bench:
        path = write_chats(bench.directory / "chats.jsonl", options.sessions or SESSIONS)
        for case, (latency, bound, quota) in cases.items():
            if options.only and not any(word in case for word in options.only):
                continue
            await bench.latency(**LATENCIES[latency])
            before = _cpu(bench)
            run = await bench.label(
                path,
                within=TIMEOUT_SECONDS,
                streams=STREAMS,
                sessions_per_stream=quota,
                max_staleness=bound,
            )
            figures[case] = _figures(run, _cpu(bench) - before)
    return figures


def _cpu(bench: Bench) -> float:
    used = bench.cpu()
    return sum(used[name] for name in COUNTED)


def _figures(run: Run, cpu_seconds: float) -> dict[str, float]:
    phases = run.phases
    requests = [*phases.discovery, *phases.parallel, *phases.conflicts]
    return {
        "seconds": run.seconds,
        "discovery seconds": phases.discovery_wall,
        "phase 2 seconds": phases.parallel_wall,
        "over work stealing": phases.parallel_wall / phases.without_barrier(STREAMS),
        "over rounds with a barrier": phases.parallel_wall / phases.with_barrier,
        "requests of discovery": len(phases.discovery),
        "requests of the streams": len(phases.parallel),
        "rounds": len(phases.rounds),
        "milliseconds beside a reply": 1000 * phases.mean_gap,
        "milliseconds of CPU per request": 1000 * cpu_seconds / len(requests),
        "milliseconds of CPU per session": 1000 * cpu_seconds / run.statistics.sessions,
        "labels": sum(run.statistics.unique_labels.values()),
    }
