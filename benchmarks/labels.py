"""How well labels agree with the truth, before and after conflict resolution, on labelled sessions.

The simulator answers. It labels by rule, with noise like a model's, so the figures measure what Parley does to labels
(synchronised streams, merging), and not the quality of a model's labels.
"""

import json
from pathlib import Path

from benchmarks.agreement import adjusted_rand, normalized_mutual_information, pairwise_f1
from benchmarks.options import Figures, Options
from benchmarks.stack import Run, running

TIMEOUT_SECONDS = 600
METRICS = {"ARI": adjusted_rand, "NMI": normalized_mutual_information, "pairwise F1": pairwise_f1}


async def measure(options: Options) -> Figures:
    truth = _first_intents(options.truth)
    async with running() as bench:
        run = await bench.label(options.data, within=TIMEOUT_SECONDS)
        pairs = await _pairs(run, truth)
    expected, before, after = map(list, zip(*pairs, strict=True))
    return {
        "first labels": _agreement(expected, before),
        "after conflict resolution": _agreement(expected, after),
        "data": {
            "file": options.data.name,
            "sessions with truth": len(pairs),
            "intents in the truth": len({*expected}),
            "answered by": "simulator",
        },
    }


def _first_intents(path: Path) -> dict[str, str]:
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {row["session_id"]: row["intents"][0] for row in rows if row["intents"]}


async def _pairs(run: Run, truth: dict[str, str]) -> list[tuple[str, str, str]]:
    """The true intent, the original and the canonical label of each session whose true intent is known."""
    return [
        (truth[session.session_id], session.original_intent or "", session.intent or "")
        async for session in run.client.labelled_sessions(run.job.id)
        if session.session_id in truth
    ]


def _agreement(expected: list[str], found: list[str]) -> dict[str, float]:
    return {name: metric(expected, found) for name, metric in METRICS.items()} | {"labels": len({*found})}
