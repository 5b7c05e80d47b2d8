"""Which provider and model may serve a request, in which order, and why. Pure: the caller brings the facts."""

import hashlib
import math
from collections.abc import Sequence
from decimal import Decimal
from enum import StrEnum

from pydantic import Field

from parley.domain.model import Model, Text
from parley.domain.requests import ChatProvider, Provider


class Route(Model):
    """A model that an operator's policy allows. An empty `model` means the one that the environment sets.

    priority: lower values come first.
    weight: how often this route comes first among routes of equal priority.
    tiers: the tiers whose users may take the route; empty means every tier.
    max_cost_usd: the route is skipped for a request whose upper bound is higher. None: no limit.
    """

    provider: ChatProvider
    model: Text = ""
    priority: int = Field(default=1, ge=0)
    weight: int = Field(default=1, gt=0)
    tiers: tuple[str, ...] = ()
    max_cost_usd: Decimal | None = Field(default=None, ge=0)

    def is_open_to(self, tier: str) -> bool:
        """Whether users of the tier may take this route."""
        return not self.tiers or tier in self.tiers


class ProviderStatus(Model):
    """What is known about a provider now. `breaker_wait`: seconds until its breaker lets a request through."""

    configured: bool
    simulated: bool = False
    breaker_wait: float = 0.0

    @property
    def is_real(self) -> bool:
        """Whether the vendor itself would answer, and not the simulator in its place."""
        return self.configured and not self.simulated


class Option(ProviderStatus):
    """A model that could serve a request, for `rank` to order.

    price: USD per million tokens of input plus output; None where no price is known.
    upper_bound_usd: the most that the request can cost; None where there is no request yet, or no known price.
    max_cost_usd: the route's own limit; None for no limit.
    unserved: what of the request the model cannot do; empty where there is nothing.
    """

    provider: Provider
    model: str
    unserved: str = ""
    price: Decimal | None = None
    upper_bound_usd: Decimal | None = None
    max_cost_usd: Decimal | None = None

    @property
    def cost(self) -> Decimal | None:
        """The amount by which options of one ranking compare: the upper bound, else the price."""
        return self.price if self.upper_bound_usd is None else self.upper_bound_usd


class Candidate(Model):
    """A model to try, with the reason for its rank. `upper_bound_usd`: None where the request was not known."""

    provider: Provider
    model: str
    simulated: bool
    reason: str
    upper_bound_usd: Decimal | None = None


class Order(StrEnum):
    """How `rank` orders options of which none is named and none has an open breaker.

    `cheaper_next`: as given, but behind the first option those that are cheaper than it.
    """

    AS_GIVEN = "as_given"
    CHEAPEST_FIRST = "cheapest_first"
    CHEAPER_NEXT = "cheaper_next"


class RoutingRequest(Model):
    """What routing needs to know of a request.

    provider, model: named by the caller, and then first. None: no preference.
    tier: the user's tier; empty where tiers do not matter.
    seed: decides between routes of equal priority.
    budget_usd: what caps leave to spend; max_cost_usd: the limit of the request and its action. None: none.
    """

    provider: Provider | None = None
    model: str | None = None
    tier: str = ""
    seed: str = ""
    order: Order = Order.AS_GIVEN
    budget_usd: Decimal | None = None
    max_cost_usd: Decimal | None = None

    def names(self, one: Route | Option) -> bool:
        """Whether the caller named this provider or model."""
        is_named = self.provider is not None or self.model is not None
        return is_named and self.provider in (None, one.provider) and self.model in (None, one.model)


class Ranking(Model):
    """Candidates in order, and why other models are skipped. `over_budget`: some are skipped for their cost alone."""

    candidates: tuple[Candidate, ...] = ()
    skipped: tuple[str, ...] = ()
    over_budget: bool = False


def rank(options: Sequence[Option], request: RoutingRequest, *, skipped: Sequence[str] = ()) -> Ranking:
    """Order the options that can serve the request: named ones first, open breakers last.

    An option is skipped, with a reason, if it has no key, no known price, an upper bound above a limit, or cannot do
    what is asked. An option whose breaker is open stays a candidate: the breaker may be closed by the time that the
    others have failed.

    skipped: reasons for models that were excluded before, for example by their tier.
    """
    reasons, over_budget = list(skipped), False
    usable: list[Option] = []
    skipped_before_first: tuple[str, ...] = tuple(reasons)
    for option in options:
        problem, limit = _problem(option), _exceeded_limit(option, request)
        if problem or limit:
            reasons.append(f"{option.model} {problem or limit}")
            over_budget = over_budget or not problem
        else:
            usable.append(option)
        if not usable:
            skipped_before_first = tuple(reasons)
    candidates = tuple(
        Candidate(
            provider=option.provider,
            model=option.model,
            simulated=option.simulated,
            reason=_reason(option, request, place=place, skipped=skipped_before_first),
            upper_bound_usd=option.upper_bound_usd,
        )
        for place, option in enumerate(_ordered(usable, request))
    )
    return Ranking(candidates=candidates, skipped=tuple(reasons), over_budget=over_budget)


def allowed(routes: Sequence[Route], request: RoutingRequest) -> list[Route]:
    """The routes that the tier may take: named ones first, then by priority, then by weight.

    Among equal priorities the order is random across seeds, and the same for the same seed.
    """
    of_tier = [route for route in routes if route.is_open_to(request.tier)]

    def rank_key(route: Route) -> tuple[bool, int, float]:
        drawn = weighted_draw(f"{request.seed}/{route.provider.value}/{route.model}", route.weight)
        return not request.names(route), route.priority, drawn

    return sorted(of_tier, key=rank_key)


def not_allowed(routes: Sequence[Route], request: RoutingRequest) -> list[str]:
    """Reasons for named routes that the tier may not take. Other routes of other tiers need no mention."""
    return [
        f"{route.model} is not for the {request.tier} tier"
        for route in routes
        if request.names(route) and not route.is_open_to(request.tier)
    ]


def weighted_draw(key: str, weight: int) -> float:
    """A number for `key`, the same on every machine: among several keys, weights decide how often each has the least.

    Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006: the least of -ln(u)/weight.
    """
    digest = hashlib.sha256(key.encode()).digest()
    uniform = (int.from_bytes(digest[:8]) + 1) / (2**64 + 1)
    return -math.log(uniform) / weight


def _ordered(options: Sequence[Option], request: RoutingRequest) -> list[Option]:
    if request.order is Order.CHEAPEST_FIRST:
        options = sorted(options, key=_cost)
    ordered = sorted(options, key=lambda option: (option.breaker_wait > 0, not request.names(option)))
    if request.order is Order.CHEAPER_NEXT:
        ordered[1:] = sorted(ordered[1:], key=lambda option: _cost(option) >= _cost(ordered[0]))
    return ordered


def _cost(option: Option) -> Decimal:
    return option.cost or Decimal(0)


def _problem(option: Option) -> str:
    if not option.configured:
        return "has no key"
    if option.unserved:
        return option.unserved
    return "has no known price" if option.cost is None else ""


def _exceeded_limit(option: Option, request: RoutingRequest) -> str:
    bound = option.upper_bound_usd or Decimal(0)
    limits = {
        "the route allows": option.max_cost_usd,
        "is allowed": request.max_cost_usd,
        "is left": request.budget_usd,
    }
    return next(
        (
            f"may cost ${bound}, and ${max(limit, Decimal(0))} {source}"
            for source, limit in limits.items()
            if limit is not None and bound > limit
        ),
        "",
    )


def _reason(option: Option, request: RoutingRequest, *, place: int, skipped: Sequence[str]) -> str:
    if option.breaker_wait > 0:
        return f"breaker open for {option.breaker_wait:.0f} s more, tried last"
    if request.names(option):
        return "named by the caller"
    return f"fallback {place}" if place else _first_reason(request, skipped)


def _first_reason(request: RoutingRequest, skipped: Sequence[str]) -> str:
    if request.order is Order.CHEAPEST_FIRST:
        return "cheapest configured choice"
    if not request.tier:
        return "first configured choice"
    if skipped:
        return f"the first that can serve: {'; '.join(skipped)}"
    return f"first choice of the {request.tier} tier"
