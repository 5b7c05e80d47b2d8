"""Every rule applies in the right cases only, and states only savings that follow from its figures."""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from parley.domain.pricing import Rates
from parley.domain.recommendations import RULES, Evidence, Repetition, Serving, recommend
from parley.domain.reports import Span, Spend, UserSpend

SPAN = Span(since=datetime(2026, 11, 1, tzinfo=UTC), until=datetime(2026, 12, 1, tzinfo=UTC))
EXPENSIVE = Rates(source="list", input=Decimal(3), output=Decimal(15))
CHEAP = Rates(source="list", input=Decimal("0.5"), output=Decimal(2))


def serving(model: str = "expensive", **fields: Any) -> Serving:
    """The figures of 100 attempts with 1,000 prompt and 100 completion tokens each, with the cost by the rates."""
    rates = CHEAP if model.startswith("cheap") else EXPENSIVE
    paid = (rates.input * 100_000 + rates.output * 10_000) / 1_000_000
    given: dict[str, Any] = {
        "action": "ai_message",
        "provider": "anthropic",
        "model": model,
        "simulated": False,
        "ended": 100,
        "errors": 0,
        "attempts": 100,
        "tokens_prompt": 100_000,
        "tokens_completion": 10_000,
        "paid_usd": paid,
        "spent_usd": paid,
        "rates": rates,
    }
    return Serving(**given | fields)


def repetition(**fields: Any) -> Repetition:
    given: dict[str, Any] = {
        "action": "ai_message",
        "requests": 40,
        "hits": 0,
        "repeats": 5,
        "repeats_usd": Decimal("0.02"),
        "simulated": False,
    }
    return Repetition(**given | fields)


def evidence(*servings: Serving, repetitions: Sequence[Repetition] = (), **fields: Any) -> Evidence:
    return Evidence(span=SPAN, servings=servings, repetitions=tuple(repetitions), **fields)


def users(top: str, total: str, count: int) -> Evidence:
    spender = UserSpend(user_id="ann", attempts=1, confirmed_usd=Decimal(top))
    return evidence(users=(spender,), user_count=count, total=Spend(attempts=9, uncertain_usd=Decimal(total)))


CHEAPER_ELSEWHERE = (serving(), serving("cheap", action="other"))
APPLIES: dict[str, Evidence] = {
    "cheaper_model": evidence(serving(), serving("cheap")),
    "downgrade_saves": evidence(*CHEAPER_ELSEWHERE),
    "enable_cache": evidence(repetitions=[repetition()]),
    "high_error_provider": evidence(serving(errors=10)),
    "uncertain_spend": evidence(serving(uncertain_usd=Decimal("0.05"), spent_usd=Decimal(1))),
    "long_prompts": evidence(serving(tokens_prompt=400_000), repetitions=[repetition(repeats=0)]),
    "user_concentration": users("5", "10", 5),
}
DOES_NOT_APPLY: dict[str, list[Evidence]] = {
    "cheaper_model": [
        evidence(),
        evidence(serving()),
        evidence(serving(), serving("cheap", errors=1)),
        evidence(serving(), serving("cheap", ended=19)),
        evidence(serving(attempts=19), serving("cheap")),
        evidence(serving(), serving("cheap", action="other")),
        evidence(serving(), serving("cheap", simulated=True)),
        evidence(serving(), serving("alike")),
        evidence(serving(), serving("cheap", rates=None)),
        evidence(serving(rates=CHEAP)),
        evidence(*(serving(name, paid_usd=Decimal(0), rates=Rates(source="free")) for name in ("one", "other"))),
        evidence(serving(), serving("a little less", rates=EXPENSIVE.model_copy(update={"output": Decimal(14)}))),
    ],
    "downgrade_saves": [
        evidence(),
        evidence(serving(), serving("cheap")),
        evidence(*CHEAPER_ELSEWHERE, serving("other", spent_usd=Decimal(5), rates=None, attempts=0)),
        evidence(serving(), serving("cheap", action="other", errors=1)),
        evidence(serving(), serving("cheap", action="other", simulated=True)),
        evidence(serving(), serving("alike", action="other")),
        evidence(serving(rates=CHEAP)),
    ],
    "enable_cache": [evidence(), *(evidence(repetitions=[repetition(**{name: 1})]) for name in ("hits", "repeats"))],
    "high_error_provider": [evidence(), evidence(serving(errors=9)), evidence(serving(ended=19, errors=19))],
    "uncertain_spend": [
        evidence(),
        evidence(serving(uncertain_usd=Decimal("0.04"), spent_usd=Decimal(1))),
        evidence(serving(uncertain_usd=Decimal(0), spent_usd=Decimal(0))),
        evidence(serving(ended=19, uncertain_usd=Decimal(1), spent_usd=Decimal(1))),
    ],
    "long_prompts": [
        evidence(serving(tokens_prompt=400_000)),
        evidence(serving(tokens_prompt=399_000), repetitions=[repetition(repeats=0)]),
        evidence(serving(tokens_prompt=400_000, tokens_completion=30_000), repetitions=[repetition(repeats=0)]),
        evidence(serving(tokens_prompt=400_000, attempts=19), repetitions=[repetition(repeats=0)]),
    ],
    "user_concentration": [evidence(), users("4.9", "10", 5), users("5", "10", 4), users("0", "0", 5)],
}


def rules(found: Evidence) -> list[str]:
    return [made.rule for made in recommend(found)]


def name(rule: str) -> str:
    return rule.replace("_", "-")


def test_every_rule_has_a_case_where_it_applies_and_one_where_it_does_not():
    assert list(APPLIES) == list(DOES_NOT_APPLY) == [rule.__name__ for rule in RULES]


@pytest.mark.parametrize("rule", APPLIES)
def test_a_rule_applies(rule: str):
    assert rules(APPLIES[rule]) == [name(rule)]


@pytest.mark.parametrize(
    ("rule", "case"), [(rule, case) for rule in DOES_NOT_APPLY for case in range(len(DOES_NOT_APPLY[rule]))]
)
def test_a_rule_does_not_apply(rule: str, case: int):
    assert name(rule) not in rules(DOES_NOT_APPLY[rule][case])


def test_a_saving_is_the_same_tokens_at_the_cheaper_rates():
    (made,) = recommend(APPLIES["cheaper_model"])
    assert made.saves_usd == Decimal("0.45") - Decimal("0.07")
    assert made.subject == "ai_message"
    assert "100 attempts of anthropic expensive cost $0.45 with 0.0% errors" in made.seen


def test_the_cheapest_of_several_is_named():
    cheapest = Rates(source="list", input=Decimal("0.1"), output=Decimal("0.4"))
    found = recommend(evidence(serving(), serving("cheap"), serving("cheap-2", rates=cheapest)))
    assert "anthropic cheap-2" in found[0].advice


def test_an_expensive_model_is_judged_over_all_work_without_a_cheaper_one():
    parts = [serving(action=f"kind {number}", attempts=10, ended=10) for number in range(3)]
    (made,) = recommend(evidence(*parts, serving("cheap", action="other")))
    assert (made.rule, made.subject) == ("downgrade-saves", "anthropic expensive")
    assert made.saves_usd == 3 * (Decimal("0.45") - Decimal("0.07"))


def test_a_repeat_saves_what_it_cost():
    (made,) = recommend(APPLIES["enable_cache"])
    assert made.saves_usd == Decimal("0.02")
    assert "[action.ai_message]" in made.advice


@pytest.mark.parametrize("rule", ["high_error_provider", "uncertain_spend", "long_prompts", "user_concentration"])
def test_an_unknown_saving_is_not_reported(rule: str):
    assert recommend(APPLIES[rule])[0].saves_usd is None


def test_errors_are_those_of_a_provider_not_of_one_of_its_models():
    found = evidence(serving(errors=4, ended=10), serving("other", errors=0, ended=30))
    assert rules(found) == ["high-error-provider"]


def test_simulated_answers_are_marked():
    assert [
        made.simulated for made in recommend(evidence(serving(simulated=True), serving("cheap", simulated=True)))
    ] == [True]


def test_the_largest_saving_comes_first():
    found = evidence(serving(), serving("cheap"), serving(action="other", errors=50), repetitions=[repetition()])
    savings = [made.saves_usd or 0 for made in recommend(found)]
    assert len(savings) > 2
    assert savings == sorted(savings, reverse=True)
