"""What is requested after a request has labelled some of its sessions, or none."""

import pytest

from parley.domain.auto_analyze.batching import Remainder, SubBatch, remainder
from parley.domain.auto_analyze.steps import MAX_ASKS, ClassifyOutcome
from parley.domain.capabilities import UNKNOWN_MODEL

WIDE, NARROW = "gpt-4o-mini", "gpt-4"
BATCH = SubBatch((4, 5, 6), WIDE)
ALONE = SubBatch((4,), WIDE)


def test_a_labelled_batch_leaves_nothing():
    assert remainder(BATCH, ClassifyOutcome(labelled=3)) == Remainder()


def test_missing_labels_are_requested_again_in_halves_up_to_the_limit():
    outcome = ClassifyOutcome(labelled=1, missing=(4, 6))
    assert remainder(BATCH, outcome) == Remainder((SubBatch((4,), WIDE, 2), SubBatch((6,), WIDE, 2)))
    assert remainder(BATCH._replace(ask=MAX_ASKS), outcome) == Remainder(unlabelled=(4, 6))


@pytest.mark.parametrize("ask", [1, MAX_ASKS])
def test_a_refused_batch_is_halved_down_to_single_sessions(ask: int):
    outcome = ClassifyOutcome(refused="a filter")
    assert remainder(BATCH._replace(ask=ask), outcome) == Remainder(
        (SubBatch((4, 5), WIDE, ask), SubBatch((6,), WIDE, ask))
    )
    assert remainder(ALONE._replace(ask=ask), outcome) == Remainder(unlabelled=(4,))


@pytest.mark.parametrize("ask", [1, MAX_ASKS])
@pytest.mark.parametrize(("refused_by", "sized_for"), [(WIDE, WIDE), (NARROW, NARROW), ("claude-haiku-4-5", WIDE)])
def test_a_batch_that_is_too_long_is_halved_for_the_smaller_window(refused_by: str, sized_for: str, ask: int):
    left = remainder(BATCH._replace(ask=ask), ClassifyOutcome(too_long_for=refused_by))
    assert left == Remainder((SubBatch((4, 5), sized_for, ask), SubBatch((6,), sized_for, ask)))


@pytest.mark.parametrize(
    ("sized_for", "refused_by", "then"),
    [
        (WIDE, NARROW, NARROW),
        (WIDE, WIDE, UNKNOWN_MODEL),
        (NARROW, WIDE, UNKNOWN_MODEL),
        (NARROW, NARROW, UNKNOWN_MODEL),
    ],
)
def test_a_single_session_that_is_too_long_is_sized_for_a_smaller_window(sized_for: str, refused_by: str, then: str):
    outcome = ClassifyOutcome(too_long_for=refused_by, oversized=(4,))
    assert remainder(SubBatch((4,), sized_for), outcome) == Remainder((SubBatch((4,), then),))


def test_a_batch_is_repeated_after_its_oversized_session_is_condensed():
    assert remainder(BATCH, ClassifyOutcome(oversized=(5,))) == Remainder((BATCH,))


def test_halving_ends_for_any_replies():
    """Every session ends unlabelled exactly once, and no request is made twice."""
    pending, unlabelled, seen = [SubBatch(tuple(range(100)), WIDE)], [], set()
    answers = [ClassifyOutcome(refused="no"), ClassifyOutcome(too_long_for=NARROW)]
    while pending:
        sub_batch = pending.pop()
        assert sub_batch not in seen
        seen.add(sub_batch)
        outcome = answers[len(seen) % 2]
        if sub_batch.ask < MAX_ASKS and len(seen) % 3 == 0:
            outcome = ClassifyOutcome(missing=sub_batch.ordinals)
        if sub_batch.sized_for == UNKNOWN_MODEL:
            outcome = ClassifyOutcome(refused="no")
        left = remainder(sub_batch, outcome)
        pending += left.sub_batches
        unlabelled += left.unlabelled
    assert sorted(unlabelled) == list(range(100))


def test_excluding_keeps_the_order_of_the_others():
    assert BATCH.excluding([5]) == SubBatch((4, 6), WIDE)
