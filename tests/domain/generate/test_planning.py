"""Which candidates a request gets, why, and why it is refused."""

from collections import Counter
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from parley.domain.configuration import Configuration
from parley.domain.errors import InvalidInput, ProviderNotConfigured, UnpricedModel
from parley.domain.generate.condensing import StoredSummary
from parley.domain.generate.contract import (
    GenerateInput,
    Job,
    OnRateLimit,
    Prompt,
    Refusal,
    Refused,
    SummaryReference,
)
from parley.domain.generate.planning import (
    Balance,
    Gathered,
    Plan,
    is_sampled,
    models_for,
    plan,
    render_request,
    retirement_warnings,
    routes_for,
    routing_request,
)
from parley.domain.generate.policy import ActionPolicy, Policy
from parley.domain.pricing import ConfiguredRates
from parley.domain.requests import ImagePart, Message, Provider
from parley.domain.routing import (
    Candidate,
    Option,
    ProviderStatus,
    Ranking,
    Route,
    allowed,
    not_allowed,
    rank,
)
from parley.settings import Settings

ANTHROPIC, OPENAI, LOCAL = Provider.ANTHROPIC, Provider.OPENAI, Provider.LOCAL
BIG = Route(provider=ANTHROPIC, model="big", priority=1, tiers=("pro",))
SMALL = Route(provider=OPENAI, model="small", priority=2)
OWN = Route(provider=LOCAL, model="own", priority=3)
ROUTES = [OWN, SMALL, BIG]
BOUNDS = {"big": "0.100000", "small": "0.010000", "own": "0.000000", "cheap": "0.001000"}
DEFAULT = ActionPolicy()
RICH = Balance(tier="pro", energy=100, left_usd=None)
FREE = Balance(tier="free", energy=100, left_usd=None)


def asked(**terms: Any) -> GenerateInput:
    prompt = Prompt(messages=(Message(role="user", content="hello"),))
    return GenerateInput(workspace_id="acme", user_id="ann", prompt=prompt, **terms)


def ranked(
    request: GenerateInput | None = None,
    *,
    balance: Balance = RICH,
    action: ActionPolicy = DEFAULT,
    routes: list[Route] = ROUTES,
    seed: str = "seed",
    **changes: dict[str, Any],
) -> Ranking:
    """The ranking of routes with known upper bounds. `changes`: by model."""
    request = request or asked()
    routes = routes_for(request, routes)
    routing = routing_request(request, action, balance, seed=seed)
    options = [
        Option.model_validate(
            {
                "provider": route.provider,
                "model": route.model,
                "configured": True,
                "upper_bound_usd": Decimal(BOUNDS[route.model]),
                "max_cost_usd": route.max_cost_usd,
            }
            | changes.get(route.model, {})
        )
        for route in allowed(routes, routing)
    ]
    return rank(options, routing, skipped=not_allowed(routes, routing))


def decided(*given: Any, **terms: Any) -> tuple[list[str], list[str]]:
    """Models in order, and their reasons."""
    candidates = ranked(*given, **terms).candidates
    return [candidate.model for candidate in candidates], [candidate.reason for candidate in candidates]


def test_routes_are_ordered_by_priority():
    models, reasons = decided()
    assert models == ["big", "small", "own"]
    assert reasons == ["first choice of the pro tier", "fallback 1", "fallback 2"]


def test_a_model_that_cannot_do_what_is_asked_is_skipped_with_a_reason():
    models, reasons = decided(big={"unserved": "accepts no images"})
    assert models == ["small", "own"]
    assert reasons[0] == "the first that can serve: big accepts no images"


def test_a_tier_gets_only_its_models():
    models, _ = decided(balance=FREE)
    assert models == ["small", "own"]


def test_a_model_above_the_budget_is_skipped_with_a_reason():
    models, reasons = decided(balance=RICH.model_copy(update={"left_usd": Decimal("0.05")}))
    assert models == ["small", "own"]
    assert reasons[0] == "the first that can serve: big may cost $0.100000, and $0.05 is left"


def test_an_action_and_a_route_limit_the_cost_too():
    models, _ = decided(action=ActionPolicy(max_cost_usd=Decimal("0.05")))
    assert models == ["small", "own"]
    models, _ = decided(routes=[BIG.model_copy(update={"max_cost_usd": Decimal("0.01")}), SMALL])
    assert models == ["small"]


def test_a_named_model_comes_first():
    models, reasons = decided(asked(model="own"))
    assert models == ["own", "big", "small"]
    assert reasons[0] == "named by the caller"
    assert decided(asked(provider=OPENAI))[0][0] == "small"


def test_naming_a_model_does_not_bypass_a_tier():
    models, reasons = decided(asked(model="big"), balance=FREE)
    assert models == ["small", "own"]
    assert reasons[0] == "the first that can serve: big is not for the free tier"
    models, _ = decided(asked(provider=ANTHROPIC, model="cheap"), balance=FREE)
    assert "cheap" not in models


def test_a_model_without_a_route_is_tried_when_it_is_named_with_its_provider():
    models, _ = decided(asked(provider=ANTHROPIC, model="cheap"))
    assert models[0] == "cheap"


def test_an_open_breaker_is_tried_last():
    models, reasons = decided(big={"breaker_wait": 42})
    assert models == ["small", "own", "big"]
    assert reasons[0] == "first choice of the pro tier"
    assert reasons[-1] == "breaker open for 42 s more, tried last"


def test_cheaper_next_puts_cheaper_models_behind_the_first():
    routes = [SMALL, BIG.model_copy(update={"priority": 3}), OWN.model_copy(update={"priority": 4})]
    assert decided(routes=routes)[0] == ["small", "big", "own"]
    assert decided(asked(on_rate_limit=OnRateLimit.CHEAPER), routes=routes)[0] == ["small", "own", "big"]


def test_equal_priorities_are_drawn_by_weight_and_fixed_per_seed():
    routes = [
        BIG.model_copy(update={"weight": 3, "tiers": ()}),
        SMALL.model_copy(update={"priority": 1, "weight": 1}),
    ]
    first = Counter(decided(routes=routes, seed=str(number))[0][0] for number in range(2000))
    assert 0.70 < first["big"] / 2000 < 0.80
    assert decided(routes=routes, seed="7") == decided(routes=routes, seed="7")


def test_answers_of_a_named_model_are_not_those_of_others():
    named = routing_request(asked(model="own"), DEFAULT, RICH, seed="seed")
    assert models_for(allowed(ROUTES, named), named) == [(LOCAL, "own")]
    free = routing_request(asked(), DEFAULT, FREE, seed="seed")
    assert models_for(allowed(ROUTES, free), free) == [(OPENAI, "small"), (LOCAL, "own")]


def test_a_retired_model_has_a_warning_with_its_successor():
    policy = Settings().policy()
    retired = [Candidate(provider=OPENAI, model="gpt-3.5-turbo", simulated=False, reason="first")]
    (warning,) = retirement_warnings(policy, retired, date(2026, 10, 22))
    assert warning == "gpt-3.5-turbo will be retired on 2026-10-23 by its vendor: move to gpt-4.1-mini"
    (warning,) = retirement_warnings(policy, retired, date(2026, 10, 23))
    assert "was retired on" in warning
    assert retirement_warnings(policy, (), date(2026, 10, 23)) == ()


def test_a_share_of_the_requests_is_sampled():
    sampled = sum(is_sampled(0.2, f"job-{number}/generate") for number in range(5000))
    assert 0.17 < sampled / 5000 < 0.23
    assert not any(is_sampled(0, str(number)) for number in range(100))
    assert all(is_sampled(1, str(number)) for number in range(100))


MINI, SONNET = "gpt-4o-mini", "claude-sonnet-4-6"
READY = ProviderStatus(configured=True)
RATES = ConfiguredRates(elevenlabs_usd_per_hour=Decimal(1), elevenlabs_usd_per_thousand_characters=Decimal("0.10"))
REAL_ROUTES = (
    Route(provider=ANTHROPIC, model=SONNET, tiers=("pro",)),
    Route(provider=OPENAI, model=MINI, priority=2),
)


def planned(
    request: GenerateInput | None = None,
    *,
    balance: Balance = RICH,
    action: ActionPolicy = DEFAULT,
    routes: tuple[Route, ...] = REAL_ROUTES,
    summary: StoredSummary | None = None,
    **statuses: ProviderStatus,
) -> Plan:
    """The plan for a request, as `prepare` makes it."""
    request = request or asked()
    policy = Policy.model_validate(
        {"route": routes, "action": {request.action: action}, "tier": {"pro": {"daily_energy": 1}}}
    )
    job = Job(
        input=request,
        job_key="job",
        workflow_id="workflow",
        fingerprint="asked",
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    gathered = Gathered(configuration=Configuration(), warnings=("stored",), prompt=request.prompt, balance=balance)
    known = {provider: statuses.get(provider.value, READY) for provider in Provider}
    return plan(
        render_request(job, gathered, policy, policy.route),
        balance,
        summary,
        known,
        rates=RATES,
        policy=policy,
        today=date(2026, 1, 1),
    )


class TestPlan:
    def test_candidates_have_upper_bounds_and_the_terms_their_warnings(self):
        found = planned()
        assert [one.model for one in found.candidates] == [SONNET, MINI]
        assert all(one.upper_bound_usd for one in found.candidates)
        assert found.serving.warnings == ("stored",)
        assert (found.refusal, found.condense, found.condensed) == (None, False, None)

    def test_without_energy_the_request_is_refused(self):
        found = planned(balance=RICH.model_copy(update={"energy": 2}), action=ActionPolicy(energy=3))
        message = "this needs 3 energy, and 2 is left"
        assert found.refusal == Refusal(code=Refused.INSUFFICIENT_ENERGY, message=message)
        assert found.candidates == ()

    def test_if_no_model_fits_the_budget_the_request_is_refused(self):
        found = planned(balance=RICH.model_copy(update={"left_usd": Decimal("0.000001")}))
        assert found.refusal and found.refusal.code is Refused.BUDGET_EXHAUSTED
        assert found.candidates == ()

    def test_a_picture_that_no_model_can_see_is_the_callers_to_change(self):
        picture = Message(role="user", content=(ImagePart(url="https://example.com/lift.png"),))
        request = asked().model_copy(update={"prompt": Prompt(messages=(picture,))})
        blind = (Route(provider=OPENAI, model="gpt-3.5-turbo"),)
        with pytest.raises(InvalidInput, match="accepts no images"):
            planned(request, routes=blind)
        seeing = (*blind, Route(provider=OPENAI, model=MINI, priority=2))
        assert [one.model for one in planned(request, routes=seeing).candidates] == [MINI]

    def test_a_tier_without_a_route_is_refused(self):
        found = planned(balance=FREE, routes=REAL_ROUTES[:1])
        assert found.refusal and found.refusal.code is Refused.NO_MODEL_ALLOWED

    def test_a_missing_key_or_price_is_an_error(self):
        with pytest.raises(ProviderNotConfigured, match=f"{MINI} has no key"):
            planned(routes=REAL_ROUTES[1:], openai=ProviderStatus(configured=False))
        with pytest.raises(UnpricedModel, match="own has no known price"):
            planned(routes=(OWN,))

    def test_an_unknown_model_is_invalid_and_one_of_another_tier_is_a_warning(self):
        with pytest.raises(InvalidInput, match="no route has 'nonsense'"):
            planned(asked(model="nonsense"))
        found = planned(asked(model=SONNET), balance=FREE)
        assert found.serving.warnings[-1] == f"{SONNET} was requested, but is not for the free tier"

    def test_a_long_prompt_is_condensed_or_sent_with_its_stored_summary(self):
        talk = tuple(
            Message(role=("user", "assistant")[turn % 2], content=f"turn {turn} ".ljust(400, ".")) for turn in range(21)
        )
        long = asked().model_copy(update={"prompt": Prompt(messages=talk)})
        action = ActionPolicy(condense_above_tokens=1200)
        whole = planned(long, action=action)
        assert (whole.condense, whole.condensed) == (True, None)
        summary = StoredSummary(reference=SummaryReference(attempt_id=uuid4(), messages=11), text="They agreed.")
        shorter = planned(long, action=action, summary=summary)
        assert not shorter.condense
        assert shorter.condensed and len(shorter.condensed.messages) == 11
        whole_bound, shorter_bound = (one.candidates[0].upper_bound_usd or 0 for one in (whole, shorter))
        assert shorter_bound < whole_bound
