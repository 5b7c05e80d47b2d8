"""What the forms of several pages have."""

from decimal import Decimal, InvalidOperation

from parley.domain.errors import InvalidInput


def typed_usd(text: str, *, where: str) -> Decimal:
    """The amount in USD that was typed. `where`: the field.

    Raises:
        InvalidInput: it is not a number.
    """
    try:
        return Decimal(text)
    except InvalidOperation:
        raise InvalidInput("must be an amount in USD, for example 25.00", where=where) from None
