"""How often a conversation that was held again is recognised, and how often another one is taken for it by mistake.

For each labelled pair (`samples/similar`), a session was analysed, and an edited copy of it is looked up. No service is
started. The figures are compared with those of likeness alone: RapidFuzz's `ratio` of at least 90 and a cosine of at
least 0.85 of the vectors.
"""

import asyncio
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from rapidfuzz import fuzz

from benchmarks.options import MUST_BE_ZERO, Figures, Options
from parley.domain.coaching.similar import LEAST_COSINE, least_cosine, passages, text_similarity
from parley.domain.session import Session, Turn
from parley.embedder import process_embedder

SAMPLES = Path(__file__).resolve().parent.parent / "samples"
FILES = ("pairs", "held_out")
LIKENESS_PERCENT = 90
HESITATION = re.compile(r",? ?\b(?:um|uh)\b,?")


@dataclass(frozen=True)
class Pair:
    """A sample session, and how its copy differs.

    same: whether the coaching of one is that of the other. edits: texts that are replaced in turns; `old` None: the
    whole turn. case: `lower`. pace: all times are multiplied by it. swap: two turns change their texts. swap_roles: the
    sides change. hesitations: False: they are left out. language, scenario: others.
    """

    session: str
    same: bool
    kind: str
    edits: list[dict[str, Any]] = field(default_factory=list)
    case: str = ""
    pace: float = 1.0
    swap: tuple[int, int] | None = None
    swap_roles: bool = False
    hesitations: bool = True
    language: str | None = None
    scenario: str | None = None

    def sessions(self) -> tuple[Session, Session]:
        """The sample, and its edited copy."""
        given = json.loads((SAMPLES / f"{self.session}.json").read_text(encoding="utf-8"))
        turns = [{name: turn[name] for name in ("role", "start", "end", "text")} for turn in given["turns"]]
        first = Session.model_validate({**given, "turns": turns})
        texts = [self._edited(number, turn.text) for number, turn in enumerate(first.turns)]
        if self.swap:
            one, other = self.swap
            texts[one], texts[other] = texts[other], texts[one]
        copies = [self._copy(turn, text) for turn, text in zip(first.turns, texts, strict=True) if text]
        fields = {"session_id": f"{first.session_id}-again", "duration_seconds": first.duration_seconds * self.pace}
        other = {name: value for name, value in self._fields().items() if value is not None}
        copy = {**first.model_dump(mode="json"), **fields, **other, "turns": copies, "warnings": ()}
        return first, Session.model_validate(copy)

    def _fields(self) -> dict[str, str | None]:
        return {"language": self.language, "scenario": self.scenario}

    def _edited(self, number: int, text: str) -> str:
        for edit in (edit for edit in self.edits if edit["turn"] == number):
            if edit["old"] is not None and edit["old"] not in text:
                raise ValueError(f"turn {number} of {self.session} does not have {edit['old']!r}")
            text = edit["new"] if edit["old"] is None else text.replace(edit["old"], edit["new"])
        text = text if self.hesitations else HESITATION.sub("", text)
        return (text.lower() if self.case == "lower" else text).strip()

    def _copy(self, turn: Turn, text: str) -> dict[str, Any]:
        role = turn.role if not self.swap_roles else "prospect" if turn.role == "rep" else "rep"
        times = {"start": turn.start * self.pace, "end": turn.end * self.pace}
        return {"role": role, "text": text, **times}


def read_pairs(name: str) -> list[Pair]:
    lines = (SAMPLES / "similar" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [Pair(**json.loads(line)) for line in lines]


async def measure(_: Options) -> Figures:
    figures: Figures = {}
    false_hits = 0
    for name in FILES:
        judged = [(pair, await _judged(pair)) for pair in read_pairs(name)]
        for label, same in (("hits", True), ("false hits", False)):
            figures[f"{name}: {label}, default / by likeness alone"] = _by_kind(
                [(pair, verdict) for pair, verdict in judged if pair.same is same]
            )
        false_hits += sum(verdict.hit for pair, verdict in judged if not pair.same)
        figures[f"{name}: least cosine of the passages"] = {
            label: min(verdict.cosine for pair, verdict in judged if pair.same is same)
            for label, same in (("same", True), ("near misses", False))
        }
    figures["one comparison of 40 turns, word by word"] = {"ms": await asyncio.to_thread(_milliseconds)}
    figures[MUST_BE_ZERO] = {"false hits": false_hits}
    return figures


def _by_kind(judged: list[tuple[Pair, "Verdict"]]) -> dict[str, str]:
    kinds = dict.fromkeys(pair.kind for pair, _ in judged)
    groups = {"overall": judged, **{kind: [one for one in judged if one[0].kind == kind] for kind in kinds}}
    return {
        kind: f"{sum(one.hit for _, one in group)} / {sum(one.alike for _, one in group)} of {len(group)}"
        for kind, group in groups.items()
    }


@dataclass(frozen=True)
class Verdict:
    """hit: the copy is the same conversation. alike: it is by likeness alone. cosine: the least of the passages."""

    hit: bool
    alike: bool
    cosine: float


async def _judged(pair: Pair) -> Verdict:
    one, other = pair.sessions()
    texts = ["\n".join(turn.text for turn in session.turns).casefold() for session in (one, other)]
    first, second = [await process_embedder().vectors(passages(session)) for session in (one, other)]
    count = min(len(first), len(second))
    cosine = least_cosine(first[:count], second[:count])
    is_near = cosine >= LEAST_COSINE
    hit = is_near and text_similarity(one, other) is not None
    return Verdict(hit, is_near and fuzz.ratio(*texts) >= LIKENESS_PERCENT, cosine)


def _milliseconds() -> float:
    one, other = next(pair for pair in read_pairs("pairs") if pair.kind == "several").sessions()
    began = perf_counter()
    text_similarity(one, other)
    return (perf_counter() - began) * 1000
