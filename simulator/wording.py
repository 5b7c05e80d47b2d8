"""Seeded choices: the same seed and the same key always choose the same, in any order and any process."""

from collections.abc import Sequence
from hashlib import sha256
from typing import TypeVar

T = TypeVar("T")


def fraction(seed: int, *key: object) -> float:
    """A number in [0, 1) that is a pure function of seed and key."""
    digest = sha256(repr((seed, *key)).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


class Wording:
    """Paraphrase noise: says one thing in one of several ways."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def pick(self, options: Sequence[T], *key: object) -> T:
        return options[int(fraction(self.seed, *key) * len(options))]

    def number(self, low: int, high: int, *key: object) -> int:
        return low + int(fraction(self.seed, *key) * (high - low + 1))
