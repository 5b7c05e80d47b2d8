"""One attempt at a time: claim, renew, settle, fail."""

from decimal import Decimal
from uuid import uuid4

import pytest

from parley.domain.errors import Billed, BudgetExhausted, IdempotencyConflict, InsufficientEnergy, NotFound
from parley.domain.pricing import Rates, cost
from parley.domain.requests import Provider, Usage
from parley.storage.database import Database
from parley.storage.ledger import Granted, Held, Settled
from parley.storage.tables import Attempt, EnergyEntry, JournaledReply, PaidRequest
from tests.storage.ledger_fixture import BOUND, COST, EXPIRED, JOB, NOTHING, PRICE, RATES, USAGE, LedgerFixture, reply


async def test_costs_below_a_micro_dollar_add_up_exactly(books: LedgerFixture):
    tiny = RATES.model_copy(update={"input": Decimal("0.01"), "output": Decimal("0.02")})
    answer = reply(usage=Usage(input_tokens=3, output_tokens=1))
    for number in range(9):
        await books.settle(await books.granted(str(number)), answer, tiny)
    spent = Decimal("0.00000045")
    assert await books.dollars() == await books.day() == (NOTHING, spent, NOTHING)
    assert sum(row.cost_usd for row in await books.rows()) == spent


async def test_a_claim_reserves_the_bound_and_the_price(books: LedgerFixture):
    attempt_id = await books.granted()
    assert await books.dollars() == (BOUND, NOTHING, NOTHING)
    assert await books.energy() == (0, PRICE)
    (attempt,) = await books.attempts()
    assert (attempt.id, attempt.number, attempt.state) == (attempt_id, 1, "open")
    assert await books.rows() == []


async def test_settling_turns_the_reservation_into_the_charge(books: LedgerFixture):
    attempt_id = await books.granted()
    settled = await books.settle(attempt_id)
    assert (settled.reply, settled.attempt_id, settled.cost_usd) == (reply(), attempt_id, COST)
    assert (settled.provider, settled.model, settled.simulated) == (Provider.ANTHROPIC, "model-1", True)
    assert await books.dollars() == (NOTHING, COST, NOTHING)
    assert await books.energy() == (PRICE, 0)
    assert await books.states() == ["settled"]
    assert await books.events() == ["ai_generation_completed"]


async def test_a_usage_row_has_user_action_and_rates(books: LedgerFixture):
    attempt_id = await books.granted(prospect_id="prospect")
    await books.settle(attempt_id)
    row = await books.row(attempt_id)
    expected = {
        "workspace_id": "acme",
        "user_id": "ann",
        "prospect_id": "prospect",
        "action": "coaching",
        "provider": "anthropic",
        "model": "model-1",
        "answered_by": "vendor/model-1",
        "simulated": True,
        "tokens_prompt": 1000,
        "tokens_completion": 200,
        "tokens_total": 1200,
        "cost_usd": COST,
        "confirmed": True,
        "outcome": "settled",
        "energy_charged": PRICE,
        "job_key": "job",
        "request_id": "job/step",
        "attempt_id": attempt_id,
    }
    assert row.model_dump(include=set(expected)) == expected


async def test_the_rates_of_a_row_reproduce_its_cost_with_cached_tokens_at_their_own_rate(books: LedgerFixture):
    usage = Usage(input_tokens=10_000, cached_input_tokens=9_000, output_tokens=10)
    attempt_id = await books.granted()
    counted = RATES.model_copy(update={"input": Decimal(2), "source": "the class of prompts that it turned out to be"})
    await books.settle(attempt_id, reply(usage=usage), counted)
    row, (attempt,) = await books.row(attempt_id), await books.attempts()
    assert Rates.model_validate(row.rates) == Rates.model_validate(attempt.rates) == counted
    assert row.cost_usd == cost(usage, counted) == Decimal("0.002950")


async def test_a_settled_request_returns_its_journaled_reply_and_pays_nothing(books: LedgerFixture):
    winner = await books.granted()
    await books.settle(winner)
    again = await books.claim()
    assert isinstance(again, Settled)
    assert (again.reply, again.attempt_id) == (reply(), winner)
    assert await books.dollars() == (NOTHING, COST, NOTHING)
    assert await books.energy() == (PRICE, 0)
    assert await books.states() == ["settled"]


@pytest.mark.parametrize("settled", [False, True])
async def test_another_request_under_the_same_id_is_a_conflict(books: LedgerFixture, settled: bool):
    attempt_id = await books.granted()
    if settled:
        await books.settle(attempt_id)
    with pytest.raises(IdempotencyConflict, match="job/step"):
        await books.claim(fingerprint="something else")
    assert await books.states() == ["settled" if settled else "open"]


async def test_a_live_lease_is_held_and_nothing_is_reserved_twice(books: LedgerFixture):
    await books.granted()
    held = await books.claim()
    assert isinstance(held, Held)
    assert 0 < held.wait_seconds <= 60
    assert await books.dollars() == (BOUND, NOTHING, NOTHING)
    assert await books.energy() == (0, PRICE)


async def test_renewal_keeps_the_lease(books: LedgerFixture):
    attempt_id = await books.granted(terms=EXPIRED)
    assert await books.renew(attempt_id)
    assert isinstance(await books.claim(), Held)


async def test_a_lease_that_went_to_another_cannot_be_renewed(books: LedgerFixture):
    lost, owner = await books.taken_over()
    assert not await books.renew(lost)
    assert await books.renew(owner)


async def test_claiming_again_under_the_same_attempt_is_granted_once_and_holds_the_lease(books: LedgerFixture):
    attempt_id = await books.granted(terms=EXPIRED)
    assert await books.claim(attempt_id=attempt_id) == Granted(attempt_id)
    assert await books.states() == ["open"]
    assert await books.dollars() == (BOUND, NOTHING, NOTHING)
    assert isinstance(await books.claim(), Held)


@pytest.mark.parametrize("ended_by", ["sweeper", "successor"])
async def test_an_attempt_that_was_ended_meanwhile_cannot_be_claimed_again(books: LedgerFixture, ended_by: str):
    attempt_id = await books.granted(terms=EXPIRED)
    if ended_by == "sweeper":
        await books.sweep()
    else:
        await books.granted(terms=EXPIRED)
    assert await books.claim(attempt_id=attempt_id) == Held(0.0)
    assert (await books.attempts())[0].state == "lost"
    assert isinstance(await books.claim(), Granted)


async def test_settling_twice_changes_nothing(books: LedgerFixture):
    attempt_id = await books.granted()
    first = await books.settle(attempt_id)
    assert await books.settle(attempt_id, reply("another text")) == first
    assert await books.dollars() == (NOTHING, COST, NOTHING)
    assert await books.energy() == (PRICE, 0)
    assert await books.events() == ["ai_generation_completed"]
    assert len(await books.rows()) == 1


async def test_failing_twice_changes_nothing(books: LedgerFixture):
    attempt_id = await books.granted()
    await books.fail(attempt_id, Billed.UNKNOWN)
    await books.fail(attempt_id, Billed.NO)
    assert await books.dollars() == (NOTHING, NOTHING, BOUND)
    assert await books.movements() == [("reserve", PRICE), ("release", PRICE)]
    assert await books.events() == ["ai_generation_failed"]


async def test_failing_after_settling_changes_nothing(books: LedgerFixture):
    attempt_id = await books.granted()
    await books.settle(attempt_id)
    await books.fail(attempt_id, Billed.UNKNOWN)
    assert await books.states() == ["settled"]
    assert await books.dollars() == (NOTHING, COST, NOTHING)


async def test_an_unbilled_failure_costs_nothing_and_leaves_no_row(books: LedgerFixture):
    attempt_id = await books.granted()
    await books.fail(attempt_id, Billed.NO)
    assert await books.dollars() == (NOTHING, NOTHING, NOTHING)
    assert await books.rows() == []
    (attempt,) = await books.attempts()
    assert (attempt.state, attempt.billed, attempt.cost_usd) == ("failed", "no", NOTHING)
    assert (attempt.error_type, attempt.error) == ("SomeError", "it went wrong")


async def test_a_billed_failure_is_confirmed_with_its_usage_and_not_charged(books: LedgerFixture):
    attempt_id = await books.granted()
    await books.fail(attempt_id, Billed.YES, cost_usd=COST, usage=USAGE)
    row = await books.row(attempt_id)
    assert (row.confirmed, row.outcome, row.cost_usd, row.energy_charged) == (True, "failed", COST, 0)
    assert (row.tokens_prompt, row.tokens_completion) == (1000, 200)
    assert await books.dollars() == (NOTHING, COST, NOTHING)
    assert await books.energy() == (0, 0)


@pytest.mark.parametrize("billed", [Billed.UNKNOWN, Billed.YES])
async def test_a_failure_of_unknown_cost_is_uncertain_with_its_bound(books: LedgerFixture, billed: Billed):
    attempt_id = await books.granted()
    await books.fail(attempt_id, billed)
    row = await books.row(attempt_id)
    assert (row.confirmed, row.outcome, row.cost_usd) == (False, "failed", BOUND)
    assert await books.dollars() == (NOTHING, NOTHING, BOUND)
    assert (await books.attempts())[0].billed == billed.value


@pytest.mark.parametrize(
    "failure",
    [
        {"billed": Billed.NO},
        {"billed": Billed.UNKNOWN},
        {"billed": Billed.YES, "cost_usd": Decimal("0.002"), "usage": USAGE},
    ],
    ids=["unbilled", "unknown", "billed"],
)
async def test_a_reply_after_its_own_failure_still_wins_at_its_true_cost(books: LedgerFixture, failure: dict):
    attempt_id = await books.granted()
    await books.fail(attempt_id, **failure)
    assert (await books.settle(attempt_id)).attempt_id == attempt_id
    assert await books.dollars() == (NOTHING, COST, NOTHING)
    assert await books.energy() == (PRICE, 0)
    assert (await books.row(attempt_id)).confirmed


async def test_energy_is_reserved_once_per_request_and_released_on_failure(books: LedgerFixture):
    await books.taken_over()
    assert await books.movements() == [("reserve", PRICE)]
    (_, owner) = await books.attempts()
    await books.fail(owner.id)
    assert await books.movements() == [("reserve", PRICE), ("release", PRICE)]
    await books.settle(await books.granted())
    assert (await books.movements())[2:] == [("reserve", PRICE), ("charge", PRICE)]


async def test_attempts_are_numbered_and_keep_their_provider(books: LedgerFixture):
    await books.fail(await books.granted())
    await books.fail(await books.granted(provider=Provider.OPENAI))
    await books.settle(await books.granted(provider=Provider.ANTHROPIC))
    numbered = [(attempt.number, attempt.provider) for attempt in await books.attempts()]
    assert numbered == [(1, "anthropic"), (2, "openai"), (3, "anthropic")]
    assert await books.states() == ["failed", "failed", "settled"]


async def test_a_retry_pays_from_the_account_and_the_envelope_of_the_first_claim(books: LedgerFixture):
    await books.open(user="bob", job="other")
    await books.granted(terms=EXPIRED)
    retry = await books.granted(user_id="bob", job_key="other", energy=99)
    await books.fail(retry)
    await books.settle(await books.granted(user_id="bob", job_key="other", energy=99))
    assert await books.dollars() == (NOTHING, COST, BOUND)
    assert await books.energy() == (PRICE, 0)
    assert await books.dollars("other") == (NOTHING, NOTHING, NOTHING)
    assert await books.energy("bob") == (0, 0)


async def test_without_enough_energy_nothing_is_written(books: LedgerFixture):
    with pytest.raises(InsufficientEnergy):
        await books.claim(energy=101)
    assert await books.all(PaidRequest) == await books.all(Attempt) == []
    assert await books.dollars() == (NOTHING, NOTHING, NOTHING)


async def test_without_an_account_a_price_is_refused(books: LedgerFixture):
    with pytest.raises(InsufficientEnergy):
        await books.claim(user_id="stranger")


async def test_beyond_the_cap_nothing_is_written(database):
    books = await LedgerFixture(database).open(cap=BOUND)
    with pytest.raises(BudgetExhausted):
        await books.claim(bound=BOUND + Decimal("0.000001"))
    assert await books.all(PaidRequest) == await books.all(Attempt) == []
    assert await books.energy() == (0, 0)


async def test_a_cap_counts_what_is_uncertain(database):
    books = await LedgerFixture(database).open(cap=2 * BOUND - Decimal("0.000001"))
    await books.fail(await books.granted("one"), Billed.UNKNOWN)
    with pytest.raises(BudgetExhausted):
        await books.claim("two")


async def test_a_job_without_an_envelope_cannot_spend(books: LedgerFixture):
    with pytest.raises(BudgetExhausted):
        await books.claim(job="unopened")


async def test_a_step_that_costs_the_user_nothing_moves_no_energy(books: LedgerFixture):
    attempt_id = await books.granted(energy=0)
    await books.settle(attempt_id)
    assert await books.movements() == []
    assert (await books.row(attempt_id)).energy_charged == 0


async def test_an_unknown_attempt_is_not_found(books: LedgerFixture):
    for operation in (books.settle, books.fail):
        with pytest.raises(NotFound):
            await operation(uuid4())
    assert not await books.renew(uuid4())


async def test_text_that_postgresql_cannot_hold_does_not_lose_a_paid_reply(books: LedgerFixture):
    attempt_id = await books.granted()
    answer = reply("nul \0, half a pair \ud83d, a whole one \U0001f600 and \\u0000", model="model\0")
    settled = await books.settle(attempt_id, answer)
    assert settled.reply.text == "nul \ufffd, half a pair \ufffd, a whole one \U0001f600 and \\u0000"
    assert (await books.row(attempt_id)).answered_by == "model\ufffd"
    (journaled,) = await books.all(JournaledReply)
    assert journaled.payload["text"] == settled.reply.text


async def test_text_that_postgresql_cannot_hold_does_not_hide_a_failure(books: LedgerFixture):
    attempt_id = await books.granted()
    await books.fail(attempt_id, detail="nul \0 and \udc00" + "x" * 10_000)
    (attempt,) = await books.attempts()
    assert attempt.error.startswith("nul \ufffd and \ufffdxxx")
    assert len(attempt.error) == 500


async def test_energy_entries_name_the_request(books: LedgerFixture):
    await books.settle(await books.granted())
    named = {entry.kind: entry.request_id for entry in await books.all(EnergyEntry)}
    assert named == {"grant": None, "reserve": "job/step", "charge": "job/step"}


class TestOneResultOfSeveralRequests:
    """The user pays for one of the requests for a result, whichever settles first."""

    async def test_a_repetition_after_a_charge_reserves_nothing(self, database: Database):
        books = await LedgerFixture(database).open(energy_granted=PRICE)
        await books.settle(await books.granted("ask-1"))
        again = await books.granted("ask-2", result_id=f"{JOB}/ask-1")
        assert await books.energy() == (PRICE, 0)
        assert (await books.settle(again)).energy_charged == 0

    async def test_a_repetition_after_a_failure_is_charged(self, books: LedgerFixture):
        await books.fail(await books.granted("ask-1"))
        again = await books.granted("ask-2", result_id=f"{JOB}/ask-1")
        assert (await books.settle(again)).energy_charged == PRICE
        assert await books.energy() == (PRICE, 0)

    async def test_a_late_reply_to_the_first_request_is_not_charged_again(self, books: LedgerFixture):
        late, owner = await books.taken_over("ask-1")
        await books.fail(owner)
        again = await books.granted("ask-2", result_id=f"{JOB}/ask-1")
        await books.settle(again)
        settled = await books.settle(late)
        assert (settled.attempt_id, settled.energy_charged) == (late, 0)
        assert await books.energy() == (PRICE, 0)

    async def test_a_late_reply_before_the_repetition_settles_is_the_charge(self, books: LedgerFixture):
        late, owner = await books.taken_over("ask-1")
        await books.fail(owner)
        again = await books.granted("ask-2", result_id=f"{JOB}/ask-1")
        assert (await books.settle(late)).energy_charged == PRICE
        settled = await books.settle(again)
        assert settled.energy_charged == 0
        assert await books.energy() == (PRICE, 0)
        assert settled.energy_left == 100 - PRICE
