"""Holds computed replies back until a test lets them go."""

from asyncio import Event

from simulator.wire import PROVIDERS


class Gate:
    def __init__(self) -> None:
        self._open = {provider: Event() for provider in PROVIDERS}
        self.set(None, closed=False)

    def set(self, provider: str | None, *, closed: bool) -> None:
        for name in PROVIDERS if provider is None else (provider,):
            if closed:
                self._open[name].clear()
            else:
                self._open[name].set()

    def is_closed(self, provider: str) -> bool:
        return not self._open[provider].is_set()

    async def passage(self, provider: str) -> None:
        await self._open[provider].wait()

    def as_json(self) -> dict[str, bool]:
        return {provider: self.is_closed(provider) for provider in PROVIDERS}
