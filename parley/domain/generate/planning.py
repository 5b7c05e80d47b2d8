"""What `Generate` does with a request: the prompt to send, the terms, and the candidates or the refusal. Pure rules.

`render_request` needs what is known of the user; `plan` needs what was found for the rendered prompt as well.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal

from parley.domain.capabilities import unserved
from parley.domain.configuration import Configuration, variables
from parley.domain.errors import InvalidInput, ProviderNotConfigured, UnpricedModel
from parley.domain.generate.caching import cache_key
from parley.domain.generate.condensing import StoredSummary, plan_condensing
from parley.domain.generate.contract import GenerateInput, Job, OnRateLimit, Prompt, Refusal, Refused, Serving
from parley.domain.generate.contract import chat_request as request_for
from parley.domain.generate.policy import ActionPolicy, Experiment, Policy
from parley.domain.generate.prompts import render, template
from parley.domain.json_check import check_schema, check_tools
from parley.domain.model import Model
from parley.domain.pricing import ConfiguredRates, upper_bound
from parley.domain.requests import ChatRequest, Message, Provider
from parley.domain.routing import (
    Candidate,
    Option,
    Order,
    ProviderStatus,
    Ranking,
    Route,
    RoutingRequest,
    allowed,
    not_allowed,
    rank,
    weighted_draw,
)


class Balance(Model):
    """What the user and the workspace have left. `left_usd`: below the caps; None where there is no cap.

    paid_energy: what the user has reserved or paid already, under an earlier run of the same key.
    """

    tier: str
    energy: int
    paid_energy: int = 0
    left_usd: Decimal | None


class Gathered(Model):
    """What is known before the prompt is rendered. `prompt`: with its messages, also where the input refers to it."""

    configuration: Configuration
    warnings: tuple[str, ...] = ()
    prompt: Prompt
    balance: Balance


class RenderedRequest(Model):
    """The request with its template and terms, and the routes that may serve it, in order.

    cached_models: the models whose cached answers may be returned.
    excluded: reasons for models that the user's tier may not take.
    condense_above_tokens: a longer prompt is condensed before it is sent; None for no limit.
    """

    input: GenerateInput
    prompt: Prompt
    serving: Serving
    action: ActionPolicy
    routing: RoutingRequest
    routes: tuple[Route, ...]
    cached_models: tuple[tuple[Provider, str], ...]
    excluded: tuple[str, ...] = ()
    condense_above_tokens: int | None = None

    @property
    def chat_request(self) -> ChatRequest:
        return request_for(self.input, self.prompt)


class Plan(Model):
    """The candidates in order, or the refusal.

    condense: condense the prompt before it is sent. condensed: the prompt with a stored summary, to send in its place.
    """

    serving: Serving
    candidates: tuple[Candidate, ...] = ()
    refusal: Refusal | None = None
    condense: bool = False
    condensed: Prompt | None = None


def render_request(job: Job, gathered: Gathered, policy: Policy, routes: Sequence[Route]) -> RenderedRequest:
    """The prompt with its template before it, the terms, and the routes that the user may take.

    Raises:
        InvalidInput: the template, the experiment or the model does not exist, or the response schema is invalid.
    """
    generate_input = with_preferences(job.input, gathered.configuration)
    action = policy.of_action(generate_input.action)
    if gathered.prompt.response_schema is not None:
        check_schema(gathered.prompt.response_schema)
    check_tools(gathered.prompt.tools)
    experiment, chosen = _template(generate_input, policy, gathered.configuration)
    messages = gathered.prompt.messages
    if chosen:
        system = render(template(chosen), variables(gathered.configuration))
        messages = (Message(role="system", content=system), *messages)
    prompt = gathered.prompt.model_copy(update={"messages": messages})
    routing = routing_request(generate_input, action, gathered.balance, seed=job.request_id)
    routes = routes_for(generate_input, routes)
    own_routes = allowed(routes, routing)
    # What is said in a conversation is its user's own: other users do not even learn that it was said before.
    only_for = generate_input.user_id if job.is_turn else ""
    serving = Serving(
        energy=action.energy,
        max_cost_usd=most_usd(generate_input, action),
        cache=generate_input.cache or action.cache,
        cache_seconds=action.cache_seconds,
        cache_key=cache_key(generate_input.workspace_id, request_for(generate_input, prompt), only_for),
        on_rate_limit=generate_input.on_rate_limit or action.on_rate_limit,
        template=template(chosen).id if chosen else "",
        experiment=experiment,
        arm=chosen if experiment else "",
        warnings=(*gathered.warnings, *named_model_warnings(routes, routing)),
        score_quality=is_sampled(action.quality_sample, job.request_id),
    )
    return RenderedRequest(
        input=generate_input,
        prompt=prompt,
        serving=serving,
        action=action,
        routing=routing,
        routes=tuple(own_routes),
        cached_models=tuple(models_for(own_routes, routing)),
        excluded=tuple(not_allowed(routes, routing)),
        condense_above_tokens=None if job.is_turn else action.condense_above_tokens,
    )


def plan(
    request: RenderedRequest,
    balance: Balance,
    summary: StoredSummary | None,
    statuses: Mapping[Provider, ProviderStatus],
    *,
    rates: ConfiguredRates,
    policy: Policy,
    today: date,
) -> Plan:
    """Which prompt to send to which candidates, or why the request is refused.

    summary: the stored summary of the prompt's beginning. statuses: of every provider that has a route.

    Raises:
        InvalidInput: no model that may serve accepts the images or the tools.
        ProviderNotConfigured, UnpricedModel: no model can serve until the operator sets a key or a price.
    """
    if balance.energy + balance.paid_energy < request.action.energy:
        message = f"this needs {request.action.energy} energy, and {balance.energy} is left"
        return Plan(serving=request.serving, refusal=Refusal(code=Refused.INSUFFICIENT_ENERGY, message=message))
    condensing = plan_condensing(request.prompt, request.condense_above_tokens, summary)
    to_send = request_for(request.input, condensing.prompt or request.prompt)
    options = options_for(request.routes, statuses, to_send, rates)
    ranking = rank(options, request.routing, skipped=request.excluded)
    if not ranking.candidates:
        return Plan(serving=request.serving, refusal=_refusal(ranking, balance.tier))
    warnings = (*request.serving.warnings, *retirement_warnings(policy, ranking.candidates, today))
    return Plan(
        serving=request.serving.model_copy(update={"warnings": warnings}),
        candidates=ranking.candidates,
        condense=condensing.condense,
        condensed=condensing.prompt,
    )


def with_preferences(generate_input: GenerateInput, configuration: Configuration) -> GenerateInput:
    """The input with the user's preferred provider and model, where it names none."""
    preferred = configuration.ai_settings
    if generate_input.provider or generate_input.model or not (preferred.provider or preferred.model):
        return generate_input
    return generate_input.model_copy(update={"provider": preferred.provider, "model": preferred.model})


def routing_request(
    generate_input: GenerateInput, action: ActionPolicy, balance: Balance, *, seed: str
) -> RoutingRequest:
    """The models that the caller prefers, within what the request may cost."""
    cheaper_next = (generate_input.on_rate_limit or action.on_rate_limit) is OnRateLimit.CHEAPER
    return RoutingRequest(
        tier=balance.tier,
        seed=seed,
        provider=generate_input.provider,
        model=generate_input.model,
        order=Order.CHEAPER_NEXT if cheaper_next else Order.AS_GIVEN,
        budget_usd=balance.left_usd,
        max_cost_usd=most_usd(generate_input, action),
    )


def most_usd(generate_input: GenerateInput, action: ActionPolicy) -> Decimal | None:
    """The most that all paid requests of a generation may cost together, in USD; None for no limit."""
    limits = [one for one in (generate_input.max_cost_usd, action.max_cost_usd) if one is not None]
    return min(limits, default=None)


def models_for(routes: Sequence[Route], request: RoutingRequest) -> list[tuple[Provider, str]]:
    """Models whose cached answers may be returned: those named by the caller, else all. `routes`: those of the tier."""
    named = [route for route in routes if request.names(route)]
    return [(route.provider, route.model) for route in named or routes]


def routes_for(generate_input: GenerateInput, routes: Sequence[Route]) -> list[Route]:
    """The routes, with one more for a model that the caller named with its provider and that has no route.

    The new route is open to tiers that may take every other model of the provider: naming a model must not bypass a
    tier.
    """
    if generate_input.provider is None or generate_input.model is None:
        return list(routes)
    of_provider = [route for route in routes if route.provider is generate_input.provider]
    if any(route.model == generate_input.model for route in of_provider):
        return list(routes)
    restricted = [set(route.tiers) for route in of_provider if route.tiers]
    tiers = tuple(sorted(set[str].intersection(*restricted))) if restricted else ()
    named = Route(provider=generate_input.provider, model=generate_input.model, priority=0, tiers=tiers)
    return [named, *routes]


def options_for(
    routes: Sequence[Route],
    statuses: Mapping[Provider, ProviderStatus],
    request: ChatRequest,
    rates: ConfiguredRates,
) -> list[Option]:
    """The routes as options, each with the upper bound of the request's cost."""
    return [_option(route, statuses[route.provider], request, rates) for route in routes]


def named_model_warnings(routes: Sequence[Route], request: RoutingRequest) -> tuple[str, ...]:
    """A warning where the model or provider that the caller named is not for the user's tier.

    Raises:
        InvalidInput: no route has the model, and without a provider it is unknown which one serves it.
    """
    named = [route for route in routes if request.names(route)]
    if request.model is not None and not named:
        known = ", ".join(dict.fromkeys(route.model for route in routes))
        message = f"no route has {request.model!r}: name its provider as well, or use {known}"
        raise InvalidInput(message, field="model")
    if not named or any(route.is_open_to(request.tier) for route in named):
        return ()
    name = request.model or named[0].provider.value
    return (f"{name} was requested, but is not for the {request.tier} tier",)


def retirement_warnings(policy: Policy, candidates: Sequence[Candidate], today: date) -> tuple[str, ...]:
    """A warning if the first candidate's vendor retires the model."""
    retirement = policy.retired.get(candidates[0].model) if candidates else None
    if retirement is None:
        return ()
    when = "was retired on" if retirement.on <= today else "will be retired on"
    return (f"{candidates[0].model} {when} {retirement.on} by its vendor: move to {retirement.successor}",)


def is_sampled(share: float, request_id: str) -> bool:
    """Whether a request is in a random share, from 0 to 1, of all requests: the same answer on every machine."""
    digest = hashlib.sha256(f"quality/{request_id}".encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


def experiment_arm(name: str, experiment: Experiment, user_id: str) -> str:
    """The arm of a user, always the same. Users are distributed in proportion to the arms' weights.

    Each arm draws for itself, so that a change of weights moves as few users as possible: a new arm takes users from
    the others and never moves one between them.
    """
    return min(experiment.arms, key=lambda arm: weighted_draw(json.dumps([name, arm, user_id]), experiment.arms[arm]))


def _template(generate_input: GenerateInput, policy: Policy, configuration: Configuration) -> tuple[str, str]:
    """The experiment, if any, and the template: the caller's choice, else the experiment's arm, else the default."""
    if generate_input.template:
        return "", generate_input.template
    of_action = [name for name, one in policy.experiment.items() if one.action == generate_input.action]
    name = generate_input.experiment or next(iter(of_action), "")
    if name:
        return name, experiment_arm(name, policy.experiment_named(name), generate_input.user_id)
    return "", policy.of_action(generate_input.action).template or configuration.ai_settings.template or ""


def _option(route: Route, status: ProviderStatus, request: ChatRequest, rates: ConfiguredRates) -> Option:
    try:
        bound, _ = upper_bound(route.provider, route.model, request, rates) if status.configured else (None, None)
    except UnpricedModel:
        bound = None
    return Option(
        provider=route.provider,
        model=route.model,
        upper_bound_usd=bound,
        max_cost_usd=route.max_cost_usd,
        unserved=unserved(route.provider, route.model, request),
        **status.model_dump(),
    )


def _refusal(ranking: Ranking, tier: str) -> Refusal:
    reasons = "; ".join(ranking.skipped)
    if ranking.over_budget:
        return Refusal(code=Refused.BUDGET_EXHAUSTED, message=f"no model fits what is left: {reasons}")
    if "accepts no " in reasons:
        raise InvalidInput(f"no model can serve this request: {reasons}", where="generate")
    if "has no known price" in reasons:
        raise UnpricedModel(f"no model can serve this request: {reasons}")
    if not ranking.skipped:
        return Refusal(code=Refused.NO_MODEL_ALLOWED, message=f"no route is open to the {tier} tier")
    raise ProviderNotConfigured(f"no model can serve this request: {reasons}")
