"""The policy file: what it may contain, and that an error in it is named."""

from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from parley.domain.errors import InvalidInput
from parley.domain.generate.contract import CachePolicy
from parley.domain.generate.policy import ActionPolicy, parse_policy
from parley.domain.requests import Provider
from parley.settings import DEFAULT_POLICY, Settings

MODELS = {Provider.ANTHROPIC: "claude-1", Provider.OPENAI: "gpt-1", Provider.LOCAL: "llama-1"}


def test_the_default_policy_is_valid():
    policy = Settings().policy()
    assert policy.retired["claude-3-5-sonnet-20241022"].on == date(2025, 10, 28)
    assert set(policy.tier) == {"free", "basic", "pro", "business"}
    free = [route for route in policy.routes(MODELS) if not route.tiers]
    assert [route.model for route in free] == ["gpt-1", "llama-1"]


def test_the_default_order_is_claude_then_a_cheap_openai_model_then_a_local_server():
    routes = sorted(Settings().policy().routes(MODELS), key=lambda route: route.priority)
    providers = [route.provider for route in routes if route.priority <= 4]
    assert list(dict.fromkeys(providers)) == [Provider.ANTHROPIC, Provider.OPENAI, Provider.LOCAL]


def test_an_action_that_is_not_listed_has_the_defaults():
    policy = parse_policy('[[route]]\nprovider = "openai"', where="policy.toml")
    assert policy.of_action("anything") == ActionPolicy(energy=1, cache=CachePolicy.EXACT)


def test_money_is_read_exactly():
    policy = parse_policy('[[route]]\nprovider = "openai"\nmax_cost_usd = "0.10"', where="policy.toml")
    assert policy.route[0].max_cost_usd == Decimal("0.10")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[[route", "is not TOML"),
        ("", "route"),
        ('[[route]]\nprovider = "acme"', "route.0.provider"),
        ('[[route]]\nprovider = "openai"\nweight = 0', "route.0.weight"),
        ('[[route]]\nprovider = "openai"\nprice = 3', "route.0.price"),
        ('[[route]]\nprovider = "openai"\ntiers = ["gold"]', "gold"),
        ('[[route]]\nprovider = "openai"\n[action.a]\nenergy = -1', "action.a.energy"),
        ('[[route]]\nprovider = "openai"\n[experiment.e]\naction = "a"\narms = {casual = 1}', "experiment.e.arms"),
        ('[[route]]\nprovider = "openai"\n[tier.free]', "tier.free.daily_energy"),
    ],
)
def test_an_error_names_its_place_in_the_file(text: str, named: str):
    with pytest.raises(InvalidInput, match=named.replace(".", r"\.")) as refused:
        parse_policy(text, where="policy.toml")
    assert str(refused.value).startswith("policy.toml")


def test_a_missing_policy_file_is_named(tmp_path: Path):
    with pytest.raises(InvalidInput, match=r"gone\.toml"):
        Settings(policy_file=tmp_path / "gone.toml").policy()


def test_an_operators_policy_replaces_the_default(tmp_path: Path):
    own = tmp_path / "own.toml"
    own.write_text(DEFAULT_POLICY.read_text().replace("daily_energy = 20", "daily_energy = 7"))
    assert Settings(policy_file=own).policy().tier["free"].daily_energy == 7
