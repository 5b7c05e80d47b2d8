"""Faults of the stack during a load: the worker is killed or frozen, PostgreSQL crashes, or both at once."""

import asyncio
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random  # noqa: TID251 - the plan is random

from benchmarks.stack import say
from tests.faults.postgres import OwnPostgres
from tests.faults.scene import Scene

# The number of generations for which there is one fault of the kind.
GENERATIONS_PER_FAULT = {"worker killed": 25, "worker frozen": 100, "PostgreSQL crashed": 60, "both at once": 150}
MAX_DOWN_SECONDS = 10.0
# Long enough for Temporal to consider the worker dead and for its leases to expire.
FROZEN_SECONDS = 14.0


class Chaos:
    """A random sequence of faults during a load. `ended` returns how many generations have ended."""

    def __init__(
        self, scene: Scene, server: OwnPostgres, draw: Random, generations: int, ended: Callable[[], int]
    ) -> None:
        self._scene, self._server, self._draw = scene, server, draw
        self._generations, self._ended = generations, ended
        self._kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "worker killed": self._kill,
            "worker frozen": self._freeze,
            "PostgreSQL crashed": self._crash,
            "both at once": self._both,
        }
        self._plan = [
            name for name, per_fault in GENERATIONS_PER_FAULT.items() for _ in range(generations // per_fault or 1)
        ]
        draw.shuffle(self._plan)

    @property
    def planned(self) -> Counter[str]:
        """The number of faults of each kind."""
        return Counter(self._plan)

    async def start(self) -> None:
        self._worker = await self._scene.start_worker()

    async def run(self) -> None:
        """Inject every fault before 90% of the load has ended. Afterwards every service runs again."""
        gap = self._generations // len(self._plan)
        for name in self._plan:
            moment = min(self._ended() + self._draw.randint(0, gap), self._generations * 9 // 10)
            while self._ended() < moment:  # noqa: ASYNC110 - the load runs concurrently
                await asyncio.sleep(0.02)
            await asyncio.sleep(self._draw.uniform(0, 1))
            say(f"{self._ended()} of {self._generations} generations have ended: {name}")
            await self._kinds[name]()

    async def _kill(self) -> None:
        self._worker.kill()
        await self._worker.wait()
        await self.start()

    async def _freeze(self) -> None:
        """Stop the worker until another has taken over its work; then continue it and let it drain."""
        frozen = self._worker
        frozen.send_signal(signal.SIGSTOP)
        await self.start()
        await asyncio.sleep(FROZEN_SECONDS)
        frozen.send_signal(signal.SIGCONT)
        frozen.terminate()
        await frozen.wait()

    async def _crash(self) -> None:
        await self._server.crash()
        await asyncio.sleep(self._draw.uniform(0, MAX_DOWN_SECONDS))
        await self._server.start()

    async def _both(self) -> None:
        await self._server.crash()
        self._worker.kill()
        await self._worker.wait()
        await self._server.start()
        await self.start()
