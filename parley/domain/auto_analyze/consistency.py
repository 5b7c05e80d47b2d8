"""How consistent the labels of a run are, by figures that need no truth."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import comb, log2
from typing import NamedTuple

from parley.domain.auto_analyze.probing import Pair, share_alike
from parley.domain.intervals import wilson
from parley.domain.model import Model

# The aim for sessions with the same transcript.
AGREEMENT_AIM = 0.95
# A label that more sessions have says little about them.
CATCH_ALL_SHARE = 0.2
# What a session gets of a closed kind if none of its labels fits.
OTHER = "other"


class Consistency(Model):
    """The figures of a run's intents, before conflict resolution and at its end.

    `copies`: sessions whose transcript another session has too. `agreement`: the share of their pairs that have one
    label, from 0 to 1; None without copies. `entropy`: of the labels, in bits: the more labels, and the more even, the
    higher. `singletons`: labels of one session. `largest_share`: of the sessions that have the most frequent label.
    `catch_alls`: labels that more than a fifth of the sessions have. `duplicate_rate`: the share of the first labels
    that are not left. `coverage`: the share of the sessions that a reply labelled, `other`: of those that have "other".
    `probes`: sessions that were labelled a second time. `probe_agreement`: the share of them with the same label both
    times; None without probes. `probe_interval`: its 95% interval.
    """

    copies: int = 0
    agreement_before: float | None = None
    agreement: float | None = None
    entropy_before: float = 0.0
    entropy: float = 0.0
    singletons_before: int = 0
    singletons: int = 0
    largest_share: float = 0.0
    duplicate_rate: float = 0.0
    coverage: float = 0.0
    catch_alls: int = 0
    other: float = 0.0
    probes: int = 0
    probe_agreement_before: float | None = None
    probe_agreement: float | None = None
    probe_interval: tuple[float, float] | None = None


class LabelledCopies(NamedTuple):
    """Sessions of one transcript (by `group`) with one first and one final label, and how many there are."""

    group: str
    first: str
    final: str
    sessions: int


def agreement(sizes: Mapping[str, Mapping[str, int]]) -> float | None:
    """The share of pairs with one label among the pairs of a group. `sizes`: sessions by group and label."""
    pairs = sum(comb(sum(labels.values()), 2) for labels in sizes.values())
    same = sum(comb(count, 2) for labels in sizes.values() for count in labels.values())
    return round(same / pairs, 4) if pairs else None


def entropy(counts: Sequence[int]) -> float:
    """The entropy of labels with so many sessions each, in bits."""
    whole = sum(counts)
    return round(-sum(count / whole * log2(count / whole) for count in counts if count), 3) + 0.0 if whole else 0.0


def consistency(
    before: Mapping[str, int],
    after: Mapping[str, int],
    copies: Sequence[LabelledCopies],
    sessions: int,
    probes: Sequence[Pair] = (),
) -> Consistency:
    """The figures of a run.

    Args:
        before: the sessions of each first label that a reply gave.
        after: the sessions of each label at the end.
        copies: the sessions whose transcript another one has too.
        sessions: of the run, with those that no reply labelled.
        probes: the labels of the sessions that were labelled a second time.
    """
    first: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    final: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for one in copies:
        first[one.group][one.first] += one.sessions
        final[one.group][one.final] += one.sessions
    labelled = sum(after.values())
    merged = [(one.merged, one.merged_probe) for one in probes]
    interval = wilson(sum(one == other for one, other in merged), len(merged))
    return Consistency(
        copies=sum(one.sessions for one in copies),
        agreement_before=agreement(first),
        agreement=agreement(final),
        entropy_before=entropy([*before.values()]),
        entropy=entropy([*after.values()]),
        singletons_before=sum(count == 1 for count in before.values()),
        singletons=sum(count == 1 for count in after.values()),
        largest_share=round(max(after.values(), default=0) / labelled, 4) if labelled else 0.0,
        duplicate_rate=round(1 - len(after) / len(before), 4) if before else 0.0,
        coverage=round(labelled / sessions, 4) if sessions else 0.0,
        catch_alls=sum(count > CATCH_ALL_SHARE * labelled for count in after.values()),
        other=round(after.get(OTHER, 0) / labelled, 4) if labelled else 0.0,
        probes=len(probes),
        probe_agreement_before=share_alike([(one.first, one.probe) for one in probes]),
        probe_agreement=share_alike(merged),
        probe_interval=(interval.low, interval.high) if interval else None,
    )
