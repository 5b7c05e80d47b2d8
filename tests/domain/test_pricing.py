import struct
from decimal import Decimal

import pytest
from genai_prices import Usage as ListedUsage
from genai_prices import calc_price
from genai_prices.data_snapshot import get_snapshot

from parley.domain.errors import UnpricedModel
from parley.domain.json_schema import strict_object
from parley.domain.pricing import BATCH, ConfiguredRates, cost, rates_for, upper_bound
from parley.domain.requests import (
    ChatRequest,
    EmbeddingRequest,
    Message,
    Provider,
    SpeechRequest,
    TranscriptionRequest,
    Usage,
)
from simulator.wire import Message as SimulatorMessage
from simulator.wire import Prompt

CONFIGURED = ConfiguredRates(
    elevenlabs_usd_per_hour=Decimal("0.40"), elevenlabs_usd_per_thousand_characters=Decimal("0.10")
)
LLM_VENDORS = (Provider.OPENAI, Provider.ANTHROPIC)


def price(provider: Provider, model: str, usage: Usage) -> Decimal:
    return cost(usage, rates_for(provider, model, CONFIGURED, usage.input_tokens))


def listed_models() -> list[tuple[Provider, str]]:
    """All models of the price list that have a price by the token."""
    found: list[tuple[Provider, str]] = []
    for vendor in get_snapshot().providers:
        if vendor.id not in LLM_VENDORS:
            continue
        for model in vendor.models:
            try:
                rates_for(Provider(vendor.id), model.id, CONFIGURED)
            except UnpricedModel:
                continue
            found.append((Provider(vendor.id), model.id))
    return found


LISTED = listed_models()


@pytest.mark.parametrize(
    ("provider", "model", "usage", "dollars"),
    [
        (Provider.OPENAI, "gpt-4o-mini", Usage(input_tokens=1000, output_tokens=1000), "0.00075"),
        (Provider.OPENAI, "gpt-4o-mini", Usage(input_tokens=1000, cached_input_tokens=1000), "0.000075"),
        (Provider.ANTHROPIC, "claude-haiku-4-5", Usage(input_tokens=1000, output_tokens=1000), "0.006"),
        (
            Provider.ANTHROPIC,
            "claude-haiku-4-5",
            Usage(input_tokens=3000, cached_input_tokens=1000, cache_write_tokens=1000),
            "0.00235",
        ),
        (Provider.ANTHROPIC, "claude-sonnet-4-5", Usage(input_tokens=200_000, output_tokens=1000), "0.615"),
        (Provider.ANTHROPIC, "claude-sonnet-4-5", Usage(input_tokens=300_000, output_tokens=1000), "1.8225"),
    ],
    ids=["plain", "cached", "plain-anthropic", "read-and-written", "below-the-tier", "beyond-the-tier"],
)
def test_known_models_cost_what_their_vendor_lists(provider: Provider, model: str, usage: Usage, dollars: str):
    assert price(provider, model, usage) == Decimal(dollars)


def test_every_listed_model_costs_what_the_list_computes_at_every_length():
    assert len(LISTED) > 100
    for provider, model in LISTED:
        for tokens in (1, 999, 127_999, 200_000, 200_001, 272_001, 1_000_000):
            usage = Usage(
                input_tokens=tokens,
                cached_input_tokens=tokens // 3,
                cache_write_tokens=tokens // 5,
                output_tokens=777,
            )
            listed = calc_price(
                ListedUsage(
                    input_tokens=tokens,
                    cache_read_tokens=usage.cached_input_tokens,
                    cache_write_tokens=usage.cache_write_tokens,
                    output_tokens=777,
                ),
                model,
                provider_id=provider.value,
            ).total_price
            assert abs(price(provider, model, usage) - listed) <= Decimal("0.000001"), (model, tokens)


@pytest.mark.parametrize("model", ["no-such-model", "whisper-1", "text-embedding-9", ""])
def test_a_model_without_a_token_price_is_refused_and_named(model: str):
    with pytest.raises(UnpricedModel, match=repr(model)):
        rates_for(Provider.OPENAI, model, CONFIGURED)


def test_rates_name_their_source():
    assert rates_for(Provider.OPENAI, "gpt-4o-mini", CONFIGURED).source.startswith("genai-prices ")
    assert rates_for(Provider.ELEVENLABS, "scribe_v1", CONFIGURED).source == "settings"


@pytest.mark.parametrize(("seconds", "dollars"), [(3600, "0.40"), (54.21, "0.006023333333"), (0, "0")])
def test_audio_is_paid_by_the_hour(seconds: float, dollars: str):
    assert price(Provider.ELEVENLABS, "scribe_v1", Usage(audio_seconds=seconds)) == Decimal(dollars)


def test_a_local_model_may_be_free_but_its_price_must_be_given():
    with pytest.raises(UnpricedModel, match="LOCAL_USD_PER_MILLION_INPUT"):
        rates_for(Provider.LOCAL, "llama", CONFIGURED)
    for inward, outward, dollars in [("0", "0", "0"), ("0.5", "2", "2.5")]:
        stated = CONFIGURED.model_copy(
            update={
                "local_usd_per_million_input": Decimal(inward),
                "local_usd_per_million_output": Decimal(outward),
            }
        )
        rates = rates_for(Provider.LOCAL, "llama", stated)
        assert cost(Usage(input_tokens=1_000_000, output_tokens=1_000_000), rates) == Decimal(dollars)


TINY = CONFIGURED.model_copy(
    update={"local_usd_per_million_input": Decimal("0.01"), "local_usd_per_million_output": Decimal("0.02")}
)


def test_a_cost_below_a_micro_dollar_is_exact_and_its_bound_is_rounded_up():
    spent = cost(Usage(input_tokens=3, output_tokens=1), rates_for(Provider.LOCAL, "llama", TINY))
    assert spent == Decimal("0.00000005")
    assert 1_000_000 * spent == Decimal("0.05")
    bound, _ = upper_bound(Provider.LOCAL, "llama", chat("hi", max_tokens=1), TINY)
    assert bound == Decimal("0.000001")
    assert str(cost(Usage(input_tokens=100), rates_for(Provider.LOCAL, "llama", TINY))) == "0.000001"


def test_one_local_price_without_the_other_is_refused():
    half = CONFIGURED.model_copy(update={"local_usd_per_million_input": Decimal(1)})
    with pytest.raises(UnpricedModel):
        rates_for(Provider.LOCAL, "llama", half)


def chat(*texts: str, max_tokens: int = 500, schema: dict[str, object] | None = None) -> ChatRequest:
    return ChatRequest(
        messages=tuple(Message(role="user", content=text) for text in texts),
        max_tokens=max_tokens,
        response_schema=schema,
    )


ALPHABETS = ["abc de.,", "äßéñ ", "你好世界。", "🙂👩\u200d👧🏽🇪🇸", "\x01\x7f\u2028 \n", "نص"]


@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, 199, 5000])
@pytest.mark.parametrize("alphabet", ALPHABETS, ids=ascii)
def test_no_prompt_has_more_tokens_than_its_upper_bound(alphabet: str, length: int):
    """A token of a byte-level vocabulary is at least one byte; formats add a few for each message."""
    texts = [(alphabet * length)[at : at + length] for at in range(3)]
    request = chat(*texts, max_tokens=length + 1, schema=strict_object({"a": {"type": "string", "title": texts[0]}}))
    bound, rates = upper_bound(Provider.ANTHROPIC, "claude-haiku-4-5", request, CONFIGURED)
    prompt = Prompt("m", tuple(SimulatorMessage("user", text) for text in texts), schema=request.response_schema)
    in_bytes = sum(len(text.encode()) for text in texts) + len(texts) * 10
    for tokens in (prompt.input_tokens, in_bytes):
        assert bound >= cost(Usage(input_tokens=tokens, output_tokens=request.max_tokens), rates)


def test_the_upper_bound_holds_for_every_model_cached_share_and_price_tier():
    request = chat("x" * 300_000, max_tokens=4000)
    for provider, model in LISTED:
        bound, _ = upper_bound(provider, model, request, CONFIGURED)
        for tokens in (1, 75_000, 200_001, 300_000):
            for part in ({}, {"cached_input_tokens": tokens}, {"cache_write_tokens": tokens}):
                usage = Usage(input_tokens=tokens, output_tokens=4000, **part)
                assert price(provider, model, usage) <= bound, (model, usage)


def test_the_upper_bound_of_a_recording_is_its_length():
    request = TranscriptionRequest(audio_sha256="a", audio_seconds=7200, audio=b"")
    assert upper_bound(Provider.ELEVENLABS, "scribe_v1", request, CONFIGURED)[0] == Decimal("0.80")
    apart = request.model_copy(update={"channels": 2})
    assert upper_bound(Provider.ELEVENLABS, "scribe_v1", apart, CONFIGURED)[0] == Decimal("1.60")


def wav(seconds: int, *, claims: int) -> bytes:
    """Silence whose header claims another length."""
    sound, claimed = bytes(8000 * seconds), 8000 * claims
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8000, 8000, 1, 8)
    return b"RIFF" + struct.pack("<I", 36 + claimed) + b"WAVE" + form + b"data" + struct.pack("<I", claimed) + sound


@pytest.mark.parametrize("claims", [0, 1, 600])
def test_the_upper_bound_of_a_recording_covers_the_sound_that_its_header_hides(claims: int):
    request = TranscriptionRequest(audio_sha256="a", audio_seconds=max(claims, 1), audio=wav(600, claims=claims))
    bound, rates = upper_bound(Provider.ELEVENLABS, "scribe_v1", request, CONFIGURED)
    assert cost(Usage(audio_seconds=600), rates) <= bound <= cost(Usage(audio_seconds=601), rates)


def test_an_unpriced_model_has_no_upper_bound():
    with pytest.raises(UnpricedModel):
        upper_bound(Provider.OPENAI, "whisper-1", chat("hi"), CONFIGURED)


@pytest.mark.parametrize(
    ("provider", "model", "price_class", "dollars"),
    [
        (Provider.OPENAI, "gpt-4o-mini", "priority", "0.00075"),
        (Provider.OPENAI, "gpt-4o-mini", "fast", "0.00075"),
        (Provider.OPENAI, "gpt-5", "flex", "0.003125"),
        (Provider.OPENAI, "gpt-4o-mini", "batch", "0.000225"),
        (Provider.ANTHROPIC, "claude-haiku-4-5", "batch", "0.00175"),
        (Provider.ANTHROPIC, "claude-haiku-4-5", "batch+us", "0.001925"),
        # The list has no rates of a batch for it.
        (Provider.ANTHROPIC, "claude-3-5-haiku-latest", "batch", "0.0014"),
        (Provider.ANTHROPIC, "claude-opus-5", "fast", "0.035"),
        (Provider.ANTHROPIC, "claude-haiku-4-5", "us", "0.00385"),
        (Provider.ANTHROPIC, "claude-opus-5", "fast+us", "0.0385"),
    ],
)
def test_a_price_class_has_its_own_rates(provider: Provider, model: str, price_class: str, dollars: str):
    rates = rates_for(provider, model, CONFIGURED, 1000, price_class)
    assert (rates.price_class, rates.exact) == (price_class, True)
    assert cost(Usage(input_tokens=1000, output_tokens=500), rates) == Decimal(dollars)


@pytest.mark.parametrize(
    ("provider", "model", "price_class"),
    [
        (Provider.OPENAI, "gpt-4o-mini", "flex"),
        (Provider.OPENAI, "gpt-4o-mini", "scale"),
        (Provider.OPENAI, "gpt-4o-mini", "priority+moon"),
        (Provider.ANTHROPIC, "claude-haiku-4-5", "priority"),
        (Provider.ANTHROPIC, "claude-haiku-4-5", "mars"),
    ],
)
def test_the_rates_of_a_class_that_the_list_lacks_are_not_exact(provider: Provider, model: str, price_class: str):
    rates = rates_for(provider, model, CONFIGURED, 1000, price_class)
    assert (rates.price_class, rates.exact) == (price_class, False)


def test_the_upper_bound_of_a_batch_is_about_half_and_covers_its_price():
    request = chat("x" * 1000, max_tokens=500)
    for provider, model in ((Provider.OPENAI, "gpt-4o-mini"), (Provider.ANTHROPIC, "claude-3-5-haiku-latest")):
        bound, rates = upper_bound(provider, model, request, CONFIGURED, BATCH)
        assert rates.price_class == BATCH
        usual = rates_for(provider, model, CONFIGURED)
        most = Usage(input_tokens=1000 + 2 * 16, cache_write_tokens=1000, output_tokens=500)
        assert cost(most, rates) <= bound <= cost(most, usual)


def test_the_upper_bound_covers_every_class_that_is_not_asked_for():
    request = chat("x" * 1000, max_tokens=500)
    usage = Usage(input_tokens=1000, output_tokens=500)
    for provider, model in LISTED:
        bound, _ = upper_bound(provider, model, request, CONFIGURED)
        for price_class in ("priority", "fast", "flex") if provider is Provider.OPENAI else ("us",):
            rates = rates_for(provider, model, CONFIGURED, 1000, price_class)
            assert not rates.exact or cost(usage, rates) <= bound, (model, price_class)


@pytest.mark.parametrize(
    ("model", "dollars"),
    [("text-embedding-3-small", "0.02"), ("text-embedding-3-large", "0.13"), ("text-embedding-ada-002", "0.10")],
)
def test_embeddings_cost_their_input(model: str, dollars: str):
    assert price(Provider.OPENAI, model, Usage(input_tokens=1_000_000)) == Decimal(dollars)


@pytest.mark.parametrize(
    "inputs", [("a",), ("\U0001f389" * 1000, "b"), (tuple(range(1000)), (1,)), ("word " * 8000,) * 9]
)
def test_the_bound_of_embeddings_covers_every_byte_and_every_token(inputs: tuple[str | tuple[int, ...], ...]):
    bound, rates = upper_bound(Provider.OPENAI, "text-embedding-3-small", EmbeddingRequest(inputs=inputs), CONFIGURED)
    most = sum(len(one.encode()) if isinstance(one, str) else len(one) for one in inputs)
    assert bound >= cost(Usage(input_tokens=most), rates)
    assert bound > 0


def test_embeddings_of_a_local_server_cost_the_operators_rate():
    configured = CONFIGURED.model_copy(
        update={"local_usd_per_million_input": Decimal(1), "local_usd_per_million_output": Decimal(0)}
    )
    bound, _ = upper_bound(Provider.LOCAL, "nomic", EmbeddingRequest(inputs=("a" * 984,)), configured)
    assert bound == Decimal("0.001")


def test_a_speech_costs_its_characters_and_its_bound_covers_them():
    request = SpeechRequest(text="Fünf Euro, bitte.", voice="voice1")
    bound, rates = upper_bound(Provider.ELEVENLABS, "eleven_multilingual_v2", request, CONFIGURED)
    assert cost(Usage(input_tokens=len(request.text)), rates) == Decimal("0.0017") <= bound == Decimal("0.0018")
