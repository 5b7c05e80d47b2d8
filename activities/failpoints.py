"""Named points at which a test kills, stops or holds a worker, so that kill points are exact and need no sleeps."""

import asyncio
import logging
import os
import signal
from typing import Literal

Point = Literal[
    "claiming",
    "claimed",
    "first_token",
    "mid_text",
    "last_token",
    "called",
    "settling",
    "settled",
    "submitting",
    "submitted",
]
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
HELD = "held at the failpoint"
logger = logging.getLogger(__name__)


class Failpoints:
    """Parsed from PARLEY_FAILPOINTS, for example `called=kill` or `claimed=stop`. Empty in production.

    A stream has three points of its own: after the first delta was sent, after the fifth, and after the last one,
    before the reply is recorded. A batch has two: before it is sent, and before it is recorded that it was.

    `claimed=hold:7` blocks the next seven jobs that reach the point for ever, and logs each. A job that is held at one
    point passes all others, and its retries are held at the same point. `job`: the id of its workflow.
    """

    def __init__(self, spec: str) -> None:
        pairs = (entry.split("=", 1) for entry in spec.split(",") if entry)
        self._actions = {point: action.partition(":") for point, action in pairs}
        self._held: dict[str, Point] = {}

    async def reach(self, point: Point, job: str) -> None:
        """Kill or stop this process, or wait, if the point is armed. A stopped process continues after SIGCONT."""
        action, _, most = self._actions.get(point, ("", "", ""))
        if action == "hold":
            await self._hold(point, int(most), job)
        elif action:
            os.kill(os.getpid(), SIGNALS[action])

    async def _hold(self, point: Point, most: int, job: str) -> None:
        if job not in self._held and list(self._held.values()).count(point) < most:
            self._held[job] = point
            logger.warning("%s %s", HELD, point)
        if self._held.get(job) == point:
            await asyncio.Event().wait()
