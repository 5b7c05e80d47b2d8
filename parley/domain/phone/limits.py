"""Whether another phone call fits the limits of its number."""

from decimal import Decimal

from parley.domain.model import Model
from parley.domain.phone.callers import is_withheld
from parley.domain.phone.settings import PhoneLimits


class Used(Model):
    """Phone calls that go on, and what they and those of today have used."""

    concurrent: int = 0
    minutes: float = 0
    usd: Decimal = Decimal(0)


class Use(Model):
    """What is used: of the workspace, of one number, and by one caller in the workspace."""

    workspace: Used = Used()
    number: Used = Used()
    caller: Used = Used()


def exceeded(limits: PhoneLimits, use: Use, caller: str) -> str | None:
    """The limit that leaves no room for another phone call, for example `caller_minutes`; None if there is room.

    Those who withhold their number are not one caller.
    """
    for whose in ("workspace", "number") if is_withheld(caller) else ("workspace", "number", "caller"):
        for what in ("concurrent", "minutes", "usd"):
            most = getattr(limits, f"{whose}_{what}")
            if most is not None and getattr(getattr(use, whose), what) >= most:
                return f"{whose}_{what}"
    return None
