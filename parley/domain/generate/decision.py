"""Who is asked for an answer, or why nobody is. Pure: the caller brings the facts."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal

from parley.domain.errors import InvalidInput, ProviderNotConfigured, UnpricedModel
from parley.domain.generate.contract import GenerateInput, OnRateLimit, Refusal, Refused
from parley.domain.generate.policy import ActionPolicy, Policy
from parley.domain.model import Model
from parley.domain.routing import Asked, Candidate, Choice, Fact, Route, Wish, allowed, choose, is_wished


class Purse(Model):
    """What the user and the workspace have left. `left_usd`: None where no cap is set."""

    tier: str
    energy: int
    left_usd: Decimal | None


def wish_for(asked: GenerateInput, action: ActionPolicy, purse: Purse, seed: str) -> Wish:
    """Whom a request wants to be asked, within what it may cost."""
    return Wish(
        tier=purse.tier,
        seed=seed,
        provider=asked.provider,
        model=asked.model,
        budget_usd=purse.left_usd,
        max_cost_usd=action.max_cost_usd,
        cheaper_next=(asked.on_rate_limit or action.on_rate_limit) is OnRateLimit.CHEAPER,
    )


def models_for(routes: Sequence[Route], wish: Wish) -> list[Asked]:
    """Whose answers may be given again: the model that was asked for by name, else any that the tier may take."""
    own = allowed(routes, wish)
    named = [route for route in own if is_wished(route, wish)]
    return [(route.provider, route.model) for route in named or own]


def decide(
    action: ActionPolicy, routes: Sequence[Route], facts: Mapping[Asked, Fact], purse: Purse, wish: Wish
) -> tuple[tuple[Candidate, ...], Refusal | None]:
    """The candidates in order, or the refusal.

    Raises:
        ProviderNotConfigured, UnpricedModel: the operator must mend something before anybody can be asked.
    """
    if purse.energy < action.energy:
        message = f"this needs {action.energy} energy, and {purse.energy} is left"
        return (), Refusal(code=Refused.INSUFFICIENT_ENERGY, message=message)
    choice = choose(routes, facts, wish)
    return choice.candidates, None if choice.candidates else _refusal(choice, purse.tier)


def routes_for(asked: GenerateInput, routes: Sequence[Route]) -> list[Route]:
    """The routes, with one more for a model that was asked for by provider and name and that none of them has.

    It is open to whoever may take every other model of that provider: a name is no way around a tier.
    """
    if asked.provider is None or asked.model is None:
        return list(routes)
    of_provider = [route for route in routes if route.provider is asked.provider]
    if any(route.model == asked.model for route in of_provider):
        return list(routes)
    restricted = [set(route.tiers) for route in of_provider if route.tiers]
    tiers = set[str].intersection(*restricted) if restricted else set[str]()
    named = Route(provider=asked.provider, model=asked.model, priority=0, tiers=tuple(sorted(tiers)))
    return [named, *routes]


def wish_warnings(routes: Sequence[Route], wish: Wish) -> tuple[str, ...]:
    """A word where what was asked for by name is not for the user's tier.

    Raises:
        InvalidInput: no route has that model, and without a provider nobody knows whose it is.
    """
    named = [route for route in routes if is_wished(route, wish)]
    if wish.model is not None and not named:
        known = ", ".join(dict.fromkeys(route.model for route in routes))
        raise InvalidInput(f"no route has {wish.model!r}: name its provider as well, or ask for {known}", field="model")
    if not named or any(route in named for route in allowed(routes, wish)):
        return ()
    return (f"{wish.model or named[0].provider.value} was asked for, and is not for the {wish.tier} tier",)


def retirement_warnings(policy: Policy, candidates: Sequence[Candidate], today: date) -> tuple[str, ...]:
    """A word on the model that is asked first, if its vendor takes it away."""
    found = policy.retired.get(candidates[0].model) if candidates else None
    if found is None:
        return ()
    when = "was retired on" if found.on <= today else "will be retired on"
    return (f"{candidates[0].model} {when} {found.on} by its vendor: move to {found.successor}",)


def is_sampled(share: float, request_id: str) -> bool:
    """Whether a request falls into a share of all of them, the same way wherever it is asked."""
    digest = hashlib.sha256(f"quality/{request_id}".encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


def _refusal(choice: Choice, tier: str) -> Refusal:
    said = "; ".join(choice.passed_over)
    if choice.too_dear:
        return Refusal(code=Refused.BUDGET_EXHAUSTED, message=f"no model fits what is left: {said}")
    if "has no known price" in said:
        raise UnpricedModel(f"no model can be asked: {said}")
    if not choice.passed_over:
        return Refusal(code=Refused.NO_MODEL_ALLOWED, message=f"no route is open to the {tier} tier")
    raise ProviderNotConfigured(f"no model can be asked: {said}")
