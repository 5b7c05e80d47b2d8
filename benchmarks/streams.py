"""How long a delta takes from a worker's process to a reader in another one, at 1, 5 and 50 streams.

The worker sends a delta every 20 ms in each stream, as a vendor does. Each delta carries the time at which it is sent,
by the machine's monotonic clock. The comparison is a bare WebSocket for each stream, with the same deltas.
"""

import asyncio
import resource
import sys
import time
from collections.abc import Awaitable
from statistics import median, quantiles
from uuid import uuid4

from pydantic import SecretStr
from websockets.asyncio.server import ServerConnection, serve

from benchmarks.options import Figures, Options
from benchmarks.stack import running
from parley.domain.streaming import TextDelta
from parley.settings import Settings
from parley.streams.hub import StreamHub, StreamReader
from parley.streams.receiver import SocketReceiver

STREAMS, DELTAS, ROUNDS = (1, 5, 50), 100, 1
WORKSPACE = "benchmark"

Measured = dict[str, float]


async def measure(options: Options) -> Figures:
    figures: Figures = {}
    async with running(worker=None) as bench:
        url = bench.addresses.database_url
        for streams in STREAMS:
            rounds = [await _round(url, streams, options.requests or DELTAS) for _ in range(ROUNDS)]
            figures[f"{streams} streams"] = _figures([one for one, _ in rounds], [bare for _, bare in rounds])
    return figures


async def _round(url: str, streams: int, deltas: int) -> tuple[Measured, Measured]:
    """What one run of Parley measured, and one of bare WebSockets."""
    settings = Settings(database_url=SecretStr(url), codec_keys=SecretStr("off"))
    ids, hub = [uuid4().hex for _ in range(streams)], StreamHub()
    receiver = SocketReceiver(hub, settings)
    reading = asyncio.gather(*(_read(hub.read(WORKSPACE, one), deltas) for one in ids))
    parley = await _measured(reading, await receiver.address(), deltas, ids, url)
    await receiver.close()
    times: asyncio.Queue[list[float]] = asyncio.Queue()

    async def receive(socket: ServerConnection) -> None:
        times.put_nowait([time.monotonic() - float(message) async for message in socket])

    async with serve(receive, "127.0.0.1", 0, compression=None) as server:
        address = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        bare = await _measured(_all(times, streams), address, deltas, ids, "")
    return parley, bare


async def _read(reader: StreamReader, deltas: int) -> list[float]:
    times: list[float] = []
    async for delta in reader:
        if isinstance(delta, TextDelta):
            times.append(time.monotonic() - float(delta.text))
        if len(times) == deltas:
            break
    reader.close()
    return times


async def _all(times: asyncio.Queue[list[float]], streams: int) -> list[list[float]]:
    return [await times.get() for _ in range(streams)]


async def _measured(
    reading: Awaitable[list[list[float]]], address: str, deltas: int, ids: list[str], url: str
) -> Measured:
    """Run a worker's process; without a database URL it sends over bare WebSockets."""
    arguments = ("-m", "benchmarks.stream_sender", address, str(deltas), url, *ids)
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout
    await process.stdout.readline()  # it is about to send
    before = cpu_seconds()
    times = [1000 * one for stream in await reading for one in stream]
    used = cpu_seconds() - before
    output, _ = await process.communicate()
    microseconds = 1e6 / len(times)
    return {
        "p50 ms": median(times),
        "p95 ms": quantiles(times, n=20, method="inclusive")[-1],
        "reader, microseconds of CPU a delta": used * microseconds,
        "worker, microseconds of CPU a delta": float(output) * microseconds,
    }


def cpu_seconds() -> float:
    """The CPU that this process has used, without its children."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _figures(parley: list[Measured], bare: list[Measured]) -> dict[str, float]:
    """The medians of the rounds."""
    ours, theirs = ({name: median(one[name] for one in rounds) for name in rounds[0]} for rounds in (parley, bare))
    return {
        **ours,
        **{f"bare WebSocket: {name}": value for name, value in theirs.items()},
        "p50 over bare WebSocket": ours["p50 ms"] / theirs["p50 ms"],
    }
