"""A labelling run of very many short sessions: import, run and export in flat memory and linear time.

Replies take no time. The simulator keeps each request that it has answered, and Temporal's development server each
history, so that these two grow; the worker, PostgreSQL and the client must not. `seconds of a tenth`: of the sessions
that are labelled, from one tenth to the next.
"""

import asyncio
import os
import time
from collections.abc import Mapping
from decimal import Decimal

import psutil

from benchmarks.chats import write_chats
from benchmarks.options import Figures, Options
from benchmarks.stack import MEBIBYTE, Bench, running, say
from parley.cli.exporting import write_sessions
from parley.client.auto_analyze import AutoAnalyzeHandle
from parley.client.client import Client

SESSIONS, STREAMS, TENTHS = 300_000, 8, 10
POLL_SECONDS = 3.0


async def measure(options: Options) -> Figures:
    sessions = options.sessions or SESSIONS
    figures: Figures = {}
    async with running() as bench:
        path = write_chats(bench.directory / "chats.jsonl", sessions)
        client = await bench.client("large")
        began = time.monotonic()
        imported = await client.import_chats(path)
        figures["import"] = {"seconds": time.monotonic() - began, "MiB": _memory(bench)}
        say(f"imported: {figures['import']}")
        job = await client.auto_analyze(
            imported.dataset_id, user_id="bench", budget_usd=Decimal(10_000), streams=STREAMS
        )
        figures |= await _tenths(bench, job, sessions)
        figures["export"] = await _export(bench, client, job)
    return figures


async def _tenths(bench: Bench, job: AutoAnalyzeHandle, sessions: int) -> Figures:
    """The time of each tenth of the sessions, and the memory after it; then those of the whole run."""
    figures: Figures = {}
    began = last = time.monotonic()
    cpu = sum(bench.cpu().values())
    ending = asyncio.create_task(job.result())
    most = dict.fromkeys(_memory(bench), 0.0)
    while not ending.done():
        progress = await job.progress()
        now, used = time.monotonic(), _memory(bench)
        most = {name: max(used.get(name, 0.0), peak) for name, peak in most.items()}
        tenth = len(figures) + 1
        if tenth <= TENTHS and progress.sessions_done >= sessions * tenth / TENTHS:
            figures[f"tenth {tenth}"] = {"seconds": now - last, "MiB": used}
            say(f"tenth {tenth}: {figures[f'tenth {tenth}']}")
            last = now
        await asyncio.wait({ending}, timeout=POLL_SECONDS)
    statistics = (await ending).statistics
    assert statistics
    whole = {"seconds": time.monotonic() - began, "labelled": statistics.labelled, "rounds": statistics.rounds}
    whole["milliseconds of CPU per session, with the simulator"] = 1000 * (sum(bench.cpu().values()) - cpu) / sessions
    figures["run"] = {**whole, "most MiB": most, "after labelling, seconds": time.monotonic() - last}
    say(f"run: {figures['run']}")
    return figures


async def _export(bench: Bench, client: Client, job: AutoAnalyzeHandle) -> Mapping[str, float | Mapping[str, float]]:
    began = time.monotonic()
    written = await write_sessions(client.labelled_sessions(job.id), bench.directory / "labelled.jsonl")
    return {"seconds": time.monotonic() - began, "sessions": written, "MiB": _memory(bench)}


def _memory(bench: Bench) -> dict[str, float]:
    """MiB of each part, with the client, which imports and exports."""
    own = psutil.Process(os.getpid()).memory_info().rss / MEBIBYTE
    return {name: round(used) for name, used in {**bench.memory(), "client": own}.items()}
