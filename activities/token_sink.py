"""The sink of a paid call whose readers are in other processes: over a WebSocket, and in PostgreSQL."""

import asyncio
import logging
from contextlib import suppress
from datetime import datetime
from weakref import WeakSet

from parley.connection import payload_codec
from parley.domain.errors import ParleyError
from parley.domain.requests import ChatReply
from parley.domain.streaming import Delivered, Delta, StreamTarget, TokenSink
from parley.settings import Settings
from parley.storage import streams
from parley.storage.database import Database
from parley.storage.streams import News
from parley.streams.frames import TOKEN_PURPOSE
from parley.streams.hub import PROCESS_HUB
from parley.streams.sender import Channel, Outgoing, Senders

# How often a stream is stored, and how often its row is read for another receiver while none is reached.
STORE_SECONDS, SEARCH_SECONDS = 1.0, 0.3
# How long a further attempt waits for the receivers to say what they have.
ASK_SECONDS = 1.0
# How long the end of an attempt waits for the receivers, and for a write.
DELIVER_SECONDS = 1.0
WRITE_SECONDS = 5.0

log = logging.getLogger(__name__)


class Sinks:
    """Makes the sinks of a process's paid calls: for readers in this process, or in those that the target names."""

    def __init__(self, database: Database, settings: Settings) -> None:
        """Prepare the connections to receivers. The first stream to one opens it.

        Raises:
            InvalidInput: PARLEY_CODEC_KEYS is missing or wrong.
        """
        self._database, self._hub = database, PROCESS_HUB
        self._senders = Senders(payload_codec(settings.codec_keys).tokens(TOKEN_PURPOSE))
        self._open = WeakSet[StoredSink]()

    def __call__(self, workspace_id: str, stream_id: str, target: StreamTarget) -> TokenSink:
        """The sink of one paid call."""
        if target.address is None:
            return self._hub.sink(workspace_id, stream_id, target)
        sink = StoredSink(self._database, self._senders, (workspace_id, stream_id), target)
        self._open.add(sink)
        return sink

    async def close(self) -> None:
        """Close the connections to receivers. Attempts that have not ended are stored no more."""
        for sink in list(self._open):
            sink.abandon()
        await self._senders.close()


class StoredSink:
    """Sends to every process that reads the stream, and stores it about once a second.

    What readers have is the longest of what is stored and what the receivers have: all of them are prefixes of one
    text, because an older attempt writes nothing and a receiver takes nothing from it.
    """

    def __init__(self, database: Database, senders: Senders, key: tuple[str, str], target: StreamTarget) -> None:
        self._database, self._senders, self._key, self._target = database, senders, key, target
        self._outgoing = Outgoing(key, 0, target.on_disconnect)
        self._channels: dict[str, Channel] = {}
        self._reply: ChatReply | None = None
        # How many deltas are stored, and whether a newer attempt has begun.
        self._stored, self._is_superseded = 0, False
        self._storing = asyncio.Lock()
        self._readers_left = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None

    async def open(self, scheduled_at: datetime | None = None) -> Delivered:
        """Begin a new attempt, of a step that was scheduled at that time.

        Raises:
            StreamSuperseded: a step that was scheduled later has opened the stream.
            Unreachable: PostgreSQL does not answer.
        """
        async with self._database.reads() as tx:
            opened = await streams.open_attempt(tx, *self._key, self._target.address or "", scheduled_at)
        delivered, outgoing = opened.delivered, self._outgoing
        outgoing.attempt, self._stored = delivered.attempt, len(delivered.deltas)
        outgoing.deltas.extend(delivered.deltas)
        self._send_to(opened.receivers)
        if delivered.attempt > 1:
            try:
                await self._ask()
            except asyncio.CancelledError:  # nothing closes what did not open
                self._supersede()
                raise
        outgoing.delivered = len(outgoing.deltas)
        self._wake()
        self._keeping = asyncio.create_task(self._keep())
        return delivered.model_copy(update={"deltas": tuple(outgoing.deltas)})

    async def record_claim(self, paid_request_id: str, attempt_id: str) -> bool:
        """Record what this attempt pays. Returns whether it is the newest attempt.

        Raises:
            Unreachable: PostgreSQL does not answer.
        """
        claim = (paid_request_id, attempt_id, len(self._outgoing.deltas))
        async with self._database.reads() as tx:
            is_newest = await streams.record_claim(tx, *self._key, self._outgoing.attempt, claim)
        if not is_newest:
            self._supersede()
        return is_newest

    def send(self, delta: Delta) -> None:
        """Send the next delta."""
        self._outgoing.deltas.append(delta)
        self._wake()

    async def complete(self, reply: ChatReply) -> None:
        """Store the whole reply. Without a database it is not stored, and the settlement waits for that anyway."""
        self._reply = reply
        await self._store()

    async def cancelled(self) -> None:
        """Return when the last reader of every receiver that is reached has left."""
        await self._readers_left.wait()

    async def close(self) -> None:
        """End the attempt: store its deltas, and give the receivers a moment to take them."""
        if self._keeping is None:
            return
        self._keeping.cancel()
        with suppress(asyncio.CancelledError):
            await self._keeping
        self._outgoing.ends = True
        self._wake()
        channels = [*self._channels.values()]
        await asyncio.gather(self._store(ends=True), *(_end(channel) for channel in channels))

    def abandon(self) -> None:
        """Store nothing more: the process ends before the attempt does."""
        if self._keeping is not None:
            self._keeping.cancel()

    def _wake(self) -> None:
        for channel in self._channels.values():
            channel.wake()

    def _send_to(self, receivers: tuple[str, ...]) -> None:
        """Send to the receivers that are new."""
        for address in receivers:
            if address not in self._channels:
                self._channels[address] = self._senders.open(address, self._outgoing, self._count_readers)

    def _count_readers(self) -> None:
        if all(channel.cancelled for channel in self._channels.values() if channel.is_up):
            self._readers_left.set()

    def _supersede(self) -> None:
        """A newer attempt has begun: send nothing more."""
        self._is_superseded = True
        for channel in self._channels.values():
            channel.leave()

    async def _ask(self) -> None:
        """Add what readers may have seen since the stream was last stored."""
        answers = [channel.answer for channel in self._channels.values()]
        if not answers:  # the stream is only stored: its readers have nothing else
            return
        await asyncio.wait(answers, timeout=ASK_SECONDS)
        positions = [answer.result() for answer in answers if answer.done()]
        newer = [position.deltas for position in positions if position is not None]
        self._outgoing.deltas.extend(max(newer, key=len, default=()))

    async def _keep(self) -> None:
        """Store the stream, and learn of further receivers, until the attempt ends."""
        while not self._is_superseded:
            is_up = any(channel.is_up for channel in self._channels.values())
            await asyncio.sleep(STORE_SECONDS if is_up else SEARCH_SECONDS)
            if not is_up or self._stored < len(self._outgoing.deltas):
                await self._store()

    async def _store(self, *, ends: bool = False) -> None:
        """Store what is new. A failure is logged: the next time stores it too."""
        async with self._storing:
            if self._is_superseded:
                return
            first, deltas = self._stored, self._outgoing.deltas[self._stored :]
            news = News(first, deltas, self._reply, ends)
            try:
                async with asyncio.timeout(WRITE_SECONDS), self._database.reads() as tx:
                    receivers = await streams.store(tx, *self._key, self._outgoing.attempt, news)
            except (ParleyError, TimeoutError) as problem:
                log.warning("a stream could not be stored: %s", problem or type(problem).__name__)
                return
            if receivers is None:
                self._supersede()
                return
            self._stored = first + len(deltas)
            if not ends:
                self._send_to(receivers)


async def _end(channel: Channel) -> None:
    """Wait until the receiver has all deltas, or takes none, for a moment."""
    with suppress(TimeoutError):
        async with asyncio.timeout(DELIVER_SECONDS if channel.is_up else SEARCH_SECONDS):
            await channel.done.wait()
    channel.leave()
