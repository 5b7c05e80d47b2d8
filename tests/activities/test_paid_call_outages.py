"""The paid call while the database is unreachable or slow, and after its lease expired."""

import asyncio

import pytest

from activities.paid_call import PaidCalls
from parley.domain.errors import ProviderUnavailable, Unreachable
from parley.domain.requests import Provider
from parley.settings import Settings
from parley.storage.ledger import Settled
from tests.activities.asking import ANTHROPIC, OPENAI, make, started
from tests.activities.conftest import Opener
from tests.activities.proxy import DatabaseProxy
from tests.parts import SimulatorAdmin, until
from tests.storage.ledger_fixture import NOTHING, PRICE, LedgerFixture


@pytest.fixture
def long_lease(settings: Settings) -> Settings:
    """A lease that does not expire within a test."""
    return settings.model_copy(update={"lease_seconds": 60})


@pytest.fixture
def far_calls(open_calls: Opener, proxy: DatabaseProxy, long_lease: Settings) -> PaidCalls:
    """A worker whose connections to the database can be cut."""
    return open_calls(proxy.database, long_lease)


async def held(paid_calls: PaidCalls, simulator: SimulatorAdmin) -> asyncio.Task[Settled]:
    """A request that the provider has received and not yet answered."""
    await simulator.gate(closed=True)
    call = started(paid_calls)
    await simulator.requests(at_least=1)
    return call


async def cut_off(paid_calls: PaidCalls, simulator: SimulatorAdmin, proxy: DatabaseProxy) -> asyncio.Task[Settled]:
    """A request whose reply arrives while the database is unreachable."""
    call = await held(paid_calls, simulator)
    proxy.cut()
    await simulator.gate(closed=False)
    return call


async def test_a_reply_during_a_database_outage_is_settled_once(
    far_calls: PaidCalls, proxy: DatabaseProxy, books: LedgerFixture, simulator: SimulatorAdmin
):
    call = await cut_off(far_calls, simulator, proxy)
    await proxy.refused.wait()
    assert await books.states() == ["open"]
    proxy.restore()
    settled = await call
    (counted,) = await simulator.requests()
    assert (await books.row(settled.attempt_id)).cost_usd == ANTHROPIC.cost(counted)
    assert await books.events() == ["ai_generation_completed"]
    assert await books.energy() == (PRICE, 0)


async def test_cancellation_does_not_drop_a_reply_that_waits_to_be_settled(
    far_calls: PaidCalls, proxy: DatabaseProxy, books: LedgerFixture, simulator: SimulatorAdmin
):
    call = await cut_off(far_calls, simulator, proxy)
    await proxy.refused.wait()
    call.cancel()
    proxy.restore()
    assert await books.row((await call).attempt_id)


async def test_a_failure_during_a_database_outage_is_recorded_later(
    far_calls: PaidCalls, proxy: DatabaseProxy, books: LedgerFixture, simulator: SimulatorAdmin
):
    await simulator.fault("cut")
    call = await cut_off(far_calls, simulator, proxy)
    await proxy.refused.wait()
    proxy.restore()
    with pytest.raises(ProviderUnavailable):
        await call
    assert await books.states() == ["failed"]
    assert await books.energy() == (0, 0)


async def test_a_claim_waits_for_the_database(
    far_calls: PaidCalls, proxy: DatabaseProxy, books: LedgerFixture, simulator: SimulatorAdmin
):
    proxy.cut()
    call = started(far_calls)
    await proxy.refused.wait()
    assert await simulator.requests() == []
    proxy.restore()
    await call
    assert await books.states() == ["settled"]


async def test_a_claim_with_an_unknown_commit_is_not_claimed_twice(
    far_calls: PaidCalls, proxy: DatabaseProxy, books: LedgerFixture, simulator: SimulatorAdmin
):
    proxy.lose_the_next_commit()
    await make(far_calls)
    assert proxy.has_lost_a_commit
    assert await books.states() == ["settled"]
    assert await books.energy() == (PRICE, 0)


async def test_a_settlement_with_an_unknown_commit_is_not_settled_twice(
    far_calls: PaidCalls, proxy: DatabaseProxy, books: LedgerFixture, simulator: SimulatorAdmin
):
    call = await held(far_calls, simulator)
    proxy.lose_the_next_commit()
    await simulator.gate(closed=False)
    settled = await call
    assert proxy.has_lost_a_commit
    assert (await books.row(settled.attempt_id)).energy_charged == PRICE
    assert await books.events() == ["ai_generation_completed"]
    assert await books.energy() == (PRICE, 0)


async def test_after_the_settle_timeout_the_reply_is_lost_and_the_attempt_can_be_ended(
    open_calls: Opener, proxy: DatabaseProxy, settings: Settings, books: LedgerFixture, simulator: SimulatorAdmin
):
    short_timeout = settings.model_copy(update={"settle_timeout_seconds": 0.1, "lease_seconds": 0.2})
    call = await cut_off(open_calls(proxy.database, short_timeout), simulator, proxy)
    with pytest.raises(Unreachable):
        await call
    await until(books.sweep)
    assert await books.dollars() == (NOTHING, NOTHING, ANTHROPIC.bound)
    assert await books.energy() == (0, 0)


@pytest.fixture
def short(settings: Settings) -> Settings:
    """A lease that expires soon without a renewal."""
    return settings.model_copy(update={"lease_seconds": 0.6})


async def test_the_late_reply_of_an_owner_that_lost_its_lease_is_a_duplicate(
    open_calls: Opener, proxy: DatabaseProxy, short: Settings, books: LedgerFixture, simulator: SimulatorAdmin
):
    late = await held(open_calls(proxy.database, short), simulator)
    proxy.cut()
    second = started(open_calls(books.database, short))
    await simulator.requests(at_least=2)
    await simulator.gate(closed=False)
    won = await second
    await proxy.refused.wait()
    proxy.restore()
    assert await late == won
    assert await books.states() == ["duplicate", "settled"]
    counted = await simulator.billed()
    assert await books.dollars() == (NOTHING, sum(ANTHROPIC.cost(call) for call in counted), NOTHING)
    assert len(counted) == 2
    assert sorted(row.energy_charged for row in await books.rows()) == [0, PRICE]
    assert await books.energy() == (PRICE, 0)


async def test_the_reply_of_an_owner_that_lost_its_lease_wins_if_it_is_first(
    open_calls: Opener, proxy: DatabaseProxy, short: Settings, books: LedgerFixture, simulator: SimulatorAdmin
):
    await simulator.gate(closed=True, provider="openai")
    late = await held(open_calls(proxy.database, short), simulator)
    proxy.cut()
    leg = started(open_calls(books.database, short), OPENAI)
    await simulator.requests(at_least=2)
    proxy.restore()
    await simulator.gate(closed=False)
    won = await late
    assert (won.provider, await books.states()) == (Provider.ANTHROPIC, ["settled", "open"])
    assert await books.disagreements() == []
    await simulator.gate(closed=False, provider="openai")
    assert await leg == won
    assert await books.states() == ["settled", "duplicate"]
    assert sorted(row.energy_charged for row in await books.rows()) == [0, PRICE]
