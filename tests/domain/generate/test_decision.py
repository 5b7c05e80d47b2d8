"""Whom a request asks, why, and why it is refused."""

from collections import Counter
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from parley.domain.errors import ProviderNotConfigured, UnpricedModel
from parley.domain.generate.contract import GenerateInput, OnRateLimit, Prompt, Refused
from parley.domain.generate.decision import (
    Purse,
    decide,
    is_sampled,
    models_for,
    retirement_warnings,
    routes_for,
    wish_for,
)
from parley.domain.generate.policy import ActionPolicy
from parley.domain.requests import Message, Provider
from parley.domain.routing import Asked, Fact, Route
from parley.settings import Settings

ANTHROPIC, OPENAI, LOCAL = Provider.ANTHROPIC, Provider.OPENAI, Provider.LOCAL
BIG = Route(provider=ANTHROPIC, model="big", priority=1, tiers=("pro",))
SMALL = Route(provider=OPENAI, model="small", priority=2)
OWN = Route(provider=LOCAL, model="own", priority=3)
ROUTES = [OWN, SMALL, BIG]
BOUNDS = {"big": "0.100000", "small": "0.010000", "own": "0.000000", "cheap": "0.001000"}
DEFAULT = ActionPolicy()
RICH = Purse(tier="pro", energy=100, left_usd=None)


def asked(**terms: Any) -> GenerateInput:
    prompt = Prompt(messages=(Message(role="user", content="hello"),))
    return GenerateInput(workspace_id="acme", user_id="ann", prompt=prompt, **terms)


def facts(routes: list[Route], **changes: Fact) -> dict[Asked, Fact]:
    known = {
        (route.provider, route.model): Fact(configured=True, upper_bound_usd=Decimal(BOUNDS[route.model]))
        for route in routes
    }
    named = {model: place for place in known for model in [place[1]]}
    return known | {named[model]: fact for model, fact in changes.items()}


def decided(
    request: GenerateInput | None = None,
    *,
    purse: Purse = RICH,
    action: ActionPolicy = DEFAULT,
    routes: list[Route] = ROUTES,
    seed: str = "seed",
    **changes: Fact,
) -> tuple[list[str], list[str], Refused | None]:
    """Models in order, their reasons, and the refusal."""
    request = request or asked()
    routes = routes_for(request, routes)
    wish = wish_for(request, action, purse, seed)
    candidates, refusal = decide(action, routes, facts(routes, **changes), purse, wish)
    return (
        [candidate.model for candidate in candidates],
        [candidate.reason for candidate in candidates],
        refusal.code if refusal else None,
    )


def test_routes_come_by_priority():
    models, reasons, _ = decided()
    assert models == ["big", "small", "own"]
    assert reasons == ["first choice of the pro tier", "fallback 1", "fallback 2"]


def test_a_tier_has_its_own_models():
    models, _, _ = decided(purse=Purse(tier="free", energy=100, left_usd=None))
    assert models == ["small", "own"]


def test_what_does_not_fit_the_money_gives_way_to_what_does_and_this_is_said():
    models, reasons, _ = decided(purse=RICH.model_copy(update={"left_usd": Decimal("0.05")}))
    assert models == ["small", "own"]
    assert reasons[0] == "the first that can serve: big may cost $0.100000, and $0.05 is left"


def test_where_nothing_fits_the_money_the_request_is_refused():
    models, _, refusal = decided(purse=RICH.model_copy(update={"left_usd": Decimal("0.005")}), routes=[BIG, SMALL])
    assert (models, refusal) == ([], Refused.BUDGET_EXHAUSTED)


def test_an_action_and_a_route_bound_a_request_too():
    models, _, _ = decided(action=ActionPolicy(max_cost_usd=Decimal("0.05")))
    assert models == ["small", "own"]
    models, _, _ = decided(routes=[BIG.model_copy(update={"max_cost_usd": Decimal("0.01")}), SMALL])
    assert models == ["small"]


def test_without_energy_the_request_is_refused():
    models, _, refusal = decided(purse=Purse(tier="pro", energy=2, left_usd=None), action=ActionPolicy(energy=3))
    assert (models, refusal) == ([], Refused.INSUFFICIENT_ENERGY)


def test_who_was_asked_for_by_name_comes_first():
    models, reasons, _ = decided(asked(model="own"))
    assert models == ["own", "big", "small"]
    assert reasons[0] == "asked for by name"
    assert decided(asked(provider=OPENAI))[0][0] == "small"


def test_a_name_is_no_way_around_a_tier():
    poor = Purse(tier="free", energy=100, left_usd=None)
    models, reasons, _ = decided(asked(model="big"), purse=poor)
    assert models == ["small", "own"]
    assert reasons[0] == "the first that can serve: big is not for the free tier"
    models, _, _ = decided(asked(provider=ANTHROPIC, model="cheap"), purse=poor)
    assert "cheap" not in models


def test_a_model_without_a_route_is_asked_when_it_is_named_with_its_provider():
    models, _, _ = decided(asked(provider=ANTHROPIC, model="cheap"))
    assert models[0] == "cheap"


def test_an_open_breaker_is_tried_last():
    models, reasons, _ = decided(big=Fact(configured=True, upper_bound_usd=Decimal(1), breaker_wait=42))
    assert models == ["small", "own", "big"]
    assert reasons[0] == "first choice of the pro tier"
    assert reasons[-1] == "breaker open for 42 s more, tried last"


def test_behind_a_rate_limit_the_cheaper_come_first():
    routes = [SMALL, BIG.model_copy(update={"priority": 3}), OWN.model_copy(update={"priority": 4})]
    assert decided(routes=routes)[0] == ["small", "big", "own"]
    assert decided(asked(on_rate_limit=OnRateLimit.CHEAPER), routes=routes)[0] == ["small", "own", "big"]


def test_equal_priorities_share_by_weight_and_always_the_same_way():
    routes = [
        BIG.model_copy(update={"weight": 3, "tiers": ()}),
        SMALL.model_copy(update={"priority": 1, "weight": 1}),
    ]
    first = Counter(decided(routes=routes, seed=str(number))[0][0] for number in range(2000))
    assert 0.70 < first["big"] / 2000 < 0.80
    assert decided(routes=routes, seed="7") == decided(routes=routes, seed="7")


def test_what_the_operator_must_mend_is_an_error():
    nothing = Fact(configured=False)
    with pytest.raises(ProviderNotConfigured, match="small has no key"):
        decided(routes=[SMALL], small=nothing)
    with pytest.raises(UnpricedModel, match="small has no known price"):
        decided(routes=[SMALL], small=Fact(configured=True))


def test_a_tier_without_any_route_is_refused():
    models, _, refusal = decided(purse=Purse(tier="free", energy=9, left_usd=None), routes=[BIG])
    assert (models, refusal) == ([], Refused.NO_MODEL_ALLOWED)


def test_answers_of_a_named_model_are_those_of_no_other():
    wish = wish_for(asked(model="own"), ActionPolicy(), RICH, "seed")
    assert models_for(ROUTES, wish) == [(LOCAL, "own")]
    free = wish_for(asked(), ActionPolicy(), Purse(tier="free", energy=9, left_usd=None), "seed")
    assert models_for(ROUTES, free) == [(OPENAI, "small"), (LOCAL, "own")]


def test_a_retired_model_is_warned_about_with_its_successor():
    policy = Settings().policy()
    retired = Route(provider=OPENAI, model="gpt-3.5-turbo")
    known = {(OPENAI, "gpt-3.5-turbo"): Fact(configured=True, upper_bound_usd=Decimal(0))}
    wish = wish_for(asked(), ActionPolicy(), RICH, "seed")
    candidates, _ = decide(ActionPolicy(), [retired], known, RICH, wish)
    (warning,) = retirement_warnings(policy, candidates, date(2026, 10, 22))
    assert warning == "gpt-3.5-turbo will be retired on 2026-10-23 by its vendor: move to gpt-4.1-mini"
    (warning,) = retirement_warnings(policy, candidates, date(2026, 10, 23))
    assert "was retired on" in warning
    assert retirement_warnings(policy, (), date(2026, 10, 23)) == ()


def test_a_share_of_the_requests_is_sampled():
    sampled = sum(is_sampled(0.2, f"job-{number}/generate") for number in range(5000))
    assert 0.17 < sampled / 5000 < 0.23
    assert not any(is_sampled(0, str(number)) for number in range(100))
    assert all(is_sampled(1, str(number)) for number in range(100))
