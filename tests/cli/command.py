"""The result of a command of `parley`."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass
class Ran:
    code: int
    out: str
    err: str


Run = Callable[..., Awaitable[Ran]]
