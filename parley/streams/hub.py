"""The streams of one process: what was delivered of each, and its readers."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, Protocol

from parley.domain.requests import ChatReply
from parley.domain.streaming import Delivered, Delta, StreamTarget, TokenSink

# How many streams without an attempt and without a reader are kept, for a reader who returns or a further attempt.
MOST_IDLE = 256

StreamKey = tuple[str, str]


class SinkSource(Protocol):
    """Makes the sink of a paid call."""

    def __call__(self, workspace_id: str, stream_id: str, target: StreamTarget) -> TokenSink: ...


class StreamReceiver(Protocol):
    """Receives the streams of a process that reads them, and feeds its hub."""

    @property
    def hub(self) -> "StreamHub":
        """Where the streams are read."""
        ...

    @property
    def connections(self) -> int:
        """How many workers of other processes are connected."""
        ...

    async def address(self) -> str | None:
        """Where workers send deltas. It is opened on first use. None: readers are in the process that pays.

        Raises:
            Unreachable: it cannot be opened.
        """
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class StreamHub:
    """The streams that this process receives. Each delta is kept once, for all readers, while its stream is in use.

    Attempts feed a stream, from this process or over a connection; only the newest may. A reader begins at any offset,
    and a slow one delays no other: it has a cursor of its own.
    """

    def __init__(self) -> None:
        self._streams: dict[StreamKey, _Stream] = {}
        # In the order in which they became idle.
        self._idle: dict[StreamKey, None] = {}

    # The readers' side.

    def read(self, workspace_id: str, stream_id: str, *, offset: int = 0) -> "StreamReader":
        """Begin to read a stream, which may not have begun. Close the reader when it is not needed any more.

        Args:
            offset: the number of deltas that the reader has already.
        """
        key = (workspace_id, stream_id)
        stream = self._used(key)
        reader = StreamReader(self, key, stream, offset)
        stream.readers.add(reader)
        stream.left.clear()
        return reader

    async def readers_left(self, workspace_id: str, stream_id: str) -> None:
        """Return when a stream had a reader, and has none any more."""
        stream = self._streams.get((workspace_id, stream_id))
        if stream is not None:
            await stream.left.wait()

    # The attempts' side.

    def open(
        self, workspace_id: str, stream_id: str, known: Delivered | None = None, *, is_received: bool = False
    ) -> Delivered:
        """Begin an attempt, or continue it on another connection: older ones can feed nothing from here on.

        Returns what is known of the stream, with the number of its newest attempt, which may be a later one.

        Args:
            known: what is known elsewhere, for example in the database, with the number of the attempt; default: what
                this process knows, and the next number.
            is_received: whether the attempt is made in another process.
        """
        stream = self._used((workspace_id, stream_id))
        if known is None:
            before = stream.known or Delivered(attempt=1)
            known = before.model_copy(update={"attempt": stream.attempt + 1})
        if known.attempt > stream.attempt:
            stream.known = known
            stream.extend(known.deltas[len(stream.deltas) :])
        stream.is_fed, stream.is_received = True, is_received
        return known.model_copy(update={"attempt": stream.attempt, "deltas": tuple(stream.deltas)})

    def is_fed(self, workspace_id: str, stream_id: str) -> bool:
        """Whether an attempt of a stream is made now, in this process or in another one that is connected."""
        stream = self._streams.get((workspace_id, stream_id))
        return stream is not None and stream.is_fed

    def is_received(self, workspace_id: str, stream_id: str) -> bool:
        """Whether another process makes an attempt of a stream now."""
        stream = self._streams.get((workspace_id, stream_id))
        return stream is not None and stream.is_fed and stream.is_received

    def load(self, workspace_id: str, stream_id: str, known: Delivered, *, first: int) -> None:
        """Deliver what another process stored of a stream, unless this one knows of a newer attempt.

        Args:
            known: the number of the attempt, and the deltas from the offset `first` on.
        """
        key = (workspace_id, stream_id)
        stream = self._used(key)
        if known.attempt >= stream.attempt:
            stream.known = known if known.attempt > stream.attempt else stream.known
            stream.extend(known.deltas[max(0, len(stream.deltas) - first) :])
        self._keep_idle(key, stream)

    def position(self, workspace_id: str, stream_id: str) -> tuple[int, int]:
        """The number of a stream's newest attempt, 0 before the first, and the number of deltas delivered of it."""
        stream = self._streams.get((workspace_id, stream_id))
        return (stream.attempt, len(stream.deltas)) if stream else (0, 0)

    def feed(self, workspace_id: str, stream_id: str, attempt: int, offset: int, delta: Delta) -> int | None:
        """Deliver a delta to the readers. What was delivered before is dropped, and what comes after a gap.

        Returns the offset that is wanted next, which shows a gap; None if the attempt is not the newest.
        """
        stream = self._streams.get((workspace_id, stream_id))
        if stream is None or attempt != stream.attempt:
            return None
        if offset == len(stream.deltas):
            stream.extend((delta,))
        return len(stream.deltas)

    def record(self, workspace_id: str, stream_id: str, known: Delivered) -> None:
        """Keep what an attempt pays, and its reply, for the next one. Its deltas are those that were fed."""
        stream = self._streams.get((workspace_id, stream_id))
        if stream is not None and known.attempt == stream.attempt:
            stream.known = known

    def close(self, workspace_id: str, stream_id: str, attempt: int) -> None:
        """End an attempt. Its stream may go on with a further one."""
        key = (workspace_id, stream_id)
        stream = self._streams.get(key)
        if stream is not None and attempt == stream.attempt:
            stream.is_fed = False
            self._keep_idle(key, stream)

    def sink(self, workspace_id: str, stream_id: str, target: StreamTarget) -> TokenSink:
        """The sink of a paid call whose readers are in this process."""
        return HubSink(self, workspace_id, stream_id, cancels=target.on_disconnect == "cancel")

    def _used(self, key: StreamKey) -> "_Stream":
        self._idle.pop(key, None)
        return self._streams.setdefault(key, _Stream())

    def _leave(self, key: StreamKey, stream: "_Stream", reader: "StreamReader") -> None:
        stream.readers.discard(reader)
        if not stream.readers:
            stream.left.set()
            self._keep_idle(key, stream)

    def _keep_idle(self, key: StreamKey, stream: "_Stream") -> None:
        """Keep a stream that is not used, in place of the one that has been idle for longest."""
        if stream.is_fed or stream.readers or self._streams.get(key) is not stream:
            return
        self._idle[key] = None
        if len(self._idle) > MOST_IDLE:
            oldest = next(iter(self._idle))
            del self._idle[oldest], self._streams[oldest]


class _Stream:
    """One stream.

    deltas: all that were delivered. known: what its newest attempt pays; None before the first.
    is_fed: whether an attempt is open. is_received: whether the newest one is made in another process.
    left: set while it had readers and has none.
    """

    def __init__(self) -> None:
        self.deltas: list[Delta] = []
        self.known: Delivered | None = None
        self.is_fed = self.is_received = False
        self.readers: set[StreamReader] = set()
        self.left = asyncio.Event()

    @property
    def attempt(self) -> int:
        """The number of the newest attempt; 0 before the first."""
        return self.known.attempt if self.known else 0

    def extend(self, deltas: tuple[Delta, ...]) -> None:
        self.deltas.extend(deltas)
        for reader in self.readers:
            reader.wake()


class StreamReader:
    """Reads a stream from an offset on: an iterator over the deltas. `StreamHub.read` makes it."""

    def __init__(self, hub: StreamHub, key: StreamKey, stream: _Stream, offset: int) -> None:
        self._hub, self._key, self._stream = hub, key, stream
        self.offset = offset
        """The number of deltas before the next one: a reader that begins there misses and repeats nothing."""
        self._news = asyncio.Event()
        self._ends = False

    def __aiter__(self) -> AsyncIterator[Delta]:
        return self

    async def __anext__(self) -> Delta:
        while self.offset >= len(self._stream.deltas):
            if self._ends:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        self.offset += 1
        return self._stream.deltas[self.offset - 1]

    @property
    def delivered(self) -> Sequence[Delta]:
        """The deltas of the stream so far, those before the reader's first one included."""
        return self._stream.deltas[: self.offset]

    def end(self) -> None:
        """End the iteration after the deltas that are there: the result of the generation is known."""
        self._ends = True
        self.wake()

    def close(self) -> None:
        """Leave the stream."""
        self.end()
        self._hub._leave(self._key, self._stream, self)  # pyright: ignore[reportPrivateUsage]

    def wake(self) -> None:
        self._news.set()


class HubSink:
    """The sink of a paid call whose readers are in its process. `cancels`: when the readers leave."""

    def __init__(self, hub: StreamHub, workspace_id: str, stream_id: str, *, cancels: bool) -> None:
        self._hub, self._of, self._cancels = hub, (workspace_id, stream_id), cancels
        self._known, self._offset = Delivered(attempt=1), 0

    async def open(self, scheduled_at: datetime | None = None) -> Delivered | None:  # noqa: ARG002 - steps die with it
        if self._hub.is_received(*self._of):
            return None
        delivered = self._hub.open(*self._of)
        self._known, self._offset = Delivered(attempt=delivered.attempt), len(delivered.deltas)
        return delivered

    async def record_claim(self, paid_request_id: str, attempt_id: str) -> bool:
        self._record(paid_request_id=paid_request_id, attempt_id=attempt_id, starts_at=self._offset, reply=None)
        return self._hub.position(*self._of)[0] == self._known.attempt

    def send(self, delta: Delta) -> None:
        self._hub.feed(*self._of, self._known.attempt, self._offset, delta)
        self._offset += 1

    async def complete(self, reply: ChatReply) -> None:
        self._record(reply=reply)

    async def cancelled(self) -> None:
        if not self._cancels:
            await asyncio.Event().wait()
        await self._hub.readers_left(*self._of)

    async def close(self) -> None:
        self._hub.close(*self._of, self._known.attempt)

    def _record(self, **known: Any) -> None:
        self._known = self._known.model_copy(update=known)
        self._hub.record(*self._of, self._known)


class ProcessReceiver:
    """The receiver of a process whose own workers pay: nothing is sent to it."""

    connections = 0

    def __init__(self, hub: StreamHub) -> None:
        self.hub = hub

    async def address(self) -> None:
        return None

    async def close(self) -> None:
        pass


PROCESS_HUB = StreamHub()
"""The hub of this process: of its workers, its clients and its receiver."""
