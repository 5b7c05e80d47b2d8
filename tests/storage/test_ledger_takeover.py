"""Two attempts at one request: an expired owner is replaced, and its reply may still arrive."""

from decimal import Decimal
from uuid import UUID

import pytest

from parley.domain.errors import Billed
from parley.domain.requests import Provider
from parley.storage.database import Database
from parley.storage.ledger import Granted, Settled
from parley.storage.tables import JournaledReply
from tests.storage.ledger_fixture import (
    BOUND,
    COST,
    EXPIRED,
    JOB,
    NOTHING,
    PRICE,
    STEP,
    USAGE,
    USER,
    LedgerFixture,
    reply,
)


async def test_an_expired_owner_is_replaced_and_its_bound_becomes_uncertain(books: LedgerFixture):
    lost, _ = await books.taken_over()
    assert await books.states() == ["lost", "open"]
    row = await books.row(lost)
    assert (row.outcome, row.confirmed, row.cost_usd, row.energy_charged) == ("lost", False, BOUND, 0)
    assert await books.dollars() == (BOUND, NOTHING, BOUND)
    assert await books.energy() == (0, PRICE)


async def test_a_late_reply_that_comes_first_wins(books: LedgerFixture):
    late, owner = await books.taken_over()
    assert (await books.settle(late, reply("late"))).attempt_id == late
    answered = await books.settle(owner, reply("second"))
    assert (answered.reply.text, answered.attempt_id) == ("late", late)
    assert await books.states() == ["settled", "duplicate"]
    assert [row.energy_charged for row in (await books.row(late), await books.row(owner))] == [PRICE, 0]
    assert await books.dollars() == (NOTHING, 2 * COST, NOTHING)
    assert await books.energy() == (PRICE, 0)
    assert len(await books.all(JournaledReply)) == 1
    assert await books.events() == ["ai_generation_completed"]


async def test_a_late_reply_that_comes_second_is_the_duplicate(books: LedgerFixture):
    late, owner = await books.taken_over()
    await books.settle(owner, reply("first"))
    answered = await books.settle(late, reply("late"))
    assert (answered.reply.text, answered.attempt_id) == ("first", owner)
    assert await books.states() == ["duplicate", "settled"]
    row = await books.row(late)
    assert (row.outcome, row.confirmed, row.cost_usd, row.energy_charged) == ("duplicate", True, COST, 0)
    assert await books.dollars() == (NOTHING, 2 * COST, NOTHING)
    assert await books.energy() == (PRICE, 0)


async def test_a_duplicate_settled_again_is_still_counted_once(books: LedgerFixture):
    late, owner = await books.taken_over()
    await books.settle(owner)
    assert await books.settle(late) == await books.settle(late)
    assert await books.dollars() == (NOTHING, 2 * COST, NOTHING)
    assert len(await books.rows()) == 2


async def test_the_audit_is_clean_while_the_second_attempt_is_still_under_way(books: LedgerFixture):
    late, owner = await books.taken_over()
    await books.settle(late)
    assert await books.states() == ["settled", "open"]
    assert await books.disagreements() == []
    assert await books.renew(owner)
    assert isinstance(await books.claim(), Settled)
    await books.fail(owner, Billed.UNKNOWN)
    assert await books.dollars() == (NOTHING, COST, BOUND)
    assert await books.energy() == (PRICE, 0)


async def test_an_attempt_that_dies_after_another_won_is_swept(books: LedgerFixture):
    late, expired = await books.granted(terms=EXPIRED), await books.granted(terms=EXPIRED)
    await books.settle(late)
    assert await books.sweep()
    assert await books.states() == ["settled", "lost"]
    assert await books.dollars() == (NOTHING, COST, BOUND)
    assert (await books.row(expired)).confirmed is False
    assert await books.energy() == (PRICE, 0)
    assert not await books.sweep()


@pytest.mark.parametrize(
    ("billed", "counted", "confirmed", "cost"),
    [
        (Billed.NO, {}, True, NOTHING),
        (Billed.YES, {"cost_usd": COST, "usage": USAGE}, True, COST),
        (Billed.UNKNOWN, {}, False, BOUND),
    ],
)
async def test_a_late_failure_of_a_lost_attempt_records_its_cost(
    books: LedgerFixture, billed: Billed, counted: dict, confirmed: bool, cost: Decimal
):
    lost, owner = await books.taken_over()
    await books.fail(lost, billed, **counted)
    row = await books.row(lost)
    assert (row.outcome, row.confirmed, row.cost_usd) == ("failed", confirmed, cost)
    assert await books.dollars() == (BOUND, *((cost, NOTHING) if confirmed else (NOTHING, cost)))
    assert await books.energy() == (0, PRICE), "the second attempt's reservation is unchanged"
    await books.settle(owner)
    assert await books.energy() == (PRICE, 0)


async def test_a_sweep_leaves_a_live_lease_alone(books: LedgerFixture):
    await books.granted()
    assert not await books.sweep()
    assert await books.states() == ["open"]


async def test_a_sweep_frees_the_energy_and_keeps_the_uncertain_dollars(books: LedgerFixture):
    await books.granted(terms=EXPIRED)
    assert await books.sweep()
    assert await books.states() == ["lost"]
    assert await books.energy() == (0, 0)
    assert await books.dollars() == (NOTHING, NOTHING, BOUND)
    assert not await books.sweep(), "a second sweep finds nothing"


async def test_a_reply_after_the_sweep_is_settled_and_charged(books: LedgerFixture):
    swept = await books.granted(terms=EXPIRED)
    await books.sweep()
    assert (await books.settle(swept)).attempt_id == swept
    assert await books.energy() == (PRICE, 0)
    assert await books.dollars() == (NOTHING, COST, NOTHING)
    assert (await books.movements())[-2:] == [("reserve", PRICE), ("charge", PRICE)]


async def test_a_reply_after_the_sweep_never_overdraws(database):
    books = await LedgerFixture(database).open(energy_granted=PRICE)
    swept = await books.granted(terms=EXPIRED)
    await books.sweep()
    await books.granted("another step takes what was freed")
    await books.settle(swept)
    assert await books.energy() == (0, PRICE)
    assert (await books.row(swept)).energy_charged == 0


async def test_a_request_that_was_swept_can_be_claimed_again(books: LedgerFixture):
    await books.granted(terms=EXPIRED)
    await books.sweep()
    second = await books.claim()
    assert isinstance(second, Granted)
    assert await books.energy() == (0, PRICE)
    await books.settle(second.attempt_id)
    assert await books.states() == ["lost", "settled"]


async def test_a_fallback_and_a_late_reply_of_the_first_provider_charge_once(books: LedgerFixture):
    first = await books.granted(terms=EXPIRED)
    leg = await books.granted(provider=Provider.OPENAI)
    await books.settle(first)
    answered = await books.settle(leg)
    assert (answered.attempt_id, answered.provider) == (first, Provider.ANTHROPIC)
    assert await books.energy() == (PRICE, 0)


async def test_three_owners_in_a_row_cost_what_each_cost(books: LedgerFixture):
    first, second, third = [await books.granted(terms=EXPIRED) for _ in range(3)]
    assert await books.dollars() == (BOUND, NOTHING, 2 * BOUND)
    await books.settle(second)
    await books.fail(first, Billed.NO)
    await books.settle(third)
    assert await books.states() == ["failed", "settled", "duplicate"]
    assert await books.dollars() == (NOTHING, 2 * COST, NOTHING)
    assert await books.energy() == (PRICE, 0)


class TestASupersededAttempt:
    """A further request for the same result does not wait for its lease, and has its energy."""

    async def further(self, books: LedgerFixture, earlier: UUID) -> UUID:
        claimed = await books.claim("further", supersedes=earlier, result_id=f"{JOB}/{STEP}")
        assert isinstance(claimed, Granted)
        return claimed.attempt_id

    async def test_is_lost_and_its_users_last_energy_is_reserved_for_the_further_request(self, database: Database):
        books = await LedgerFixture(database).open(energy_granted=PRICE, user=USER)
        earlier = await books.granted()
        further = await self.further(books, earlier)
        assert await books.states() == ["lost"]
        assert (await books.dollars(), await books.energy()) == ((BOUND, NOTHING, BOUND), (0, PRICE))
        await books.settle(further)
        assert await books.energy() == (PRICE, 0)
        assert (await books.request()).owner_attempt_id is None

    @pytest.mark.parametrize("first", ["earlier", "further"])
    async def test_that_replies_after_all_is_charged_or_the_other_is(self, books: LedgerFixture, first: str):
        attempts = {"earlier": await books.granted()}
        attempts["further"] = await self.further(books, attempts["earlier"])
        for name in sorted(attempts, key=lambda name: name != first):
            await books.settle(attempts[name])
        assert (await books.energy(), await books.dollars()) == ((PRICE, 0), (NOTHING, 2 * COST, NOTHING))
        assert {row.outcome for row in await books.rows()} == {"settled"}
        assert (await books.row(attempts[first])).energy_charged == PRICE

    async def test_that_has_ended_stays_as_it_is(self, books: LedgerFixture):
        earlier = await books.granted()
        await books.settle(earlier)
        further = await self.further(books, earlier)
        assert await books.states() == ["settled"]
        await books.settle(further)
        assert await books.energy() == (PRICE, 0)
