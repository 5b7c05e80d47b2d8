"""The cases: which faults happen, and when, while a load runs."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psycopg
from sqlalchemy.engine import URL, make_url

from benchmarks.faults.chaos import Chaos
from benchmarks.faults.load import ANSWERED, NO_PROVIDER
from benchmarks.faults.proxy import proxy
from benchmarks.faults.stage import FROZEN_SECONDS, Stage
from parley.domain.requests import ChatProvider, Provider
from starter.embedded.state import HOST
from tests.parts import reachable_directory, run_sql

BEHAVIOURS = ("ok", "ok", "rate_limit", "server_error", "hang", "cut", "aborted", "malformed")
PROVIDERS: tuple[ChatProvider | None, ...] = (None, Provider.OPENAI, Provider.ANTHROPIC, Provider.LOCAL)
JOBS, ANALYSIS_EVERY = 120, 10
OUTAGE_SECONDS, RESTART_SECONDS = 6.0, 1.0
# PostgreSQL's data needs half of it.
DISK_MEGABYTES = 256
MEGABYTE = bytes(1024**2)
WRITE_A_MEGABYTE_OF_LOG = "SELECT pg_logical_emit_message(false, 'fill', repeat('x', 1048576))"
DAY_AHEAD = {"FAKETIME": "+1d", "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
TEMPORAL_KILLS = (0.15, 0.3, 0.45, 0.6)
# So slow that the other worker does not end the load while one is frozen or has no network.
SLOW_SECONDS, PARTITIONED_JOBS = 2.0, 240


@dataclass(frozen=True)
class Case:
    """One kind of fault.

    Attributes:
        inject: starts the workers, and makes the faults happen. Afterwards every service runs again.
        jobs, analysis_every, behaviours, providers: the load; see `Load`.
        permitted: the results that a job may have.
        disk: makes the file system for PostgreSQL's data; None: the one of temporary files.
        reason_to_skip: why this machine cannot run the case; empty if it can.
    """

    inject: Callable[[Stage], Awaitable[None]]
    jobs: int = JOBS
    analysis_every: int = ANALYSIS_EVERY
    behaviours: tuple[str, ...] = ("ok",)
    providers: tuple[ChatProvider | None, ...] = (None,)
    permitted: tuple[str, ...] = (ANSWERED,)
    disk: Callable[[], AbstractContextManager[Path | None]] = nullcontext
    reason_to_skip: Callable[[], str] = lambda: ""


async def random_faults(stage: Stage) -> None:
    """Workers are killed or frozen, PostgreSQL crashes, at random moments, while providers fail."""
    await stage.place.simulator.post("latency", median=SLOW_SECONDS, sigma=0.8)
    chaos = Chaos(stage)
    await chaos.start()
    await chaos.run()


async def read_only(stage: Stage) -> None:
    """PostgreSQL refuses to write for some seconds, three times, as after a failover to a standby."""
    await stage.place.start_worker()
    for share in (0.2, 0.4, 0.6):
        async with stage.calls_in_flight(share):
            await _set_read_only(stage, "on")
            stage.note("PostgreSQL read-only")
        await asyncio.sleep(OUTAGE_SECONDS)
        await _set_read_only(stage, "off")


async def _set_read_only(stage: Stage, value: Literal["on", "off"]) -> None:
    await run_sql(stage.server.url, f"ALTER SYSTEM SET default_transaction_read_only = {value}")
    await run_sql(stage.server.url, "SELECT pg_reload_conf()")


async def full_disk(stage: Stage) -> None:
    """The disk of PostgreSQL is full for some seconds, and then once more, until the server itself dies of it."""
    assert stage.disk
    ballast = stage.disk / "ballast"
    await stage.place.start_worker()
    for share in (0.2, 0.4):
        async with stage.calls_in_flight(share):
            fill(ballast)
            stage.note("disk full")
        await asyncio.sleep(OUTAGE_SECONDS)
        ballast.unlink()
    async with stage.calls_in_flight(0.6):
        fill(ballast)
        await _exhaust_the_log(stage)
        stage.note("disk full, PostgreSQL dead")
    await asyncio.sleep(OUTAGE_SECONDS)
    ballast.unlink()
    await stage.server.crash()
    await stage.server.start()


async def _exhaust_the_log(stage: Stage) -> None:
    """Write to the write-ahead log until it needs a file more: the server panics when it cannot have it."""
    with suppress(psycopg.OperationalError):
        while True:
            await run_sql(stage.server.url, WRITE_A_MEGABYTE_OF_LOG)


def fill(ballast: Path) -> None:
    """Take all space that the file's disk has left."""
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(MEGABYTE)


@contextmanager
def small_disk() -> Iterator[Path]:
    """A small file system in memory. It is unmounted afterwards, even if a process that uses it ends later."""
    with reachable_directory() as directory:
        options = f"size={DISK_MEGABYTES}m,mode=755"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", directory], check=True)
        try:
            yield directory
        finally:
            subprocess.run(["umount", "--lazy", directory], check=True)


async def partition(stage: Stage) -> None:
    """One of two workers cannot reach PostgreSQL and Temporal, or one of them; the other takes over its work."""
    place, database = stage.place, make_url(stage.place.environment["DATABASE_URL"])
    async with AsyncExitStack() as proxies:
        to_postgres = await proxies.enter_async_context(proxy("PostgreSQL", _port(database), place.directory))
        to_temporal = await proxies.enter_async_context(proxy("Temporal", stage.temporal.port, place.directory))
        await place.start_worker()
        partitioned = await place.start_worker(
            DATABASE_URL=database.set(port=to_postgres.port).render_as_string(hide_password=False),
            TEMPORAL_ADDRESS=f"{HOST}:{to_temporal.port}",
        )
        await place.simulator.post("latency", seconds=SLOW_SECONDS)
        parts = {"both": (to_postgres, to_temporal), "PostgreSQL": (to_postgres,), "Temporal": (to_temporal,)}
        for share, (name, lost) in zip((0.1, 0.4, 0.7), parts.items(), strict=True):
            async with stage.calls_in_flight(share):
                for one in lost:
                    one.stop_forwarding()
                stage.note(f"worker without {name}")
            await asyncio.sleep(FROZEN_SECONDS)
            for one in lost:
                one.forward_again()
        await stage.after(1)
        partitioned.terminate()
        await partitioned.wait()


def _port(url: URL) -> int:
    assert url.port
    return url.port


async def clock_ahead(stage: Stage) -> None:
    """The clock of one of two workers is a day ahead; each is killed once, and the other takes over its work."""
    on_time = await stage.place.start_worker()
    ahead = await stage.place.start_worker("", (), fresh=True, LD_PRELOAD=str(fake_time_library()), **DAY_AHEAD)
    async with stage.calls_in_flight(0.3):
        on_time.kill()
        stage.note("worker on time killed")
    await stage.after(0.6)
    await stage.place.start_worker()
    async with stage.calls_in_flight(0.7):
        ahead.kill()
        stage.note("worker a day ahead killed")


async def temporal_killed(stage: Stage) -> None:
    """The Temporal server is killed, and starts again with the same database file."""
    await stage.place.start_worker()
    for share in TEMPORAL_KILLS:
        async with stage.calls_in_flight(share):
            await stage.temporal.kill()
            stage.note("Temporal killed")
        await asyncio.sleep(RESTART_SECONDS)
        await stage.temporal.start()


def fake_time_library() -> Path | None:
    """The library that shifts a process's clock: Debian's package libfaketime."""
    return next(Path("/usr/lib").glob("**/libfaketime.so.1"), None)


def _without_mount() -> str:
    return "" if os.geteuid() == 0 and shutil.which("mount") else "only root can mount a small disk"


def _without_fake_time() -> str:
    return "" if fake_time_library() else "libfaketime is not installed"


CASES = {
    "random": Case(
        random_faults,
        jobs=300,
        analysis_every=0,
        behaviours=BEHAVIOURS,
        providers=PROVIDERS,
        # A generation finds no provider if a worker is killed during each of its attempts.
        permitted=(ANSWERED, NO_PROVIDER),
    ),
    "read-only": Case(read_only),
    "full-disk": Case(full_disk, disk=small_disk, reason_to_skip=_without_mount),
    "partition": Case(partition, jobs=PARTITIONED_JOBS),
    "clock": Case(clock_ahead, reason_to_skip=_without_fake_time),
    "temporal": Case(temporal_killed),
}
