"""How well labels by meaning agree with the truth, before and after their correction, and k-means beside."""

import asyncio
import csv
import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from decimal import Decimal
from itertools import combinations
from pathlib import Path
from random import Random  # noqa: TID251 - the changes are random
from typing import Any
from uuid import uuid4

import numpy as np

from benchmarks.agreement import adjusted_rand, normalized_mutual_information, pairwise_f1
from benchmarks.meaning.bank import Data, near_copy, write_bank
from benchmarks.meaning.kmeans import kmeans
from benchmarks.meaning.labeller import Labeller, user_text
from benchmarks.meaning.server import serving
from benchmarks.options import CHATS, Figures, Options
from benchmarks.stack import Bench, running, say
from parley import AutoAnalyzeOptions, Provider
from parley.domain.auto_analyze.contract import ExportedSession, Statistics
from parley.embedder import process_embedder

MODEL = "gpt-4o-mini"
TIMEOUT_SECONDS = 900
SEED, COPIES = 7, 60
METRICS = {"ARI": adjusted_rand, "NMI": normalized_mutual_information, "pairwise F1": pairwise_f1}


async def measure(options: Options) -> Figures:
    """On sessions of a bank, or on those of `--data`, completed by copies and near copies of some of them.

    `--data` is a file of sessions with `--truth`, or a CSV file with the columns `text` and `category`, as BANKING77's.
    """
    embedder = process_embedder()
    await embedder.vectors(["the model is loaded before its time is measured"])
    loop = asyncio.get_running_loop()

    def embed(text: str) -> Sequence[float]:
        return asyncio.run_coroutine_threadsafe(embedder.vectors([text]), loop).result()[0]

    seed = SEED if options.seed is None else options.seed
    labeller = Labeller(embed, seed)
    with tempfile.TemporaryDirectory(prefix="parley-bench-") as directory:
        data = _data(options, Path(directory), seed)
        async with AsyncExitStack() as stack:
            url = await stack.enter_async_context(serving(labeller))
            bench = await stack.enter_async_context(running(OPENAI_API_KEY="none", OPENAI_BASE_URL=url))
            found = await _labelled(bench, data, options)
        clustered = await asyncio.to_thread(_clustered, data, labeller)
    return {
        "data": {
            "file": data.path.name,
            "sessions with truth": len(data.truth),
            "intents in the truth": len({*data.truth.values()}),
        },
        **found,
        "k-means with the true number of intents": _agreement(data, clustered),
    }


def _data(options: Options, directory: Path, seed: int) -> Data:
    if options.data.parent == CHATS:
        return write_bank(directory, seed)
    chance = Random(seed)
    if options.data.suffix == ".csv":
        rows, truth = _of_sentences(options.data, options.sessions)
    else:
        rows, truth = _of_sessions(options.data, options.truth)
    copied = rows[:: len(rows) // COPIES][:COPIES]
    altered = rows[1 :: len(rows) // COPIES][:COPIES]
    more = [row | {"session_id": f"{row['session_id']}-copy"} for row in copied]
    more += [_near(row, chance) | {"session_id": f"{row['session_id']}-near"} for row in altered]
    path = directory / options.data.with_suffix(".jsonl").name
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *more]), encoding="utf-8")
    copies, near = (
        tuple((row["session_id"], f"{row['session_id']}-{kind}") for row in some)
        for kind, some in (("copy", copied), ("near", altered))
    )
    return Data(path, truth, copies, near)


def _of_sessions(path: Path, truth: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The sessions of a file, and the first intent of each."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    known = map(json.loads, truth.read_text(encoding="utf-8").splitlines())
    return rows, {row["session_id"]: row["intents"][0] for row in known if row["intents"]}


def _of_sentences(path: Path, most: int | None) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """A session for each of `most` evenly spaced rows of a CSV file with columns `text` and `category`, shuffled."""
    with path.open(encoding="utf-8", newline="") as file:
        sentences = [*csv.DictReader(file)]
    sentences = sentences[:: max(len(sentences) // (most or len(sentences)), 1)]
    Random(SEED).shuffle(sentences)
    rows = [
        {
            "session_id": f"sentence-{at:04}",
            "user_id": f"u{at}",
            "containment": "selfService",
            "messages": [{"role": "user", "text": sentence["text"]}],
        }
        for at, sentence in enumerate(sentences)
    ]
    return rows, {row["session_id"]: said["category"] for row, said in zip(rows, sentences, strict=True)}


def _near(row: dict[str, Any], chance: Random) -> dict[str, Any]:
    """The same session with another greeting and a slip of the keyboard in what the user said first."""
    messages = [*row["messages"]]
    at = next(place for place, message in enumerate(messages) if message["role"] == "user")
    messages[at] = messages[at] | {"text": near_copy(messages[at]["text"], chance)}
    return row | {"messages": messages}


async def _labelled(bench: Bench, data: Data, options: Options) -> Figures:
    terms: AutoAnalyzeOptions = {"budget_usd": Decimal(1000), "provider": Provider.OPENAI, "model": MODEL}
    if options.max_staleness is not None:
        terms["max_staleness"] = options.max_staleness
    client = await bench.client(f"bench-{uuid4().hex[:8]}")
    imported = await client.import_chats(data.path)
    job = await client.auto_analyze(imported.dataset_id, user_id="bench", **terms)
    async with asyncio.timeout(TIMEOUT_SECONDS):
        report = await job.result()
    assert report.statistics
    sessions = [session async for session in client.labelled_sessions(job.id)]
    say(f"labelled {len(sessions)} sessions for ${report.statistics.cost_usd}")
    first = {session.session_id: session.original_intent or "" for session in sessions}
    merged = {session.session_id: _merged(session) for session in sessions}
    final = {session.session_id: session.intent or "" for session in sessions}
    return {
        "first labels": _agreement(data, first),
        "after merging": _agreement(data, merged),
        "after the second look": _agreement(data, final),
        "intents that lose their label": {
            "by merging": len(_main(data, first) - _main(data, merged)),
            "in all": len(_main(data, first) - _main(data, final)),
        },
        "merges": _merges(data, sessions),
        "second look": _second_look(data, sessions),
        "run": _counted(report.statistics),
    }


def _merged(session: ExportedSession) -> str:
    """The intent of a session after merging."""
    return session.reassigned_from or session.intent or ""


def _agreement(data: Data, found: Mapping[str, str]) -> dict[str, float]:
    named = [name for name in data.truth if name in found]
    expected, labels = [data.truth[name] for name in named], [found[name] for name in named]
    figures = {name: metric(expected, labels) for name, metric in METRICS.items()}
    pairs = {"exact copies with one label": data.copies, "near copies with one label": data.near}
    same = {
        name: sum(found[one] == found[other] for one, other in some) / len(some) for name, some in pairs.items() if some
    }
    hidden = {*expected} - _main(data, found)
    return figures | {"labels": len({*labels})} | same | {"intents without a label": len(hidden)}


def _main(data: Data, found: Mapping[str, str]) -> set[str]:
    """The intents that are the most frequent one of a label. Others are hidden among them."""
    members: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for name, intent in data.truth.items():
        if name in found:
            members[found[name]][intent] += 1
    return {counted.most_common(1)[0][0] for counted in members.values()}


def _merges(data: Data, sessions: Sequence[ExportedSession]) -> dict[str, float]:
    """How many pairs of first labels with one meaning were merged, and how many merged pairs have one meaning.

    The meaning of a label is the most frequent intent of its sessions.
    """
    members: defaultdict[str, Counter[str]] = defaultdict(Counter)
    merged: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for session in sessions:
        if session.session_id in data.truth and session.original_intent:
            members[session.original_intent][data.truth[session.session_id]] += 1
            merged[session.original_intent][_merged(session)] += 1
    meaning = {label: counted.most_common(1)[0][0] for label, counted in members.items()}
    into = {label: counted.most_common(1)[0][0] for label, counted in merged.items()}
    pairs = [(meaning[a] == meaning[b], into[a] == into[b]) for a, b in combinations(meaning, 2)]
    right = sum(same and joined for same, joined in pairs)
    wanted, made = sum(same for same, _ in pairs), sum(joined for _, joined in pairs)
    return {
        "pairs of labels to merge": wanted,
        "of which are merged": right / wanted if wanted else 1.0,
        "merged pairs": made,
        "of which are right": right / made if made else 1.0,
    }


def _second_look(data: Data, sessions: Sequence[ExportedSession]) -> dict[str, float]:
    """How many sessions came to a label of their meaning from another one, and how many left theirs for another one."""
    members: defaultdict[str, Counter[str]] = defaultdict(Counter)
    known = [session for session in sessions if session.session_id in data.truth]
    for session in known:
        members[_merged(session)][data.truth[session.session_id]] += 1
    meaning = {label: counted.most_common(1)[0][0] for label, counted in members.items()}
    moved = [
        (meaning[_merged(session)] == data.truth[session.session_id], meaning.get(session.intent or "", ""))
        for session in known
        if session.reassigned_from
    ]
    truths = [data.truth[session.session_id] for session in known if session.reassigned_from]
    pairs = [(was, now == truth) for (was, now), truth in zip(moved, truths, strict=True)]
    return {
        "sessions with another label": len(pairs),
        "from a wrong one to the right one": pairs.count((False, True)),
        "from the right one to a wrong one": pairs.count((True, False)),
    }


def _counted(statistics: Statistics) -> dict[str, Any]:
    names = ("conflicts_found", "conflicts_resolved", "kept_apart", "unmerged_chunks", "looked_at", "fallbacks")
    tokens = {phase.value: spent for phase, spent in statistics.tokens_by_phase.items()}
    return {
        **{name.replace("_", " "): getattr(statistics, name) for name in names},
        "USD": float(statistics.cost_usd),
        "tokens": tokens,
        "warnings": "; ".join(statistics.warnings) or "none",
    }


def _clustered(data: Data, labeller: Labeller) -> dict[str, str]:
    rows = [json.loads(line) for line in data.path.read_text(encoding="utf-8").splitlines()]
    texts = {
        row["session_id"]: user_text("\n".join(f"{said['role']}: {said['text']}" for said in row["messages"]))
        for row in rows
    }
    vectors = np.array([labeller.vector(text) for text in texts.values()])
    clusters = kmeans(vectors, len({*data.truth.values()}))
    return {name: str(cluster) for name, cluster in zip(texts, clusters, strict=True)}
