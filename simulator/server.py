"""Runs a simulator on loopback until a signal or the caller stops it."""

import asyncio
import ipaddress
import logging
import os
import signal
import socket
import sys
from pathlib import Path

import uvicorn

from simulator.app import create_app
from simulator.config import Config
from simulator.state import State
from simulator.twilio.rest import OutboundCalls


class NotLoopback(ValueError):
    """The host is not a loopback address. The simulator accepts any API key, so no other machine may reach it."""


class Server(uvicorn.Server):
    """A simulator's server. It listens as soon as it is created, and ends the replies in flight when it stops.

    `url` is its address; `ready` is set as soon as it answers.

    Raises:
        NotLoopback: `config.host` is not a loopback address.
        OSError: the port is in use.
    """

    def __init__(self, config: Config) -> None:
        self._listener = _listen(config.host, config.port)
        app = create_app(config)
        self.state: State = app.state.simulator
        self.phone: OutboundCalls = app.state.phone
        self.ready = asyncio.Event()
        self._stopping = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._port_file = config.port_file
        super().__init__(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                date_header=False,
                timeout_graceful_shutdown=2,
                timeout_keep_alive=75,
            )
        )
        logging.getLogger("uvicorn.error").addFilter(_is_unexpected)

    @property
    def url(self) -> str:
        host, port = self._listener.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def run_until_stopped(self) -> None:
        await self.serve(sockets=[self._listener])

    @property
    def should_exit(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the server stops. It may be set from a signal handler."""
        return self._should_exit

    @should_exit.setter
    def should_exit(self, value: bool) -> None:
        self._should_exit = value
        if value and self._loop:
            self._loop.call_soon_threadsafe(self._stopping.set)

    async def main_loop(self) -> None:
        """Wait for the stop flag. It replaces uvicorn's loop, which polls the flag ten times a second."""
        self._loop = asyncio.get_running_loop()
        await self.on_tick(0)
        if not self.should_exit:
            await self._stopping.wait()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._port_file:
            _write_atomically(self._port_file, str(self._listener.getsockname()[1]))
        self.ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.state.closing.set()
        await super().shutdown(sockets)


def serve(config: Config) -> None:
    """Run a simulator in the foreground. Returns after SIGTERM or SIGINT.

    Raises:
        NotLoopback: `config.host` is not a loopback address.
        OSError: the port is in use.
    """
    server = Server(config)

    def stop(*_: object) -> None:
        server.should_exit = True

    # Uvicorn raises the signal again when it has stopped. This handler ignores it, so the process exits with code 0.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    sys.stdout.write(f"Parley simulator on {server.url} (a test instrument: computed answers, no model, no cost)\n")
    sys.stdout.flush()
    asyncio.run(server.run_until_stopped())


def _listen(host: str, port: int) -> socket.socket:
    """Open a listening socket, so that the port is known, and connections are queued, before the server starts."""
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        address = None
    if address is None or not address.is_loopback:
        raise NotLoopback(f"host {host!r} is not a loopback address: use 127.0.0.1")
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    # IPPROTO_TCP is explicit because asyncio disables Nagle's algorithm (a delay of 40 ms per reply) only then.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((str(address), port))
    listener.listen(2048)
    return listener


def _write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader never sees a part of it."""
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _is_unexpected(record: logging.LogRecord) -> bool:
    """Return False for uvicorn's message about connections that end early, which faults cause on purpose."""
    return not str(record.msg).startswith("ASGI callable returned without")
