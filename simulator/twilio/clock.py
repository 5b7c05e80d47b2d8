"""The time of a simulated phone call."""

import asyncio
from time import monotonic


class Clock:
    """Seconds since the phone call began.

    speed: how many of these seconds pass in one second of the machine. Only speech and waiting are faster then: a
    server takes the time that it takes.
    """

    def __init__(self, speed: float = 1.0) -> None:
        self.speed = speed
        self._start = monotonic()

    def now(self) -> float:
        return (monotonic() - self._start) * self.speed

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds) / self.speed)

    async def sleep_until(self, moment: float) -> None:
        await self.sleep(moment - self.now())
