"""An adapter that can be put away, so that a process with many keys keeps few connections."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from parley.domain.requests import Reply, Request
from parley.providers.protocol import Adapter


class KeptAdapter:
    """Passes everything on to an adapter. Whoever holds this one need not know whether that was put away meanwhile."""

    def __init__(self, build: Callable[[], Adapter]) -> None:
        self._build = build
        self._adapter: Adapter | None = build()
        self._uses = 0
        self._is_wanted = True

    async def call(self, request: Request, model: str, attempt_id: str) -> Reply:
        async with self._in_use() as adapter:
            return await adapter.call(request, model, attempt_id)

    async def recover(self, attempt_id: str) -> Reply | None:
        async with self._in_use() as adapter:
            return await adapter.recover(attempt_id)

    async def ping(self) -> None:
        async with self._in_use() as adapter:
            await adapter.ping()

    async def put_away(self) -> None:
        """Give the connections back as soon as nothing is under way. A later use opens its own, and closes them."""
        self._is_wanted = False
        await self._close_if_idle()

    async def close(self) -> None:
        """Give the connections back, for good."""
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
            if not self._is_wanted:
                await self._close_if_idle()

    async def _close_if_idle(self) -> None:
        if self._uses or self._adapter is None:
            return
        idle, self._adapter = self._adapter, None
        await idle.close()
