"""An adapter that can be closed while it is not in use, so that a process with many keys has few connections."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

from parley.domain.requests import Reply, Request
from parley.domain.streaming import Delta
from parley.providers.protocol import Adapter


class ReopeningAdapter:
    """Delegates to an adapter, which it builds again if it was closed. Callers need not know whether it was."""

    def __init__(self, build: Callable[[], Adapter]) -> None:
        self._build = build
        self._adapter: Adapter | None = build()
        self._uses = 0
        self._stays_open = True

    async def call(self, request: Request, model: str, attempt_id: str) -> Reply:
        async with self._in_use() as adapter:
            return await adapter.call(request, model, attempt_id)

    async def stream(self, request: Request, model: str, attempt_id: str) -> AsyncGenerator[Delta | Reply]:
        async with self._in_use() as adapter, aclosing(adapter.stream(request, model, attempt_id)) as parts:
            async for part in parts:
                yield part

    async def recover(self, attempt_id: str) -> Reply | None:
        async with self._in_use() as adapter:
            return await adapter.recover(attempt_id)

    async def ping(self) -> None:
        async with self._in_use() as adapter:
            await adapter.ping()

    async def close_when_idle(self) -> None:
        """Close the connections as soon as no request is running. A later use opens its own, and closes them."""
        self._stays_open = False
        await self._close_if_idle()

    async def close(self) -> None:
        """Close the connections now."""
        if self._adapter:
            await self._adapter.close()

    @asynccontextmanager
    async def _in_use(self) -> AsyncIterator[Adapter]:
        self._uses += 1
        self._adapter = self._adapter or self._build()
        try:
            yield self._adapter
        finally:
            self._uses -= 1
            if not self._stays_open:
                await self._close_if_idle()

    async def _close_if_idle(self) -> None:
        if self._uses or self._adapter is None:
            return
        idle, self._adapter = self._adapter, None
        await idle.close()
