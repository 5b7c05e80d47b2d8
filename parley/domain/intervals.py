"""Confidence intervals of shares."""

import math

from parley.domain.model import Model

# 95% of a normal distribution lies within this many standard deviations.
Z_95 = 1.959964


class Interval(Model):
    """A 95% confidence interval."""

    low: float
    high: float


def wilson(successes: int, trials: int) -> Interval | None:
    """The score interval of a proportion; None without trials.

    Wilson, "Probable inference, the law of succession, and statistical inference", 1927. Unlike the textbook's interval
    it holds for few trials and for shares near 0 and 1 (Brown, Cai and DasGupta, "Interval estimation for a binomial
    proportion", 2001).
    """
    if not trials:
        return None
    observed, z2 = successes / trials, Z_95**2
    middle = (observed + z2 / (2 * trials)) / (1 + z2 / trials)
    spread = Z_95 / (1 + z2 / trials) * math.sqrt(observed * (1 - observed) / trials + z2 / (4 * trials**2))
    return Interval(low=round(max(middle - spread, 0.0), 4), high=round(min(middle + spread, 1.0), 4))
