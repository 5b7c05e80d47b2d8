"""Shares of what a joint request costs."""

from decimal import Decimal
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st

from parley.domain.costs import BilledAttempt
from parley.domain.joint import Member, shares, shares_of_amount, shares_of_billed, shares_of_usage
from parley.domain.requests import Usage

BOUNDS = st.lists(st.decimals(0, 2, places=6), min_size=1, max_size=5)


@given(whole=st.integers(0, 10**13), bounds=BOUNDS)
def test_shares_add_up_to_the_whole_and_differ_from_their_quota_by_less_than_a_unit(
    whole: int, bounds: list[Decimal]
) -> None:
    found = shares(whole, bounds)
    assert sum(found) == whole
    total = sum(bounds)
    if total:
        assert all(abs(share - whole * bound / total) < 1 for share, bound in zip(found, bounds, strict=True))


@given(bounds=BOUNDS, part=st.integers(0, 1000))
def test_no_share_of_a_cost_is_above_its_bound(bounds: list[Decimal], part: int) -> None:
    usd = sum(bounds, Decimal(0)) * part / 1000
    costs = shares_of_amount(usd, bounds)
    assert sum(costs) == usd
    assert all(cost <= bound for cost, bound in zip(costs, bounds, strict=True))


def test_the_units_that_are_left_over_go_to_the_largest_remainders() -> None:
    assert shares(10, [Decimal(1), Decimal(1), Decimal(1)]) == [4, 3, 3]
    assert shares(10, [Decimal(5), Decimal(3), Decimal(1)]) == [6, 3, 1]
    assert shares(2, [Decimal(0), Decimal(0)]) == [1, 1]


def test_a_list_of_a_provider_is_divided_as_the_ledger_divides_the_reply() -> None:
    bounds = [Decimal("0.011"), Decimal("0.012"), Decimal("0.013")]
    members = [Member(attempt_id=uuid4(), upper_bound_usd=bound) for bound in bounds]
    usage = Usage(input_tokens=1001, output_tokens=502, cached_input_tokens=100)
    listed = BilledAttempt(
        source="line 2", attempt_id=uuid4(), cost_usd=Decimal("0.000123456789"), input_tokens=1001, output_tokens=502
    )
    divided = shares_of_billed(listed, members)
    assert [part.attempt_id for part in divided] == [member.attempt_id for member in members]
    assert sum(part.cost_usd or 0 for part in divided) == listed.cost_usd
    counted = shares_of_usage(usage, bounds)
    assert [(part.input_tokens, part.output_tokens) for part in divided] == [
        (part.input_tokens, part.output_tokens) for part in counted
    ]
    assert shares_of_billed(listed, []) == [listed]
