"""One breaker per provider for the whole fleet, as a row that is written only on change.

Closed: no `open_until`. Open: requests are refused until then; after that one conditional UPDATE grants one probe,
which expires because its holder may crash. Every change of state starts a new generation, and the
outcome of an attempt of an older generation is ignored: a late success cannot close a breaker that opened since.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, bindparam, case, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from parley.domain.errors import BreakerOpen
from parley.domain.requests import Provider
from parley.storage.database import NOW
from parley.storage.tables import Breaker

ROW = select(Breaker).where(col(Breaker.provider) == bindparam("provider")).execution_options(populate_existing=True)
OPEN = select(Breaker, NOW).where(col(Breaker.open_until).is_not(None))
# A success has failures or an open state to reset.
TROUBLED = or_(col(Breaker.failures) > 0, col(Breaker.open_until).is_not(None))
# Part of statements that every paid call runs anyway: the breaker's generation while it is closed, else -1.
CLOSED_GENERATION = func.coalesce(
    select(case((col(Breaker.open_until).is_(None), col(Breaker.generation)), else_=-1))
    .where(col(Breaker.provider) == bindparam("provider"))
    .scalar_subquery(),
    0,
)


def is_troubled(provider: ColumnElement[str]) -> ColumnElement[bool]:
    """Whether the provider's breaker has failures or is open: only then does `succeeded` write anything.

    A failure that is counted while the statement waits for a lock is not seen: it came after this success.
    """
    return select(Breaker).where(col(Breaker.provider) == provider, TROUBLED).exists()


@dataclass(frozen=True)
class BreakerTerms:
    """When a breaker opens, for how long, and how long a probe may take."""

    failures: int
    open_seconds: float
    probe_seconds: float


@dataclass(frozen=True)
class BreakerView:
    """The state of a breaker now. `wait_seconds` is 0 if a request may pass."""

    generation: int
    failures: int
    wait_seconds: float


async def look(tx: AsyncSession, provider: Provider) -> BreakerView:
    """Read the breaker without taking the probe."""
    query = select(Breaker, NOW).where(col(Breaker.provider) == provider.value)
    row = (await tx.execute(query.execution_options(populate_existing=True))).first()
    if row is None:
        return BreakerView(generation=0, failures=0, wait_seconds=0)
    breaker, now = row
    return BreakerView(breaker.generation, breaker.failures, _wait(breaker, now))


async def waits(tx: AsyncSession) -> dict[Provider, float]:
    """Seconds for which each open breaker refuses requests. Providers with closed breakers are not included."""
    rows = (await tx.execute(OPEN)).all()
    return {Provider(breaker.provider): wait for breaker, now in rows if (wait := _wait(breaker, now)) > 0}


async def _row(tx: AsyncSession, provider: Provider) -> Breaker | None:
    """The current row, not the one that the session has cached."""
    return (await tx.execute(ROW, {"provider": provider.value})).scalar()


def _wait(breaker: Breaker, now: datetime) -> float:
    held = [until for until in (breaker.open_until, breaker.probe_until) if until and until > now]
    return max(((until - now).total_seconds() for until in held), default=0.0)


async def pass_through(tx: AsyncSession, provider: Provider, terms: BreakerTerms) -> int:
    """Let one request pass, as the probe if the breaker is due for one. Returns the request's generation.

    Raises:
        BreakerOpen: with the seconds to wait.
    """
    row = await _row(tx, provider)
    if row is None or row.open_until is None:
        return row.generation if row else 0
    probe = await tx.execute(
        update(Breaker)
        .where(
            col(Breaker.provider) == provider.value,
            col(Breaker.open_until) <= NOW,
            or_(col(Breaker.probe_until).is_(None), col(Breaker.probe_until) <= NOW),
        )
        .values(probe_until=NOW + timedelta(seconds=terms.probe_seconds), generation=Breaker.generation + 1)
        .returning(col(Breaker.generation))
    )
    generation = probe.scalar()
    if generation is not None:
        return generation
    view = await look(tx, provider)
    if view.wait_seconds == 0:  # it closed, or a probe became free, while the UPDATE waited for another transaction
        return await pass_through(tx, provider, terms)
    raise BreakerOpen(provider.value, "held back by the breaker", retry_after=view.wait_seconds)


async def succeeded(tx: AsyncSession, provider: Provider, generation: int) -> None:
    """Reset the failures after a complete reply, and close the breaker if this was its probe. See `is_troubled`."""
    await tx.execute(
        update(Breaker)
        .where(col(Breaker.provider) == provider.value, col(Breaker.generation) == generation, TROUBLED)
        .values(
            failures=0,
            open_until=None,
            probe_until=None,
            # The generation of a closed breaker is unchanged, so that the outcomes of requests in flight still count.
            generation=Breaker.generation + case((col(Breaker.open_until).is_(None), 0), else_=1),
        )
    )


async def failed(tx: AsyncSession, provider: Provider, generation: int, terms: BreakerTerms) -> None:
    """Count a failure, and open the breaker at the threshold or if this was its probe."""
    await tx.execute(insert(Breaker).values(**Breaker(provider=provider.value).model_dump()).on_conflict_do_nothing())
    counted = await tx.execute(
        update(Breaker)
        .where(col(Breaker.provider) == provider.value, col(Breaker.generation) == generation)
        .values(failures=Breaker.failures + 1)
        .returning(col(Breaker.failures), col(Breaker.open_until))
    )
    row = counted.first()
    # The only request of an open breaker's generation is its probe.
    if row is None or (row.failures < terms.failures and row.open_until is None):
        return
    await tx.execute(
        update(Breaker)
        .where(col(Breaker.provider) == provider.value)
        .values(
            open_until=NOW + timedelta(seconds=terms.open_seconds),
            probe_until=None,
            generation=Breaker.generation + 1,
        )
    )


async def not_counted(tx: AsyncSession, provider: Provider, generation: int) -> None:
    """Return the probe: the outcome says nothing about the provider's health (429, a refused key)."""
    await tx.execute(
        update(Breaker)
        .where(
            col(Breaker.provider) == provider.value,
            col(Breaker.generation) == generation,
            col(Breaker.probe_until).is_not(None),
        )
        .values(probe_until=None)
    )
