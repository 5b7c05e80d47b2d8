"""Breakers: one per provider and workspace, and one per provider for the fleet, as rows that are written on change.

Closed: no `open_until`. Open: requests are refused until then; after that one conditional UPDATE grants one probe,
which expires because its holder may crash. Every change of state starts a new generation, and the
outcome of an attempt of an older generation is ignored: a late success cannot close a breaker that opened since.

A request passes both breakers, and its outcome counts in both. A workspace with a key of its own has only its own
breaker: the fleet's is about the key that the others share. The fleet's row is always locked first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, bindparam, case, func, literal, or_, select, update
from sqlalchemy.dialects.postgresql import array, insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from parley.domain.breaker import FLEET_WORKSPACES, opens
from parley.domain.errors import BreakerOpen
from parley.domain.requests import Provider
from parley.storage.database import NOW
from parley.storage.driver import Query
from parley.storage.tables import Breaker

# In place of a workspace: the breaker of all that share the provider's key.
FLEET = ""
ROW = (
    select(Breaker)
    .where(col(Breaker.provider) == bindparam("provider"), col(Breaker.workspace_id) == bindparam("scope"))
    .execution_options(populate_existing=True)
)
OPEN = select(Breaker, NOW.label("now")).where(
    col(Breaker.workspace_id).in_((FLEET, bindparam("workspace"))), col(Breaker.open_until).is_not(None)
)
# A success has failures or an open state to reset.
TROUBLED = or_(col(Breaker.failures) > 0, col(Breaker.open_until).is_not(None))


def _closed_generation(workspace: ColumnElement[str]) -> ColumnElement[int]:
    """The breaker's generation while it is closed, else -1."""
    row = select(case((col(Breaker.open_until).is_(None), col(Breaker.generation)), else_=-1)).where(
        col(Breaker.provider) == bindparam("provider"), col(Breaker.workspace_id) == workspace
    )
    return func.coalesce(row.scalar_subquery(), 0)


# Part of a statement that every paid call runs anyway: the fields of `Passes`.
CLOSED_GENERATIONS = (_closed_generation(bindparam("breaker_workspace")), _closed_generation(literal(FLEET)))


class Passes(NamedTuple):
    """The generations of the breakers that a request passed. `fleet`: None with the workspace's own key."""

    own: int
    fleet: int | None


def passed(closed: Passes, *, shares_key: bool) -> Passes | None:
    """The passes of a request whose breakers are closed, from `CLOSED_GENERATIONS`; None if one is not."""
    passes = closed if shares_key else closed._replace(fleet=None)
    return None if any(generation is not None and generation < 0 for generation in passes) else passes


def is_troubled(provider: ColumnElement[str], workspace_id: ColumnElement[str]) -> ColumnElement[bool]:
    """Whether a breaker of the workspace has failures or is open: only then does `succeeded` write anything.

    A failure that is counted while the statement waits for a lock is not seen: it came after this success.
    """
    of_both = or_(col(Breaker.workspace_id) == FLEET, col(Breaker.workspace_id) == workspace_id)
    return select(Breaker).where(col(Breaker.provider) == provider, of_both, TROUBLED).exists()


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


async def look(tx: AsyncSession, provider: Provider, workspace_id: str = FLEET) -> BreakerView:
    """Read a workspace's own breaker, or the fleet's, without taking the probe."""
    query = ROW.add_columns(NOW)
    row = (await tx.execute(query, {"provider": provider.value, "scope": workspace_id})).first()
    if row is None:
        return BreakerView(generation=0, failures=0, wait_seconds=0)
    breaker, now = row
    return BreakerView(breaker.generation, breaker.failures, _wait(breaker, now))


@dataclass(frozen=True)
class Waits:
    """Seconds for which open breakers refuse a workspace's requests, by provider. Closed breakers are not included."""

    own: Mapping[Provider, float]
    fleet: Mapping[Provider, float]

    def of(self, provider: Provider, *, shares_key: bool) -> float:
        """Seconds until a request may pass. `shares_key`: the workspace has no key of its own for the provider."""
        fleet = self.fleet.get(provider, 0.0) if shares_key else 0.0
        return max(self.own.get(provider, 0.0), fleet)


def waits(workspace_id: str = FLEET) -> Query[Waits]:
    """For how long breakers refuse a workspace's requests; by default those of the fleet alone."""

    def read(rows: Sequence[Any]) -> Waits:
        own: dict[Provider, float] = {}
        fleet: dict[Provider, float] = {}
        for row in rows:
            if wait := _wait(row, row.now):
                (fleet if row.workspace_id == FLEET else own)[Provider(row.provider)] = wait
        return Waits(own, fleet)

    return Query(OPEN, {"workspace": workspace_id}, read)


async def _row(tx: AsyncSession, provider: Provider, scope: str) -> Breaker | None:
    """The current row, not the one that the session has cached."""
    return (await tx.execute(ROW, {"provider": provider.value, "scope": scope})).scalar()


def _wait(breaker: Any, now: datetime) -> float:
    held = [until for until in (breaker.open_until, breaker.probe_until) if until and until > now]
    return max(((until - now).total_seconds() for until in held), default=0.0)


def _is(provider: Provider, scope: str) -> ColumnElement[bool]:
    return (col(Breaker.provider) == provider.value) & (col(Breaker.workspace_id) == scope)


def _by_scope(workspace_id: str, passes: Passes) -> list[tuple[str, int]]:
    """The breakers that a request passed, in the order of their locks."""
    fleet = [] if passes.fleet is None else [(FLEET, passes.fleet)]
    return [*fleet, (workspace_id, passes.own)]


async def pass_through(
    tx: AsyncSession, provider: Provider, workspace_id: str, terms: BreakerTerms, *, shares_key: bool
) -> Passes:
    """Let one request pass, as the probe of each breaker that is due for one.

    Raises:
        BreakerOpen: with the seconds to wait. The transaction must roll back, so that no probe is used up.
    """
    fleet = await _pass(tx, provider, FLEET, terms) if shares_key else None
    return Passes(await _pass(tx, provider, workspace_id, terms), fleet)


async def _pass(tx: AsyncSession, provider: Provider, scope: str, terms: BreakerTerms) -> int:
    row = await _row(tx, provider, scope)
    if row is None or row.open_until is None:
        return row.generation if row else 0
    probe = await tx.execute(
        update(Breaker)
        .where(
            _is(provider, scope),
            col(Breaker.open_until) <= NOW,
            or_(col(Breaker.probe_until).is_(None), col(Breaker.probe_until) <= NOW),
        )
        .values(probe_until=NOW + timedelta(seconds=terms.probe_seconds), generation=Breaker.generation + 1)
        .returning(col(Breaker.generation))
    )
    generation = probe.scalar()
    if generation is not None:
        return generation
    view = await look(tx, provider, scope)
    if view.wait_seconds == 0:  # it closed, or a probe became free, while the UPDATE waited for another transaction
        return await _pass(tx, provider, scope, terms)
    whose = "the fleet's breaker" if scope == FLEET else "the workspace's breaker"
    raise BreakerOpen(provider.value, f"held back by {whose}", retry_after=view.wait_seconds)


async def succeeded(tx: AsyncSession, provider: Provider, workspace_id: str, passes: Passes) -> None:
    """Reset the failures after a complete reply, and close a breaker if this was its probe. See `is_troubled`."""
    for scope, generation in _by_scope(workspace_id, passes):
        await tx.execute(
            update(Breaker)
            .where(_is(provider, scope), col(Breaker.generation) == generation, TROUBLED)
            .values(
                failures=0,
                failing=[],
                open_until=None,
                probe_until=None,
                # The generation of a closed breaker is unchanged, so that the outcomes of requests in flight count.
                generation=Breaker.generation + case((col(Breaker.open_until).is_(None), 0), else_=1),
            )
        )


async def failed(tx: AsyncSession, provider: Provider, workspace_id: str, passes: Passes, terms: BreakerTerms) -> None:
    """Count a failure, and open a breaker by the rule of `domain.breaker`, or if this was its probe."""
    for scope, generation in _by_scope(workspace_id, passes):
        await _failed(tx, provider, scope, workspace_id, generation, terms)


async def _failed(
    tx: AsyncSession, provider: Provider, scope: str, workspace_id: str, generation: int, terms: BreakerTerms
) -> None:
    closed = Breaker(provider=provider.value, workspace_id=scope)
    await tx.execute(insert(Breaker).values(**closed.model_dump()).on_conflict_do_nothing())
    failing = col(Breaker.failing)
    is_enough = func.cardinality(failing) >= FLEET_WORKSPACES
    counted = await tx.execute(
        update(Breaker)
        .where(_is(provider, scope), col(Breaker.generation) == generation)
        .values(
            failures=Breaker.failures + 1,
            failing=case(
                (or_(is_enough, failing.contains([workspace_id])), failing), else_=failing + array([workspace_id])
            ),
        )
        .returning(col(Breaker.failures), col(Breaker.open_until), func.cardinality(failing).label("workspaces"))
    )
    row = counted.first()
    # The only request of an open breaker's generation is its probe.
    if row is None or (
        row.open_until is None
        and not opens(row.failures, row.workspaces, threshold=terms.failures, is_fleet=scope == FLEET)
    ):
        return
    await tx.execute(
        update(Breaker)
        .where(_is(provider, scope))
        .values(
            open_until=NOW + timedelta(seconds=terms.open_seconds),
            probe_until=None,
            generation=Breaker.generation + 1,
        )
    )


async def not_counted(tx: AsyncSession, provider: Provider, workspace_id: str, passes: Passes) -> None:
    """Return the probes: the outcome says nothing about the provider's health (429, a refused key)."""
    for scope, generation in _by_scope(workspace_id, passes):
        await tx.execute(
            update(Breaker)
            .where(_is(provider, scope), col(Breaker.generation) == generation, col(Breaker.probe_until).is_not(None))
            .values(probe_until=None)
        )
