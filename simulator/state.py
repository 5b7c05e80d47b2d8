"""The state of one running simulator, shared by the provider endpoints and the admin endpoints."""

import asyncio
import itertools
from collections import defaultdict, deque
from math import ceil
from time import monotonic
from typing import TYPE_CHECKING

from simulator.answers import Answers
from simulator.config import Config
from simulator.faults import FaultPlan
from simulator.prefixes import Prefixes
from simulator.recordings import Recordings
from simulator.records import RequestLog, StoredCompletions
from simulator.wire import PROVIDERS, Refusal

if TYPE_CHECKING:
    from simulator.batches import Batch

WINDOW_SECONDS = 60.0


class Gate:
    """Holds back the computed replies of a provider while it is closed."""

    def __init__(self) -> None:
        self._open = {provider: asyncio.Event() for provider in PROVIDERS}
        self.set(None, closed=False)

    def set(self, provider: str | None, *, closed: bool) -> None:
        """Close or open the gate of one provider, or of all (None)."""
        for name in PROVIDERS if provider is None else (provider,):
            if closed:
                self._open[name].clear()
            else:
                self._open[name].set()

    async def wait_until_open(self, provider: str) -> None:
        await self._open[provider].wait()

    def as_json(self) -> dict[str, bool]:
        """Whether each provider's gate is closed."""
        return {provider: not self._open[provider].is_set() for provider in PROVIDERS}


class RateLimits:
    """Limits the requests of each provider in a sliding window."""

    def __init__(self, per_minute: dict[str, int]) -> None:
        self._limits = dict(per_minute)
        self._window = WINDOW_SECONDS
        self._admitted: dict[str, deque[float]] = {}

    def set(self, provider: str, requests: int | None, window: float = WINDOW_SECONDS) -> None:
        """Admit `requests` in any `window` seconds, or any number (None). The window starts empty."""
        self._admitted.pop(provider, None)
        self._window = window
        if requests is None:
            self._limits.pop(provider, None)
        else:
            self._limits[provider] = requests

    def admit(self, provider: str) -> None:
        """Count one request.

        Raises:
            Refusal: the limit is reached; its `retry_after` is the time until the window has room.
        """
        limit = self._limits.get(provider)
        if limit is None:
            return
        now = monotonic()
        recent = self._admitted.setdefault(provider, deque())
        while recent and recent[0] <= now - self._window:
            recent.popleft()
        if len(recent) >= limit:
            wait = recent[0] + self._window - now if recent else self._window
            raise Refusal("rate_limit", retry_after=max(1, ceil(wait)), limit=limit)
        recent.append(now)

    def as_json(self) -> dict[str, object]:
        return {"window_seconds": self._window, "requests": dict(self._limits)}


class State:
    def __init__(self, config: Config) -> None:
        self.config = config
        self.prefixes = Prefixes()
        self.answers = Answers(config.seed, config.context_window, config.noise)
        self.recordings = Recordings(config.transcript_directories, config.seed)
        self.requests = RequestLog(config.log)
        self.stored = StoredCompletions(config.log.with_suffix(".stored.jsonl") if config.log else None)
        self.gate = Gate()
        self.batches: defaultdict[str, dict[str, Batch]] = defaultdict(dict)
        self.batch_numbers = itertools.count(1)
        self.files: dict[str, bytes] = {}
        self.closing = asyncio.Event()
        self._apply_config()

    def reset(self) -> None:
        """Return to the state at the start: no requests, completions or faults, open gates, configured latency."""
        self.requests.reset()
        self.stored.reset()
        self.prefixes.reset()
        self.batches.clear()
        self.files.clear()
        self.gate.set(None, closed=False)
        self._apply_config()

    def close(self) -> None:
        self.closing.set()
        self.requests.close()
        self.stored.close()

    def _apply_config(self) -> None:
        self.faults = FaultPlan()
        self.latency = self.config.latency
        self.batch_seconds = self.config.batch_seconds
        self.limits = RateLimits(self.config.rate_limits)
