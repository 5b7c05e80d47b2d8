"""The options of the benchmarks, and the figures that they return."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CHATS = Path(__file__).resolve().parent.parent / "samples" / "chats"

# The run fails if a figure of this case is not 0.
MUST_BE_ZERO = "must be 0"
# For each case, its figures by name.
Figures = dict[str, Mapping[str, float | str]]


@dataclass(frozen=True)
class Options:
    """`sessions`, `requests`: numbers of sessions and of requests or generations; None: the default of the benchmark.

    `quotas`: of history. `data`, `truth`: of labels. `seed`: of faults.
    """

    sessions: int | None = None
    requests: int | None = None
    quotas: tuple[str, ...] = ()
    data: Path = CHATS / "support.jsonl"
    truth: Path = CHATS / "support.truth.jsonl"
    seed: int | None = None
