"""What one running simulator knows: everything that the endpoints and the admin page share."""

import asyncio

from simulator.answers import Answers
from simulator.billing import CallLog
from simulator.config import Config
from simulator.faults import FaultPlan
from simulator.gate import Gate
from simulator.limits import RateLimits
from simulator.recordings import Recordings
from simulator.stored import StoredCompletions


class State:
    def __init__(self, config: Config) -> None:
        self.config = config
        self.answers = Answers(config.seed, config.context_window, config.noise)
        self.recordings = Recordings(config.transcript_directories, config.seed)
        self.calls = CallLog(config.log)
        self.stored = StoredCompletions(config.log.with_suffix(".stored.jsonl") if config.log else None)
        self.gate = Gate()
        self.closing = asyncio.Event()
        self._start_afresh()

    def reset(self) -> None:
        """Back to how it was started: no calls, nothing stored, no faults, open gates, configured pace and limits."""
        self.calls.reset()
        self.stored.reset()
        self.gate.set(None, closed=False)
        self._start_afresh()

    def close(self) -> None:
        self.closing.set()
        self.calls.close()
        self.stored.close()

    def _start_afresh(self) -> None:
        self.faults = FaultPlan()
        self.latency = self.config.latency
        self.limits = RateLimits(self.config.rate_limits)
