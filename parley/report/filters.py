"""How numbers and times are written on a page."""

from datetime import UTC, datetime, timedelta

NONE = "–"


def moment(time: datetime | None, *, seconds: bool = False) -> str:
    """A time in UTC, which the page says once."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d %H:%M") if time else NONE


def percent(share: float | None) -> str:
    """A share from 0 to 1."""
    return NONE if share is None else f"{share:.1%}"


def duration(seconds: float | timedelta | None) -> str:
    """A duration in its most readable unit."""
    if seconds is None:
        return NONE
    value = seconds.total_seconds() if isinstance(seconds, timedelta) else float(seconds)
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def milliseconds(amount: float | None) -> str:
    """A duration that is given in milliseconds."""
    return duration(None if amount is None else amount / 1000)


def clock(seconds: float) -> str:
    """A place in a session: minutes and seconds."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02}"


def number(count: float | None) -> str:
    """A number with separators between thousands."""
    return NONE if count is None else f"{count:,}"


def figure(value: float | None) -> str:
    """A value of a table, with three digits."""
    return NONE if value is None else f"{value:.3g}"
