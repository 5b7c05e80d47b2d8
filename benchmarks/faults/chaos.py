"""Faults of the stack during a load: the worker is killed or frozen, PostgreSQL crashes, or both at once."""

import asyncio
import signal
from collections.abc import Awaitable, Callable

from benchmarks.faults.stage import FROZEN_SECONDS, Stage

# The number of jobs for which there is one fault of the kind.
JOBS_PER_FAULT = {"worker killed": 25, "worker frozen": 100, "PostgreSQL crashed": 60, "both at once": 150}
MAX_DOWN_SECONDS = 10.0


class Chaos:
    """A random sequence of faults during a load."""

    def __init__(self, stage: Stage) -> None:
        self._stage, self._scene, self._server, self._draw = stage, stage.place, stage.server, stage.random
        self._jobs = stage.load.jobs
        self._kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "worker killed": self._kill,
            "worker frozen": self._freeze,
            "PostgreSQL crashed": self._crash,
            "both at once": self._both,
        }
        self._plan = [name for name, per_fault in JOBS_PER_FAULT.items() for _ in range(self._jobs // per_fault or 1)]
        self._draw.shuffle(self._plan)

    async def start(self) -> None:
        self._worker = await self._scene.start_worker()

    async def run(self) -> None:
        """Inject every fault before 90% of the load has ended. Afterwards every service runs again."""
        gap = self._jobs // len(self._plan)
        for name in self._plan:
            moment = self._ended() + self._draw.randint(0, gap)
            await self._stage.after(min(moment / self._jobs, 0.9))
            await asyncio.sleep(self._draw.uniform(0, 1))
            self._stage.note(name)
            await self._kinds[name]()

    def _ended(self) -> int:
        return len(self._stage.load.results)

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
