"""Which provider and model may serve a call, in which order, and why. Pure: the caller brings the facts."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal

from pydantic import Field

from parley.domain.model import Model, Text
from parley.domain.requests import ChatProvider, ChatRequest, Message, Provider, Request

# OpenAI's reasoning models refuse a temperature; Anthropic's SDK dropped the argument altogether.
NO_TEMPERATURE = ("o1", "o3", "o4", "gpt-5")
# Models from before their vendor's structured outputs refuse a schema.
NO_SCHEMA = {
    Provider.OPENAI: ("gpt-3.5", "gpt-4-", "gpt-4o-2024-05-13", "o1-mini", "o1-preview"),
    Provider.ANTHROPIC: (
        *("claude-2", "claude-instant", "claude-3"),
        *("claude-sonnet-4-0", "claude-sonnet-4-2025", "claude-opus-4-0", "claude-opus-4-2025"),
    ),
}
# So short that the bound on the call's cost, which counts the schema and some tokens a message, holds for it too.
SCHEMA_IN_WORDS = "Answer with JSON alone, by this schema:"


class Option(Model):
    """A way to serve a call, with what is known about it now. `price`: dollars for a million tokens each way."""

    provider: Provider
    model: str
    configured: bool
    price: Decimal | None = None
    simulated: bool = False
    breaker_wait: float = 0.0


class Candidate(Model):
    """An option that may be tried, with the reason for its rank and, where it was asked for, the most it can cost."""

    provider: Provider
    model: str
    simulated: bool
    reason: str
    upper_bound_usd: Decimal | None = None


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


def takes_schema(provider: Provider, model: str) -> bool:
    """Whether the vendor binds this model's replies to a JSON schema."""
    return not f"{model.removeprefix('ft:')}-".startswith(NO_SCHEMA.get(provider, ()))


def dropped_parameters(provider: Provider, model: str, request: Request) -> tuple[str, ...]:
    """What a request asks for that the vendor does not take for this model: adapters leave it out."""
    if not isinstance(request, ChatRequest):
        return ()
    takes = {"temperature": takes_temperature, "response_schema": takes_schema}
    return tuple(
        name for name, taken in takes.items() if getattr(request, name) is not None and not taken(provider, model)
    )


def without_dropped(provider: Provider, model: str, request: ChatRequest) -> ChatRequest:
    """The request as the vendor takes it. A schema that it does not take is told in words."""
    dropped = dropped_parameters(provider, model, request)
    messages = request.messages
    if "response_schema" in dropped:
        told = Message(role="system", content=f"{SCHEMA_IN_WORDS}\n{json.dumps(request.response_schema)}")
        system = [message for message in messages if message.role == "system"]
        messages = (*system, told, *(message for message in messages if message.role != "system"))
    return request.model_copy(update={**dict.fromkeys(dropped), "messages": messages})


class Route(Model):
    """A way to serve that an operator allows. Without `model` it is the one that the environment sets.

    Lower priorities come first; among equal ones the weights decide how often. `tiers`: whose users may take it, all
    if empty. `max_cost_usd`: for a request that may cost more, the route is passed over.
    """

    provider: ChatProvider
    model: Text = ""
    priority: int = Field(default=1, ge=0)
    weight: int = Field(default=1, gt=0)
    tiers: tuple[str, ...] = ()
    max_cost_usd: Decimal | None = Field(default=None, ge=0)


class Fact(Model):
    """What is known now about a route's model. `upper_bound_usd`: None when no price is known."""

    configured: bool
    upper_bound_usd: Decimal | None = None
    simulated: bool = False
    breaker_wait: float = 0.0


class Wish(Model):
    """Who is to be asked first, if anyone, and within which limits. `seed` decides between equal priorities.

    `cheaper_next`: behind the first come those that are cheaper than it.
    """

    tier: str
    seed: str
    provider: Provider | None = None
    model: str | None = None
    budget_usd: Decimal | None = None
    max_cost_usd: Decimal | None = None
    cheaper_next: bool = False


class Choice(Model):
    """Whom to ask, in order, and why others are not. `too_dear`: money alone stands in the way of some."""

    candidates: tuple[Candidate, ...] = ()
    passed_over: tuple[str, ...] = ()
    too_dear: bool = False


Asked = tuple[Provider, str]


def choose(routes: Sequence[Route], facts: Mapping[Asked, Fact], wish: Wish) -> Choice:
    """Rank the routes that may serve a wish: what was asked for by name, then by priority and weight.

    A dearer route that does not fit the money left is passed over for the next that does, and this is said.
    """
    ordered = allowed(routes, wish)
    over, too_dear = _not_allowed(routes, ordered, wish), False
    serving: list[Route] = []
    better: tuple[str, ...] = ()
    for route in ordered:
        fact = facts[route.provider, route.model]
        problem, dear = _problem(fact), _dear(route, fact, wish)
        if problem or dear:
            over.append(f"{route.model} {problem or dear}")
            too_dear = too_dear or not problem
        else:
            serving.append(route)
            better = better if len(serving) > 1 else tuple(over)
    candidates = [
        Candidate(
            provider=route.provider,
            model=route.model,
            simulated=(fact := facts[route.provider, route.model]).simulated,
            reason=_why(route, fact, wish, place=place, over=better),
            upper_bound_usd=fact.upper_bound_usd,
        )
        for place, route in enumerate(_in_turn(serving, facts, wish))
    ]
    return Choice(candidates=tuple(candidates), passed_over=tuple(over), too_dear=too_dear)


def _in_turn(serving: list[Route], facts: Mapping[Asked, Fact], wish: Wish) -> list[Route]:
    """Open breakers last, and where it is wished, the cheaper ones right behind the first."""

    def fact(route: Route) -> Fact:
        return facts[route.provider, route.model]

    turns = sorted(serving, key=lambda route: fact(route).breaker_wait > 0)
    if wish.cheaper_next and turns:
        dearest = fact(turns[0]).upper_bound_usd or Decimal(0)
        turns[1:] = sorted(turns[1:], key=lambda route: (fact(route).upper_bound_usd or Decimal(0)) >= dearest)
    return turns


def allowed(routes: Sequence[Route], wish: Wish) -> list[Route]:
    """The routes that the tier may take, in the order in which they are asked."""
    own = [route for route in routes if not route.tiers or wish.tier in route.tiers]
    return sorted(own, key=lambda route: (not is_wished(route, wish), route.priority, _draw(route, wish.seed)))


def is_wished(route: Route, wish: Wish) -> bool:
    """Whether the route is what was asked for by name."""
    named = wish.provider is not None or wish.model is not None
    return named and wish.provider in (None, route.provider) and wish.model in (None, route.model)


def _draw(route: Route, seed: str) -> float:
    """Equal priorities in an order that is random over seeds, and fixed for one seed."""
    return draw(f"{seed}/{route.provider.value}/{route.model}", route.weight)


def draw(key: str, weight: int) -> float:
    """A number for `key`, the same anywhere: of several keys, how often each has the least goes by the weights.

    Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006: the least of -ln(u)/weight.
    """
    digest = hashlib.sha256(key.encode()).digest()
    uniform = (int.from_bytes(digest[:8]) + 1) / (2**64 + 1)
    return -math.log(uniform) / weight


def _not_allowed(routes: Sequence[Route], allowed: Sequence[Route], wish: Wish) -> list[str]:
    """Only what was asked for by name is worth a word; that a tier has its own models is no news."""
    return [
        f"{route.model} is not for the {wish.tier} tier"
        for route in routes
        if route not in allowed and is_wished(route, wish)
    ]


def _problem(fact: Fact) -> str:
    if not fact.configured:
        return "has no key"
    return "has no known price" if fact.upper_bound_usd is None else ""


def _dear(route: Route, fact: Fact, wish: Wish) -> str:
    bound = fact.upper_bound_usd or Decimal(0)
    limits = {
        "the route allows": route.max_cost_usd,
        "the action allows": wish.max_cost_usd,
        "is left": wish.budget_usd,
    }
    return next(
        (
            f"may cost ${bound}, and ${max(limit, Decimal(0))} {whose}"
            for whose, limit in limits.items()
            if limit is not None and bound > limit
        ),
        "",
    )


def _why(route: Route, fact: Fact, wish: Wish, *, place: int, over: Sequence[str]) -> str:
    if fact.breaker_wait > 0:
        return f"breaker open for {fact.breaker_wait:.0f} s more, tried last"
    if is_wished(route, wish):
        return "asked for by name"
    if place == 0:
        return f"the first that can serve: {'; '.join(over)}" if over else f"first choice of the {wish.tier} tier"
    return f"fallback {place}"
