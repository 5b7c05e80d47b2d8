"""PostgreSQL, as a phone call needs it: what waits for one that is silent is given up."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from parley.domain.errors import Unreachable
from parley.storage.database import Database

# How long it is not asked again after it did not answer, and how long it has for an answer: on a busy machine it is
# slow, and what is answered without it is answered from less.
DOWN_SECONDS, UP_SECONDS = 3.0, 2.0
# After so long without a result it is looked up whether it answers; and how long work may take, also if it does. Twilio
# waits 15 s for a webhook, which does a few things one after the other.
PROBE_SECONDS, LONGEST_SECONDS = 0.7, 4.0
# What is stopped has so long to end: while PostgreSQL does not answer, and else.
STOP_SECONDS, LONGEST_STOP_SECONDS = 0.2, 2.0
SILENT = "PostgreSQL does not answer"

Found = TypeVar("Found")


class WatchedDatabase:
    """PostgreSQL of one gateway process, and whether it answers.

    A server that is frozen, or that no packet reaches, refuses nothing: what waits for it waits long.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._down_until = 0.0
        self._ping: asyncio.Task[None] | None = None

    @property
    def is_down(self) -> bool:
        """Whether it did not answer just now."""
        return time.monotonic() < self._down_until

    async def is_up(self) -> bool:
        """Whether it answers soon. If it does not, it is not asked again for some seconds.

        Where it is silent, a request waits long also when it is cancelled. So one request is under way at a time, and
        is left to itself.
        """
        if self._ping is None or self._ping.done():
            self._ping = asyncio.ensure_future(self._database.ping())
            self._ping.add_done_callback(_forget_result)
        await asyncio.wait({self._ping}, timeout=UP_SECONDS)
        is_up = self._ping.done() and self._ping.exception() is None
        self._down_until = 0.0 if is_up else time.monotonic() + DOWN_SECONDS
        return is_up

    async def patiently(self, work: Callable[[AsyncSession], Awaitable[Found]]) -> Found:
        """Do work in a transaction, for which no caller waits: it may take as long as it takes.

        Raises:
            Unreachable: PostgreSQL does not answer.
        """
        async with self._database.transaction() as tx:
            found = await work(tx)
        self._down_until = 0.0
        return found

    async def transaction(self, work: Callable[[AsyncSession], Awaitable[Found]]) -> Found:
        """Do work in a transaction, as long as PostgreSQL answers, and for a few seconds at most.

        Raises:
            Unreachable: it does not answer, or did not just now.
        """

        async def run() -> Found:
            async with self._database.transaction() as tx:
                return await work(tx)

        return await self.soon(run())

    async def read(self, work: Callable[[AsyncSession], Awaitable[Found]]) -> Found:
        """Do reads that need no common snapshot, as `transaction` does.

        Raises:
            Unreachable: it does not answer, or did not just now.
        """

        async def run() -> Found:
            async with self._database.reads() as tx:
                return await work(tx)

        return await self.soon(run())

    async def wait(self, working: "asyncio.Future[Any]", longest: float = LONGEST_SECONDS) -> bool:
        """Wait for work as long as PostgreSQL answers, for so many seconds at most; returns whether it is done."""
        clock = asyncio.get_running_loop()
        until = clock.time() + longest
        while not working.done() and not self.is_down and (left := until - clock.time()) > 0:
            await asyncio.wait({working}, timeout=min(PROBE_SECONDS, left))
            if not working.done():
                await self.is_up()
        return working.done()

    async def soon(self, work: Coroutine[Any, Any, Found]) -> Found:
        """Do work that needs PostgreSQL, as `transaction` does.

        Raises:
            Unreachable: it does not answer, or did not just now.
        """
        if self.is_down:
            work.close()
            raise Unreachable(SILENT)
        working = asyncio.ensure_future(work)
        try:
            if not await self.wait(working):
                raise Unreachable(SILENT)
            return working.result()
        finally:
            await self.stop(working)

    async def stop(self, working: "asyncio.Future[Any]") -> None:
        """Cancel work that needs PostgreSQL, and wait for its end while that answers."""
        await stop(working, STOP_SECONDS if self.is_down else LONGEST_STOP_SECONDS)

    def close(self) -> None:
        if self._ping is not None:
            self._ping.cancel()


async def stop(work: Awaitable[Any], seconds: float = LONGEST_STOP_SECONDS) -> None:
    """Cancel work, and wait for its end, for so long. Nothing asks for its result any more."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(_forget_result)
    task.cancel()
    await asyncio.wait({task}, timeout=seconds)
    # psycopg asks a silent server to cancel a statement, and waits for that. A second cancellation ends it.
    task.cancel()


def _forget_result(task: "asyncio.Future[Any]") -> None:
    if not task.cancelled():
        task.exception()
