"""The paid call against the simulator, through the vendor SDKs."""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from pydantic import SecretStr

from activities.paid_call import PaidCalls
from parley.domain.errors import (
    AuthenticationFailed,
    BadRequest,
    Billed,
    BreakerOpen,
    BudgetExhausted,
    ContentFiltered,
    ContextTooLong,
    EmptyReply,
    IdempotencyConflict,
    InsufficientEnergy,
    MalformedReply,
    ProviderError,
    ProviderNotConfigured,
    ProviderUnavailable,
    QuotaExceeded,
    RateLimited,
    TruncatedReply,
    UnpricedModel,
)
from parley.domain.pricing import Rates, cost, rates_for, upper_bound
from parley.domain.requests import ChatRequest, Finish, Message, Provider
from parley.providers.anthropic import AnthropicAdapter
from parley.settings import Settings
from parley.storage.database import Database
from parley.storage.tables import Attempt, PaidRequest
from tests.activities.asking import ANTHROPIC, ELEVENLABS, OPENAI, RATES, Ask, make, started
from tests.activities.conftest import Opener
from tests.parts import SimulatorAdmin, candidates_of, quick_settings, until
from tests.storage.ledger_fixture import NOTHING, PRICE, LedgerFixture

CHATS = (ANTHROPIC, OPENAI)
ALL = (*CHATS, ELEVENLABS)

# The fault, the expected error, whether the provider may have billed, and the providers that can return it.
FAULTS = [
    ("rate_limit", RateLimited, Billed.NO, ALL),
    ("quota", QuotaExceeded, Billed.NO, ALL),
    ("server_error", ProviderUnavailable, Billed.NO, ALL),
    ("overloaded", ProviderUnavailable, Billed.NO, ALL),
    ("html", ProviderUnavailable, Billed.UNKNOWN, ALL),
    ("auth", AuthenticationFailed, Billed.NO, ALL),
    ("bad_request", BadRequest, Billed.NO, ALL),
    ("context_too_long", ContextTooLong, Billed.NO, CHATS),
    ("too_large_for_minute", ContextTooLong, Billed.NO, CHATS),
    ("spend_limit", QuotaExceeded, Billed.NO, CHATS),
    ("billing_inactive", QuotaExceeded, Billed.NO, CHATS),
    ("content_filter", ContentFiltered, Billed.NO, CHATS),
    ("gateway_timeout", ProviderUnavailable, Billed.UNKNOWN, ALL),
    ("empty", EmptyReply, Billed.YES, CHATS),
    ("aborted", TruncatedReply, Billed.YES, CHATS),
    ("cut", ProviderUnavailable, Billed.UNKNOWN, ALL),
    ("not_json", MalformedReply, Billed.UNKNOWN, ALL),
]
CASES = [
    pytest.param(ask, fault, error, billed, id=f"{ask.provider}-{fault}")
    for fault, error, billed, asks in FAULTS
    for ask in asks
]


def named(ask: Ask) -> str:
    return ask.provider.value


@pytest.mark.parametrize("ask", ALL, ids=named)
async def test_a_call_is_settled_charged_and_logged_at_the_providers_count(
    paid_calls: PaidCalls, books: LedgerFixture, simulator: SimulatorAdmin, ask: Ask
):
    settled = await make(paid_calls, ask)
    (counted,) = await simulator.requests()
    assert (counted["billed"], counted["attempt_id"]) == (True, str(settled.attempt_id))
    assert (settled.provider, settled.model, settled.simulated) == (ask.provider, ask.model, True)
    row = await books.row(settled.attempt_id)
    usage = settled.reply.usage
    assert (row.tokens_prompt, row.tokens_completion) == (counted["input_tokens"], counted["output_tokens"])
    assert float(row.audio_seconds) == pytest.approx(counted["audio_seconds"], abs=0.0005)
    assert row.tokens_total == usage.total_tokens
    assert (row.cost_usd, row.confirmed, row.outcome) == (ask.cost(counted), True, "settled")
    assert row.cost_usd > 0
    assert (row.energy_charged, row.answered_by, row.simulated) == (PRICE, settled.reply.model, True)
    assert Rates.model_validate(row.rates) == rates_for(ask.provider, ask.model, RATES, usage.input_tokens)
    assert await books.dollars() == (NOTHING, row.cost_usd, NOTHING)
    assert await books.energy() == (PRICE, 0)
    assert await books.events() == ["ai_generation_completed"]


@pytest.mark.parametrize(("ask", "fault", "error", "billed"), CASES)
async def test_a_fault_is_recorded_with_what_it_may_have_cost(
    paid_calls: PaidCalls,
    books: LedgerFixture,
    simulator: SimulatorAdmin,
    ask: Ask,
    fault: str,
    error: type[ProviderError],
    billed: Billed,
):
    await simulator.fault(fault)
    with pytest.raises(error) as raised:
        await make(paid_calls, ask)
    assert raised.value.billed is billed
    (attempt,) = await books.attempts()
    assert (attempt.state, attempt.billed, attempt.error_type) == ("failed", billed.value, error.__name__)
    assert attempt.error
    rows, (counted,) = await books.rows(), await simulator.requests()
    match billed:
        case Billed.NO:
            assert (rows, counted["billed"]) == ([], False)
            assert await books.dollars() == (NOTHING, NOTHING, NOTHING)
        case Billed.YES:
            assert [(row.confirmed, row.cost_usd) for row in rows] == [(True, ask.cost(counted))]
            assert counted["billed"]
        case Billed.UNKNOWN:
            assert [(row.confirmed, row.cost_usd) for row in rows] == [(False, ask.bound)]
            assert await books.dollars() == (NOTHING, NOTHING, ask.bound)
    assert await books.energy() == (0, 0)


@pytest.mark.parametrize("ask", ALL, ids=named)
async def test_a_timeout_may_have_been_billed(
    open_calls: Opener,
    database: Database,
    settings: Settings,
    books: LedgerFixture,
    simulator: SimulatorAdmin,
    monkeypatch: pytest.MonkeyPatch,
    ask: Ask,
):
    monkeypatch.setattr("parley.domain.requests.SECONDS_PER_AUDIO_SECOND", 0.0)
    await simulator.fault("hang")
    short_timeout = open_calls(database, settings.model_copy(update={"provider_timeout_seconds": 0.5}))
    with pytest.raises(ProviderUnavailable, match="no answer within"):
        await make(short_timeout, ask)
    (row,) = await books.rows()
    assert (row.outcome, row.confirmed, row.cost_usd) == ("failed", False, ask.bound)


async def test_a_refused_connection_is_not_billed(open_calls: Opener, database_url: str, books: LedgerFixture):
    unreachable = quick_settings(database_url, "http://127.0.0.1:1")
    for ask in ALL:
        with pytest.raises(ProviderUnavailable) as raised:
            await make(open_calls(books.database, unreachable), ask, step=ask.provider)
        assert raised.value.billed is Billed.NO
    assert await books.rows() == []


@pytest.mark.parametrize("ask", CHATS, ids=named)
@pytest.mark.parametrize(("fault", "finish"), [("malformed", Finish.STOP), ("truncated", Finish.LENGTH)])
async def test_a_complete_reply_with_invalid_content_is_settled(
    paid_calls: PaidCalls, books: LedgerFixture, simulator: SimulatorAdmin, ask: Ask, fault: str, finish: Finish
):
    await simulator.fault(fault)
    settled = await make(paid_calls, ask)
    assert settled.reply.kind == "chat"
    assert settled.reply.finish is finish
    assert (await books.row(settled.attempt_id)).confirmed


async def test_a_rate_limit_has_its_retry_delay(paid_calls: PaidCalls, simulator: SimulatorAdmin, books: LedgerFixture):
    for ask in CHATS:
        await simulator.fault("rate_limit", retry_after=7)
        with pytest.raises(RateLimited) as raised:
            await make(paid_calls, ask, step=ask.provider)
        assert raised.value.retry_after == 7


async def test_a_billed_failure_costs_the_rates_for_its_counted_tokens(
    paid_calls: PaidCalls, simulator: SimulatorAdmin, books: LedgerFixture
):
    """By its bytes the prompt may have the higher rate of long prompts; by its tokens it does not."""
    long = ChatRequest(messages=(Message(role="user", content="the demo " * 40_000),), max_tokens=200)
    ask = replace(OPENAI, model="gpt-5.4", request=long)
    await simulator.fault("aborted")
    with pytest.raises(TruncatedReply):
        await make(paid_calls, ask)
    (counted,), (row,) = await simulator.requests(), await books.rows()
    assert row.cost_usd == ask.cost(counted)
    assert Rates.model_validate(row.rates) == rates_for(ask.provider, ask.model, RATES, counted["input_tokens"])


async def test_a_reply_of_a_listed_price_class_costs_its_rates(
    paid_calls: PaidCalls, simulator: SimulatorAdmin, books: LedgerFixture
):
    await simulator.fault("price_class")
    settled = await make(paid_calls, OPENAI)
    usage, row = settled.reply.usage, await books.row(settled.attempt_id)
    rates = rates_for(OPENAI.provider, OPENAI.model, RATES, usage.input_tokens, "priority")
    assert Rates.model_validate(row.rates) == rates
    assert (row.confirmed, row.cost_usd) == (True, cost(usage, rates))
    assert OPENAI.cost(usage.model_dump()) < row.cost_usd < OPENAI.bound


async def test_the_cost_of_a_price_class_that_is_not_listed_is_uncertain(
    paid_calls: PaidCalls, simulator: SimulatorAdmin, books: LedgerFixture
):
    await simulator.fault("price_class")
    settled = await make(paid_calls, ANTHROPIC)
    row = await books.row(settled.attempt_id)
    rates = Rates.model_validate(row.rates)
    assert (rates.price_class, rates.exact) == ("priority", False)
    assert (row.outcome, row.confirmed, row.cost_usd) == ("settled", False, ANTHROPIC.bound)
    assert (row.tokens_completion, row.energy_charged) == (settled.reply.usage.output_tokens, PRICE)
    assert await books.dollars() == (NOTHING, NOTHING, ANTHROPIC.bound)
    assert await make(paid_calls, ANTHROPIC) == settled
    assert await books.disagreements() == []


async def test_a_settled_request_returns_its_journaled_reply(
    paid_calls: PaidCalls, books: LedgerFixture, simulator: SimulatorAdmin
):
    first = await make(paid_calls)
    assert await make(paid_calls) == first
    assert await make(paid_calls, OPENAI) == first, "a fallback leg sends the same request"
    assert len(await simulator.requests()) == 1


async def test_a_settled_request_needs_no_key_and_no_price(
    paid_calls: PaidCalls, open_calls: Opener, settings: Settings, books: LedgerFixture
):
    first = await make(paid_calls)
    keyless = open_calls(books.database, settings.model_copy(update={"simulator_url": None}))
    assert await make(keyless) == first
    assert await make(paid_calls, replace(ANTHROPIC, model="a-model-of-ours")) == first


async def test_a_fallback_settles_the_request_of_the_first_provider(
    paid_calls: PaidCalls, books: LedgerFixture, simulator: SimulatorAdmin
):
    await simulator.fault("overloaded", provider="anthropic")
    with pytest.raises(ProviderUnavailable):
        await make(paid_calls)
    settled = await make(paid_calls, OPENAI)
    assert settled.provider is Provider.OPENAI
    assert await books.states() == ["failed", "settled"]
    assert await books.energy() == (PRICE, 0)


async def renewed_until(books: LedgerFixture, moment: datetime) -> bool:
    return (await books.request()).lease_until > moment


async def nothing_happened(books: LedgerFixture, simulator: SimulatorAdmin) -> bool:
    return not (await books.all(PaidRequest) or await books.all(Attempt) or await simulator.requests())


async def test_an_unpriced_model_is_refused_before_anything_is_written(
    paid_calls: PaidCalls, books: LedgerFixture, simulator: SimulatorAdmin
):
    with pytest.raises(UnpricedModel, match="a-model-of-ours"):
        await make(paid_calls, replace(ANTHROPIC, model="a-model-of-ours"))
    assert await nothing_happened(books, simulator)


async def test_a_missing_key_is_refused_before_anything_is_written(
    open_calls: Opener, settings: Settings, books: LedgerFixture, simulator: SimulatorAdmin
):
    keyless = open_calls(books.database, settings.model_copy(update={"simulator_url": None}))
    for ask in ALL:
        with pytest.raises(ProviderNotConfigured, match=f"{ask.provider.name}_API_KEY"):
            await make(keyless, ask)
    assert await nothing_happened(books, simulator)


async def test_without_energy_or_budget_no_provider_is_called(
    paid_calls: PaidCalls, database: Database, simulator: SimulatorAdmin, books: LedgerFixture
):
    with pytest.raises(InsufficientEnergy):
        await make(paid_calls, energy=101)
    with pytest.raises(BudgetExhausted):
        await make(paid_calls, job_key="unopened")
    assert await nothing_happened(books, simulator)


async def test_another_request_under_a_settled_id_is_a_conflict(
    paid_calls: PaidCalls, books: LedgerFixture, simulator: SimulatorAdmin
):
    await make(paid_calls)
    another = ChatRequest(messages=(Message(role="user", content="Something else."),), max_tokens=200)
    with pytest.raises(IdempotencyConflict):
        await make(paid_calls, replace(ANTHROPIC, request=another))
    assert len(await simulator.requests()) == 1


async def test_an_open_breaker_stops_calls(paid_calls: PaidCalls, books: LedgerFixture, simulator: SimulatorAdmin):
    await simulator.fault("server_error", times=None)
    for _ in range(3):
        with pytest.raises(ProviderUnavailable):
            await make(paid_calls)
    with pytest.raises(BreakerOpen) as refused:
        await make(paid_calls)
    assert refused.value.retry_after and refused.value.retry_after > 1
    assert len(await simulator.requests()) == 3


@pytest.mark.parametrize("fault", ["rate_limit", "auth", "bad_request"])
async def test_errors_unrelated_to_health_never_open_the_breaker(
    paid_calls: PaidCalls, books: LedgerFixture, simulator: SimulatorAdmin, fault: str
):
    await simulator.fault(fault, times=4)
    for _ in range(4):
        with pytest.raises(ProviderError) as refused:
            await make(paid_calls)
        assert not isinstance(refused.value, BreakerOpen)
    await make(paid_calls)


async def test_options_say_what_is_configured_priced_and_behind_a_breaker(
    open_calls: Opener, settings: Settings, books: LedgerFixture, simulator: SimulatorAdmin
):
    await simulator.fault("server_error", provider="anthropic", times=None)
    changes = {"openai_api_key": SecretStr("a key"), "local_base_url": None}
    changed = settings.model_copy(update=changes)
    paid_calls = open_calls(books.database, changed)
    for _ in range(3):
        with pytest.raises(ProviderUnavailable):
            await make(paid_calls)
    anthropic, openai, local = await candidates_of(books.database, changed).options(
        books.workspace, (Provider.ANTHROPIC, Provider.OPENAI, Provider.LOCAL), {Provider.OPENAI: "a-model-of-ours"}
    )
    assert (anthropic.model, anthropic.configured, anthropic.simulated) == (settings.anthropic_model, True, True)
    assert anthropic.price is not None and anthropic.price > 0
    assert 1 < anthropic.breaker_wait <= 60
    assert (openai.model, openai.configured, openai.simulated) == ("a-model-of-ours", True, False)
    assert (openai.price, openai.breaker_wait) == (None, 0)
    assert not local.configured


async def test_two_workers_on_one_request_make_one_call(
    open_calls: Opener, settings: Settings, books: LedgerFixture, simulator: SimulatorAdmin
):
    one, other = (open_calls(books.database, settings) for _ in range(2))
    first, second = await asyncio.gather(make(one), make(other))
    assert first == second
    assert len(await simulator.requests()) == 1
    assert await books.energy() == (PRICE, 0)


async def test_the_lease_is_renewed_during_a_slow_call(
    open_calls: Opener, settings: Settings, books: LedgerFixture, simulator: SimulatorAdmin
):
    short = settings.model_copy(update={"lease_seconds": 0.5})
    await simulator.gate(closed=True)
    owner = started(open_calls(books.database, short))
    await simulator.requests(at_least=1)
    other = started(open_calls(books.database, short))
    renewed_twice = (await books.request()).created_at + timedelta(seconds=0.8)
    await until(lambda: renewed_until(books, renewed_twice))
    await simulator.gate(closed=False)
    assert await owner == await other
    assert len(await simulator.requests()) == 1


@pytest.mark.parametrize("cancellations", [1, 3])
async def test_a_cancelled_call_is_settled_and_returned(
    paid_calls: PaidCalls, books: LedgerFixture, simulator: SimulatorAdmin, cancellations: int
):
    await simulator.gate(closed=True)
    call = started(paid_calls)
    await simulator.requests(at_least=1)
    for _ in range(cancellations):
        call.cancel()
        await asyncio.sleep(0)
    await simulator.gate(closed=False)
    assert (await call).attempt_id == (await books.attempts())[0].id
    assert await books.states() == ["settled"]
    assert await books.energy() == (PRICE, 0)


async def test_a_call_that_fails_after_its_cancellation_is_recorded(
    paid_calls: PaidCalls, books: LedgerFixture, simulator: SimulatorAdmin
):
    await simulator.fault("cut")
    await simulator.gate(closed=True)
    call = started(paid_calls)
    await simulator.requests(at_least=1)
    call.cancel()
    await simulator.gate(closed=False)
    with pytest.raises(ProviderUnavailable):
        await call
    assert await books.states() == ["failed"]


async def test_waiting_for_a_lease_can_be_cancelled(
    open_calls: Opener, settings: Settings, books: LedgerFixture, simulator: SimulatorAdmin
):
    await simulator.gate(closed=True)
    owner = started(open_calls(books.database, settings))
    await simulator.requests(at_least=1)
    waiting = started(open_calls(books.database, settings))
    assert not (await asyncio.wait({waiting}, timeout=0.3))[0], "it waits"
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await simulator.gate(closed=False)
    await owner
    assert await books.states() == ["settled"]


async def test_an_unexpected_error_of_an_adapter_may_have_been_billed(
    paid_calls: PaidCalls, books: LedgerFixture, monkeypatch: pytest.MonkeyPatch
):
    async def surprising(*_: object) -> None:
        raise ZeroDivisionError("a bug of the SDK")

    monkeypatch.setattr(AnthropicAdapter, "call", surprising)
    with pytest.raises(ProviderUnavailable, match="ZeroDivisionError"):
        await make(paid_calls)
    (row,) = await books.rows()
    assert (row.outcome, row.confirmed) == ("failed", False)


async def test_billed_calls_joined_by_attempt_are_the_confirmed_rows(
    paid_calls: PaidCalls, books: LedgerFixture, simulator: SimulatorAdmin
):
    """Every billed call has its row: confirmed ones at the exact cost, others between 0 and their upper bound."""
    for fault in ("overloaded", "aborted", "cut", "rate_limit", "not_json", "malformed"):
        for provider in ("anthropic", "openai"):
            await simulator.fault(fault, provider=provider)
    asks = [ask for ask in CHATS for _ in range(10)]
    calls = [make(paid_calls, ask, step=str(number), energy=1) for number, ask in enumerate(asks)]
    await asyncio.gather(*calls, return_exceptions=True)
    billed = {call["attempt_id"]: call for call in await simulator.billed()}
    rows = {str(row.attempt_id): row for row in await books.rows()}
    assert set(billed) == set(rows)
    confirmed = {attempt: row for attempt, row in rows.items() if row.confirmed}
    assert len(confirmed) == 12
    for attempt, row in confirmed.items():
        ask = ANTHROPIC if row.provider == "anthropic" else OPENAI
        counted = billed[attempt]
        assert (row.tokens_prompt, row.tokens_completion) == (counted["input_tokens"], counted["output_tokens"])
        assert row.cost_usd == ask.cost(counted)
    for attempt in set(rows) - set(confirmed):
        assert 0 < ANTHROPIC.cost(billed[attempt]) <= ANTHROPIC.bound


class TestCostAboveItsBound:
    @pytest.fixture
    def must_agree(self) -> bool:
        """The audit names the attempt."""
        return False

    async def test_it_is_booked_and_reported(
        self,
        books: LedgerFixture,
        paid_calls: PaidCalls,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ):
        """The bound is patched: the simulator obeys limits. A server that ignores them may cost more than its bound."""
        bound, rates = upper_bound(ANTHROPIC.provider, ANTHROPIC.model, ANTHROPIC.request, RATES)
        low = bound / 1000
        monkeypatch.setattr("activities.paid_call.upper_bound", lambda *_: (low, rates))
        settled = await make(paid_calls)
        assert settled.cost_usd > low
        assert await books.dollars() == (NOTHING, settled.cost_usd, NOTHING)
        assert await books.events() == ["ai_cost_above_bound", "ai_generation_completed"]
        assert f"above its upper bound of ${low}" in caplog.text
        assert await books.disagreements() == ["an attempt costs at most its upper bound"]
