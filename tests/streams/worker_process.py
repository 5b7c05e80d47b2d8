"""A worker process of the tests: it sends the deltas that its standard input names, and ends only when it is killed.

`python -m tests.streams.worker_process DATABASE_URL ADDRESS WORKSPACE STREAM`; it prints how many deltas it sent.
"""

import asyncio
import sys
from uuid import uuid4

from activities.token_sink import Sinks
from parley.domain.streaming import StreamTarget, TextDelta
from parley.process import leave
from parley.storage.database import Database
from tests.parts import quick_settings


async def main(url: str, address: str, workspace_id: str, stream_id: str) -> None:
    settings = quick_settings(url, "http://127.0.0.1:9")
    assert settings.database_url is not None
    sink = Sinks(Database(settings.database_url), settings)(workspace_id, stream_id, StreamTarget(address=address))
    delivered = await sink.open()
    await sink.record_claim("job/ask-1", str(uuid4()))
    print(len(delivered.deltas), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        sink.send(TextDelta(text=line.removesuffix("\n")))
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
    leave(0)
