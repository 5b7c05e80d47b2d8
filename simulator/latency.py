"""How long a reply takes, and how fast its tokens come."""

from dataclasses import asdict, dataclass
from math import exp
from statistics import NormalDist
from typing import Any

from simulator.wording import fraction


@dataclass(frozen=True)
class Latency:
    """Seconds before the first byte (fixed plus lognormal around `median`), then `tokens_per_second`."""

    seconds: float = 0.0
    median: float = 0.0
    sigma: float = 0.0
    tokens_per_second: float | None = None

    def __post_init__(self) -> None:
        if min(self.seconds, self.median, self.sigma) < 0:
            raise ValueError("latency: seconds, median and sigma must not be negative")
        if self.tokens_per_second is not None and self.tokens_per_second <= 0:
            raise ValueError("latency: tokens_per_second must be positive")

    def before_first_byte(self, seed: int, number: int) -> float:
        """The n-th call's wait: the same for the same seed."""
        if not self.median:
            return self.seconds
        # The middle of the fraction's cell, since the distribution has no value at 0.
        at = fraction(seed, "latency", number) * (1 - 2e-9) + 1e-9
        return self.seconds + self.median * exp(self.sigma * NormalDist().inv_cdf(at))

    def generation(self, output_tokens: int) -> float:
        return output_tokens / self.tokens_per_second if self.tokens_per_second else 0.0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)
