"""The housekeeping job `Sweep`: its contract."""

from domain.calls import Model

WORKFLOW = "Sweep"


class SweepReport(Model):
    """How many stale requests were looked at, and how many were ended."""

    looked_at: int
    ended: int
