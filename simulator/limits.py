"""Requests per minute and provider, as a sliding window."""

from collections import deque
from math import ceil
from time import monotonic

from simulator.wire import Refusal

WINDOW_SECONDS = 60.0


class RateLimits:
    def __init__(self, per_minute: dict[str, int]) -> None:
        self._per_minute = dict(per_minute)
        self._window = WINDOW_SECONDS
        self._admitted: dict[str, deque[float]] = {}

    def set(self, provider: str, requests: int | None, window: float = WINDOW_SECONDS) -> None:
        """Admit `requests` in any `window` seconds, or any number (None). Starts with an empty window."""
        self._admitted.pop(provider, None)
        self._window = window
        if requests is None:
            self._per_minute.pop(provider, None)
        else:
            self._per_minute[provider] = requests

    def admit(self, provider: str) -> None:
        """Count one request, or refuse it and say when the next one has room."""
        limit = self._per_minute.get(provider)
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
        return {"window_seconds": self._window, "requests": dict(self._per_minute)}
