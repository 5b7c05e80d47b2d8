"""What to ask next, after a request has brought some of its labels, or none."""

from collections.abc import Sequence
from typing import NamedTuple

from parley.domain.auto_analyze.batching import halves, tighter
from parley.domain.auto_analyze.contract import MAX_ASKS, ClassifyOutcome
from parley.domain.capabilities import narrower

# A session that every provider refuses is one that they object to. As many in a row are a request that nobody takes.
MOST_REFUSED_IN_A_ROW = 20


class Piece(NamedTuple):
    """Sessions to label in one request that is made for the window of `sized_for`."""

    ordinals: tuple[int, ...]
    sized_for: str
    ask: int = 1


class Left(NamedTuple):
    """What remains of a piece: requests to make, and sessions that nothing more can be asked about."""

    pieces: tuple[Piece, ...] = ()
    lost: tuple[int, ...] = ()


def left_of(piece: Piece, outcome: ClassifyOutcome) -> Left:
    """The rest of a piece: the same after condensing, halves of what was too much, halves of what is missing.

    Halving ends at a session alone. One that is too long is condensed; one that is refused, or missing after
    `MAX_ASKS`, is lost.
    """
    if outcome.too_long_for:
        return Left(_smaller(piece, outcome.too_long_for))
    if outcome.refused:
        return Left(lost=piece.ordinals) if len(piece.ordinals) == 1 else Left(_halves(piece, piece.ordinals))
    if outcome.oversized:
        return Left((piece,))
    if piece.ask >= MAX_ASKS:
        return Left(lost=outcome.missing)
    return Left(_halves(piece._replace(ask=piece.ask + 1), outcome.missing))


def without(piece: Piece, ordinals: Sequence[int]) -> Piece:
    """The piece without some of its sessions."""
    return piece._replace(ordinals=tuple(ordinal for ordinal in piece.ordinals if ordinal not in ordinals))


def _smaller(piece: Piece, refused_by: str) -> tuple[Piece, ...]:
    """Half as many sessions; one alone with a smaller window in mind, for its summary and for the known labels."""
    if len(piece.ordinals) == 1:
        return (piece._replace(sized_for=tighter(piece.sized_for, refused_by)),)
    sized_for = refused_by if narrower(refused_by, piece.sized_for) else piece.sized_for
    return _halves(piece._replace(sized_for=sized_for), piece.ordinals)


def _halves(piece: Piece, ordinals: Sequence[int]) -> tuple[Piece, ...]:
    return tuple(piece._replace(ordinals=half) for half in halves(ordinals))
