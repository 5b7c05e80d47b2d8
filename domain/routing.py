"""Which provider and model may serve a call, in which order, and why. Pure: the caller brings the facts."""

from collections.abc import Sequence
from decimal import Decimal

from domain.calls import Model, Provider

# OpenAI's reasoning models refuse a temperature; Anthropic's SDK dropped the argument altogether.
NO_TEMPERATURE = ("o1", "o3", "o4", "gpt-5")


class Option(Model):
    """A way to serve a call, with what is known about it now. `price`: dollars for a million tokens each way."""

    provider: Provider
    model: str
    configured: bool
    price: Decimal | None = None
    simulated: bool = False
    breaker_wait: float = 0.0


class Candidate(Model):
    """An option that may be tried, with the reason for its rank."""

    provider: Provider
    model: str
    simulated: bool
    reason: str


def rank(
    options: Sequence[Option], *, preferred: Provider | None = None, cheapest_first: bool = False
) -> list[Candidate]:
    """Order the usable options: a preferred provider first, else by price or as given; open breakers last.

    A provider whose breaker is open stays a candidate: by the time that the others have failed, it may be back.
    """
    usable = [option for option in options if option.configured and option.price is not None]
    if cheapest_first:
        usable.sort(key=lambda option: option.price or 0)
    ordered = sorted(usable, key=lambda option: (option.breaker_wait > 0, option.provider is not preferred))
    choice = "cheapest configured choice" if cheapest_first else "first configured choice"
    return [
        Candidate(
            provider=option.provider,
            model=option.model,
            simulated=option.simulated,
            reason=_reason(option, preferred, f"fallback {place}" if place else choice),
        )
        for place, option in enumerate(ordered)
    ]


def _reason(option: Option, preferred: Provider | None, otherwise: str) -> str:
    if option.breaker_wait > 0:
        return f"breaker open for {option.breaker_wait:.0f} s more, tried last"
    return "asked for by name" if option.provider is preferred else otherwise


def takes_temperature(provider: Provider, model: str) -> bool:
    """Whether the vendor accepts `temperature` for this model."""
    if provider is Provider.OPENAI:
        return not model.removeprefix("ft:").startswith(NO_TEMPERATURE)
    return provider is Provider.LOCAL
