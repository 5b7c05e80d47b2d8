"""The order of candidates, and the reason for each rank."""

from decimal import Decimal

from parley.domain.requests import Provider
from parley.domain.routing import Option, Order, RoutingRequest, rank

ANTHROPIC, OPENAI, LOCAL = Provider.ANTHROPIC, Provider.OPENAI, Provider.LOCAL
CHEAPEST = Order.CHEAPEST_FIRST


def option(provider: Provider, price: str | None = "1", *, configured: bool = True, wait: float = 0.0) -> Option:
    return Option(
        provider=provider,
        model=f"{provider}-model",
        configured=configured,
        price=Decimal(price) if price else None,
        breaker_wait=wait,
    )


def ranked(*options: Option, preferred: Provider | None = None, order: Order = Order.AS_GIVEN) -> list[Provider]:
    found = rank(options, RoutingRequest(provider=preferred, order=order))
    return [candidate.provider for candidate in found.candidates]


def first_reason(*options: Option, preferred: Provider | None = None, order: Order = Order.AS_GIVEN) -> str:
    return rank(options, RoutingRequest(provider=preferred, order=order)).candidates[0].reason


def test_options_keep_their_order():
    assert ranked(option(ANTHROPIC, "6"), option(OPENAI, "1")) == [ANTHROPIC, OPENAI]


def test_cheapest_first_orders_by_price_and_free_is_cheapest():
    options = option(ANTHROPIC, "6"), option(OPENAI, "1"), option(LOCAL, "0")
    assert ranked(*options, order=CHEAPEST) == [LOCAL, OPENAI, ANTHROPIC]


def test_a_named_provider_precedes_cheaper_ones():
    both = option(ANTHROPIC, "6"), option(OPENAI, "1")
    assert ranked(*both, preferred=ANTHROPIC, order=CHEAPEST) == [ANTHROPIC, OPENAI]


def test_an_open_breaker_puts_even_a_named_provider_last():
    both = option(ANTHROPIC, wait=12), option(OPENAI)
    assert ranked(*both, preferred=ANTHROPIC) == [OPENAI, ANTHROPIC]


def test_options_without_a_key_or_a_price_are_skipped_with_a_reason():
    options = option(ANTHROPIC, configured=False), option(OPENAI, None), option(LOCAL)
    assert ranked(*options) == [LOCAL]
    assert rank(options, RoutingRequest()).skipped == (
        "anthropic-model has no key",
        "openai-model has no known price",
    )


def test_every_candidate_has_the_reason_for_its_rank():
    found = rank([option(ANTHROPIC, wait=12.4), option(OPENAI), option(LOCAL)], RoutingRequest())
    assert [candidate.reason for candidate in found.candidates] == [
        "first configured choice",
        "fallback 1",
        "breaker open for 12 s more, tried last",
    ]
    assert first_reason(option(LOCAL), preferred=LOCAL) == "named by the caller"
    assert first_reason(option(LOCAL), order=CHEAPEST) == "cheapest configured choice"


def test_over_budget_means_that_the_cost_alone_excludes_an_option():
    costly = option(OPENAI).model_copy(update={"upper_bound_usd": Decimal("0.2")})
    unconfigured = costly.model_copy(update={"configured": False})
    request = RoutingRequest(budget_usd=Decimal("0.1"))
    assert rank([costly], request).over_budget
    assert not rank([unconfigured], request).over_budget
