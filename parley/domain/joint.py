"""Joint requests: several paid requests that are sent to a provider as one, and each member's share of what it costs.

The shares add up to the whole: whole units by the members' weights, and the units that are left over to those with the
largest remainders (the method of Hamilton, https://en.wikipedia.org/wiki/Quota_method). A weight is the upper bound
that a member has reserved: what it could cost alone. So no share is above its bound.
"""

from collections.abc import Sequence
from decimal import Decimal
from uuid import UUID

from parley.domain.costs import BilledAttempt
from parley.domain.model import Model
from parley.domain.money import SMALLEST_USD
from parley.domain.requests import Usage

# The most paid requests that are sent as one.
MOST_MEMBERS = 5
COUNTS = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens")
AMOUNTS = ("cost_usd", "audio_seconds")


class Member(Model):
    """An attempt of a joint request, and the upper bound in USD that it has reserved."""

    attempt_id: UUID
    upper_bound_usd: Decimal


def shares(whole: int, bounds: Sequence[Decimal]) -> list[int]:
    """The shares of a whole number of units. Of equal remainders the first ones gain.

    Args:
        bounds: the members' upper bounds in USD, at least one. If all are 0, the shares are equal.
    """
    weights = [int(bound / SMALLEST_USD) for bound in bounds]
    total = sum(weights)
    if not total:
        return shares(whole, [SMALLEST_USD] * len(bounds))
    parts = [divmod(whole * weight, total) for weight in weights]
    left = whole - sum(quotient for quotient, _ in parts)
    gaining = sorted(range(len(parts)), key=lambda place: -parts[place][1])[:left]
    return [quotient + (place in gaining) for place, (quotient, _) in enumerate(parts)]


def shares_of_amount(amount: Decimal, bounds: Sequence[Decimal]) -> list[Decimal]:
    """The shares of an amount, exact to twelve decimals, as costs in USD are. `bounds`: see `shares`."""
    return [share * SMALLEST_USD for share in shares(int(amount / SMALLEST_USD), bounds)]


def shares_of_usage(usage: Usage, bounds: Sequence[Decimal]) -> list[Usage]:
    """The shares of what a provider has counted for a chat. `bounds`: see `shares`."""
    counts = {name: shares(getattr(usage, name), bounds) for name in COUNTS}
    return [usage.model_copy(update={name: counts[name][place] for name in COUNTS}) for place in range(len(bounds))]


def shares_of_billed(billed: BilledAttempt, members: Sequence[Member]) -> list[BilledAttempt]:
    """What a provider's list says of a joint request, divided between its members.

    Args:
        members: in the order of their request ids. Empty: it is not a joint request, and is returned unchanged.
    """
    if not members:
        return [billed]
    bounds = [member.upper_bound_usd for member in members]
    known = {name: getattr(billed, name) for name in (*AMOUNTS, *COUNTS) if getattr(billed, name, None) is not None}
    parts = {
        name: shares_of_amount(value, bounds) if name in AMOUNTS else shares(value, bounds)
        for name, value in known.items()
    }
    return [
        billed.model_copy(
            update={"attempt_id": member.attempt_id} | {name: part[place] for name, part in parts.items()}
        )
        for place, member in enumerate(members)
    ]
