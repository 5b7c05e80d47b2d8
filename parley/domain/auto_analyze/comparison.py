"""Two labelling runs on the same sessions: how alike their labels are, and what each cost."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from decimal import Decimal
from math import comb

from parley.domain.model import Model


class RunSide(Model):
    """One of the runs: the models that answered, its settled and uncertain cost in USD, its tokens, and its intents.

    instructions: what its operator added to the prompts.
    """

    id: str
    job_key: str
    models: tuple[str, ...]
    cost_usd: Decimal
    tokens: int
    intents: int
    instructions: str = ""


class PairOfLabels(Model):
    """An intent of the first run and one of the second, and the sessions that have both."""

    first: str
    second: str
    sessions: int


class DifferingSession(Model):
    """A session whose intents do not match, with what its user said."""

    session_id: str
    first: str
    second: str
    said: str


class RunComparison(Model):
    """Two runs on the same sessions.

    sessions: that replies labelled in both. ari: the adjusted Rand index of their intents: 1 for the same groups of
    sessions under any names, 0 for chance; None without sessions.
    same_name: the share of sessions whose intents are equal. same_label: the share whose intents match; intents match
    one to one, those that share the most sessions first.
    cost_difference_usd: of the second run against the first.
    only_first, only_second: intents that the other run does not have, with their sessions, the most frequent first.
    moved: intents that do not match and that sessions have, the most frequent pairs first. examples: one of each.
    """

    first: RunSide
    second: RunSide
    sessions: int
    ari: float | None
    same_name: float | None
    same_label: float | None
    cost_difference_usd: Decimal
    only_first: tuple[tuple[str, int], ...]
    only_second: tuple[tuple[str, int], ...]
    moved: tuple[PairOfLabels, ...]
    examples: tuple[DifferingSession, ...]


Cells = Mapping[tuple[str, str], int]
MOST_LISTED = 20


def adjusted_rand_index(cells: Cells) -> float | None:
    """The adjusted Rand index of Hubert and Arabie (1985), "Comparing partitions", Journal of Classification 2.

    Args:
        cells: the sessions that have a pair of labels.
    """
    if not cells:
        return None
    first, second = _totals(cells)
    together, in_first, in_second = (sum(comb(count, 2) for count in one.values()) for one in (cells, first, second))
    return round(corrected_for_chance(together, in_first, in_second, sum(cells.values())), 4)


def corrected_for_chance(together: int, in_first: int, in_second: int, items: int) -> float:
    """The adjusted Rand index from numbers of pairs: 1 for the same groups, 0 for what chance gives.

    Args:
        together: the pairs of items that both labellings put into one group.
        in_first, in_second: those that one of them does.
        items: all items.
    """
    pairs = comb(items, 2)
    expected = in_first * in_second / pairs if pairs else 0.0
    most = (in_first + in_second) / 2
    return 1.0 if most == expected else (together - expected) / (most - expected)


def matched(cells: Cells) -> dict[str, str]:
    """Labels of the first run with those of the second: the pairs that share the most sessions first, one to one."""
    pairs: dict[str, str] = {}
    taken: set[str] = set()
    for first, second in sorted(cells, key=lambda pair: (-cells[pair], pair[0] != pair[1], pair)):
        if first not in pairs and second not in taken:
            pairs[first] = second
            taken.add(second)
    return pairs


def compared(cells: Cells, first: RunSide, second: RunSide) -> RunComparison:
    """The comparison, without examples. `cells`: the sessions that have a pair of intents."""
    sessions = sum(cells.values())
    pairs = matched(cells)
    moved = sorted((pair for pair in cells if pairs.get(pair[0]) != pair[1]), key=lambda pair: (-cells[pair], pair))
    kept = sessions - sum(cells[pair] for pair in moved)
    same = sum(count for (one, other), count in cells.items() if one == other)
    totals = _totals(cells)
    return RunComparison(
        first=first,
        second=second,
        sessions=sessions,
        ari=adjusted_rand_index(cells),
        same_name=round(same / sessions, 4) if sessions else None,
        same_label=round(kept / sessions, 4) if sessions else None,
        cost_difference_usd=second.cost_usd - first.cost_usd,
        only_first=_only(totals[0], totals[1]),
        only_second=_only(totals[1], totals[0]),
        moved=tuple(PairOfLabels(first=a, second=b, sessions=cells[a, b]) for a, b in moved[:MOST_LISTED]),
        examples=(),
    )


def _totals(cells: Cells) -> tuple[Counter[str], Counter[str]]:
    first: defaultdict[str, int] = defaultdict(int)
    second: defaultdict[str, int] = defaultdict(int)
    for (one, other), count in cells.items():
        first[one] += count
        second[other] += count
    return Counter(first), Counter(second)


def _only(own: Counter[str], others: Counter[str]) -> tuple[tuple[str, int], ...]:
    missing = [(label, count) for label, count in own.items() if label not in others]
    return tuple(sorted(missing, key=lambda one: (-one[1], one[0])))
