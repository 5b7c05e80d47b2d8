"""What a call costs: exact from a provider's own counts, an upper bound before the call.

Token prices come from `genai-prices` (offline data, Decimal); rates that it lacks are given by the settings.
"""

import json
from decimal import Decimal
from typing import Self

from genai_prices import Usage as CountedUsage
from genai_prices import __version__ as genai_prices_version
from genai_prices import calc_price
from genai_prices.types import TieredPrices

from parley.domain.errors import UnpricedModel
from parley.domain.model import Model
from parley.domain.requests import ChatRequest, Provider, TranscriptionRequest, Usage

MILLION = Decimal(1_000_000)
HOUR = Decimal(3600)
MICRO_DOLLAR = Decimal("0.000001")
# Chat formats add a few tokens a message; no vendor documents more than this.
TOKENS_PER_MESSAGE = 16


class Rates(Model):
    """Dollars per million tokens and per hour of audio, with where they come from. Stored with every row."""

    source: str
    input: Decimal = Decimal(0)
    cached_input: Decimal = Decimal(0)
    cache_write: Decimal = Decimal(0)
    output: Decimal = Decimal(0)
    audio_hour: Decimal = Decimal(0)


class ConfiguredRates(Model):
    """The rates that `genai-prices` does not know and an operator states."""

    elevenlabs_usd_per_hour: Decimal
    local_usd_per_million_input: Decimal | None = None
    local_usd_per_million_output: Decimal | None = None

    @classmethod
    def of(cls, settings: object) -> Self:
        """Pick the rates out of the settings, whose fields have the same names."""
        return cls(**{name: getattr(settings, name) for name in cls.model_fields})


def rates_for(provider: Provider, model: str, configured: ConfiguredRates, prompt_tokens: int = 0) -> Rates:
    """The rates of one model, for a prompt of that length: some models cost more beyond a threshold.

    Raises:
        UnpricedModel: no price is known. Never a cost of 0 by omission.
    """
    if provider is Provider.ELEVENLABS:
        return Rates(source="settings", audio_hour=configured.elevenlabs_usd_per_hour)
    if provider is Provider.LOCAL:
        return _local_rates(model, configured)
    return _listed_rates(provider, model, prompt_tokens)


def _local_rates(model: str, configured: ConfiguredRates) -> Rates:
    inward, outward = configured.local_usd_per_million_input, configured.local_usd_per_million_output
    if inward is None or outward is None:
        raise UnpricedModel(f"local model {model!r} has no price: set LOCAL_USD_PER_MILLION_INPUT and _OUTPUT")
    return Rates(source="settings", input=inward, cached_input=inward, cache_write=inward, output=outward)


def _listed_rates(provider: Provider, model: str, tokens: int) -> Rates:
    """Per-million rates of the price list for a prompt of that length. What has no rate of its own costs as input."""
    try:
        found = calc_price(CountedUsage(input_tokens=tokens), model, provider_id=provider.value)
    except LookupError as error:
        raise UnpricedModel(f"{provider.value} model {model!r} is not in the price list; use a priced model") from error
    price = found.model_price
    plain, reply = _rate(price.input_mtok, tokens), _rate(price.output_mtok, tokens)
    if not plain or not reply:
        raise UnpricedModel(f"{provider.value} model {model!r} has no token price in genai-prices")
    cached, written = _rate(price.cache_read_mtok, tokens), _rate(price.cache_write_mtok, tokens)
    return Rates(
        source=f"genai-prices {genai_prices_version}",
        input=plain,
        cached_input=plain if cached is None else cached,
        cache_write=plain if written is None else written,
        output=reply,
    )


def _rate(listed: Decimal | TieredPrices | None, tokens: int) -> Decimal | None:
    """A price that rises in tiers does so for the whole prompt, once it is longer than where the tier starts."""
    if not isinstance(listed, TieredPrices):
        return listed
    reached = [tier.price for tier in listed.tiers if tokens > tier.start]
    return reached[-1] if reached else listed.base


def cost(usage: Usage, rates: Rates) -> Decimal:
    """What a provider charges for `usage`, in dollars, to the micro-dollar."""
    plain = usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens
    tokens = (
        max(plain, 0) * rates.input
        + usage.cached_input_tokens * rates.cached_input
        + usage.cache_write_tokens * rates.cache_write
        + usage.output_tokens * rates.output
    )
    audio = Decimal(str(usage.audio_seconds)) * rates.audio_hour / HOUR
    return (tokens / MILLION + audio).quantize(MICRO_DOLLAR)


def upper_bound(
    provider: Provider, model: str, request: ChatRequest | TranscriptionRequest, configured: ConfiguredRates
) -> tuple[Decimal, Rates]:
    """The most that the request can cost, in dollars, and the rates behind it.

    Tokens are bounded by UTF-8 bytes: a byte-level tokeniser never makes more tokens than bytes. It is a loose
    bound (about four times an English prompt) and a true one, which is what a reservation needs.
    """
    most = _most_usage(request)
    rates = rates_for(provider, model, configured, most.input_tokens)
    dearest = rates.model_copy(update={"input": max(rates.input, rates.cache_write)})
    return cost(most, dearest), rates


def _most_usage(request: ChatRequest | TranscriptionRequest) -> Usage:
    if isinstance(request, TranscriptionRequest):
        return Usage(audio_seconds=request.audio_seconds)
    text = sum(len(message.content.encode()) + TOKENS_PER_MESSAGE for message in request.messages)
    schema = len(json.dumps(request.response_schema).encode()) if request.response_schema else 0
    return Usage(input_tokens=text + schema, output_tokens=request.max_tokens)
