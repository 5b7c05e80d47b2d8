"""How the labels of a later run differ from those of an earlier one.

Labels are matched by name. Of each kind, the distance of the two distributions is the square root of the Jensen-Shannon
divergence with base 2, a metric from 0 (the same shares) to 1 (no label in common):

    D = sqrt((KL(P || M) + KL(Q || M)) / 2),  M = (P + Q) / 2,  KL(P || M) = sum of p log2(p / m)

Endres, D. M. and Schindelin, J. E. (2003), "A new metric for probability distributions", IEEE Transactions on
Information Theory 49. Unlike the population stability index it is defined where a label is new or gone.

Whether the share of one label differs is a two-sided test of two proportions with a pooled variance:

    z = (p2 - p1) / sqrt(p (1 - p) (1 / n1 + 1 / n2)),  p = (x1 + x2) / (n1 + n2)

Many labels are tested at once, so the p-values are adjusted by Benjamini and Hochberg (1995), "Controlling the false
discovery rate", Journal of the Royal Statistical Society B 57. A label of few sessions is not judged: the normal
approximation needs some (`LEAST_EXPECTED`).
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from math import erfc, log2, sqrt

from parley.domain.auto_analyze.contract import LabelKind
from parley.domain.model import Model

# Of all labels that are said to have grown or shrunk, so many did not, on average.
FALSE_DISCOVERY_RATE = 0.05
# Cochran's rule: with fewer sessions expected in one of the runs, the test says nothing.
LEAST_EXPECTED = 5


class LabelTrend(StrEnum):
    """How a label changed. `STEADY`: not more than chance explains, or too few sessions to say."""

    NEW = "new"
    GONE = "gone"
    GREW = "grew"
    SHRANK = "shrank"
    STEADY = "steady"


class LabelChange(Model):
    """A label in both runs. Shares are of the sessions with a label of its kind, from 0 to 1.

    p_value: adjusted for the number of labels; None where too few sessions have the label.
    """

    label: str
    change: LabelTrend
    earlier_sessions: int
    later_sessions: int
    earlier_share: float
    later_share: float
    p_value: float | None = None


class KindDrift(Model):
    """The labels of one kind in both runs.

    distance: of the two distributions, from 0 to 1; None where one of the runs has no label of the kind.
    labels: all of them, the largest change of share first.
    """

    kind: LabelKind
    earlier_sessions: int
    later_sessions: int
    distance: float | None
    labels: tuple[LabelChange, ...]

    def of(self, *changes: LabelTrend) -> list[LabelChange]:
        """The labels that changed in one of these ways."""
        return [one for one in self.labels if one.change in changes]


class LabelDrift(Model):
    """The labels of a later run against those of an earlier one: the keys of both jobs, and each kind of label."""

    earlier: str
    later: str
    kinds: tuple[KindDrift, ...]


Counts = Mapping[str, int]


def drift(kind: LabelKind, earlier: Counts, later: Counts) -> KindDrift:
    """Compare the labels of one kind. `earlier` and `later`: the sessions of each label."""
    first, second = sum(earlier.values()), sum(later.values())
    names = sorted({*earlier, *later})
    tested = [name for name in names if _is_testable(earlier.get(name, 0), first, later.get(name, 0), second)]
    values = [_p_value(earlier.get(name, 0), first, later.get(name, 0), second) for name in tested]
    adjusted = dict(zip(tested, benjamini_hochberg(values), strict=True))
    changes = [_change(name, earlier, later, first, second, adjusted.get(name)) for name in names]
    changes.sort(key=lambda one: (-abs(one.later_share - one.earlier_share), one.label))
    distance = jensen_shannon(earlier, later) if first and second else None
    return KindDrift(kind=kind, earlier_sessions=first, later_sessions=second, distance=distance, labels=tuple(changes))


def _change(label: str, earlier: Counts, later: Counts, first: int, second: int, p_value: float | None) -> LabelChange:
    before, after = earlier.get(label, 0), later.get(label, 0)
    shares = (before / first if first else 0.0, after / second if second else 0.0)
    return LabelChange(
        label=label,
        change=_kind_of_change(before, after, shares, p_value),
        earlier_sessions=before,
        later_sessions=after,
        earlier_share=round(shares[0], 6),
        later_share=round(shares[1], 6),
        p_value=None if p_value is None else float(f"{p_value:.3g}"),
    )


def _kind_of_change(before: int, after: int, shares: tuple[float, float], p_value: float | None) -> LabelTrend:
    if not before:
        return LabelTrend.NEW
    if not after:
        return LabelTrend.GONE
    if p_value is None or p_value > FALSE_DISCOVERY_RATE:
        return LabelTrend.STEADY
    return LabelTrend.GREW if shares[1] > shares[0] else LabelTrend.SHRANK


def jensen_shannon(earlier: Counts, later: Counts) -> float:
    """The Jensen-Shannon distance of two distributions, from 0 to 1."""
    first, second = sum(earlier.values()), sum(later.values())
    divergence = 0.0
    for name in sorted({*earlier, *later}):
        p, q = earlier.get(name, 0) / first, later.get(name, 0) / second
        middle = (p + q) / 2
        divergence += sum(share * log2(share / middle) for share in (p, q) if share) / 2
    return round(sqrt(max(divergence, 0.0)), 4)


def _is_testable(before: int, first: int, after: int, second: int) -> bool:
    """Whether both runs are expected to have enough sessions with the label, and without it."""
    if not first or not second:
        return False
    smaller, share = min(first, second), (before + after) / (first + second)
    return smaller * min(share, 1 - share) >= LEAST_EXPECTED


def _p_value(before: int, first: int, after: int, second: int) -> float:
    pooled = (before + after) / (first + second)
    deviation = sqrt(pooled * (1 - pooled) * (1 / first + 1 / second))
    return erfc(abs(after / second - before / first) / deviation / sqrt(2))


def benjamini_hochberg(values: Sequence[float]) -> list[float]:
    """The p-values, adjusted for their number, in the same order."""
    ranked = sorted(range(len(values)), key=lambda place: values[place], reverse=True)
    adjusted = [1.0] * len(values)
    least = 1.0
    for passed, place in enumerate(ranked):
        least = min(least, values[place] * len(values) / (len(values) - passed))
        adjusted[place] = least
    return adjusted
