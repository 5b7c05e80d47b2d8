from decimal import Decimal

import pytest

from parley.domain.requests import Provider
from parley.domain.routing import Option, rank, takes_temperature

ANTHROPIC, OPENAI, LOCAL = Provider.ANTHROPIC, Provider.OPENAI, Provider.LOCAL


def option(provider: Provider, price: str | None = "1", *, configured: bool = True, wait: float = 0.0) -> Option:
    return Option(
        provider=provider,
        model=f"{provider}-model",
        configured=configured,
        price=Decimal(price) if price else None,
        breaker_wait=wait,
    )


def order(*options: Option, preferred: Provider | None = None, cheapest_first: bool = False) -> list[Provider]:
    ranked = rank(options, preferred=preferred, cheapest_first=cheapest_first)
    return [candidate.provider for candidate in ranked]


def test_options_keep_the_order_in_which_they_are_given():
    assert order(option(ANTHROPIC, "6"), option(OPENAI, "1")) == [ANTHROPIC, OPENAI]


def test_the_cheapest_goes_first_where_that_is_asked_for_and_free_is_cheapest():
    assert order(option(ANTHROPIC, "6"), option(OPENAI, "1"), option(LOCAL, "0"), cheapest_first=True) == [
        LOCAL,
        OPENAI,
        ANTHROPIC,
    ]


def test_a_preferred_provider_beats_price():
    both = option(ANTHROPIC, "6"), option(OPENAI, "1")
    assert order(*both, preferred=ANTHROPIC, cheapest_first=True) == [ANTHROPIC, OPENAI]


def test_an_open_breaker_puts_even_the_preferred_last_and_keeps_it():
    both = option(ANTHROPIC, wait=12), option(OPENAI)
    assert order(*both, preferred=ANTHROPIC) == [OPENAI, ANTHROPIC]


def test_what_is_not_configured_or_has_no_price_is_no_candidate():
    assert order(option(ANTHROPIC, configured=False), option(OPENAI, None), option(LOCAL)) == [LOCAL]


def test_every_candidate_says_why_it_has_its_rank():
    ranked = rank([option(ANTHROPIC, wait=12.4), option(OPENAI), option(LOCAL)])
    assert [candidate.reason for candidate in ranked] == [
        "first configured choice",
        "fallback 1",
        "breaker open for 12 s more, tried last",
    ]
    assert rank([option(LOCAL)], preferred=LOCAL)[0].reason == "asked for by name"
    assert rank([option(LOCAL)], cheapest_first=True)[0].reason == "cheapest configured choice"


@pytest.mark.parametrize(
    ("provider", "model", "takes"),
    [
        (OPENAI, "gpt-4o-mini", True),
        (OPENAI, "ft:gpt-4o-mini:acme::7", True),
        (OPENAI, "o3-mini", False),
        (OPENAI, "gpt-5-mini", False),
        (OPENAI, "ft:o4-mini-2025-04-16:acme::7", False),
        (LOCAL, "llama-3.1-8b-instruct", True),
        (LOCAL, "o1-distilled", True),
        (ANTHROPIC, "claude-haiku-4-5", False),
    ],
)
def test_a_temperature_goes_only_where_the_vendor_takes_it(provider: Provider, model: str, takes: bool):
    assert takes_temperature(provider, model) is takes
