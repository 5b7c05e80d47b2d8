"""The gateway's process: it listens, serves, and drains after a signal."""

import asyncio
import gc
import logging
import signal
import socket
import time

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from gateway.app import create_app
from gateway.boundary import names
from gateway.metrics import GatewayMetrics
from gateway.phone.calls import PhoneCalls
from gateway.state import Gateway
from parley.client.backend import Backend, reporting_broken_streams
from parley.connection import connect
from parley.domain.errors import InvalidInput
from parley.settings import Settings
from parley.storage.database import Database
from parley.streams.hub import PROCESS_HUB
from parley.streams.receiver import SocketReceiver

KEEP_ALIVE_SECONDS = 75
BACKLOG = 2048

log = logging.getLogger("parley.gateway")


class TimedProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection whose request does not come within `read_seconds`.

    Uvicorn waits without limit for the first request of a connection, and for the rest of its headers.
    """

    read_seconds = 30.0
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Wait for the rest of the request, if this is not the whole of it."""
        super().data_received(data)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        super().connection_lost(exc)
        self._stop_waiting()

    def _wait(self) -> None:
        if self._is_served():
            self._stop_waiting()
        elif self._waiting is None:
            self._waiting = self.loop.call_later(self.read_seconds, self._end)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _end(self) -> None:
        if not self._is_served():
            self.transport.abort()

    def _is_served(self) -> bool:
        """Whether a request is being answered, or the connection has become a WebSocket."""
        is_request = self.cycle is not None and not self.cycle.response_complete
        return is_request or self not in self.connections


class GatewayServer(uvicorn.Server):
    """A server for the application. It listens as soon as it is made.

    After a signal it accepts no connection. Streams of answers finish, within the drain time; readers of a job's events
    are sent away, and resume at another gateway. Before that, sessions of phone calls end after their answers.

    Raises:
        InvalidInput: the address cannot be listened on.
    """

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        self._listener = _listen(settings.gateway_host, settings.gateway_port)
        self._gateway: Gateway = app.state.gateway
        proxies = names(settings.gateway_trusted_proxies)
        super().__init__(
            uvicorn.Config(
                app,
                http=type("Protocol", (TimedProtocol,), {"read_seconds": settings.gateway_read_seconds}),
                ws="websockets-sansio",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=bool(proxies),
                forwarded_allow_ips=list(proxies),
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=round(settings.drain_seconds),
            )
        )
        self._drain_seconds = settings.drain_seconds
        self._drains_until: float | None = None

    @property
    def url(self) -> str:
        host, port = self._listener.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def phone(self) -> PhoneCalls:
        """The phone calls that this process holds."""
        return self._gateway.phone

    async def run_until_stopped(self) -> None:
        """Serve until `stop` is called, and then until all streams have ended."""
        try:
            await self._serve(sockets=[self._listener])
        finally:
            await self._gateway.close(self._seconds_left())

    def _seconds_left(self) -> float:
        """Of the drain time, which begins with `stop`. Phone calls, streams and generations share it."""
        ends = self._drains_until
        return self._drain_seconds if ends is None else max(ends - time.monotonic(), 0)

    def stop(self) -> None:
        """Begin to drain; the second time, end at once."""
        self.force_exit = self._gateway.draining.is_set()
        self._drains_until = self._drains_until or time.monotonic() + self._drain_seconds
        self._gateway.draining.set()
        if self.force_exit or not self._gateway.phone.has_sessions:
            self.should_exit = True
        else:  # the server would cut off their answers
            self._gateway.keep(asyncio.ensure_future(self._stop_after_phone_calls()))

    async def _stop_after_phone_calls(self) -> None:
        await self._gateway.phone.until_left()
        self.config.timeout_graceful_shutdown = max(round(self._seconds_left()), 1)
        self.should_exit = True


async def run(settings: Settings) -> None:
    """Serve until a signal comes.

    Raises:
        InvalidInput: DATABASE_URL is missing or wrong, or the address cannot be listened on.
        Unreachable: Temporal or PostgreSQL does not answer.
    """
    if settings.database_url is None:
        raise InvalidInput("is not set: the gateway needs PostgreSQL", where="DATABASE_URL")
    metrics = GatewayMetrics.serve()
    temporal = await connect(codec_keys=settings.codec_keys, runtime=metrics.runtime)
    receiver = SocketReceiver(PROCESS_HUB, settings, reporting_broken_streams(temporal))
    async with Backend(temporal, Database(settings.database_url), settings, receiver) as backend:
        await backend.database.ping()
        await receiver.address()  # an address that cannot be listened on is an error now
        server = GatewayServer(create_app(backend, settings, metrics), settings)
        # Uvicorn's own handlers would raise the signal again at the end.
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, server.stop)
        # What was made until here lives as long as the process: later collections need not look at it.
        gc.collect()
        gc.freeze()
        server.phone.report_spooled()  # of processes that were killed
        log.info("listening on %s", server.url)
        await server.run_until_stopped()
        log.info("drained")


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        where = "PARLEY_GATEWAY_HOST, PARLEY_GATEWAY_PORT"
        raise InvalidInput(f"cannot listen on {host}:{port}: {error.strerror}", where=where) from error
