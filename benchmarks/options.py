"""The options of the benchmarks, and the figures that they return."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

CHATS = Path(__file__).resolve().parent.parent / "samples" / "chats"

# The benchmark fails if a figure of this case is not 0.
MUST_BE_ZERO = "must be 0"
# The figures of each case, by name.
Figures = dict[str, Mapping[str, float | str | Mapping[str, float]]]


@dataclass(frozen=True)
class Options:
    """The options of every benchmark. A number that is None is the benchmark's default.

    `sessions_per_stream` is for `history`, `data` and `truth` are for `labels`, `only` is for `faults`, `calling` and
    `overhead`, `schedules` is for `ledger`, `minutes` for `ledger` and `calling`, `conversations` is for `chatting`:
    how many at a time, without the figures of memory; empty: all cases. `seed`: of what is random, in `faults`,
    `ledger`, `talking`, `calling`, `retention`, `memory` and `meaning`. `max_staleness` is for `meaning`: of the run.
    """

    sessions: int | None = None
    requests: int | None = None
    sessions_per_stream: tuple[str, ...] = ()
    data: Path = CHATS / "support.jsonl"
    truth: Path = CHATS / "support.truth.jsonl"
    seed: int | None = None
    only: tuple[str, ...] = ()
    schedules: int | None = None
    minutes: float | None = None
    conversations: tuple[int, ...] = ()
    max_staleness: int | None = None

    def chosen(self, cases: Collection[str]) -> list[str]:
        """The cases of a benchmark to run, in the order of `only`; all where it names none of them."""
        return [name for name in self.only if name in cases] or [*cases]
