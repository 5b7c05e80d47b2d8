"""A program that loses its Temporal server: `python -m tests.cli.cut_off ADDRESS loud|silent`."""

import asyncio
import sys
from contextlib import suppress
from datetime import timedelta

from temporalio.api.workflowservice.v1 import GetSystemInfoRequest
from temporalio.client import Client
from temporalio.service import RPCError

from parley.cli.console import silence_temporal
from parley.process import leave


async def main(address: str) -> None:
    """Connect through a forwarder, end it, and send a request that the SDK retries."""
    host, port = address.split(":")
    writers: list[asyncio.StreamWriter] = []

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port))
        writers.extend((writer, back))
        await asyncio.gather(copy(reader, back), copy(there, writer))

    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    client = await Client.connect("{}:{}".format(*server.sockets[0].getsockname()))
    server.close()
    for writer in writers:
        writer.close()
    with suppress(RPCError):
        await client.workflow_service.get_system_info(GetSystemInfoRequest(), retry=True, timeout=timedelta(seconds=4))


if __name__ == "__main__":
    if sys.argv[2] == "silent":
        silence_temporal()
    asyncio.run(main(sys.argv[1]))
    leave(0)
