"""The overhead of Parley: 1,000 sessions, 8 streams, replies of 1 s, fixed and lognormal, for each `max_staleness`,
and `continuous`, in which free streams take what is next. All cases of one latency have the same replies, by arrival.

`over work stealing` is the duration of phase 2 over that of the same replies if each request went to the first free
stream and only replies took time. `milliseconds beside a reply` is what a stream spends on each request beside the
reply, without waiting for other streams. `CPU` is of worker, Temporal and PostgreSQL together. One case has as many
sessions in a request as the model takes, which is the default.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.chats import write_chats
from benchmarks.options import Figures, Options
from benchmarks.stack import Run, running
from parley.domain.auto_analyze.contract import DEFAULT_MAX_STALENESS
from starter.embedded.postgres import Postgres
from starter.embedded.services import Temporal, Worker

SESSIONS, STREAMS, SESSIONS_PER_STREAM = 1000, 8, 4
FIRST_SESSIONS = 80
# Of a fixed reply, and of a lognormal one with sigma 0.8, by their median.
LATENCIES: dict[str, dict[str, float]] = {"fixed": {"seconds": 1.0}, "lognormal": {"median": 1.0, "sigma": 0.8}}
BOUNDS = {"max_staleness 0": 0, "max_staleness 1": 1, "max_staleness 2": 2, "max_staleness 4": 4, "continuous": None}
TIMEOUT_SECONDS = 1200
COUNTED = (Worker.name, Temporal.name, Postgres.name)


@dataclass(frozen=True)
class Case:
    """How long replies take, and the options of the run."""

    latency: dict[str, float]
    max_staleness: int | None
    sessions_per_stream: int | None = SESSIONS_PER_STREAM


CASES = {
    f"{latency}, {bound}": Case(terms, rounds)
    for latency, terms in LATENCIES.items()
    for bound, rounds in BOUNDS.items()
} | {f"{latency}, default batches": Case(terms, DEFAULT_MAX_STALENESS, None) for latency, terms in LATENCIES.items()}


async def measure(options: Options) -> Figures:
    figures: Figures = {}
    async with running() as bench:
        path = write_chats(bench.directory / "chats.jsonl", options.sessions or SESSIONS)
        # The first request of a worker loads a vendor's SDK.
        await bench.label(write_chats(bench.directory / "first.jsonl", FIRST_SESSIONS), within=TIMEOUT_SECONDS)
        for name in options.chosen(CASES):
            case = CASES[name]
            await bench.reset()
            await bench.latency(**case.latency)
            before = bench.cpu()
            run = await bench.label(
                path,
                within=TIMEOUT_SECONDS,
                streams=STREAMS,
                sessions_per_stream=case.sessions_per_stream,
                max_staleness=case.max_staleness,
            )
            used = bench.cpu()
            figures[name] = _figures(run, {part: used[part] - before[part] for part in COUNTED})
    return figures


def _figures(run: Run, cpu: Mapping[str, float]) -> dict[str, float | Mapping[str, float]]:
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
        "milliseconds of CPU per request": 1000 * sum(cpu.values()) / len(requests),
        "of which": {part: 1000 * seconds / len(requests) for part, seconds in cpu.items()},
        "milliseconds of CPU per session": 1000 * sum(cpu.values()) / run.statistics.sessions,
        "labels": sum(run.statistics.unique_labels.values()),
    }
