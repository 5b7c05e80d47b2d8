"""One breaker per provider for the whole fleet."""

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import text

from parley.domain.errors import Billed, BreakerOpen
from parley.domain.requests import Provider
from parley.storage import breaker
from parley.storage.breaker import BreakerTerms, BreakerView
from parley.storage.database import Database
from tests.storage.ledger_fixture import BOUND, NOTHING, TERMS, LedgerFixture, until

PROVIDER = Provider.ANTHROPIC
LONG = BreakerTerms(failures=3, open_seconds=60, probe_seconds=60)
# DUE: after it opened, the next caller is the probe. DEAD: a probe without a result is replaced immediately.
DUE = replace(LONG, open_seconds=0)
DEAD = replace(LONG, probe_seconds=0)


class Fleet:
    """Callers of one provider, each report in a separate transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def passes(self, terms: BreakerTerms = LONG) -> int:
        async with self._database.transaction() as tx:
            return await breaker.pass_through(tx, PROVIDER, terms)

    async def succeeds(self, generation: int) -> None:
        async with self._database.transaction() as tx:
            await breaker.succeeded(tx, PROVIDER, generation)

    async def fails(self, generation: int, terms: BreakerTerms = LONG) -> None:
        async with self._database.transaction() as tx:
            await breaker.failed(tx, PROVIDER, generation, terms)

    async def is_not_counted(self, generation: int) -> None:
        async with self._database.transaction() as tx:
            await breaker.not_counted(tx, PROVIDER, generation)

    async def view(self) -> BreakerView:
        async with self._database.transaction() as tx:
            return await breaker.look(tx, PROVIDER)

    async def opens(self, terms: BreakerTerms = LONG) -> None:
        for _ in range(terms.failures):
            await self.fails(await self.passes(), terms)

    async def is_due(self) -> bool:
        return (await self.view()).wait_seconds == 0

    async def wait(self) -> float:
        """The seconds that a caller must wait."""
        with pytest.raises(BreakerOpen) as refused:
            await self.passes()
        assert refused.value.retry_after
        return refused.value.retry_after

    async def version(self) -> tuple[str, str] | None:
        """Which version of its row PostgreSQL holds: another one after every write."""
        async with self._database.transaction() as tx:
            return (await tx.execute(text("SELECT xmin::text, ctid::text FROM breakers"))).one_or_none()


@pytest.fixture
def fleet(database: Database) -> Fleet:
    return Fleet(database)


async def test_three_failures_in_a_row_open_it_with_a_delay(fleet: Fleet):
    await fleet.opens()
    assert 0 < await fleet.wait() <= 60
    assert 0 < (await fleet.view()).wait_seconds <= 60


async def test_a_success_in_between_resets_the_count(fleet: Fleet):
    for failures in (2, 2):
        for _ in range(failures):
            await fleet.fails(await fleet.passes())
        await fleet.succeeds(await fleet.passes())
    assert (await fleet.view()).failures == 0
    await fleet.passes()


async def test_the_breaker_of_one_provider_does_not_affect_another(fleet: Fleet, database: Database):
    await fleet.opens()
    async with database.transaction() as tx:
        assert await breaker.pass_through(tx, Provider.OPENAI, LONG) == 0


async def test_exactly_one_of_many_callers_gets_the_probe(fleet: Fleet):
    await fleet.opens(DUE)
    outcomes = await asyncio.gather(*(fleet.passes() for _ in range(50)), return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, BreakerOpen)]
    assert len(refused) == 49
    assert all(error.retry_after and 1 < error.retry_after <= 60 for error in refused), "the probe's time"


async def test_the_open_time_ends_with_a_probe(fleet: Fleet):
    await fleet.opens(replace(LONG, open_seconds=0.2))
    assert await fleet.wait() <= 0.2
    await until(fleet.is_due)
    assert await fleet.passes()


async def test_a_probe_that_succeeds_closes_it(fleet: Fleet):
    await fleet.opens(DUE)
    await fleet.succeeds(await fleet.passes())
    view = await fleet.view()
    assert (view.failures, view.wait_seconds) == (0, 0)
    assert await fleet.passes() == await fleet.passes(), "calls pass without a probe"


async def test_a_probe_that_fails_opens_it_again(fleet: Fleet):
    await fleet.opens(DUE)
    await fleet.fails(await fleet.passes())
    assert 1 < await fleet.wait() <= 60


async def test_a_failed_probe_opens_it_again_although_the_threshold_was_raised(fleet: Fleet):
    await fleet.opens(DUE)
    await fleet.fails(await fleet.passes(DEAD), replace(LONG, failures=100))
    assert 1 < await fleet.wait() <= 60


async def test_after_a_prober_died_the_next_one_probes_and_closes(fleet: Fleet):
    await fleet.opens(DUE)
    dead = await fleet.passes(DEAD)
    second = await fleet.passes()
    assert second != dead
    await fleet.fails(dead)
    await fleet.succeeds(second)
    assert (await fleet.view()).wait_seconds == 0
    await fleet.passes()


async def test_a_success_from_before_it_opened_does_not_close_it(fleet: Fleet):
    early = await fleet.passes()
    await fleet.opens()
    await fleet.succeeds(early)
    assert await fleet.wait() > 1


async def test_failures_from_before_it_closed_do_not_count(fleet: Fleet):
    early = await fleet.passes()
    await fleet.opens(DUE)
    await fleet.succeeds(await fleet.passes())
    for _ in range(5):
        await fleet.fails(early)
    assert (await fleet.view()).failures == 0


async def test_a_result_that_does_not_count_releases_the_probe(fleet: Fleet):
    await fleet.opens(DUE)
    probe = await fleet.passes()
    assert await fleet.wait() > 1
    await fleet.is_not_counted(probe)
    assert await fleet.passes() > probe


async def test_only_the_prober_can_release_the_probe(fleet: Fleet):
    await fleet.opens(DUE)
    dead = await fleet.passes(DEAD)
    await fleet.passes()
    await fleet.is_not_counted(dead)
    assert await fleet.wait() > 1


async def test_a_healthy_provider_has_no_row_at_all(fleet: Fleet):
    generation = await fleet.passes()
    await fleet.succeeds(generation)
    await fleet.is_not_counted(generation)
    assert await fleet.version() is None


async def test_its_row_is_written_only_on_change(fleet: Fleet):
    await fleet.fails(await fleet.passes())
    await fleet.succeeds(await fleet.passes())
    closed = await fleet.version()
    generation = await fleet.passes()
    await fleet.succeeds(generation)
    await fleet.is_not_counted(generation)
    await fleet.view()
    assert await fleet.version() == closed


async def test_a_refused_call_writes_nothing(fleet: Fleet):
    await fleet.opens()
    before = await fleet.version()
    await fleet.wait()
    assert await fleet.version() == before


async def test_an_open_breaker_refuses_a_claim_before_anything_is_reserved(books: LedgerFixture, fleet: Fleet):
    await fleet.opens()
    with pytest.raises(BreakerOpen):
        await books.claim()
    assert await books.dollars() == (NOTHING, NOTHING, NOTHING)
    assert await books.energy() == (0, 0)


async def test_only_failures_that_count_open_it(books: LedgerFixture, fleet: Fleet):
    for step in range(4):
        await books.fail(await books.granted(f"refused {step}"), Billed.NO, trips_breaker=False)
    assert await fleet.version() is None
    for step in range(3):
        await books.fail(await books.granted(f"down {step}"), Billed.UNKNOWN, trips_breaker=True)
    assert await fleet.wait() > 1
    assert (await books.dollars())[2] == 3 * BOUND


async def test_a_claim_without_enough_energy_does_not_use_the_probe(books: LedgerFixture, fleet: Fleet):
    await fleet.opens(DUE)
    with pytest.raises(Exception, match="energy"):
        await books.claim(energy=1000)
    attempt_id = await books.granted(terms=TERMS)
    assert await fleet.wait() > 1
    await books.settle(attempt_id)
    assert (await fleet.view()).wait_seconds == 0


async def test_a_caller_that_waited_while_it_closed_passes(fleet: Fleet, database: Database):
    await fleet.opens(DUE)
    probe = await fleet.passes(DEAD)
    async with database.transaction() as closing:
        await breaker.succeeded(closing, PROVIDER, probe)
        caller = asyncio.create_task(fleet.passes())
        await until(lambda: one_waits_for_a_lock(database))
    assert await caller == (await fleet.view()).generation


async def one_waits_for_a_lock(database: Database) -> bool:
    waiting = text("SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
    async with database.transaction() as tx:
        return (await tx.execute(waiting)).first() is not None


async def test_calls_in_flight_together_count_in_the_order_of_their_reports(fleet: Fleet):
    requests = [await fleet.passes() for _ in range(6)]
    for report in (fleet.fails, fleet.fails, fleet.succeeds, fleet.fails, fleet.fails):
        await report(requests.pop())
    assert (await fleet.view()).failures == 2
    await fleet.passes()
    await fleet.fails(requests.pop())
    assert await fleet.wait() > 1
