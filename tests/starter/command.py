"""What running a command of `parley` brings."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass
class Ran:
    code: int
    out: str
    err: str


Run = Callable[..., Awaitable[Ran]]
