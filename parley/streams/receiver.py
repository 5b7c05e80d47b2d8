"""Receives the streams of workers in other processes, and feeds them to the hub of this process."""

import asyncio
import hmac
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request, Response

from parley.connection import payload_codec
from parley.domain.errors import InvalidInput
from parley.domain.streaming import Delivered
from parley.settings import Settings
from parley.streams.frames import (
    FROM_RECEIVER,
    FROM_WORKER,
    MOST_BYTES,
    TOKEN_PURPOSE,
    Cancel,
    Deltas,
    End,
    Ended,
    FromReceiver,
    FromWorker,
    Open,
    Position,
    Refused,
)
from parley.streams.hub import StreamHub, StreamKey

MOST_CONNECTIONS = 500
HANDSHAKE_SECONDS = 5.0
# A worker closes its connection earlier: see sender.py.
IDLE_SECONDS = 300.0
# A worker whose host vanished is noticed after both. A busy worker answers a ping late.
PING_SECONDS, PONG_SECONDS = 5.0, 10.0
CLOSE_SECONDS = 1.0
# How long a worker may take to connect again before its attempts count as broken: a further attempt costs money.
RECONNECT_SECONDS = 0.1

WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - compared with

OnBroken = Callable[[str, str, int], Awaitable[None]]

log = logging.getLogger(__name__)
# The library logs each connection, and with the level DEBUG the headers, which contain the token.
SILENT = logging.getLogger(f"{__name__}.websockets")
SILENT.setLevel(logging.CRITICAL)


async def _ignore(workspace_id: str, stream_id: str, attempt: int) -> None:
    """Do nothing about a broken attempt."""


class SocketReceiver:
    """A WebSocket server for workers.

    hub: where its streams are read. connections: how many workers are connected.
    """

    def __init__(self, hub: StreamHub, settings: Settings, on_broken: OnBroken = _ignore) -> None:
        """Prepare the receiver. It listens from the first use of its address on.

        Args:
            hub: where readers of this process read.
            settings: the address, and the keys that authenticate workers.
            on_broken: called with the workspace, the stream and the number of an attempt whose worker is gone.

        Raises:
            InvalidInput: PARLEY_CODEC_KEYS is missing or wrong.
        """
        self.hub, self._settings, self._on_broken = hub, settings, on_broken
        self._tokens = payload_codec(settings.codec_keys).tokens(TOKEN_PURPOSE)
        self._feeds: dict[StreamKey, _Feed] = {}
        self.connections = 0
        self._is_closing = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting = asyncio.Lock()
        self._server: Server | None = None

    async def address(self) -> str:
        """What a `StreamTarget` names. The first use begins to listen.

        Raises:
            InvalidInput: the address cannot be listened on; or other machines reach it and PARLEY_CODEC_KEYS is `off`,
                or it is a wildcard, and this machine does not know its own address.
        """
        async with self._starting:
            if self._server is None:
                self._server = await self._listen()
        port = next(iter(self._server.sockets)).getsockname()[1]
        return self._settings.stream_address or f"ws://{await _reachable(self._settings.stream_host)}:{port}"

    async def close(self) -> None:
        """Stop receiving. Workers keep their streams, and connect to the next receiver."""
        self._is_closing = True
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _listen(self) -> Server:
        host, port = self._settings.stream_host, self._settings.stream_port
        if not self._tokens and not _is_loopback(host):
            raise InvalidInput(
                "must be a loopback address while PARLEY_CODEC_KEYS is off: without keys any program could send tokens",
                where="PARLEY_STREAM_HOST",
            )
        try:
            return await serve(
                self._serve,
                host,
                port,
                process_request=self._check_request,
                compression=None,
                open_timeout=HANDSHAKE_SECONDS,
                ping_interval=PING_SECONDS,
                ping_timeout=PONG_SECONDS,
                close_timeout=CLOSE_SECONDS,
                max_size=MOST_BYTES,
                logger=SILENT,
            )
        except OSError as error:
            reason = error.strerror or error
            raise InvalidInput(f"cannot be listened on: {reason}", where=f"PARLEY_STREAM_HOST {host}:{port}") from None

    def _check_request(self, _: ServerConnection, request: Request) -> Response | None:
        """Refuse a connection without a worker's token, and one too many."""
        if not self._is_worker(request.headers.get("Authorization", "")):
            return _response(HTTPStatus.UNAUTHORIZED)
        return _response(HTTPStatus.SERVICE_UNAVAILABLE) if self.connections >= MOST_CONNECTIONS else None

    def _is_worker(self, header: str) -> bool:
        given = header.removeprefix("Bearer ").encode()
        return not self._tokens or any(hmac.compare_digest(given, token.encode()) for token in self._tokens)

    async def _serve(self, connection: ServerConnection) -> None:
        self.connections += 1
        link = _Link(self, connection)
        try:
            await link.run()
        except ValueError:
            log.warning("a worker's connection sent what is not a frame, and was closed")
            await connection.close(CloseCode.POLICY_VIOLATION)
        except (ConnectionClosed, TimeoutError):
            pass
        finally:
            self.connections -= 1
            link.stop()

    # What a link does with its frames.

    def open(self, frame: Open) -> "tuple[_Feed | None, FromReceiver]":
        """Begin or continue an attempt. Returns its feed, None if it is refused, and the answer."""
        key = (frame.workspace_id, frame.stream_id)
        newest, offset = self.hub.position(*key)
        if newest > frame.attempt:
            return None, Refused(channel=frame.channel)
        deltas = self.hub.open(*key, Delivered(attempt=frame.attempt), is_received=True).deltas[frame.stored :]
        feed = self._feeds[key] = _Feed(key, frame.attempt, self._before(key, frame.attempt))
        if newest < frame.attempt:
            feed.before = offset
        return feed, Position(channel=frame.channel, offset=offset, before=feed.before, deltas=deltas)

    def feed(self, feed: "_Feed", frame: Deltas) -> FromReceiver | None:
        """Deliver deltas. Returns an answer where the worker must do something."""
        for offset, delta in enumerate(frame.deltas, frame.offset):
            self.hub.feed(*feed.key, feed.attempt, offset, delta)
        return self._missing(feed, frame.channel, frame.offset)

    def end(self, feed: "_Feed", frame: End) -> FromReceiver:
        """End an attempt whose deltas are all here."""
        missing = self._missing(feed, frame.channel, frame.offset)
        if missing is None:
            self._close(feed)
        return missing or Ended(channel=frame.channel)

    def _missing(self, feed: "_Feed", channel: int, offset: int) -> FromReceiver | None:
        """The answer to an attempt that is not the newest, or whose deltas are not here up to the offset."""
        newest, delivered = self.hub.position(*feed.key)
        if newest != feed.attempt:
            return Refused(channel=channel)
        return Position(channel=channel, offset=delivered, before=feed.before) if delivered < offset else None

    def _close(self, feed: "_Feed") -> None:
        self.hub.close(*feed.key, feed.attempt)
        if self._feeds.get(feed.key) is feed:
            del self._feeds[feed.key]

    def _before(self, key: StreamKey, attempt: int) -> int | None:
        last = self._feeds.get(key)
        return last.before if last and last.attempt == attempt else None

    def lost(self, feed: "_Feed") -> None:
        """Report an attempt as broken, unless it or a newer one connects at once."""
        if not self._is_closing:
            self.start_task(self._report(feed))

    def readers_left(self, feed: "_Feed") -> Awaitable[None]:
        return self.hub.readers_left(*feed.key)

    def start_task(self, running: Awaitable[None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(running)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _report(self, feed: "_Feed") -> None:
        await asyncio.sleep(RECONNECT_SECONDS)
        if self._feeds.get(feed.key) is not feed:
            return
        self._close(feed)
        try:
            await self._on_broken(*feed.key, feed.attempt)
        except Exception:
            # Temporal's heartbeat timeout notices the lost worker too, later.
            log.exception("a broken attempt could not be reported")


@dataclass(eq=False)
class _Feed:
    """One attempt on one connection. `before`: see `Position`."""

    key: StreamKey
    attempt: int
    before: int | None
    watching: asyncio.Task[None] | None = field(default=None)

    def stop_watching(self) -> None:
        if self.watching is not None:
            self.watching.cancel()


class _Link:
    """One worker's connection, with its channels."""

    def __init__(self, receiver: SocketReceiver, connection: ServerConnection) -> None:
        self._receiver, self._socket = receiver, connection
        self._channels: dict[int, _Feed] = {}
        # The worker may not know yet that these are refused: what it sends there is ignored.
        self._refused: set[int] = set()

    async def run(self) -> None:
        """Serve until the connection is closed, or is idle.

        Raises:
            ValueError: the worker sent what is not a frame.
            ConnectionClosed: it is gone.
            TimeoutError: it was idle.
        """
        while True:
            async with asyncio.timeout(None if self._channels else IDLE_SECONDS):
                message = await self._socket.recv(decode=False)
            await self._answer([one for frame in FROM_WORKER.validate_json(message) for one in self._take(frame)])

    def stop(self) -> None:
        """Leave the channels that did not end."""
        for feed in self._channels.values():
            feed.stop_watching()
            self._receiver.lost(feed)

    def _take(self, frame: FromWorker) -> list[FromReceiver]:
        if isinstance(frame, Open):
            return [self._open(frame)]
        if frame.channel in self._refused:
            return []
        if frame.channel not in self._channels:
            raise ValueError("a channel that is not open")
        feed = self._channels[frame.channel]
        answer = self._receiver.end(feed, frame) if isinstance(frame, End) else self._receiver.feed(feed, frame)
        if isinstance(answer, Refused | Ended):
            self._channels.pop(frame.channel).stop_watching()
        if isinstance(answer, Refused):
            self._refused.add(frame.channel)
        return [answer] if answer else []

    def _open(self, frame: Open) -> FromReceiver:
        if frame.channel in self._channels:
            raise ValueError("a channel that is open already")
        feed, answer = self._receiver.open(frame)
        if feed is None:
            self._refused.add(frame.channel)
            return answer
        self._channels[frame.channel] = feed
        if frame.on_disconnect == "cancel":
            feed.watching = self._receiver.start_task(self._cancel(frame.channel, feed))
        return answer

    async def _cancel(self, channel: int, feed: _Feed) -> None:
        await self._receiver.readers_left(feed)
        with suppress(ConnectionClosed):
            await self._answer([Cancel(channel=channel)])

    async def _answer(self, frames: Sequence[FromReceiver]) -> None:
        if frames:
            await self._socket.send(FROM_RECEIVER.dump_json([*frames]))


def _response(status: HTTPStatus) -> Response:
    return Response(status.value, status.phrase, Headers({"Content-Length": "0", "Connection": "close"}))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _reachable(host: str) -> str:
    """The host as workers connect to it: for a wildcard the address under this machine's name, as in a container."""
    if host not in WILDCARDS:
        return f"[{host}]" if ":" in host else host
    try:
        own = await asyncio.to_thread(socket.gethostbyname, socket.gethostname())
    except OSError:
        own = "localhost"
    if _is_loopback(own):
        raise InvalidInput(
            f"is not set: say what workers connect to, because {host} is not an address, and this machine has none "
            "under its name",
            where="PARLEY_STREAM_ADDRESS",
        )
    return own
