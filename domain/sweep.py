"""The housekeeping job `Sweep`: its contract."""

from pydantic import Field

from domain.calls import Model

WORKFLOW = "Sweep"


class SweepInput(Model):
    """How many stale requests to read at a time; a round looks at all of them."""

    batch: int = Field(default=200, gt=0)


class SweepReport(Model):
    """How many stale requests were looked at, and how many were ended."""

    looked_at: int
    ended: int
