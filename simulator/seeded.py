"""Seeded choices: the same seed and key give the same choice, in any order of requests and in any process."""

from collections.abc import Sequence
from hashlib import sha256
from typing import TypeVar

T = TypeVar("T")


def fraction(seed: int, *key: object) -> float:
    """Return a number in [0, 1) that is a pure function of the seed and the key."""
    digest = sha256(repr((seed, *key)).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


class SeededChoice:
    """Chooses among wordings and numbers, so that answers vary as a model's do and stay reproducible."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def pick(self, options: Sequence[T], *key: object) -> T:
        return options[int(fraction(self.seed, *key) * len(options))]

    def number(self, low: int, high: int, *key: object) -> int:
        """Return an integer from `low` to `high`, both included."""
        return low + int(fraction(self.seed, *key) * (high - low + 1))
