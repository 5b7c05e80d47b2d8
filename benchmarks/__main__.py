"""`python -m benchmarks [NAME …] [--json FILE]`: run benchmarks one after the other and print their figures."""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import (
    audit,
    cache,
    calling,
    chatting,
    conversation,
    database,
    faults,
    gateway,
    generate,
    hearing,
    history,
    http,
    interrupted,
    knowledge,
    labels,
    large,
    ledger,
    meaning,
    memory,
    overhead,
    parallel,
    peers,
    retention,
    savings,
    session_savings,
    similar,
    simulator_labels,
    strategies,
    streams,
    talking,
    voice,
    voices,
)
from benchmarks.options import MUST_BE_ZERO, Figures, Options
from parley.domain.errors import ParleyError
from parley.process import leave

Benchmark = Callable[[Options], Awaitable[Figures]]
MODULES = (
    parallel,
    overhead,
    peers,
    labels,
    meaning,
    history,
    large,
    cache,
    calling,
    generate,
    database,
    gateway,
    savings,
    session_savings,
    faults,
    interrupted,
    audit,
    ledger,
    simulator_labels,
    streams,
    http,
    conversation,
    knowledge,
    memory,
    retention,
    similar,
    strategies,
    talking,
    chatting,
    voice,
    hearing,
    voices,
)
BENCHMARKS: dict[str, Benchmark] = {module.__name__.rpartition(".")[2]: module.measure for module in MODULES}
CASES: dict[str, Collection[str]] = {"faults": faults.CASES, "calling": calling.CASES, "overhead": overhead.CASES}
LOAD_INTERVAL_SECONDS = 5


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    parsed = parser.parse_args(arguments)
    named = {case for name in parsed.names for case in CASES.get(name, ())}
    if unknown := [case for case in parsed.only if case not in named]:
        parser.error(f"--only {unknown[0]}: not a case of {', '.join(parsed.names)}")
    options = Options(
        parsed.sessions,
        parsed.requests,
        tuple(parsed.sessions_per_stream),
        parsed.data,
        parsed.truth,
        parsed.seed,
        tuple(parsed.only),
        parsed.schedules,
        parsed.minutes,
        tuple(parsed.conversations),
        parsed.max_staleness,
    )
    try:
        results = asyncio.run(_run(parsed.names, options))
    except (ParleyError, TimeoutError) as problem:
        print(f"benchmarks: {str(problem) or 'took too long'}", file=sys.stderr)
        return 1
    if parsed.json:
        parsed.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 1 if any(_is_broken(result["figures"]) for result in results.values()) else 0


def _is_broken(figures: Figures) -> bool:
    return any(figures.get(MUST_BE_ZERO, {}).values())


async def _run(names: list[str], options: Options) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for name in names:
        print(f"{name}", flush=True)
        loads: list[float] = []
        watching = asyncio.create_task(_watch_load(loads))
        figures = await BENCHMARKS[name](options)
        watching.cancel()
        machine = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "cores": os.cpu_count(),
            "load average before": round(loads[0], 2),
            "load average, mean of the run": round(sum(loads) / len(loads), 2),
        }
        _print({**figures, "machine": machine})
        results[name] = {"figures": figures, "machine": machine}
    return results


async def _watch_load(loads: list[float]) -> None:
    """Record the load average of the machine, which includes other processes."""
    while True:
        loads.append(os.getloadavg()[0])
        await asyncio.sleep(LOAD_INTERVAL_SECONDS)


def _print(figures: dict[str, Any]) -> None:
    for case, values in figures.items():
        print(f"  {case}")
        for name, value in values.items():
            print(f"    {name:<48} {_shown(value)}")
    sys.stdout.flush()


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(number)}" for name, number in value.items())
    return f"{value:,.3f}" if isinstance(value, float) else str(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmarks",
        description="Measure Parley on this machine, against the simulator.",
    )
    defaults = Options()
    parser.add_argument(
        "names", nargs="*", type=_name, metavar="NAME", default=[*BENCHMARKS], help=", ".join(BENCHMARKS)
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    parser.add_argument(
        "--sessions", type=int, metavar="N", help="number of sessions to generate, in place of the default"
    )
    parser.add_argument(
        "--requests", type=int, metavar="N", help="generations or requests to make, in place of the default"
    )
    parser.add_argument(
        "--sessions-per-stream",
        action="append",
        default=[],
        choices=list(history.SESSIONS_PER_STREAM),
        help="history: sessions that a stream labels in a round",
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", help="faults, ledger, talking, calling, retention, memory, meaning"
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        choices=[case for cases in CASES.values() for case in cases],
        help="faults, calling, overhead: run this case; may be repeated",
    )
    parser.add_argument("--schedules", type=int, metavar="N", help="ledger: number of schedules to run")
    parser.add_argument("--minutes", type=float, metavar="M", help="ledger, calling --only memory: for how long")
    parser.add_argument(
        "--conversations",
        action="append",
        type=int,
        default=[],
        choices=chatting.CONVERSATIONS,
        help="chatting: measure the first token of so many conversations only; may be repeated",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=defaults.data,
        metavar="FILE",
        help="labels, meaning: sessions, JSONL; meaning: also sentences, CSV with the columns text and category",
    )
    parser.add_argument(
        "--truth", type=Path, default=defaults.truth, metavar="FILE", help="labels, meaning: true intents, JSONL"
    )
    parser.add_argument(
        "--max-staleness", type=int, metavar="K", help="meaning: `max_staleness` of the run, in place of the default"
    )
    return parser


def _name(text: str) -> str:
    if text not in BENCHMARKS:
        raise argparse.ArgumentTypeError(f"{text!r}: expected one of {', '.join(BENCHMARKS)}")
    return text


if __name__ == "__main__":
    leave(main())
