"""How far two labellings of the same items agree. Only the grouping counts, not the names of the labels.

n_ij: number of items with label i in the truth and label j in the other labelling; a_i, b_j: their sums over j and i;
n: number of all items.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from math import comb, log

from parley.domain.auto_analyze.comparison import corrected_for_chance

Labels = Sequence[Hashable]


def adjusted_rand(truth: Labels, found: Labels) -> float:
    """The share of pairs on which both agree, corrected for chance: 1 means equal, 0 as good as chance.

        (S - E) / ((A + B) / 2 - E)   with S = Σ C(n_ij, 2), A = Σ C(a_i, 2), B = Σ C(b_j, 2), E = A B / C(n, 2)

    Hubert & Arabie (1985), Comparing partitions, Journal of Classification 2, 193-218.

    By hand: S = 1, A = 2, B = 1, E = 2/6, so (1 - 1/3) / (3/2 - 1/3) = 4/7.

    >>> round(adjusted_rand("aabb", "xxyz"), 6) == round(4 / 7, 6)
    True
    >>> adjusted_rand("aabb", "yyxx")
    1.0
    >>> round(adjusted_rand("aabb", "xyxy"), 6)
    -0.5
    """
    return corrected_for_chance(*_pairs(truth, found), len(truth))


def normalized_mutual_information(truth: Labels, found: Labels) -> float:
    """The mutual information of two labellings, over the arithmetic mean of their entropies, from 0 to 1.

        I / ((H(truth) + H(found)) / 2)   with I = Σ n_ij/n log(n n_ij / (a_i b_j)), H = -Σ a_i/n log(a_i/n)

    Normalised by the arithmetic mean: Vinh, Epps & Bailey (2010), Information theoretic measures for clusterings
    comparison, Journal of Machine Learning Research 11, 2837-2854 (there NMI_sum).

    By hand: I = log 2, H(truth) = log 2, H(found) = 3/2 log 2, so 1 / (5/4) = 0.8.

    >>> round(normalized_mutual_information("aabb", "xxyz"), 6)
    0.8
    >>> round(normalized_mutual_information("aabb", "xyxy"), 6)
    0.0
    """
    size, a, b = len(truth), Counter(truth), Counter(found)
    both = Counter(zip(truth, found, strict=True))
    shared = sum(n / size * log(size * n / (a[i] * b[j])) for (i, j), n in both.items())
    mean = (_entropy(a, size) + _entropy(b, size)) / 2
    return shared / mean if mean else 1.0


def pairwise_f1(truth: Labels, found: Labels) -> float:
    """The harmonic mean of precision and recall of the pairs of items with one label: 2 S / (A + B).

    Precision is the share of the pairs of `found` that are pairs of `truth` too; recall is the reverse. Manning,
    Raghavan & Schütze (2008), Introduction to Information Retrieval, chapter 16.3.

    By hand: precision 1/1, recall 1/2, so 2/3.

    >>> round(pairwise_f1("aabb", "xxyz"), 6)
    0.666667
    >>> pairwise_f1("aabb", "xyxy")
    0.0
    """
    same, in_truth, in_found = _pairs(truth, found)
    return 2 * same / (in_truth + in_found) if in_truth + in_found else 1.0


def _pairs(truth: Labels, found: Labels) -> tuple[int, int, int]:
    """The number of pairs of items with one label: in both labellings, in the truth, and in the other."""
    both = Counter(zip(truth, found, strict=True))
    same, in_truth, in_found = (
        sum(comb(count, 2) for count in counted.values()) for counted in (both, Counter(truth), Counter(found))
    )
    return same, in_truth, in_found


def _entropy(counted: Counter[Hashable], size: int) -> float:
    return -sum(count / size * log(count / size) for count in counted.values())
