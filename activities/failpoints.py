"""Named places where a test makes a worker die or freeze, so that kill points are exact and need no sleeps."""

import os
import signal
from typing import Literal

Point = Literal["claiming", "claimed", "called", "settling", "settled"]
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


class Failpoints:
    """Parsed from PARLEY_FAILPOINTS, for example `called=kill` or `claimed=stop`. Empty in production."""

    def __init__(self, spec: str) -> None:
        pairs = (entry.split("=", 1) for entry in spec.split(",") if entry)
        self._signals = {point: SIGNALS[action] for point, action in pairs}

    def reach(self, point: Point) -> None:
        """End or freeze this very process if the point is armed; a frozen one goes on after SIGCONT."""
        armed = self._signals.get(point)
        if armed is not None:
            os.kill(os.getpid(), armed)
