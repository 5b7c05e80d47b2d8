"""How often the cache answers a rephrased question, and how often it answers a different one by mistake.

For each labelled pair, one question is stored and the other is looked up. No service is started. The figures are
compared with those of similarity alone: RapidFuzz's `token_set_ratio` of at least 90, without further rules.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from rapidfuzz import fuzz

from benchmarks.options import Figures, Options
from parley.domain.generate.caching import find_same, same_question

QUESTIONS = Path(__file__).resolve().parent.parent / "samples" / "questions"
SIMILAR_PERCENT = 90
STORED_QUESTIONS = 100


@dataclass(frozen=True)
class Pair:
    """Two questions. `same`: whether an answer to one is an answer to the other."""

    one: str
    other: str
    same: bool
    kind: str


Judge = Callable[[str, str], bool]


def similar(one: str, other: str) -> bool:
    return fuzz.token_set_ratio(one.casefold(), other.casefold()) >= SIMILAR_PERCENT


JUDGES: dict[str, Judge] = {"default": same_question, f"token_set_ratio {SIMILAR_PERCENT}": similar}


async def measure(_: Options) -> Figures:
    return await asyncio.to_thread(_figures)


def _figures() -> Figures:
    figures: Figures = {}
    for name in ("pairs", "held_out"):
        pairs = _read(QUESTIONS / f"{name}.jsonl")
        for rate, same in (("hit rate", True), ("false-hit rate", False)):
            labelled = [pair for pair in pairs if pair.same is same]
            figures[f"{name}: {rate}, default / token_set_ratio {SIMILAR_PERCENT}"] = _by_kind(labelled)
    figures[f"one lookup among {STORED_QUESTIONS} questions"] = _milliseconds(_read(QUESTIONS / "pairs.jsonl"))
    return figures


def _read(path: Path) -> list[Pair]:
    return [Pair(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def _by_kind(pairs: list[Pair]) -> dict[str, str]:
    kinds = {kind: [pair for pair in pairs if pair.kind == kind] for kind in dict.fromkeys(pair.kind for pair in pairs)}
    return {kind: _rates(of_kind) for kind, of_kind in {"overall": pairs, **kinds}.items()}


def _rates(pairs: list[Pair]) -> str:
    hits = [sum(judge(pair.one, pair.other) for pair in pairs) for judge in JUDGES.values()]
    shares = [f"{count / len(pairs):4.0%} ({count})" for count in hits]
    return f"{shares[0]} / {shares[1]} of {len(pairs)}"


def _milliseconds(pairs: list[Pair]) -> dict[str, float]:
    """Milliseconds of a lookup of a question that is new to this process, and of the same lookup again."""
    stored = [pair.one + " " for pair in pairs[:STORED_QUESTIONS]]
    times: list[float] = []
    for _ in range(2):
        started = perf_counter()
        find_same(pairs[0].other + " ", stored)
        times.append((perf_counter() - started) * 1000)
    return dict(zip(("first, ms", "again, ms"), times, strict=True))
