"""A local webhook receiver that stores the requests and answers as a test sets it."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class Message:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.body)["data"]


class Receiver:
    """`answer`: the status of the reply; 0 closes the connection. It sends no reply until `open` is set."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.answer: Callable[[Message], int] = lambda _: 204
        self.location = ""
        self.open = asyncio.Event()
        self.open.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/hook?token=a-token-in-the-address"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.open.set()
        self._server.close()
        await self._server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while message := await _read(reader):
                self.messages.append(message)
                await self.open.wait()
                status = self.answer(message)
                if not status:
                    break
                writer.write(
                    f"HTTP/1.1 {status} Said\r\nlocation: {self.location}\r\ncontent-length: 0\r\n\r\n".encode()
                )
                await writer.drain()
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader) -> Message | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    first, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return Message(first.split()[1], headers, await reader.readexactly(int(headers["content-length"])))
