"""What befalls the stack during a load: a worker killed or frozen, PostgreSQL crashed, both at once."""

import asyncio
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random  # noqa: TID251 - moments are drawn

from benchmarks.stack import say
from tests.faults.postgres import OwnPostgres
from tests.faults.scene import Scene

# How often each happens: once in so many calls.
EVERY = {"worker killed": 25, "worker frozen": 100, "PostgreSQL crashed": 60, "both at once": 150}
AWAY_SECONDS = 10.0
# A worker that is silent for so long is taken for dead, and its leases have ended.
FROZEN_SECONDS = 14.0


class Chaos:
    """One thing after the other, as drawn, each when some more calls have ended. `ended` tells how many have."""

    def __init__(self, place: Scene, server: OwnPostgres, draw: Random, calls: int, ended: Callable[[], int]) -> None:
        self._place, self._server, self._draw = place, server, draw
        self._calls, self._ended = calls, ended
        self._kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "worker killed": self._kill,
            "worker frozen": self._freeze,
            "PostgreSQL crashed": self._crash,
            "both at once": self._both,
        }
        self._plan = [name for name, every in EVERY.items() for _ in range(calls // every or 1)]
        draw.shuffle(self._plan)

    @property
    def planned(self) -> Counter[str]:
        """How often each happens."""
        return Counter(self._plan)

    async def start(self) -> None:
        self._worker = await self._place.start_worker()

    async def run(self) -> None:
        """Have it all happen, the last of it while there is still a load. In the end everything is up again."""
        gap = self._calls // len(self._plan)
        for name in self._plan:
            moment = min(self._ended() + self._draw.randint(0, gap), self._calls * 9 // 10)
            while self._ended() < moment:  # noqa: ASYNC110 - the load goes on
                await asyncio.sleep(0.02)
            await asyncio.sleep(self._draw.uniform(0, 1))
            say(f"{self._ended()} of {self._calls} calls have ended: {name}")
            await self._kinds[name]()

    async def _kill(self) -> None:
        self._worker.kill()
        await self._worker.wait()
        await self.start()

    async def _freeze(self) -> None:
        """It wakes when another has taken its work over, and is told to stop: what it has in hand it still ends."""
        frozen = self._worker
        frozen.send_signal(signal.SIGSTOP)
        await self.start()
        await asyncio.sleep(FROZEN_SECONDS)
        frozen.send_signal(signal.SIGCONT)
        frozen.terminate()
        await frozen.wait()

    async def _crash(self) -> None:
        await self._server.crash()
        await asyncio.sleep(self._draw.uniform(0, AWAY_SECONDS))
        await self._server.start()

    async def _both(self) -> None:
        await self._server.crash()
        self._worker.kill()
        await self._worker.wait()
        await self._server.start()
        await self.start()
