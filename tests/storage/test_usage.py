"""Cost reports: what was spent, what may have been spent, and what users paid."""

from datetime import timedelta
from typing import Any

from parley.domain.costs import Costs
from parley.domain.errors import Billed
from parley.domain.requests import Provider
from parley.storage.tables import utc_now
from parley.storage.usage import costs
from tests.storage.ledger_fixture import BOUND, COST, NOTHING, PRICE, LedgerFixture


async def report(books: LedgerFixture, **narrowed: Any) -> Costs:
    async with books.database.transaction() as tx:
        return await costs(tx, books.workspace, **narrowed)


async def test_spending_is_reported_by_provider_as_confirmed_and_uncertain(books: LedgerFixture):
    late, owner = await books.taken_over("one")
    await books.settle(owner)
    await books.settle(late)
    await books.fail(await books.granted("two", provider=Provider.OPENAI), Billed.UNKNOWN)
    await books.fail(await books.granted("three"), Billed.NO)
    anthropic, openai = (await report(books)).lines
    assert (anthropic.provider, anthropic.attempts, anthropic.tokens_total) == ("anthropic", 2, 2400)
    assert (anthropic.confirmed_usd, anthropic.uncertain_usd) == (2 * COST, NOTHING)
    assert anthropic.energy_charged == PRICE, "the duplicate costs us, not the user"
    assert (openai.confirmed_usd, openai.uncertain_usd, openai.energy_charged) == (NOTHING, BOUND, 0)


async def test_a_report_is_narrowed_to_a_job_a_user_and_a_time(books: LedgerFixture):
    await books.open(user="bob", job="other")
    await books.settle(await books.granted())
    await books.settle(await books.granted(job="other", user_id="bob"))
    assert (await report(books)).energy_charged == 2 * PRICE
    assert (await report(books, job_key="other")).confirmed_usd == COST
    assert (await report(books, user_id="bob", job_key="job")).lines == ()
    assert (await report(books, since=utc_now() + timedelta(hours=1))).lines == ()
    assert (await report(books, since=utc_now() - timedelta(hours=1))).confirmed_usd == 2 * COST


async def test_a_report_is_the_envelopes_sum(books: LedgerFixture):
    for step in range(3):
        await books.settle(await books.granted(f"settled {step}"))
    await books.fail(await books.granted("failed"), Billed.UNKNOWN)
    costs_of_job = await report(books, job_key="job")
    assert await books.dollars() == (NOTHING, costs_of_job.confirmed_usd, costs_of_job.uncertain_usd)
    assert costs_of_job.simulated
