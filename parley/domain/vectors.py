"""Vectors as they are stored and sent: base64 of their numbers as float32, the lowest byte first.

It is the form that vendors compute in and send, so nothing is rounded. As JSON numbers a vector would take four times
the room in the database.
"""

import base64
import math
import sys
from array import array
from typing import cast


def packed(vector: object) -> str:
    """A vector of a vendor, packed: from a list of numbers, or from what is packed already.

    Raises:
        ValueError, TypeError: it is not a vector, or one of its numbers is infinite or not a number.
    """
    numbers = _unpacked(vector) if isinstance(vector, str) else _from_list(vector)
    # One such number makes the sum one: float32 cannot overflow the sum.
    if not numbers or not math.isfinite(sum(numbers)):
        raise ValueError("a vector is empty, or has a number that is not finite")
    return vector if isinstance(vector, str) else base64.b64encode(_little_endian(numbers).tobytes()).decode()


def unpacked(vector: str) -> list[float]:
    """The numbers of a packed vector."""
    return _unpacked(vector).tolist()


def length(vector: str) -> int:
    """How many numbers a packed vector has."""
    return len(_unpacked(vector))


def _unpacked(vector: str) -> "array[float]":
    numbers = array("f")
    numbers.frombytes(base64.b64decode(vector, validate=True))
    return _little_endian(numbers)


def _from_list(vector: object) -> "array[float]":
    if not isinstance(vector, list):
        raise TypeError(f"a vector is a {type(vector).__name__}")
    try:
        return array("f", cast("list[float]", vector))
    except OverflowError as error:
        raise ValueError(str(error)) from None


def _little_endian(numbers: "array[float]") -> "array[float]":
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
