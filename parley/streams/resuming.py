"""Continue a stream in another process than the one in which it began."""

import asyncio

from parley.domain.errors import Unreachable
from parley.domain.streaming import Delivered
from parley.storage import streams
from parley.storage.database import Database
from parley.streams.hub import StreamHub

POLL_SECONDS = 1.0


async def resume(
    database: Database, hub: StreamHub, workspace_id: str, stream_id: str, *, address: str | None = None
) -> bool:
    """Load what is stored of a stream into the hub, and have its worker send the rest to this process.

    Args:
        address: of this process's receiver; None: it has none.

    Returns:
        Whether the stream has ended: the hub has all of it.
    """
    of = (workspace_id, stream_id)
    _, delivered = hub.position(*of)
    async with database.reads() as tx:
        stored = await streams.load(tx, *of, after=delivered)
        if stored is None:
            return False
        if address is not None and not stored.has_ended and address not in stored.receivers:
            await streams.add_receiver(tx, *of, address)
    hub.load(*of, Delivered(attempt=stored.attempt, deltas=stored.deltas), first=stored.first)
    return stored.has_ended


async def poll(
    database: Database, hub: StreamHub, workspace_id: str, stream_id: str, *, address: str | None = None
) -> None:
    """Read what is stored of a stream once a second until it has ended.

    For readers that a worker may not reach: their process has no receiver, or the network is cut. What a worker sends
    meanwhile is not delivered twice.
    """
    while True:
        try:
            if await resume(database, hub, workspace_id, stream_id, address=address):
                return
        except Unreachable:  # the readers wait until the database answers again
            pass
        await asyncio.sleep(POLL_SECONDS)
