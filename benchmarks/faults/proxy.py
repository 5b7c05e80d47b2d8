"""A TCP proxy as a process of its own: stopped by SIGSTOP, it forwards nothing, and ends no connection.

The kernel still accepts connections and data for it, as a network does that loses every packet.

    python -m benchmarks.faults.proxy PORT TARGET_PORT
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from starter.embedded.ports import Ports
from starter.embedded.process import Command, Process
from starter.embedded.services import ROOT
from starter.embedded.state import HOST


class Proxy:
    """A running proxy. `port`: where it listens."""

    def __init__(self, process: Process, port: int) -> None:
        self._pid, self.port = process.record.pid, port

    def stop_forwarding(self) -> None:
        os.kill(self._pid, signal.SIGSTOP)

    def forward_again(self) -> None:
        """Forward also what arrived meanwhile."""
        os.kill(self._pid, signal.SIGCONT)


@asynccontextmanager
async def proxy(name: str, target_port: int, directory: Path) -> AsyncIterator[Proxy]:
    """Start a proxy in front of a port of this machine, and end it after the block."""
    port = Ports({}, directory / name).choose((name,))[name]
    argv = [sys.executable, "-m", "benchmarks.faults.proxy", str(port), str(target_port)]
    command = Command(
        name=f"proxy of {name}",
        argv=argv,
        env=os.environ,
        log=directory / f"proxy-{name}.log",
        stops=((signal.SIGKILL, 10.0),),
        cwd=ROOT,
        ports=(port,),
    )
    process = await Process.start(command)
    try:
        await process.answer(_is_ready, 30)
        yield Proxy(process, port)
    finally:
        await process.stop(asyncio.Event())


async def _is_ready() -> bool:
    return True  # it listens


async def _serve(port: int, target_port: int) -> None:
    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(HOST, target_port)
        await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))

    server = await asyncio.start_server(forward, HOST, port)
    await server.serve_forever()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), int(sys.argv[2])))
