"""Sends the streams of this process to receivers in others: one connection for each receiver, shared by all streams.

A connection costs a handshake, which is not on the way of a first token then; and what many streams have to say goes
out in one message. What comes while a message is being written goes together into the next one.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import chain, count, repeat
from typing import Literal

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from parley.domain.streaming import Delta
from parley.streams.frames import (
    FROM_RECEIVER,
    MOST_BYTES,
    MOST_DELTAS,
    Cancel,
    Deltas,
    End,
    FromReceiver,
    FromWorker,
    Open,
    Position,
)
from parley.streams.hub import StreamKey

CONNECT_SECONDS = 2.0
PING_SECONDS, PONG_SECONDS = 5.0, 10.0
CLOSE_SECONDS = 1.0
# The first retry is at once, so that a connection that was cut is back before the receiver reports the attempt.
RETRY_SECONDS = (0.0, 0.02, 0.05, 0.1, 0.3)
# A connection that lasted this long was a good one: the next retry is at once again.
STEADY_SECONDS = 0.1
# How long a connection without a stream is kept for the next one.
IDLE_SECONDS = 60.0

log = logging.getLogger(__name__)
# The library logs headers with the level DEBUG, and they contain the token.
SILENT = logging.getLogger(f"{__name__}.websockets")
SILENT.setLevel(logging.CRITICAL)


class Outgoing:
    """What one attempt sends.

    deltas: all of the stream, also those of earlier attempts. delivered: how many of them were known when the attempt
    began; None while receivers are asked. ends: nothing more comes.
    """

    def __init__(self, key: StreamKey, attempt: int, on_disconnect: Literal["finish", "cancel"]) -> None:
        self.key, self.attempt = key, attempt
        self.on_disconnect: Literal["finish", "cancel"] = on_disconnect
        self.deltas: list[Delta] = []
        self.delivered: int | None = None
        self.ends = False


class Channel:
    """The way of one attempt to one receiver.

    answer: the receiver's first position; None if it cannot be connected to, or wants nothing. done: the receiver has
    all deltas, or takes none. cancelled: its last reader has left.
    """

    def __init__(
        self, outgoing: Outgoing, connection: "Connection", number: int, on_cancel: Callable[[], None]
    ) -> None:
        self.number = number
        self.answer: asyncio.Future[Position | None] = asyncio.get_running_loop().create_future()
        self.done = asyncio.Event()
        self.cancelled = False
        self._outgoing, self._connection, self._on_cancel = outgoing, connection, on_cancel
        self._is_open = self._has_sent_end = self._differs = False
        self._next: int | None = None

    @property
    def is_up(self) -> bool:
        """Whether the receiver takes deltas now."""
        return self._next is not None and not self.done.is_set()

    def wake(self) -> None:
        """There is something to send."""
        self._connection.wake(self)

    def leave(self) -> None:
        """Send nothing more."""
        self.done.set()
        self._connection.discard(self)

    def frames(self) -> Iterator[FromWorker]:
        """What is to be sent next."""
        outgoing = self._outgoing
        if self.done.is_set():
            return
        if not self._is_open:
            self._is_open = True
            yield self._open()
        elif self._differs:
            yield from self._end(0)
        elif self._next is not None and outgoing.delivered is not None:
            yield from self._new_deltas(self._next)

    def received(self, frame: FromReceiver) -> None:
        """What the receiver answers."""
        if isinstance(frame, Position):
            self._continue(frame)
        elif isinstance(frame, Cancel):
            self.cancelled = True
            self._on_cancel()
        else:
            self._answered(None)
            self.leave()

    def lost(self, *, was_reached: bool) -> None:
        """The connection is gone: the next one begins with the receiver's position.

        was_reached: the receiver took the connection: the next one, which is tried at once, may bring its answer.
        """
        self._is_open = self._has_sent_end = False
        self._next = None
        if not was_reached:
            self._answered(None)

    def _open(self) -> Open:
        outgoing = self._outgoing
        workspace_id, stream_id = outgoing.key
        return Open(
            channel=self.number,
            workspace_id=workspace_id,
            stream_id=stream_id,
            attempt=outgoing.attempt,
            stored=len(outgoing.deltas),
            on_disconnect=outgoing.on_disconnect,
        )

    def _new_deltas(self, offset: int) -> Iterator[FromWorker]:
        deltas = self._outgoing.deltas
        new = tuple(deltas[offset : offset + MOST_DELTAS])
        self._next = offset + len(new)
        if new:
            yield Deltas(channel=self.number, offset=offset, deltas=new)
        if self._next < len(deltas):
            self.wake()
        elif self._outgoing.ends:
            yield from self._end(len(deltas))

    def _end(self, offset: int) -> Iterator[FromWorker]:
        if not self._has_sent_end:
            self._has_sent_end = True
            yield End(channel=self.number, offset=offset)

    def _continue(self, position: Position) -> None:
        """Send from the receiver's position on, unless its readers saw what this attempt does not know of."""
        self._answered(position)
        self._has_sent_end = False
        delivered = self._outgoing.delivered
        if delivered is not None and position.before is not None and position.before > delivered:
            log.warning("a receiver was not reachable when an attempt began, and has other deltas: it gets no more")
            self._differs = True
        else:
            self._next = position.offset
        self.wake()

    def _answered(self, position: Position | None) -> None:
        if not self.answer.done():
            self.answer.set_result(position)


class Connection:
    """The connection to one receiver. It is made again until no channel needs it."""

    def __init__(self, address: str, token: str, forget: Callable[[str], None]) -> None:
        self.address = address
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._forget = forget
        self._channels: dict[int, Channel] = {}
        self._numbers = count()
        self._waiting: dict[Channel, None] = {}
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    def open(self, outgoing: Outgoing, on_cancel: Callable[[], None]) -> Channel:
        """A new channel for an attempt."""
        channel = Channel(outgoing, self, next(self._numbers), on_cancel)
        self._channels[channel.number] = channel
        self.wake(channel)
        return channel

    def wake(self, channel: Channel) -> None:
        """Ask the channel for frames."""
        self._waiting[channel] = None
        self._news.set()

    def discard(self, channel: Channel) -> None:
        """Forget a channel."""
        self._channels.pop(channel.number, None)
        self._news.set()

    async def close(self) -> None:
        """Close the connection. The receiver reports attempts that have not ended as broken."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        """Connect, and connect again, while a channel needs it."""
        delays, loop = _delays(), asyncio.get_running_loop()
        while self._channels:
            began, was_reached = loop.time(), False
            try:
                async with self._connected() as socket:
                    was_reached = True
                    await self._exchange(socket)
            except (OSError, ValueError, WebSocketException) as problem:
                log.info("no connection to the receiver of streams at %s: %s", self.address, type(problem).__name__)
            for channel in [*self._channels.values()]:
                channel.lost(was_reached=was_reached)
            if loop.time() - began > STEADY_SECONDS:
                delays = _delays()
            if self._channels:
                await asyncio.sleep(next(delays))
        self._forget(self.address)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[ClientConnection]:
        async with connect(
            self.address,
            additional_headers=self._headers,
            compression=None,
            proxy=None,
            open_timeout=CONNECT_SECONDS,
            ping_interval=PING_SECONDS,
            ping_timeout=PONG_SECONDS,
            close_timeout=CLOSE_SECONDS,
            max_size=MOST_BYTES,
            logger=SILENT,
        ) as socket:
            yield socket

    async def _exchange(self, socket: ClientConnection) -> None:
        """Send and receive until the connection is lost, or idle."""
        self._waiting = dict.fromkeys(self._channels.values())
        self._news.set()
        both = [asyncio.create_task(self._read(socket)), asyncio.create_task(self._write(socket))]
        try:
            done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async def _read(self, socket: ClientConnection) -> None:
        async for message in socket:
            for frame in FROM_RECEIVER.validate_json(message):
                channel = self._channels.get(frame.channel)
                if channel is not None:
                    channel.received(frame)

    async def _write(self, socket: ClientConnection) -> None:
        while await self._is_needed():
            waiting, self._waiting = self._waiting, {}
            frames = [frame for channel in waiting for frame in channel.frames()]
            for message in _messages(frames):
                await socket.send(message)

    async def _is_needed(self) -> bool:
        """Wait for something to send. Returns whether there is anything before the connection is idle."""
        try:
            async with asyncio.timeout(None if self._channels else IDLE_SECONDS):
                await self._news.wait()
        except TimeoutError:
            return bool(self._channels)
        self._news.clear()
        return True


class Senders:
    """The connections of this process, one for each receiver that its streams go to."""

    def __init__(self, tokens: tuple[str, ...]) -> None:
        """Prepare connections.

        Args:
            tokens: those of the codec's keys, of which the first is sent; empty: receivers ask for none.
        """
        self._token = next(iter(tokens), "")
        self._connections: dict[str, Connection] = {}

    def open(self, address: str, outgoing: Outgoing, on_cancel: Callable[[], None]) -> Channel:
        """Begin to send an attempt to a receiver.

        Args:
            on_cancel: called when the receiver says that the last reader left.
        """
        connection = self._connections.get(address)
        if connection is None:
            connection = self._connections[address] = Connection(address, self._token, self._forget)
        return connection.open(outgoing, on_cancel)

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(connection.close() for connection in [*self._connections.values()]))
        self._connections.clear()

    def _forget(self, address: str) -> None:
        self._connections.pop(address, None)


def _messages(frames: list[FromWorker]) -> Iterator[bytes]:
    """The frames as messages, each with as many as the receiver takes at once."""
    parts: list[bytes] = []
    size = 0
    for frame in frames:
        part = frame.model_dump_json().encode()
        if parts and size + len(part) > MOST_BYTES // 2:
            yield b"[%b]" % b",".join(parts)
            parts, size = [], 0
        parts.append(part)
        size += len(part) + 1
    if parts:
        yield b"[%b]" % b",".join(parts)


def _delays() -> Iterator[float]:
    return chain(RETRY_SECONDS, repeat(RETRY_SECONDS[-1]))
