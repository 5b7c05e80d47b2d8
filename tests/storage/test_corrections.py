"""Uncertain costs that a provider's list decides."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from parley.domain.costs import BilledAttempt, Correction
from parley.domain.errors import Billed
from parley.domain.requests import Provider, Usage
from parley.storage import corrections, ledger
from parley.storage.tables import CostCorrection, Generation, utc_now
from tests.storage.ledger_fixture import (
    BOUND,
    COST,
    EXPIRED,
    JOB,
    NOTHING,
    PRICE,
    RATES,
    USAGE,
    USER,
    LedgerFixture,
    reply,
)


def listed(attempt: UUID, **details: Any) -> BilledAttempt:
    return BilledAttempt(source="line 2", attempt_id=attempt, **{"cost_usd": COST, **details})


async def reconciled(
    books: LedgerFixture, billed: Sequence[BilledAttempt], until: datetime | None = None
) -> list[Correction]:
    async with books.database.transaction() as tx:
        found = await corrections.find(tx, books.workspace, billed, until)
    for one in found:
        async with books.database.transaction() as tx:
            assert await corrections.apply(tx, books.workspace, one)
    return found


@pytest.fixture
async def lost(books: LedgerFixture) -> UUID:
    attempt = await books.granted("lost", terms=EXPIRED)
    await books.sweep("lost")
    return attempt


async def test_an_attempt_in_the_list_is_confirmed_at_its_cost_with_an_entry(books: LedgerFixture, lost: UUID):
    failed = await books.granted("failed")
    await books.fail(failed, Billed.UNKNOWN)
    assert await books.dollars() == (NOTHING, NOTHING, 2 * BOUND)
    found = await reconciled(books, [listed(lost), listed(failed)])
    assert [one.attempt_id for one in found] == [lost, failed]
    assert await books.dollars() == await books.day() == (NOTHING, 2 * COST, NOTHING)
    entries = await books.all(CostCorrection, attempt_id=lost)
    assert [(one.source, one.upper_bound_usd, one.cost_usd) for one in entries] == [("line 2", BOUND, COST)]
    row = await books.row(lost)
    assert (row.confirmed, row.cost_usd, row.outcome) == (True, COST, "lost")


async def test_a_repetition_changes_nothing(books: LedgerFixture, lost: UUID):
    [correction] = await reconciled(books, [listed(lost)])
    assert await reconciled(books, [listed(lost)]) == []
    async with books.database.transaction() as tx:
        assert not await corrections.apply(tx, books.workspace, correction)
    assert len(await books.all(CostCorrection)) == 1


async def test_a_list_of_tokens_is_priced_at_the_attempts_rates(books: LedgerFixture, lost: UUID):
    tokens = {"input_tokens": USAGE.input_tokens, "output_tokens": USAGE.output_tokens, "cost_usd": None}
    [correction] = await reconciled(books, [listed(lost, **tokens)])
    assert correction.cost_usd == Decimal("0.002000")  # 1000 at $1 and 200 at $5 a million
    assert (await books.row(lost)).tokens_total == 1200


async def test_tokens_of_the_vendors_cache_have_their_own_price(books: LedgerFixture, lost: UUID):
    tokens = {"input_tokens": 1000, "cached_input_tokens": 600, "output_tokens": 200, "cost_usd": None}
    [correction] = await reconciled(books, [listed(lost, **tokens)])
    expected = Decimal(400) * RATES.input + 600 * RATES.cached_input + 200 * RATES.output
    assert correction.cost_usd == expected / 1_000_000 < Decimal("0.002")


async def test_counts_that_cannot_be_true_decide_nothing(books: LedgerFixture, lost: UUID):
    assert await reconciled(books, [listed(lost, input_tokens=3 * 10**9, cost_usd=None)]) == []
    assert await books.dollars() == (NOTHING, NOTHING, BOUND)
    [correction] = await reconciled(books, [listed(lost, input_tokens=3 * 10**9)])
    assert correction.cost_usd == COST


async def test_an_attempt_that_is_listed_as_not_billed_cost_nothing(books: LedgerFixture, lost: UUID):
    await reconciled(books, [listed(lost, billed=False)])
    assert await books.dollars() == (NOTHING, NOTHING, NOTHING)


UNLISTED = RATES.model_copy(update={"price_class": "priority", "exact": False})


class TestAnswered:
    """An attempt with a reply whose cost is uncertain, because its price class or its counts are not known."""

    @pytest.mark.parametrize("outcome", ["won", "duplicate", "late"])
    async def test_it_is_confirmed_and_keeps_the_rest_of_its_row(self, books: LedgerFixture, outcome: str):
        attempt = await getattr(self, outcome)(books)
        before = await books.row(attempt)
        [correction] = await reconciled(books, [listed(attempt, cost_usd=2 * COST)])
        assert (correction.attempt_id, correction.cost_usd) == (attempt, 2 * COST)
        after = await books.row(attempt)
        assert (after.confirmed, after.cost_usd) == (True, 2 * COST)
        changed = {"confirmed", "cost_usd"}
        assert after.model_dump(exclude=changed) == before.model_dump(exclude=changed)
        assert (before.tokens_total, before.answered_by) == (1200, "vendor/model-1")
        assert await reconciled(books, [listed(attempt)]) == []

    async def test_counts_in_the_list_replace_counts_that_are_not_known(self, books: LedgerFixture):
        attempt = await books.granted()
        await books.settle(attempt, reply(usage=Usage(is_known=False)))
        await reconciled(books, [listed(attempt, cost_usd=None, input_tokens=1000, output_tokens=200)])
        row = await books.row(attempt)
        assert (row.tokens_total, row.cost_usd, row.energy_charged) == (1200, Decimal("0.002000"), PRICE)

    async def test_tokens_alone_do_not_price_a_class_whose_rates_are_not_known(self, books: LedgerFixture):
        attempt = await self.won(books)
        assert await reconciled(books, [listed(attempt, cost_usd=None, input_tokens=1000, output_tokens=200)]) == []
        assert await books.dollars() == (NOTHING, NOTHING, BOUND)

    async def won(self, books: LedgerFixture) -> UUID:
        attempt = await books.granted()
        await books.settle(attempt, rates=UNLISTED)
        return attempt

    async def duplicate(self, books: LedgerFixture) -> UUID:
        first, second = await books.taken_over()
        await books.settle(first)
        await books.settle(second, rates=UNLISTED)
        return second

    async def late(self, books: LedgerFixture) -> UUID:
        attempt = await books.granted(terms=EXPIRED)
        await books.sweep()
        await books.settle(attempt, rates=UNLISTED)
        return attempt


class TestAbsent:
    """What an attempt cost that the list lacks."""

    async def test_it_stays_uncertain_in_a_list_that_may_be_incomplete(self, books: LedgerFixture, lost: UUID):
        assert await reconciled(books, []) == []
        assert await books.dollars() == (NOTHING, NOTHING, BOUND)

    async def test_it_is_nothing_in_a_list_that_is_complete(self, books: LedgerFixture):
        first = await books.granted("first")
        await books.settle(first)
        absent = await books.granted("absent", terms=EXPIRED)
        await books.sweep("absent")
        [correction] = await reconciled(books, [listed(first)], utc_now() + timedelta(seconds=1))
        assert (correction.attempt_id, correction.cost_usd) == (absent, 0)
        assert correction.source == "not in the list"
        assert await books.dollars() == (NOTHING, COST, NOTHING)

    async def test_it_stays_uncertain_outside_the_time_and_the_providers_of_the_list(
        self, books: LedgerFixture, lost: UUID
    ):
        first = await books.granted("first")
        await books.settle(first)
        await books.granted("another provider", terms=EXPIRED, provider=Provider.OPENAI)
        await books.sweep("another provider")
        began = utc_now()
        await books.granted("later", terms=EXPIRED)
        await books.sweep("later")
        assert await reconciled(books, [listed(first)], began) == []


async def test_a_late_reply_replaces_the_corrected_cost(books: LedgerFixture, lost: UUID):
    await reconciled(books, [listed(lost, cost_usd=2 * COST)])
    await books.settle(lost)
    assert await books.dollars() == await books.day() == (NOTHING, COST, NOTHING)


async def test_the_cost_of_its_generation_follows(books: LedgerFixture, lost: UUID):
    async with books.database.transaction() as tx:
        tx.add(
            Generation(
                workspace_id=books.workspace,
                request_id=f"{JOB}/generate",
                job_key=JOB,
                fingerprint="asked",
                workflow_id="w",
                user_id=USER,
                action="ai_message",
                outcome="failed",
            )
        )
    await reconciled(books, [listed(lost)])
    [row] = await books.all(Generation)
    assert row.cost_usd == COST


@pytest.mark.parametrize("ends", ["settled", "failed"])
async def test_a_confirmed_cost_stays_when_a_late_end_knows_none(books: LedgerFixture, lost: UUID, ends: str):
    """A late reply whose counts cannot be true, or a late timeout, does not make the cost uncertain again."""
    await reconciled(books, [listed(lost)])
    if ends == "failed":
        await books.fail(lost, Billed.UNKNOWN)
    else:
        async with books.database.transaction() as tx:
            await ledger.settle(tx, ledger.Settlement(books.workspace, lost, reply(), None, RATES))
    assert await books.states("lost") == [ends]
    assert await books.dollars() == (NOTHING, COST, NOTHING)
