"""Random schedules of the ledger's operations, with faults, break no invariant; in a faulty ledger they do."""

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from parley.storage import budgets, ledger, paid_requests
from tests.ledger_checker.checker import checking
from tests.ledger_checker.schedules import Claim, End, Operation, SetCap, Wait

Mutation = Callable[[pytest.MonkeyPatch], None]
# Few, because each takes about a third of a second; `python -m benchmarks ledger` runs many.
SCHEDULES = 12


async def test_no_schedule_breaks_an_invariant(database_url: str):
    async with checking(database_url) as checker:
        found = await checker.search(SCHEDULES)
        counts = await checker.counts()
    assert found is None, str(found)
    done = ("claims granted", "takeovers", "settles", "sessions killed", "answers of commits lost", "commits checked")
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


# For each fault, the operations that show it, so that few schedules are needed; and the rule that is broken.
FAULTS: dict[Mutation, tuple[tuple[type[Operation], ...], str]] = {
    take_over_a_held_lease: ((Claim, End), "a lease that is held is not taken over"),
    count_a_late_reply_as_the_winner: ((Claim, End, Wait), "a settled request has one winner"),
    compare_no_cap: ((Claim, SetCap), "a claim stays within every cap"),
    lock_no_attempt: ((Claim, End), ""),
}


@pytest.mark.parametrize("mutate", FAULTS, ids=lambda mutate: mutate.__name__)
async def test_a_faulty_ledger_is_found(database_url: str, monkeypatch: pytest.MonkeyPatch, mutate: Mutation):
    mutate(monkeypatch)
    kinds, rule = FAULTS[mutate]
    async with checking(database_url) as checker:
        found = await checker.search(100, kinds=kinds, simplifying=0)
    assert found
    assert rule in str(found.violation)
