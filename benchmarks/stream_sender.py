"""The worker's process of the benchmark `streams`: `ADDRESS DELTAS DATABASE_URL STREAM …`.

It prints a line when it is about to send, and then the seconds of CPU that the sending took.
"""

import asyncio
import sys
import time

from pydantic import SecretStr
from websockets.asyncio.client import connect

from activities.token_sink import Sinks
from benchmarks.streams import WORKSPACE, cpu_seconds
from parley.domain.requests import ChatReply, Finish, Usage
from parley.domain.streaming import StreamTarget, TextDelta, TokenSink
from parley.process import leave
from parley.settings import Settings
from parley.storage.database import Database

SECONDS_BETWEEN = 0.02
REPLY = ChatReply(text="all of it", finish=Finish.STOP, usage=Usage(), model="benchmark")


async def main(address: str, deltas: int, url: str, *ids: str) -> None:
    settings = Settings(database_url=SecretStr(url or "postgresql://nowhere"), codec_keys=SecretStr("off"))
    assert settings.database_url
    database = Database(settings.database_url)
    sinks = Sinks(database, settings)
    opened: list[TokenSink] = []
    if url:
        opened = [sinks(WORKSPACE, one, StreamTarget(address=address)) for one in ids]
        await asyncio.gather(*(sink.open() for sink in opened))
    print("ready", flush=True)
    before = cpu_seconds()
    if url:
        await asyncio.gather(*(_send(sink, deltas, number / len(ids)) for number, sink in enumerate(opened)))
    else:
        await asyncio.gather(*(_send_bare(address, deltas, number / len(ids)) for number, _ in enumerate(ids)))
    print(cpu_seconds() - before, flush=True)
    await sinks.close()
    await database.close()


async def _send(sink: TokenSink, deltas: int, phase: float) -> None:
    await asyncio.sleep(phase * SECONDS_BETWEEN)
    for _ in range(deltas):
        sink.send(TextDelta(text=str(time.monotonic())))
        await asyncio.sleep(SECONDS_BETWEEN)
    await sink.complete(REPLY)
    await sink.close()


async def _send_bare(address: str, deltas: int, phase: float) -> None:
    async with connect(address, compression=None, proxy=None) as socket:
        await asyncio.sleep(phase * SECONDS_BETWEEN)
        for _ in range(deltas):
            await socket.send(str(time.monotonic()))
            await asyncio.sleep(SECONDS_BETWEEN)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:]))
    leave(0)
