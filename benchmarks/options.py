"""What benchmarks are started with, and what they return."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CHATS = Path(__file__).resolve().parent.parent / "samples" / "chats"

# The case whose figures are all 0, or the run has failed.
MUST_BE_ZERO = "must be 0"
# Of each case, its figures by name.
Figures = dict[str, Mapping[str, float | str]]


@dataclass(frozen=True)
class Options:
    """`sessions`, `calls`: how many in place of a benchmark's own number. `quotas`: of history. `seed`: of faults."""

    sessions: int | None = None
    calls: int | None = None
    quotas: tuple[str, ...] = ()
    data: Path = CHATS / "support.jsonl"
    truth: Path = CHATS / "support.truth.jsonl"
    seed: int | None = None
