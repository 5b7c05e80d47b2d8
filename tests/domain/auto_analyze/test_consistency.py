"""The figures of a run's consistency, computed by hand."""

import pytest

from parley.domain.auto_analyze.consistency import Consistency, LabelledCopies, agreement, consistency, entropy


def test_agreement_is_the_share_of_pairs_of_copies_with_one_label():
    assert agreement({"x": {"a": 2, "b": 1}, "y": {"c": 2}}) == 0.5  # 1 + 1 of 3 + 1 pairs
    assert agreement({"x": {"a": 1}}) is None
    assert agreement({}) is None


@pytest.mark.parametrize(("counts", "bits"), [([], 0), ([7], 0), ([1, 1], 1), ([2, 2, 2, 2], 2), ([0, 5], 0)])
def test_entropy_grows_with_the_number_of_labels(counts: list[int], bits: float):
    assert entropy(counts) == bits


def test_the_figures_of_a_run():
    before, after = {"refund": 4, "refunds": 1, "parcel": 2, "pin": 1}, {"refund": 5, "parcel": 2, "pin": 1}
    copies = [LabelledCopies("x", "refund", "refund", 1), LabelledCopies("x", "refunds", "refund", 1)]
    assert consistency(before, after, copies, sessions=10) == Consistency(
        copies=2,
        agreement_before=0.0,
        agreement=1.0,
        entropy_before=1.75,
        entropy=1.299,
        singletons_before=2,
        singletons=1,
        largest_share=0.625,
        duplicate_rate=0.25,
        coverage=0.8,
        catch_alls=2,
    )


def test_a_run_without_labels_has_no_figures():
    assert consistency({}, {}, [], sessions=0) == Consistency()
