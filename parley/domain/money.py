"""Amounts in USD. They are Decimal, and exact to twelve decimals."""

from decimal import Decimal

MICRO_DOLLAR = Decimal("0.000001")
# A million calls that each cost less than a micro-dollar must add up to the cent.
SMALLEST_USD = Decimal("1e-12")


def as_usd(amount: Decimal) -> Decimal:
    """An amount in USD with six decimals where they suffice, else rounded to twelve."""
    exact = amount.quantize(SMALLEST_USD)
    short = exact.quantize(MICRO_DOLLAR)
    return short if short == exact else exact
