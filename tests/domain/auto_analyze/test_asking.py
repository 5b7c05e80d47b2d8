import pytest

from parley.domain.auto_analyze.asking import Left, Piece, left_of, without
from parley.domain.auto_analyze.contract import MAX_ASKS, ClassifyOutcome
from parley.domain.capabilities import UNKNOWN_MODEL

WIDE, NARROW = "gpt-4o-mini", "gpt-4"
BATCH = Piece((4, 5, 6), WIDE)
ALONE = Piece((4,), WIDE)


def test_nothing_is_left_of_a_batch_that_is_labelled():
    assert left_of(BATCH, ClassifyOutcome(labelled=3)) == Left()


def test_what_is_missing_is_asked_again_in_halves_and_in_the_end_lost():
    outcome = ClassifyOutcome(labelled=1, missing=(4, 6))
    assert left_of(BATCH, outcome) == Left((Piece((4,), WIDE, 2), Piece((6,), WIDE, 2)))
    assert left_of(BATCH._replace(ask=MAX_ASKS), outcome) == Left(lost=(4, 6))


@pytest.mark.parametrize("ask", [1, MAX_ASKS])
def test_a_refused_batch_is_halved_down_to_the_one_session_that_is_refused(ask: int):
    outcome = ClassifyOutcome(refused="a filter")
    assert left_of(BATCH._replace(ask=ask), outcome) == Left((Piece((4, 5), WIDE, ask), Piece((6,), WIDE, ask)))
    assert left_of(ALONE._replace(ask=ask), outcome) == Left(lost=(4,))


@pytest.mark.parametrize("ask", [1, MAX_ASKS])
@pytest.mark.parametrize(("refused_by", "sized_for"), [(WIDE, WIDE), (NARROW, NARROW), ("claude-haiku-4-5", WIDE)])
def test_a_batch_that_is_too_long_is_halved_for_the_smaller_window(refused_by: str, sized_for: str, ask: int):
    left = left_of(BATCH._replace(ask=ask), ClassifyOutcome(too_long_for=refused_by))
    assert left == Left((Piece((4, 5), sized_for, ask), Piece((6,), sized_for, ask)))


@pytest.mark.parametrize(
    ("sized_for", "refused_by", "then"),
    [
        (WIDE, NARROW, NARROW),
        (WIDE, WIDE, UNKNOWN_MODEL),
        (NARROW, WIDE, UNKNOWN_MODEL),
        (NARROW, NARROW, UNKNOWN_MODEL),
    ],
)
def test_a_session_that_is_too_long_alone_is_asked_for_a_smaller_window_each_time(
    sized_for: str, refused_by: str, then: str
):
    outcome = ClassifyOutcome(too_long_for=refused_by, oversized=(4,))
    assert left_of(Piece((4,), sized_for), outcome) == Left((Piece((4,), then),))


def test_an_oversized_session_is_condensed_and_its_batch_asked_as_it_is():
    assert left_of(BATCH, ClassifyOutcome(oversized=(5,))) == Left((BATCH,))


def test_halving_ends_whatever_is_answered():
    """Every session is lost in the end, once, and no request is made twice."""
    pieces, lost, seen = [Piece(tuple(range(100)), WIDE)], [], set()
    answers = [ClassifyOutcome(refused="no"), ClassifyOutcome(too_long_for=NARROW)]
    while pieces:
        piece = pieces.pop()
        assert piece not in seen
        seen.add(piece)
        outcome = answers[len(seen) % 2]
        if piece.ask < MAX_ASKS and len(seen) % 3 == 0:
            outcome = ClassifyOutcome(missing=piece.ordinals)
        if piece.sized_for == UNKNOWN_MODEL:
            outcome = ClassifyOutcome(refused="no")
        left = left_of(piece, outcome)
        pieces += left.pieces
        lost += left.lost
    assert sorted(lost) == list(range(100))


def test_without_leaves_the_others_in_their_order():
    assert without(BATCH, [5]) == Piece((4, 6), WIDE)
