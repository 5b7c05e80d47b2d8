"""The operator's policy, a validated TOML file: routes, actions, tiers, experiments, retirements."""

import tomllib
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from parley.domain.errors import InvalidInput
from parley.domain.generate.contract import CachePolicy, Mode, OnRateLimit
from parley.domain.model import Model, Name
from parley.domain.requests import Provider
from parley.domain.routing import Route

Dollars = Annotated[Decimal, Field(ge=0)]


class ActionPolicy(Model):
    """How one kind of request is served.

    energy: what the user is charged for an answer.
    cache_seconds: how long an answer may be returned from the cache.
    max_cost_usd: the most that all paid requests of one generation may cost; None for no limit.
    template: put before the messages of requests that name none.
    condense_above_tokens: longer prompts are condensed before they are sent; None for no limit.
    quality_sample: the share of answers, from 0 to 1, that `ScoreQuality` grades.
    knowledge: whether a conversation's turns are answered with what the workspace's knowledge base has on them.
    mode: how a gateway runs it, if neither the request nor its key says so.
    """

    energy: int = Field(default=1, ge=0)
    cache: CachePolicy = CachePolicy.EXACT
    cache_seconds: int = Field(default=3600, gt=0)
    on_rate_limit: OnRateLimit = OnRateLimit.WAIT
    max_cost_usd: Dollars | None = None
    template: str | None = None
    condense_above_tokens: int | None = Field(default=None, gt=0)
    quality_sample: float = Field(default=0, ge=0, le=1)
    knowledge: bool = False
    mode: Mode = Mode.DURABLE


class TierPolicy(Model):
    """The terms of a tier. `daily_energy`: the energy to which its users are refilled every day."""

    daily_energy: int = Field(ge=0)


class Experiment(Model):
    """`arms`: templates with their weights. A user is always in the same arm."""

    action: Name
    arms: dict[str, Annotated[int, Field(gt=0)]] = Field(min_length=2)


class Retirement(Model):
    """The day on which a vendor retires a model, and the model to move to."""

    provider: Provider
    successor: str
    on: date


class Policy(Model):
    """Everything that decides how `Generate` serves a request, and what it charges."""

    route: tuple[Route, ...] = Field(min_length=1)
    action: dict[str, ActionPolicy] = Field(default_factory=dict[str, ActionPolicy])
    tier: dict[str, TierPolicy] = Field(default_factory=dict[str, TierPolicy])
    experiment: dict[str, Experiment] = Field(default_factory=dict[str, Experiment])
    retired: dict[str, Retirement] = Field(default_factory=dict[str, Retirement])
    quality_budget_usd_per_day: Dollars = Decimal("1.00")
    weekly_alert_usd: Dollars = Decimal(50)

    @model_validator(mode="after")
    def _tiers_are_known(self) -> Self:
        unknown = {tier for route in self.route for tier in route.tiers} - set(self.tier)
        if unknown:
            name = sorted(unknown)[0]
            raise ValueError(f"a route names the tier {name!r}, which is not defined: add [tier.{name}]")
        return self

    def routes(self, models: Mapping[Provider, str]) -> list[Route]:
        """The routes. A route without a model gets the environment's model of its provider."""
        return [route.model_copy(update={"model": route.model or models[route.provider]}) for route in self.route]

    def of_action(self, action: str) -> ActionPolicy:
        """The policy of an action; the defaults for an action that is not listed."""
        return self.action.get(action) or ActionPolicy()

    def experiment_named(self, name: str) -> Experiment:
        """An experiment by its name.

        Raises:
            InvalidInput: it does not exist.
        """
        if name not in self.experiment:
            known = ", ".join(self.experiment) or "none"
            raise InvalidInput(f"there is no experiment {name!r}; there are {known}", field="experiment")
        return self.experiment[name]


def parse_policy(text: str, *, where: str) -> Policy:
    """Read a policy. `where`: the name of its file, for messages.

    Raises:
        InvalidInput: it is not valid; the message names the place in the file.
    """
    try:
        return Policy.model_validate(_loaded(text, where))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(first["msg"].removeprefix("Value error, "), where=where, field=place) from None


def _loaded(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"is not TOML: {error}", where=where) from None
