"""A proxy in front of a server: a test can cut it, silence it, or drop PostgreSQL's response to a commit."""

import asyncio
from types import TracebackType
from typing import Self

from pydantic import SecretStr
from sqlalchemy.engine import make_url

from parley.storage.database import Database

# The server's CommandComplete message for a COMMIT.
COMMITTED = b"C\x00\x00\x00\x0bCOMMIT"


class Proxy:
    """A server at another address. While cut, connections end at once."""

    def __init__(self, url: str) -> None:
        self._target = make_url(url)
        self._writers: set[asyncio.StreamWriter] = set()
        self._is_cut = self._is_silent = False
        # How often the client has sent after the server had sent.
        self.round_trips, self._server_has_sent = 0, True
        self.refused, self.withheld = asyncio.Event(), asyncio.Event()
        self.accepted = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = self._target.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()
        self._server.close()
        await self._server.wait_closed()

    def cut(self) -> None:
        """End every connection; `refused` is set when a new one is tried."""
        self._is_cut = True
        self.refused.clear()
        self._end_all()

    def restore(self) -> None:
        """Let connections through again, and forward what they send."""
        self._is_cut = self._is_silent = False

    def fall_silent(self) -> None:
        """Keep every connection open and forward nothing more, as when a worker's host vanishes.

        `withheld` is set when a client sends something.
        """
        self._is_silent = True
        self.withheld.clear()

    def _end_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            self.refused.set()
            writer.transport.abort()
            return
        self.accepted += 1
        far_reader, far_writer = await asyncio.open_connection(self._target.host, self._target.port)
        self._writers |= {writer, far_writer}
        await asyncio.gather(self._outward(reader, far_writer), self._inward(far_reader, writer))

    async def _inward(self, far_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await _read(far_reader):
            if self._is_silent:
                continue
            self._server_has_sent = True
            await self._forward(data, writer)
        writer.close()

    async def _forward(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    async def _outward(self, reader: asyncio.StreamReader, far_writer: asyncio.StreamWriter) -> None:
        while data := await _read(reader):
            self.round_trips += self._server_has_sent
            self._server_has_sent = False
            if self._is_silent:
                self.withheld.set()
            else:
                far_writer.write(data)
        far_writer.close()


class DatabaseProxy(Proxy):
    """PostgreSQL at another address."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._loses_a_commit = self._cuts_after_a_commit = False
        self.has_lost_a_commit = False

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self.database = Database(SecretStr(self.url))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.database.close()
        await super().__aexit__(kind, error, trace)

    def lose_the_next_commit(self) -> None:
        """Forward the next COMMIT to PostgreSQL and drop its response."""
        self._loses_a_commit = True

    def cut_after_the_next_commit(self) -> None:
        """Drop every response after the one to the next COMMIT."""
        self._cuts_after_a_commit = True

    async def _forward(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        if self._loses_a_commit and COMMITTED in data:
            self._loses_a_commit, self.has_lost_a_commit = False, True
            self._end_all()
            return
        writer.write(data)
        if self._cuts_after_a_commit and COMMITTED in data:
            self._cuts_after_a_commit = False
            await writer.drain()
            asyncio.get_running_loop().call_soon(self.cut)


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(65536)
    except ConnectionError:
        return b""
