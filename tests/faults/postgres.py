"""A separate PostgreSQL server that a test can crash and restart with the same data and address."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from signal import SIGQUIT

import psutil

from starter.embedded.ports import Ports
from starter.embedded.postgres import Postgres
from starter.embedded.process import Process
from starter.embedded.state import DATABASE, HOST, StateDir
from tests.parts import make_template, reachable_directory

RECOVERED = "was not properly shut down; automatic recovery in progress"


class OwnPostgres:
    """One server, with the same data and port after each start."""

    def __init__(self, directory: Path) -> None:
        state = StateDir(directory)
        state.create()
        self._log = state.log(Postgres.name)
        self._postgres = Postgres(state, lambda _: None)
        self._ports = Ports({}, directory).choose(self._postgres.port_names)
        self._process: Process | None = None

    @property
    def url(self) -> str:
        return f"postgresql://{DATABASE}:{self._postgres.password}@{HOST}:{self._ports['postgres']}/{DATABASE}"

    @property
    def recoveries(self) -> int:
        """How many of its starts recovered from a crash."""
        return self._log.read_text().count(RECOVERED)

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        await self._postgres.prepare()
        command = replace(self._postgres.command(self._ports), stops=((SIGQUIT, 10.0),))
        self._process = await Process.start(command)
        await self._process.answer(lambda: self._postgres.answers(self._ports), self._postgres.start_timeout)

    async def crash(self) -> None:
        """Stop it immediately: open transactions are aborted, nothing is flushed, and the next start runs recovery."""
        if self._process:
            await self._process.stop(asyncio.Event())
        await self._postgres.wait_until_unused()

    def freeze(self) -> None:
        """Stop all its processes: it accepts connections, and answers nothing."""
        for one in self._all():
            one.suspend()

    def thaw(self) -> None:
        """Let its processes go on."""
        for one in self._all():
            one.resume()

    def _all(self) -> list[psutil.Process]:
        assert self._process is not None
        parent = psutil.Process(self._process.record.pid)
        return [parent, *parent.children(recursive=True)]

    def erase(self) -> None:
        self._postgres.erase()


@asynccontextmanager
async def own_postgres(place: Path | None = None) -> AsyncIterator[OwnPostgres]:
    """A running server with the migrated template database. `place`: a directory for its data; None makes one."""
    with nullcontext(place) if place else reachable_directory() as directory:
        server = OwnPostgres(directory / "state")
        try:
            await server.start()
            await make_template(server.url)
            yield server
        finally:
            await server.crash()
            server.erase()
