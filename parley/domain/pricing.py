"""The cost of a paid request: an upper bound before the call, exact from the provider's counts after it.

Token prices come from `genai-prices` (offline data, Decimal). The settings give the rates that it lacks.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from typing import Self

from genai_prices import Usage as CountedUsage
from genai_prices import __version__ as genai_prices_version
from genai_prices import calc_price
from genai_prices.types import ModelInfo, ModelPrice, PriceCalculation, TieredPrices

from parley.domain.capabilities import is_embedding_model, without_dropped
from parley.domain.errors import UnpricedModel
from parley.domain.images import most_image_tokens
from parley.domain.model import Model
from parley.domain.money import MICRO_DOLLAR, as_usd
from parley.domain.recording import seconds_by_size
from parley.domain.requests import (
    EmbeddingRequest,
    Message,
    Provider,
    Request,
    SpeechRequest,
    Tool,
    TranscriptionRequest,
    Usage,
)

MILLION = Decimal(1_000_000)
HOUR = Decimal(3600)
TOKEN_RATES = ("input", "cached_input", "cache_write", "output")
# Chat formats add a few tokens a message, and embedding models a few to a text; no vendor documents more than this.
TOKENS_PER_MESSAGE = 16
# Anthropic puts a prompt of up to 804 tokens before tools:
# https://platform.claude.com/docs/en/agents-and-tools/tool-use/overview#pricing. OpenAI names no number.
TOOL_PROMPT_TOKENS = 1_000
# Price classes that the list has, as it names them; OpenAI's other classes are its service tiers.
LISTED_CLASSES = {
    (Provider.OPENAI, "batch"): {"processing": "batch"},
    (Provider.ANTHROPIC, "batch"): {"processing": "batch"},
    (Provider.ANTHROPIC, "fast"): {"speed": "fast"},
}
# What every request of a batch costs, as a share of the usual price, where the list has no rates of its own:
# https://developers.openai.com/api/docs/guides/batch and
# https://platform.claude.com/docs/en/build-with-claude/batch-processing#pricing. The list is more precise for some
# models: OpenAI halves no price of cached tokens of its older ones.
BATCH = "batch"
BATCH_FACTOR = Decimal("0.5")
# Requests that are served in one region cost a tenth more: https://platform.claude.com/docs/en/about-claude/pricing and
# https://developers.openai.com/api/docs/pricing. An account's setting is enough for it.
REGION_FACTOR = Decimal("1.1")
REGIONS = {(Provider.ANTHROPIC, "us")}


class Rates(Model):
    """USD per million tokens and per hour of audio, with their source. Stored with every usage row.

    price_class: what the vendor names as a reason for another price; empty for the usual one. exact: whether these are
    the rates of that class. If not, the cost lies between 0 and the upper bound.
    """

    source: str
    price_class: str = ""
    exact: bool = True
    input: Decimal = Decimal(0)
    cached_input: Decimal = Decimal(0)
    cache_write: Decimal = Decimal(0)
    output: Decimal = Decimal(0)
    audio_hour: Decimal = Decimal(0)


class ConfiguredRates(Model):
    """The rates that `genai-prices` lacks and an operator sets."""

    elevenlabs_usd_per_hour: Decimal
    elevenlabs_usd_per_thousand_characters: Decimal
    local_usd_per_million_input: Decimal | None = None
    local_usd_per_million_output: Decimal | None = None

    @classmethod
    def of(cls, settings: object) -> Self:
        """The rates in the settings, whose fields have the same names."""
        return cls(**{name: getattr(settings, name) for name in cls.model_fields})


def rates_for(
    provider: Provider, model: str, configured: ConfiguredRates, prompt_tokens: int = 0, price_class: str = ""
) -> Rates:
    """The rates of one model. `prompt_tokens`: some models have higher rates for longer prompts.

    price_class: what a reply names as a reason for another price. The rates are not exact if it is not known.

    Raises:
        UnpricedModel: no price is known. A missing price is never a cost of 0.
    """
    if provider is Provider.ELEVENLABS:
        per_million = configured.elevenlabs_usd_per_thousand_characters * 1000
        return Rates(source="settings", audio_hour=configured.elevenlabs_usd_per_hour, input=per_million)
    if provider is Provider.LOCAL:
        return _local_rates(model, configured)
    if provider is Provider.WHISPER:
        return Rates(source="this machine")
    return _class_rates(provider, model, prompt_tokens, price_class)


def _local_rates(model: str, configured: ConfiguredRates) -> Rates:
    inward, outward = configured.local_usd_per_million_input, configured.local_usd_per_million_output
    if inward is None or outward is None:
        raise UnpricedModel(f"local model {model!r} has no price: set LOCAL_USD_PER_MILLION_INPUT and _OUTPUT")
    return Rates(source="settings", input=inward, cached_input=inward, cache_write=inward, output=outward)


def _class_rates(provider: Provider, model: str, tokens: int, price_class: str) -> Rates:
    """The rates of a class. Its parts are joined with `+`: a service tier, a speed, a region."""
    context: dict[str, str] = {}
    factor, exact = Decimal(1), True
    for part in price_class.split("+") if price_class else ():
        if (provider, part) in REGIONS:
            factor *= REGION_FACTOR
            continue
        listed = _listed_class(provider, part)
        if part == BATCH and listed not in _listed_variants(provider, model):
            factor *= BATCH_FACTOR
            continue
        exact = exact and listed in _listed_variants(provider, model)
        context |= listed
    rates = _listed_rates(provider, model, tokens, context)
    scaled = {name: getattr(rates, name) * factor for name in TOKEN_RATES}
    return rates.model_copy(update={**scaled, "price_class": price_class, "exact": exact})


def _listed_class(provider: Provider, part: str) -> dict[str, str]:
    return LISTED_CLASSES.get((provider, part), {"service_tier": part})


def _listed_variants(provider: Provider, model: str) -> list[dict[str, str]]:
    """The classes that the list has for a model."""
    return [variant.when for variant in _listed_model(provider, model).price_variants or ()]


def _listed_rates(provider: Provider, model: str, tokens: int, context: dict[str, str] | None = None) -> Rates:
    """The rates of the price list for a prompt of that length. Cached tokens without a rate cost as input tokens."""
    try:
        price = _calculated(provider, model, context).model_price if context else _usual_price(provider, model)
    except LookupError as error:
        raise UnpricedModel(f"{provider.value} model {model!r} is not in the price list; use a priced model") from error
    return _rates_of(price, provider, model, tokens)


def _rates_of(price: ModelPrice, provider: Provider, model: str, tokens: int) -> Rates:
    plain, reply = _rate(price.input_mtok, tokens), _rate(price.output_mtok, tokens)
    # Vectors are not counted.
    if not plain or not (reply or is_embedding_model(provider, model)):
        raise UnpricedModel(f"{provider.value} model {model!r} has no token price in genai-prices; use a priced model")
    cached, written = _rate(price.cache_read_mtok, tokens), _rate(price.cache_write_mtok, tokens)
    return Rates(
        source=f"genai-prices {genai_prices_version}",
        input=plain,
        cached_input=plain if cached is None else cached,
        cache_write=plain if written is None else written,
        output=reply or Decimal(0),
    )


@lru_cache(maxsize=512)
def _listed_model(provider: Provider, model: str) -> ModelInfo:
    """The model's entry of the price list. Reading the list takes most of a millisecond.

    Raises:
        LookupError: the list has no such model.
    """
    return _calculated(provider, model).model


def _calculated(provider: Provider, model: str, context: Mapping[str, str] | None = None) -> PriceCalculation:
    return calc_price(CountedUsage(), model, provider_id=provider.value, price_context=dict(context or {}))


def _usual_price(provider: Provider, model: str) -> ModelPrice:
    prices = _listed_model(provider, model).prices
    # Other prices depend on the time.
    return prices if isinstance(prices, ModelPrice) else _calculated(provider, model).model_price


def _tier_prices(provider: Provider, model: str) -> Iterator[ModelPrice]:
    """The prices of each service tier of a model, also of one whose price is listed for a later day."""
    for variant in _listed_model(provider, model).price_variants or ():
        if "service_tier" in variant.when:
            price = copy(_usual_price(provider, model))
            vars(price).update({name: one for name, one in vars(variant.prices).items() if one is not None})
            yield price


def _rate(listed: Decimal | TieredPrices | None, tokens: int) -> Decimal | None:
    """The rate of a tiered price: the highest tier that a prompt reaches applies to the whole prompt."""
    if not isinstance(listed, TieredPrices):
        return listed
    reached = [tier.price for tier in listed.tiers if tokens > tier.start]
    return reached[-1] if reached else listed.base


def cost(usage: Usage, rates: Rates) -> Decimal:
    """What a provider charges for `usage`, in USD, exact to twelve decimals."""
    return as_usd(_amount(usage, rates))


def counted_cost(usage: Usage, rates: Rates) -> Decimal | None:
    """The cost of what was counted; None where the counts cannot be used, or the rates of the class are not known."""
    return cost(usage, rates) if usage.is_known and rates.exact else None


def prompt_cache_saved(usage: Usage, rates: Rates) -> Decimal:
    """What a vendor's prompt cache saved, in USD: below 0 where writing to it cost more than reading saved."""
    read = usage.cached_input_tokens * (rates.input - rates.cached_input)
    written = usage.cache_write_tokens * (rates.input - rates.cache_write)
    return as_usd((read + written) / MILLION)


def _amount(usage: Usage, rates: Rates) -> Decimal:
    plain = usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens
    tokens = (
        max(plain, 0) * rates.input
        + usage.cached_input_tokens * rates.cached_input
        + usage.cache_write_tokens * rates.cache_write
        + usage.output_tokens * rates.output
    )
    return tokens / MILLION + Decimal(str(usage.audio_seconds)) * rates.audio_hour / HOUR


def upper_bound(
    provider: Provider, model: str, request: Request, configured: ConfiguredRates, price_class: str = ""
) -> tuple[Decimal, Rates]:
    """The most that the request can cost, in USD, rounded up to a micro-dollar, and the rates used.

    `price_class`: one that the request asks for, such as `BATCH`; the vendor then applies no service tier of its own.

    Tokens are bounded by UTF-8 bytes, since a byte-level tokeniser never makes more tokens than bytes. The bound is
    loose (about four times an English prompt) but certain, as a reservation requires. Tools count with their schemas,
    images by the vendor's formula (see `most_image_tokens`). A recording counts with the length in its header, or with
    that of the sound in its bytes if that is more, for each channel that is transcribed alone.

    Raises:
        UnpricedModel: no price is known.
    """
    usage = _upper_bound_usage(provider, model, request)
    rates = rates_for(provider, model, configured, usage.input_tokens, price_class)
    most = max(_amount(usage, highest) for highest in _possible_rates(provider, model, usage, rates))
    return most.quantize(MICRO_DOLLAR, ROUND_CEILING), rates


def _possible_rates(provider: Provider, model: str, usage: Usage, rates: Rates) -> Iterator[Rates]:
    """The rates of every class that a vendor may apply without being asked, for a prompt that it writes to its cache.

    OpenAI applies the service tier that the project is set to; Anthropic's other speed must be asked for.
    """
    if provider not in (Provider.OPENAI, Provider.ANTHROPIC):
        yield rates
        return
    has_tiers = provider is Provider.OPENAI and not rates.price_class
    tiers = _tier_prices(provider, model) if has_tiers else ()
    for found in (rates, *(_rates_of(tier, provider, model, usage.input_tokens) for tier in tiers)):
        highest = {name: getattr(found, name) * REGION_FACTOR for name in TOKEN_RATES}
        dearest = max(highest[name] for name in ("input", "cached_input", "cache_write"))
        yield found.model_copy(update={**highest, "input": dearest})


def _upper_bound_usage(provider: Provider, model: str, request: Request) -> Usage:
    if isinstance(request, TranscriptionRequest):
        seconds = max(request.audio_seconds, seconds_by_size(request.audio))
        return Usage(audio_seconds=seconds * request.channels)
    if isinstance(request, SpeechRequest):
        return Usage(input_tokens=len(request.text.encode()))  # of a character more than one may be counted
    if isinstance(request, EmbeddingRequest):
        return Usage(input_tokens=sum(map(_tokens_to_embed, request.inputs)))
    sent = without_dropped(provider, model, request)
    messages = sum(_message_tokens(provider, model, message) for message in sent.messages)
    schema = len(json.dumps(sent.response_schema)) if sent.response_schema else 0
    return Usage(input_tokens=messages + schema + _tool_tokens(sent.tools), output_tokens=request.max_tokens)


def _tokens_to_embed(one: str | tuple[int, ...]) -> int:
    return (len(one.encode()) if isinstance(one, str) else len(one)) + TOKENS_PER_MESSAGE


def _message_tokens(provider: Provider, model: str, message: Message) -> int:
    texts = [message.text, *(text for call in message.tool_calls for text in (call.id, call.name, call.arguments))]
    images = sum(most_image_tokens(provider, model, image) for image in message.images)
    return sum(len(text.encode()) for text in texts) + images + TOKENS_PER_MESSAGE * (1 + len(message.tool_calls))


def _tool_tokens(tools: Sequence[Tool]) -> int:
    """Names, descriptions and schemas, and what vendors add to a request with tools."""
    described = sum(len(json.dumps([tool.name, tool.description, tool.parameters])) for tool in tools)
    return described + TOKENS_PER_MESSAGE * len(tools) + (TOOL_PROMPT_TOKENS if tools else 0)
