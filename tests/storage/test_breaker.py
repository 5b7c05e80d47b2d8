"""One breaker per provider for the whole callers."""

import asyncio
import contextlib
from dataclasses import replace

import pytest
from sqlalchemy import text

from parley.domain.errors import Billed, BreakerOpen
from parley.domain.requests import Provider
from parley.storage import breaker
from parley.storage.breaker import FLEET, BreakerTerms, BreakerView, Passes
from parley.storage.database import Database
from parley.storage.driver import fetch
from tests.parts import until
from tests.storage.ledger_fixture import BOUND, NOTHING, TERMS, WORKSPACE, LedgerFixture

PROVIDER = Provider.ANTHROPIC
LONG = BreakerTerms(failures=3, open_seconds=60, probe_seconds=60)
# DUE: after it opened, the next caller is the probe. DEAD: a probe without a result is replaced immediately.
DUE = replace(LONG, open_seconds=0)
DEAD = replace(LONG, probe_seconds=0)


class Callers:
    """Callers of one provider in one workspace, each report in a separate transaction.

    With a key of the workspace's own they pass its own breaker alone: the fleet's has the same states.
    """

    def __init__(self, database: Database, workspace_id: str = WORKSPACE, *, shares_key: bool = False) -> None:
        self._database, self._workspace_id, self._shares_key = database, workspace_id, shares_key

    async def passes(self, terms: BreakerTerms = LONG, provider: Provider = PROVIDER) -> Passes:
        async with self._database.transaction() as tx:
            return await breaker.pass_through(tx, provider, self._workspace_id, terms, shares_key=self._shares_key)

    async def succeeds(self, passes: Passes) -> None:
        async with self._database.transaction() as tx:
            await breaker.succeeded(tx, PROVIDER, self._workspace_id, passes)

    async def fails(self, passes: Passes, terms: BreakerTerms = LONG) -> None:
        async with self._database.transaction() as tx:
            await breaker.failed(tx, PROVIDER, self._workspace_id, passes, terms)

    async def is_not_counted(self, passes: Passes) -> None:
        async with self._database.transaction() as tx:
            await breaker.not_counted(tx, PROVIDER, self._workspace_id, passes)

    async def view(self) -> BreakerView:
        async with self._database.transaction() as tx:
            return await breaker.look(tx, PROVIDER, self._workspace_id)

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
            row = text("SELECT xmin::text, ctid::text FROM breakers WHERE workspace_id = :workspace")
            return (await tx.execute(row, {"workspace": self._workspace_id})).one_or_none()


@pytest.fixture
def callers(database: Database) -> Callers:
    return Callers(database)


async def test_three_failures_in_a_row_open_it_with_a_delay(callers: Callers):
    await callers.opens()
    assert 0 < await callers.wait() <= 60
    assert 0 < (await callers.view()).wait_seconds <= 60


async def test_a_success_in_between_resets_the_count(callers: Callers):
    for failures in (2, 2):
        for _ in range(failures):
            await callers.fails(await callers.passes())
        await callers.succeeds(await callers.passes())
    assert (await callers.view()).failures == 0
    await callers.passes()


async def test_another_provider_is_not_held_back(callers: Callers):
    await callers.opens()
    assert await callers.passes(provider=Provider.OPENAI) == (0, None)


async def test_exactly_one_of_many_callers_gets_the_probe(callers: Callers):
    await callers.opens(DUE)
    outcomes = await asyncio.gather(*(callers.passes() for _ in range(50)), return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, BreakerOpen)]
    assert len(refused) == 49
    assert all(error.retry_after and 1 < error.retry_after <= 60 for error in refused), "the probe's time"


async def test_the_open_time_ends_with_a_probe(callers: Callers):
    await callers.opens(replace(LONG, open_seconds=0.2))
    assert await callers.wait() <= 0.2
    await until(callers.is_due)
    assert (await callers.passes()).own > 0


async def test_a_probe_that_succeeds_closes_it(callers: Callers):
    await callers.opens(DUE)
    await callers.succeeds(await callers.passes())
    view = await callers.view()
    assert (view.failures, view.wait_seconds) == (0, 0)
    assert await callers.passes() == await callers.passes(), "calls pass without a probe"


async def test_a_probe_that_fails_opens_it_again(callers: Callers):
    await callers.opens(DUE)
    await callers.fails(await callers.passes())
    assert 1 < await callers.wait() <= 60


async def test_a_probe_that_fails_opens_it_again_whatever_the_threshold_is_now(callers: Callers):
    await callers.opens(DUE)
    await callers.fails(await callers.passes(DEAD), replace(LONG, failures=100))
    assert 1 < await callers.wait() <= 60


async def test_after_a_prober_died_the_next_one_probes_and_closes(callers: Callers):
    await callers.opens(DUE)
    dead = await callers.passes(DEAD)
    second = await callers.passes()
    assert second != dead
    await callers.fails(dead)
    await callers.succeeds(second)
    assert (await callers.view()).wait_seconds == 0
    await callers.passes()


async def test_a_success_from_before_it_opened_does_not_close_it(callers: Callers):
    early = await callers.passes()
    await callers.opens()
    await callers.succeeds(early)
    assert await callers.wait() > 1


async def test_failures_from_before_it_closed_do_not_count(callers: Callers):
    early = await callers.passes()
    await callers.opens(DUE)
    await callers.succeeds(await callers.passes())
    for _ in range(5):
        await callers.fails(early)
    assert (await callers.view()).failures == 0


async def test_an_answer_that_is_not_counted_hands_the_probe_back(callers: Callers):
    await callers.opens(DUE)
    probe = await callers.passes()
    assert await callers.wait() > 1
    await callers.is_not_counted(probe)
    assert await callers.passes() > probe


async def test_only_the_prober_can_hand_the_probe_back(callers: Callers):
    await callers.opens(DUE)
    dead = await callers.passes(DEAD)
    await callers.passes()
    await callers.is_not_counted(dead)
    assert await callers.wait() > 1


async def test_a_healthy_provider_has_no_row_at_all(callers: Callers):
    generation = await callers.passes()
    await callers.succeeds(generation)
    await callers.is_not_counted(generation)
    assert await callers.version() is None


async def test_its_row_is_written_only_on_change(callers: Callers):
    await callers.fails(await callers.passes())
    await callers.succeeds(await callers.passes())
    closed = await callers.version()
    generation = await callers.passes()
    await callers.succeeds(generation)
    await callers.is_not_counted(generation)
    await callers.view()
    assert await callers.version() == closed


async def test_a_refused_call_writes_nothing(callers: Callers):
    await callers.opens()
    before = await callers.version()
    await callers.wait()
    assert await callers.version() == before


async def test_an_open_breaker_refuses_a_claim_before_anything_is_reserved(books: LedgerFixture, callers: Callers):
    await callers.opens()
    with pytest.raises(BreakerOpen):
        await books.claim()
    assert await books.dollars() == (NOTHING, NOTHING, NOTHING)
    assert await books.energy() == (0, 0)


async def test_failed_attempts_open_it_and_those_that_say_nothing_do_not(books: LedgerFixture, callers: Callers):
    for step in range(4):
        await books.fail(await books.granted(f"refused {step}"), Billed.NO, trips_breaker=False)
    assert await callers.version() is None
    for step in range(3):
        await books.fail(await books.granted(f"down {step}"), Billed.UNKNOWN, trips_breaker=True)
    assert await callers.wait() > 1
    assert (await books.dollars())[2] == 3 * BOUND


async def test_a_claim_that_finds_no_money_does_not_use_the_probe_up(books: LedgerFixture, callers: Callers):
    await callers.opens(DUE)
    with pytest.raises(Exception, match="energy"):
        await books.claim(energy=1000)
    attempt_id = await books.granted(terms=TERMS)
    assert await callers.wait() > 1
    await books.settle(attempt_id)
    assert (await callers.view()).wait_seconds == 0


async def test_a_caller_that_waited_while_it_closed_passes(callers: Callers, database: Database):
    await callers.opens(DUE)
    probe = await callers.passes(DEAD)
    async with database.transaction() as closing:
        await breaker.succeeded(closing, PROVIDER, WORKSPACE, probe)
        caller = asyncio.create_task(callers.passes())
        await until(lambda: one_waits_for_a_lock(database))
    assert (await caller).own == (await callers.view()).generation


async def one_waits_for_a_lock(database: Database) -> bool:
    waiting = text("SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
    async with database.transaction() as tx:
        return (await tx.execute(waiting)).first() is not None


async def test_calls_in_flight_together_count_in_the_order_of_their_reports(callers: Callers):
    requests = [await callers.passes() for _ in range(6)]
    for report in (callers.fails, callers.fails, callers.succeeds, callers.fails, callers.fails):
        await report(requests.pop())
    assert (await callers.view()).failures == 2
    await callers.passes()
    await callers.fails(requests.pop())
    assert await callers.wait() > 1


class TestFleet:
    """Workspaces that share a key."""

    @pytest.fixture
    def workspaces(self, database: Database) -> list[Callers]:
        return [Callers(database, name, shares_key=True) for name in ("a", "b", "c")]

    async def test_one_workspaces_failures_hold_back_that_workspace_alone(self, workspaces: list[Callers]):
        failing, other, _ = workspaces
        for _ in range(20):
            with contextlib.suppress(BreakerOpen):
                await failing.fails(await failing.passes(DUE), DUE)
        await failing.fails(await failing.passes())
        await other.succeeds(await other.passes())
        assert await failing.wait() > 1, "another workspace's success does not close it"

    async def test_an_outage_that_two_workspaces_see_holds_back_everybody(self, workspaces: list[Callers]):
        one, other, third = workspaces
        requests = [(who, await who.passes()) for who in (one, one, other)]
        for who, passes in requests:
            await third.passes()
            await who.fails(passes)
        assert await third.wait() > 1
        assert await other.wait() > 1

    async def test_a_success_in_between_shows_that_the_provider_is_up(self, workspaces: list[Callers]):
        one, other, third = workspaces
        for who in (one, other, one, other, one, other):
            await who.fails(await who.passes(DUE), DUE)
            await third.succeeds(await third.passes())
        await third.passes()

    async def test_exactly_one_request_of_the_fleet_probes_and_closes_it(self, workspaces: list[Callers]):
        one, other, third = workspaces
        for who in (one, one, other):
            await who.fails(await who.passes(DUE), DUE)
        outcomes = await asyncio.gather(*(who.passes() for who in workspaces * 5), return_exceptions=True)
        [probe] = [outcome for outcome in outcomes if isinstance(outcome, Passes)]
        prober = next(who for who, outcome in zip(workspaces * 5, outcomes, strict=True) if outcome is probe)
        await prober.succeeds(probe)
        for who in (one, other, third):
            await who.passes()

    async def test_a_key_of_ones_own_neither_counts_nor_waits(self, workspaces: list[Callers], database: Database):
        own = [Callers(database, name) for name in ("d", "e")]
        for who in own * 3:
            await who.fails(await who.passes(DUE), DUE)
        await workspaces[0].passes()
        for who in (*workspaces, *workspaces):
            with contextlib.suppress(BreakerOpen):
                await who.fails(await who.passes())
        assert await workspaces[2].wait() > 1
        assert (await Callers(database, "f").passes()).fleet is None

    async def test_what_a_workspace_waits_for(self, workspaces: list[Callers], database: Database):
        one, other, _ = workspaces
        await one.opens()
        await other.fails(await other.passes())
        async with database.transaction() as tx:
            fleet, mine, others = [await fetch(tx, breaker.waits(scope)) for scope in (FLEET, "a", "c")]
        assert set(fleet.fleet) == set(others.fleet) == {PROVIDER}
        assert (others.of(PROVIDER, shares_key=True) > 0, others.of(PROVIDER, shares_key=False)) == (True, 0)
        assert mine.of(PROVIDER, shares_key=False) > 0

    async def test_one_workspaces_failed_attempts_do_not_refuse_anothers_claim(self, books: LedgerFixture):
        for step in range(3):
            await books.fail(await books.granted(f"down {step}"), Billed.UNKNOWN, trips_breaker=True)
        with pytest.raises(BreakerOpen, match="the workspace's breaker"):
            await books.claim("next")
        globex = LedgerFixture(books.database, "globex")
        await globex.open()
        await globex.fail(await globex.granted(), Billed.UNKNOWN, trips_breaker=True)
        initech = LedgerFixture(books.database, "initech")
        await initech.open()
        with pytest.raises(BreakerOpen, match="the fleet's breaker"):
            await initech.claim()
