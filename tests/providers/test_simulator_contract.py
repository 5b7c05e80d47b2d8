"""Each adapter on its vendor's own SDK against the simulator: good replies, every fault, one request per call."""

import json
import socket
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest

from parley.domain.coaching.contract import Checks
from parley.domain.coaching.replies import read_reply
from parley.domain.errors import (
    AuthenticationFailed,
    BadRequest,
    Billed,
    ContentFiltered,
    ContextTooLong,
    EmptyReply,
    MalformedReply,
    ProviderError,
    ProviderUnavailable,
    QuotaExceeded,
    RateLimited,
    TruncatedReply,
)
from parley.domain.pricing import ConfiguredRates, cost, rates_for, upper_bound
from parley.domain.requests import ChatReply, Finish, Provider, TranscriptionReply
from simulator.faults import BATCHES, FAULTS
from tests.domain.coaching.material import SALES, TALK
from tests.parts import SimulatorAdmin
from tests.providers.vendors import ALL, CHAT, COACHING, KEY, MODEL, SECONDS, chat, providers, question, simulated

# The simulator's paths for vendors whose SDK expects the API version in the base URL.
PATHS = {Provider.OPENAI: "openai/v1", Provider.LOCAL: "local/v1"}
each_vendor = pytest.mark.parametrize("provider", ALL)
each_llm = pytest.mark.parametrize("provider", CHAT)


@dataclass(frozen=True)
class Expected:
    """The error for a fault."""

    error: type[ProviderError]
    billed: Billed
    retry_after: float | None = None


FAILURES: dict[str, Expected] = {
    "rate_limit": Expected(RateLimited, Billed.NO, 7.0),
    "quota": Expected(QuotaExceeded, Billed.NO),
    "server_error": Expected(ProviderUnavailable, Billed.NO),
    "overloaded": Expected(ProviderUnavailable, Billed.NO),
    "html": Expected(ProviderUnavailable, Billed.UNKNOWN),
    "auth": Expected(AuthenticationFailed, Billed.NO),
    "bad_request": Expected(BadRequest, Billed.NO),
    "context_too_long": Expected(ContextTooLong, Billed.NO),
    "too_large_for_minute": Expected(ContextTooLong, Billed.NO),
    "spend_limit": Expected(QuotaExceeded, Billed.NO),
    "billing_inactive": Expected(QuotaExceeded, Billed.NO),
    "content_filter": Expected(ContentFiltered, Billed.NO),
    "gateway_timeout": Expected(ProviderUnavailable, Billed.UNKNOWN),
    "error_in_200": Expected(ProviderUnavailable, Billed.UNKNOWN),
    "empty": Expected(EmptyReply, Billed.YES),
    "aborted": Expected(TruncatedReply, Billed.YES),
    "hang": Expected(ProviderUnavailable, Billed.UNKNOWN),
    "cut": Expected(ProviderUnavailable, Billed.UNKNOWN),
    "not_json": Expected(MalformedReply, Billed.UNKNOWN),
}
# Faults with a complete reply, and faults that only a stream or a listing can show.
OTHERS = {
    *BATCHES,  # tests/providers/test_batches.py
    "malformed",
    "truncated",
    "slow",
    "missing_items",
    "invented_items",
    "duplicated_items",
    "one_group",
    "invented_quotes",
    "near_quotes",
    "false_numbers",
    "in_stream_error",
    "no_finish",
    "odd_finish",
    "content_parts",
    "reasoning_beside",
    "price_class",
    "split_escapes",
    "usage_beside_choice",
    "usage_in_every_chunk",
    "no_usage",
    "cut_at_first_token",
    "cut_after_last_token",
    "stall",
    "slow_tokens",
    "split_bytes",
}
CASES = [
    (provider, fault)
    for provider in ALL
    for fault in FAILURES
    if FAULTS[fault] <= ({"chat"} if provider in CHAT else {"speech"})
]


async def ask(url: str, provider: Provider, request: Any = None, attempt: str = "attempt-1", **terms: Any) -> Any:
    async with providers(simulated(url, **terms)) as opened:
        return await opened.adapter(provider).call(request or question(provider), MODEL, attempt)


async def failure(url: str, provider: Provider, **terms: Any) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await ask(url, provider, **terms)
    return caught.value


def quoted(error: BaseException | None) -> str:
    """Every text of an error and its causes that a log could contain."""
    return f"{error} {error!r} {error.args} {quoted(error.__cause__ or error.__context__)}" if error else ""


async def only_call(simulator: SimulatorAdmin) -> dict[str, Any]:
    [call] = await simulator.requests(at_least=1)
    return call


def test_every_fault_of_the_simulator_has_an_expectation():
    assert {*FAILURES} | OTHERS == {*FAULTS}


@each_llm
async def test_a_completion_is_complete_with_the_vendors_usage(simulator: SimulatorAdmin, provider: Provider):
    reply: ChatReply = await ask(simulator.url, provider)
    call = await only_call(simulator)
    assert "simulator" in reply.text
    assert (reply.finish, reply.model) == (Finish.STOP, f"simulator/{MODEL}")
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (call["input_tokens"], call["output_tokens"])
    assert reply.provider_request_id.endswith(f"{call['number']:08d}")
    assert call["output_tokens"] > 0


@each_llm
async def test_a_schema_is_followed_and_counted(simulator: SimulatorAdmin, provider: Provider):
    reply: ChatReply = await ask(simulator.url, provider, COACHING)
    coaching, problem = read_reply(reply, SALES, TALK)
    assert (coaching is not None, problem) == (True, "")
    assert reply.usage.input_tokens == (await only_call(simulator))["input_tokens"] > 200


@pytest.mark.parametrize(
    ("provider", "model"), [(Provider.OPENAI, "gpt-3.5-turbo"), (Provider.ANTHROPIC, "claude-3-5-sonnet-20241022")]
)
async def test_a_model_without_schemas_follows_one_in_a_system_message(
    simulator: SimulatorAdmin, provider: Provider, model: str
):
    async with providers(simulated(simulator.url)) as opened:
        reply = await opened.adapter(provider).call(COACHING, model, "attempt-1")
    assert isinstance(reply, ChatReply)
    assert read_reply(reply, SALES, TALK)[1] == ""
    rates = ConfiguredRates(elevenlabs_usd_per_hour=Decimal(1), elevenlabs_usd_per_thousand_characters=Decimal("0.10"))
    bound, _ = upper_bound(provider, model, COACHING, rates)
    assert cost(reply.usage, rates_for(provider, model, rates)) < bound


async def test_a_transcription_has_words_speakers_and_the_vendors_length(simulator: SimulatorAdmin):
    reply: TranscriptionReply = await ask(simulator.url, Provider.ELEVENLABS)
    call = await only_call(simulator)
    assert reply.usage.audio_seconds == call["audio_seconds"] == pytest.approx(SECONDS, abs=0.5)
    assert len({word.speaker for word in reply.words}) == 2
    assert [word.start for word in reply.words] == sorted(word.start for word in reply.words)
    assert all(word.text.strip() and word.start <= word.end for word in reply.words)
    assert reply.model == f"simulator/{MODEL}"
    assert reply.language.startswith("en")


@each_vendor
async def test_the_attempt_id_is_sent(simulator: SimulatorAdmin, provider: Provider):
    await ask(simulator.url, provider, attempt="another-attempt")
    [call] = await simulator.requests(attempt_id="another-attempt", at_least=1)
    assert (call["provider"], call["state"], call["billed"]) == (provider, "answered", True)


@pytest.mark.parametrize(("provider", "fault"), CASES)
async def test_a_fault_becomes_its_error_after_one_request(simulator: SimulatorAdmin, provider: Provider, fault: str):
    expected = FAILURES[fault]
    await simulator.fault(fault, times=None, provider=provider, retry_after=expected.retry_after)
    keys = {f"{vendor}_api_key": KEY for vendor in ALL}
    bases = {f"{vendor}_base_url": f"{simulator.url}/{PATHS.get(vendor, vendor)}" for vendor in ALL}
    error = await failure(
        simulator.url, provider, provider_timeout_seconds=0.5 if fault == "hang" else 20, **keys | bases
    )
    assert (type(error), error.billed) == (expected.error, expected.billed)
    assert (error.provider, error.retry_after) == (provider, expected.retry_after)
    assert len(str(error)) < 400
    assert KEY not in quoted(error)

    call = await only_call(simulator)
    assert call["attempt_id"] == "attempt-1"
    # The billing status of the error must agree with what the vendor billed.
    assert error.billed is Billed.UNKNOWN or (error.billed is Billed.YES) == call["billed"]


@each_llm
async def test_a_truncated_reply_has_its_usage(simulator: SimulatorAdmin, provider: Provider):
    await simulator.fault("aborted")
    error = await failure(simulator.url, provider)
    call = await only_call(simulator)
    assert error.usage is not None
    assert (error.usage.input_tokens, error.usage.output_tokens) == (call["input_tokens"], call["output_tokens"])


@each_llm
async def test_a_reply_at_the_token_limit_finishes_with_length(simulator: SimulatorAdmin, provider: Provider):
    reply: ChatReply = await ask(simulator.url, provider, chat(max_tokens=3))
    assert (reply.finish, reply.usage.output_tokens) == (Finish.LENGTH, 3)
    await simulator.fault("truncated")
    assert (await ask(simulator.url, provider)).finish is Finish.LENGTH


@each_llm
@pytest.mark.parametrize("fault", ["no_finish", "odd_finish", "content_parts", "reasoning_beside", "price_class"])
async def test_an_odd_reply_is_whole_and_counted_as_it_is_billed(
    simulator: SimulatorAdmin, provider: Provider, fault: str
):
    plain: ChatReply = await ask(simulator.url, provider)
    await simulator.fault(fault)
    reply: ChatReply = await ask(simulator.url, provider)
    assert (reply.text, reply.finish) == (plain.text, Finish.STOP)
    call = (await simulator.requests(at_least=2))[-1]
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (call["input_tokens"], call["output_tokens"])
    named = fault == "price_class" and provider is not Provider.LOCAL
    assert reply.usage.price_class == ("priority" if named else "")


@each_llm
async def test_a_history_with_a_blank_turn_is_answered(simulator: SimulatorAdmin, provider: Provider):
    turns = [("user", "Is the lift running?"), ("assistant", ""), ("user", "Hello?")]
    request = chat(messages=[{"role": role, "content": content} for role, content in turns])
    assert (await ask(simulator.url, provider, request)).text


@each_llm
async def test_malformed_content_is_returned_since_it_is_paid_for(simulator: SimulatorAdmin, provider: Provider):
    await simulator.fault("malformed")
    reply: ChatReply = await ask(simulator.url, provider, COACHING)
    assert reply.finish is Finish.STOP
    assert reply.usage.output_tokens > 0
    with pytest.raises(json.JSONDecodeError):
        json.loads(reply.text)


@each_llm
async def test_quotes_and_numbers_may_be_wrong(simulator: SimulatorAdmin, provider: Provider):
    checked: dict[str, Any] = {}
    for fault in ("", "near_quotes", "false_numbers", "invented_quotes"):
        if fault:
            await simulator.fault(fault)
        coaching, problem = read_reply(await ask(simulator.url, provider, COACHING), SALES, TALK)
        checked[fault] = (coaching.checks, problem) if coaching else problem
    assert checked[""] == (Checks(), "")
    assert checked["near_quotes"][0].quotes_corrected > 1
    assert checked["false_numbers"] == (Checks(), "")  # code that has the measurements corrects them
    assert checked["invented_quotes"] == "quote: none of the quotes is in the transcript"


@each_llm
async def test_a_prompt_beyond_the_context_window_is_too_long(simulator: SimulatorAdmin, provider: Provider):
    long = chat(messages=[{"role": "user", "content": "word " * 120_000}])
    with pytest.raises(ContextTooLong):
        await ask(simulator.url, provider, long)


@each_vendor
async def test_a_slow_reply_within_the_timeout_arrives(simulator: SimulatorAdmin, provider: Provider):
    await simulator.fault("slow", hold=0.05)
    assert (await ask(simulator.url, provider)).usage.total_tokens >= 0
    assert (await only_call(simulator))["fault"] == "slow"


@each_vendor
async def test_a_refused_connection_was_not_billed(provider: Provider):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    error = await failure(url, provider)
    assert (type(error), error.billed, error.trips_breaker) == (ProviderUnavailable, Billed.NO, True)


@each_vendor
async def test_a_timeout_is_unavailable_and_may_have_been_billed(simulator: SimulatorAdmin, provider: Provider):
    await simulator.fault("hang", times=None)
    error = await failure(simulator.url, provider, provider_timeout_seconds=0.3)
    assert (error.detail, error.billed) == ("no answer within the timeout", Billed.UNKNOWN)
    assert (await only_call(simulator))["billed"]
