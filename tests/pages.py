"""A web server of a test, with a fixed reply for each path."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


def reply(status: str, body: bytes = b"", **headers: str) -> bytes:
    lines = [
        f"HTTP/1.1 {status}",
        f"content-length: {len(body)}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "connection: close", "", ""]).encode() + body


@asynccontextmanager
async def serving(pages: dict[str, bytes | None]) -> AsyncIterator[tuple[str, list[str]]]:
    """A server with a reply for each path, None is silence; its host, and the paths that were asked for."""
    asked: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        asked.append(head.split()[1].decode())
        page = pages[asked[-1].partition("?")[0]]
        if page is None:
            await reader.read()
        else:
            writer.write(page)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", asked
