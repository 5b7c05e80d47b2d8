"""Random schedules of the ledger's operations, with faults, break no invariant; in a faulty ledger they do."""

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from parley.domain.budgets import Period
from parley.storage import budgets, ledger, paid_requests
from tests.ledger_checker.actors import Violation
from tests.ledger_checker.checker import checking
from tests.ledger_checker.schedules import (
    LEASE_SECONDS,
    Claim,
    Cut,
    End,
    Outcome,
    Reconcile,
    Schedule,
    SetCap,
    Sweep,
    Turn,
    Wait,
)

Mutation = Callable[[pytest.MonkeyPatch], None]
# Few, because each takes about a third of a second; `python -m benchmarks ledger` runs many.
SCHEDULES = 10


async def test_no_schedule_breaks_an_invariant(database_url: str):
    async with checking(database_url) as checker:
        found = await checker.search(SCHEDULES)
        counts = await checker.counts()
    assert found is None, str(found)
    done = ("claims granted", "settles", "sessions killed", "commits lost", "commits checked")
    assert all(counts[name] for name in done), counts


def take_over_a_held_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paid_requests, "lease_left", lambda request, now: 0.0)


def count_a_late_reply_as_the_winner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "_book_duplicate", ledger._book_winner)


def compare_no_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    reserve_day = budgets.reserve_day

    async def reserve(tx: AsyncSession, workspace: str, moment: datetime, usd: Decimal, *, is_capped: bool) -> None:
        await reserve_day(tx, workspace, moment, usd, is_capped=False)

    monkeypatch.setattr(budgets, "reserve_day", reserve)


def lock_no_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two settlements at once then both win: only the order of their statements shows it."""
    unlocked: Any = paid_requests.LOCK_WITH_ATTEMPT.execution_options()
    unlocked._for_update_arg = None
    monkeypatch.setattr(paid_requests, "LOCK_WITH_ATTEMPT", unlocked)


def forget_a_confirmed_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "_known_cost", lambda attempt, cost_usd: cost_usd)


def claim(bounds: int = 1, outcome: Outcome = Outcome.CHEAP) -> Claim:
    return Claim(workspace=0, request=0, outcome=outcome, bounds=bounds, provider=0)


def end(attempt: int) -> End:
    return End(attempt, trips_breaker=False)


# For each fault, a schedule that shows it: what each actor does, and in which order.
FAULTS: dict[Mutation, Schedule] = {
    take_over_a_held_lease: Schedule(((claim(), claim()), (), ())),
    count_a_late_reply_as_the_winner: Schedule(((claim(), Wait(LEASE_SECONDS + 1), claim(), end(0), end(1)), (), ())),
    compare_no_cap: Schedule(((SetCap(0, Period.DAY, bounds=1), claim(bounds=2)), (), ())),
    forget_a_confirmed_cost: Schedule(
        ((claim(outcome=Outcome.UNCOUNTED), Cut(attempt=0), Reconcile(workspace=0), end(0)), (), ())
    ),
    lock_no_attempt: Schedule(((claim(), end(0)), (Sweep(), end(0)), ()), (Turn(0),) * 2 + (Turn(1), Turn(0)) * 20),
}


@pytest.mark.parametrize("mutate", FAULTS, ids=lambda mutate: mutate.__name__)
async def test_a_faulty_ledger_is_found(database_url: str, monkeypatch: pytest.MonkeyPatch, mutate: Mutation):
    async with checking(database_url) as checker:
        await checker.run(FAULTS[mutate])
        mutate(monkeypatch)
        with pytest.raises(Violation):
            await checker.run(FAULTS[mutate])
