"""A lost reply that the provider stored is recovered instead of being paid again."""

import asyncio
import re
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest

from activities.metrics import Metrics
from activities.paid_call import PaidCalls
from parley.domain.errors import ProviderUnavailable
from parley.domain.pricing import Rates, cost
from parley.domain.requests import Usage, fingerprint
from parley.providers.openai import OpenAIAdapter
from parley.settings import Settings
from parley.storage.ledger import WITHDRAWN
from tests.activities.asking import OPENAI, Ask, make, started
from tests.activities.conftest import Opener
from tests.activities.proxy import DatabaseProxy
from tests.activities.scraping import scraped, values
from tests.faults import gated_simulator as gated
from tests.faults.gated_simulator import GatedSimulator, gated_simulator
from tests.parts import quick_settings
from tests.storage.ledger_fixture import EXPIRED, NOTHING, PRICE, LedgerFixture


@pytest.fixture
async def simulator() -> AsyncIterator[GatedSimulator]:
    async with gated_simulator() as running:
        yield running


@pytest.fixture
def storing(database_url: str, simulator: GatedSimulator) -> Settings:
    """Settings with which OpenAI stores its replies."""
    return quick_settings(
        database_url, simulator.url, openai_store=True, openai_recovery_seconds=0.2, provider_timeout_seconds=2
    )


@pytest.fixture
def paid_calls(open_calls: Opener, books: LedgerFixture, storing: Settings) -> PaidCalls:
    return open_calls(books.database, storing)


async def lost(paid_calls: PaidCalls, simulator: GatedSimulator, fault: str = "cut") -> None:
    """A request that is answered, billed and stored, but its reply does not arrive."""
    await simulator.fault(fault)
    with pytest.raises(ProviderUnavailable):
        await make(paid_calls, OPENAI)


async def costs_of(books: LedgerFixture, simulator: GatedSimulator) -> None:
    """Everything that was billed is confirmed with the provider's token count, and charged once."""
    counted = await simulator.billed()
    assert await books.dollars() == (NOTHING, sum(OPENAI.cost(call) for call in counted), NOTHING)
    assert await books.day() == await books.dollars()
    assert await books.energy() == (PRICE, 0)


@pytest.mark.parametrize("fault", ["cut", "hang"])
async def test_a_retry_recovers_a_truncated_or_late_reply(
    paid_calls: PaidCalls, books: LedgerFixture, simulator: GatedSimulator, fault: str
):
    await lost(paid_calls, simulator, fault)
    settled = await make(paid_calls, OPENAI)
    first, second = await books.attempts()
    assert (settled.attempt_id, first.state, first.billed) == (first.id, "settled", "yes")
    assert (second.state, second.error_type, second.billed, second.cost_usd) == ("failed", WITHDRAWN, "no", 0)
    assert len(await simulator.billed()) == 1
    assert [(row.attempt_id, row.confirmed) for row in await books.rows()] == [(first.id, True)]
    await costs_of(books, simulator)


async def test_a_recovered_reply_costs_what_its_own_model_costs(
    paid_calls: PaidCalls, books: LedgerFixture, simulator: GatedSimulator
):
    """The retry goes to a model with other rates; the reply is that of the first one."""
    await lost(paid_calls, simulator)
    settled = await make(paid_calls, Ask(OPENAI.provider, "gpt-4o", OPENAI.request))
    [counted] = await simulator.billed()
    assert (settled.model, settled.cost_usd) == (OPENAI.model, OPENAI.cost(counted))
    assert (await books.row(settled.attempt_id)).rates["output"] == "0.6"
    await costs_of(books, simulator)


async def test_a_recovered_reply_keeps_the_rates_of_an_older_price_list(
    paid_calls: PaidCalls, books: LedgerFixture, simulator: GatedSimulator
):
    await lost(paid_calls, simulator)
    older = Rates(source="an older price list", input=Decimal("0.1"), output=Decimal("0.2"))
    await books.run("UPDATE attempts SET rates = CAST(:rates AS jsonb)", rates=older.model_dump_json())
    settled = await make(paid_calls, OPENAI)
    [counted] = await simulator.billed()
    usage = Usage(input_tokens=counted["input_tokens"], output_tokens=counted["output_tokens"])
    assert settled.cost_usd == cost(usage, older)


async def test_the_rates_of_an_older_price_list_are_not_those_of_another_price_class(
    paid_calls: PaidCalls, books: LedgerFixture, simulator: GatedSimulator
):
    await lost(paid_calls, simulator)
    older = Rates(source="an older price list", price_class="batch", input=Decimal(10), output=Decimal(20))
    await books.run("UPDATE attempts SET rates = CAST(:rates AS jsonb)", rates=older.model_dump_json())
    settled = await make(paid_calls, OPENAI)
    row = await books.row(settled.attempt_id)
    assert (row.confirmed, row.rates["exact"]) == (False, False)


async def test_metrics_count_both_the_loss_and_the_recovery(
    address: str,
    metrics: Metrics,
    open_calls: Opener,
    storing: Settings,
    books: LedgerFixture,
    simulator: GatedSimulator,
):
    """A counter cannot go down: the uncertain cost of the lost reply stays counted."""
    paid_calls = open_calls(books.database, storing, metrics)
    await lost(paid_calls, simulator)
    await make(paid_calls, OPENAI)
    [counted] = await simulator.billed()
    text = await scraped(address)
    outcomes = {
        outcome: count
        for labels, count in values(text, "parley_attempts_total").items()
        for outcome in re.findall('outcome="([a-z]+)"', labels)
    }
    assert outcomes == {"failed": 1, "recovered": 1}
    known = next(usd for labels, usd in values(text, "parley_cost_micro_usd_total").items() if "true" in labels)
    assert known == int(OPENAI.cost(counted) * 1_000_000)
    assert values(text, "parley_tokens_total") == {
        'direction="input"': counted["input_tokens"],
        'direction="output"': counted["output_tokens"],
    }
    assert sum(values(text, "parley_attempt_seconds_count").values()) == 1


async def test_without_openai_store_a_lost_reply_is_paid_again(
    open_calls: Opener, settings: Settings, books: LedgerFixture, simulator: GatedSimulator
):
    paid_calls = open_calls(books.database, settings)
    await lost(paid_calls, simulator)
    await make(paid_calls, OPENAI)
    assert (len(await simulator.billed()), simulator.middleware.listings) == (2, 0)
    assert await books.states() == ["failed", "settled"]
    assert await books.energy() == (PRICE, 0)


async def test_a_reply_that_is_listed_late_is_recovered(
    open_calls: Opener, storing: Settings, books: LedgerFixture, simulator: GatedSimulator
):
    waiting = open_calls(books.database, storing.model_copy(update={"openai_recovery_seconds": 20}))

    async def from_the_third_listing() -> bytes | None:
        return None if simulator.middleware.listings >= 3 else gated.NOTHING

    simulator.middleware.listing = from_the_third_listing
    await lost(waiting, simulator)
    await make(waiting, OPENAI)
    assert len(await simulator.billed()) == 1
    await costs_of(books, simulator)


async def test_a_reply_that_is_not_listed_is_paid_again(
    paid_calls: PaidCalls, books: LedgerFixture, simulator: GatedSimulator
):
    async def nothing() -> bytes:
        return gated.NOTHING

    simulator.middleware.listing = nothing
    await lost(paid_calls, simulator)
    await make(paid_calls, OPENAI)
    assert len(await simulator.billed()) == 2
    assert simulator.middleware.listings >= 1
    assert await books.states() == ["failed", "settled"]


async def test_a_listing_that_hangs_is_skipped(
    open_calls: Opener, storing: Settings, books: LedgerFixture, simulator: GatedSimulator
):
    async def never() -> None:
        await asyncio.Event().wait()

    simulator.middleware.listing = never
    quick = open_calls(books.database, storing)
    await lost(quick, simulator)
    slow = open_calls(books.database, storing.model_copy(update={"provider_timeout_seconds": 60}))
    call = started(slow, OPENAI)
    assert (await asyncio.wait({call}, timeout=20))[0], "it still waits"
    assert len(await simulator.billed()) == 2


async def test_an_unexpected_error_of_the_listing_does_not_prevent_the_call(
    paid_calls: PaidCalls, books: LedgerFixture, simulator: GatedSimulator, monkeypatch: pytest.MonkeyPatch
):
    async def surprising(*_: object) -> None:
        raise ZeroDivisionError("a bug of the SDK")

    monkeypatch.setattr(OpenAIAdapter, "recover", surprising)
    await lost(paid_calls, simulator)
    await make(paid_calls, OPENAI)
    assert await books.states() == ["failed", "settled"]


async def test_the_reply_to_another_request_is_never_used(
    paid_calls: PaidCalls, books: LedgerFixture, simulator: GatedSimulator
):
    """A settled reply and another lost one are both stored, and both listed."""

    async def everything() -> bytes:
        return gated.EVERYTHING

    simulator.middleware.listing = everything
    await make(paid_calls, OPENAI, step="theirs")
    await simulator.fault("cut")
    with pytest.raises(ProviderUnavailable):
        await make(paid_calls, OPENAI, step="lost too")
    silent = await books.granted(terms=EXPIRED, provider=OPENAI.provider, fingerprint=fingerprint(OPENAI.request))
    settled = await make(paid_calls, OPENAI)
    assert settled.attempt_id != silent
    assert await books.states() == ["lost", "settled"]
    assert len(await simulator.billed()) == 3


async def test_a_repeated_claim_still_recovers_a_lost_reply(
    open_calls: Opener, storing: Settings, proxy: DatabaseProxy, books: LedgerFixture, simulator: GatedSimulator
):
    """The claim's commit arrived and its response did not: the claim is repeated under the same id."""
    far = open_calls(proxy.database, storing)
    await lost(far, simulator)
    proxy.lose_the_next_commit()
    await make(far, OPENAI)
    assert proxy.has_lost_a_commit
    assert len(await simulator.billed()) == 1
    await costs_of(books, simulator)


async def test_the_recovery_withdraws_the_new_attempt(
    open_calls: Opener, storing: Settings, proxy: DatabaseProxy, books: LedgerFixture, simulator: GatedSimulator
):
    """A worker that dies, or loses the database, right after the recovery leaves no open attempt."""
    short_timeout = storing.model_copy(update={"settle_timeout_seconds": 0})
    far = open_calls(proxy.database, short_timeout)
    await lost(far, simulator)

    async def cut_after_the_next_commit() -> None:
        proxy.cut_after_the_next_commit()

    simulator.middleware.listing = cut_after_the_next_commit
    await make(far, OPENAI)
    assert await books.states() == ["settled", "failed"]
    await costs_of(books, simulator)
