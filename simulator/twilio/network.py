"""The network between Twilio and the server: delays, doubled and reordered frames."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from simulator.seeded import fraction
from simulator.twilio.clock import Clock

HELD_SECONDS = 0.2


@dataclass(frozen=True)
class Network:
    """How frames travel.

    delay: seconds in each direction. jitter: up to so many seconds more, at random by the seed. doubled, reordered:
    the share of the caller's frames that arrive twice, or after the next one. late_interrupts: whether what the caller
    says overtakes the interruption that it was.
    """

    delay: float = 0.0
    jitter: float = 0.0
    doubled: float = 0.0
    reordered: float = 0.0
    late_interrupts: bool = False


class Lane:
    """One direction: frames arrive in the order in which they were sent, each after its delay."""

    def __init__(self, clock: Clock, network: Network, seed: int, deliver: Callable[[str], Awaitable[None]]) -> None:
        self._clock, self._network, self._seed, self._deliver = clock, network, seed, deliver
        self._queue: asyncio.Queue[tuple[float, str]] = asyncio.Queue()
        self._number = 0

    def put(self, frame: str) -> None:
        self._number += 1
        wait = self._network.delay + self._network.jitter * fraction(self._seed, "jitter", self._number)
        self._queue.put_nowait((self._clock.now() + wait, frame))

    async def run(self) -> None:
        """Deliver until cancelled."""
        number = 0
        while True:
            number += 1
            frame = await self._next()
            if self._happens("reordered", self._network.reordered, number):
                await self._deliver_after_next(frame)
            else:
                await self._deliver(frame)
            if self._happens("doubled", self._network.doubled, number):
                await self._deliver(frame)

    async def _next(self) -> str:
        due, frame = await self._queue.get()
        await self._clock.sleep_until(due)
        return frame

    async def _deliver_after_next(self, frame: str) -> None:
        """Let the next frame overtake this one; without a next one it arrives late."""
        try:
            async with asyncio.timeout(HELD_SECONDS / self._clock.speed):
                overtaking = await self._next()
        except TimeoutError:
            overtaking = None
        if overtaking is not None:
            await self._deliver(overtaking)
        await self._deliver(frame)

    def _happens(self, what: str, share: float, number: int) -> bool:
        return bool(share) and fraction(self._seed, what, number) < share
