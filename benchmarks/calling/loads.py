"""Simultaneous phone calls: how long the first text of an answer takes, over the provider's first token.

Callers speak, listen to the end and pause, as people do; the provider's first token comes after a median of 400 ms.
"Added" is what a turn took from the final prompt to the first text, less what the provider took for its first token in
the same turn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random  # noqa: TID251 - a benchmark draws its load
from statistics import median, quantiles
from typing import Any

from sqlalchemy import text

from benchmarks.calling.callers import NUMBER, callers_of, script
from benchmarks.options import Figures, Options
from benchmarks.stack import Bench, running, say
from parley import Client
from simulator.twilio.simulation import Simulated
from simulator.twilio.summary import Summary, Turn, summarize, turns_of

CALLS = (1, 5, 20, 50)
TURNS = {1: 8, 5: 5, 20: 4, 50: 3}
# The provider: the median time to its first token, how much that varies, and its speed.
FIRST_TOKEN_SECONDS, SIGMA, TOKENS_PER_SECOND = 0.4, 0.35, 60
FILLER = "One moment, please. "
DOCS = Path(__file__).resolve().parents[2] / "docs"
# The specification's targets, in seconds, and the share of turns that may fail.
ANSWER_SECONDS, LLM_SECONDS, TOTAL_SECONDS, MOST_FAILED = 2.0, 3.0, 5.0, 0.05

ATTEMPTS = text("SELECT id, request_id FROM attempts WHERE workspace_id = :workspace")


@dataclass(frozen=True)
class Answered:
    """A turn of a caller: when its first text came, and its whole answer, after the final prompt; in seconds.

    provider: what the provider took for its first token; None where it is not known. is_filled: a filler came first.
    """

    first: float
    whole: float
    provider: float | None
    is_filled: bool


async def under_load(options: Options) -> tuple[Figures, dict[str, int]]:
    """1, 5, 20 and 50 simultaneous phone calls."""
    figures: Figures = {}
    failed: dict[str, int] = {}
    async with running(gateway="gateway", PARLEY_STARTING_ENERGY="1000000") as bench:
        client = await bench.client("calling")
        await client.phone.set_number(NUMBER, {"limits": {"workspace_concurrent": None, "caller_concurrent": None}})
        for page in ("phone-call.md", "knowledge.md", "memory.md"):
            await client.knowledge.add_file(DOCS / page)
        await bench.latency(median=FIRST_TOKEN_SECONDS, sigma=SIGMA, tokens_per_second=TOKENS_PER_SECOND)
        await callers_of(bench).hold([script(Random(0), 1)], Random(0))  # a warm-up
        for count in CALLS:
            figures[f"{count} phone calls"], failed[f"phone calls with an error, of {count}"] = await _at_once(
                bench, client, count, options.seed or 7
            )
            say(f"{count} phone calls: done")
    return figures, failed


async def _at_once(bench: Bench, client: Client, count: int, seed: int) -> tuple[Mapping[str, Any], int]:
    rng, before = Random(seed), bench.cpu()
    held = await callers_of(bench).hold([script(rng, TURNS[count]) for _ in range(count)], rng)
    summary = summarize([one.log for one in held])
    answered = await _answered(bench, client, held)
    used = {name: round(seconds - before[name], 1) for name, seconds in bench.cpu().items()}
    return {**_figures(answered, summary), "CPU, s": used}, summary.failed


def _figures(answered: Sequence[Answered], summary: Summary) -> dict[str, Any]:
    added = [one.first - one.provider for one in answered if one.provider is not None and not one.is_filled]
    unanswered = summary.turns - len(answered)
    slow = {
        f"answer begins after {ANSWER_SECONDS:g} s": sum(one.first > ANSWER_SECONDS for one in answered),
        f"LLM's first token after {LLM_SECONDS:g} s": sum((one.provider or 0) > LLM_SECONDS for one in answered),
        f"answer whole after {TOTAL_SECONDS:g} s": sum(one.whole > TOTAL_SECONDS for one in answered),
    }
    return {
        "turns": summary.turns,
        "added to the first token, ms": _spread(added),
        "first text, ms": _spread([one.first for one in answered]),
        "whole answer, ms": _spread([one.whole for one in answered]),
        "heard after the caller's last word, ms": {"p50": summary.heard_ms.p50 or 0, "p95": summary.heard_ms.p95 or 0},
        "turns with a filler": sum(one.is_filled for one in answered),
        "turns without an answer": unanswered,
        f"share without an answer; the target is below {MOST_FAILED:g}": unanswered / max(summary.turns, 1),
        **slow,
        "silences in an answer": summary.gaps,
        "repeated words": len(summary.repeated),
    }


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    values = [1000 * one for one in seconds] * (2 if len(seconds) == 1 else 1)
    return {"p50": median(values), "p95": quantiles(values, n=20, method="inclusive")[-1]} if values else {}


async def _answered(bench: Bench, client: Client, held: Sequence[Simulated]) -> list[Answered]:
    """The turns that were answered, with the times of the provider in each."""
    provider = await _provider_seconds(bench, client)
    found: list[Answered] = []
    for one in held:
        turns = turns_of(one.log.events)
        stored = await client.phone.turns(one.phone_call.dialled.sid)
        by_request = [provider.get(turn.request_id) for turn in stored]
        by_request += [None] * (len(turns) - len(by_request))
        found += [_of(turn, seconds) for turn, seconds in zip(turns, by_request, strict=False) if turn.is_answered]
    return found


def _of(turn: Turn, provider: float | None) -> Answered:
    first, last = (turn.first_text or 0.0) - turn.asked, (turn.last_text or 0.0) - turn.asked
    return Answered(first, last, provider, is_filled=turn.answer.startswith(FILLER))


async def _provider_seconds(bench: Bench, client: Client) -> dict[str, float]:
    """Of each paid request that was answered at its first attempt: the time to the first token."""
    async with client.database.reads() as tx:
        rows = (await tx.execute(ATTEMPTS, {"workspace": client.workspace_id})).all()
    paid = {str(attempt): str(request) for attempt, request in rows}
    return {
        paid[sent["attempt_id"]].removesuffix("/ask-1"): sent["first_token_at"] - sent["received_at"]
        for sent in await bench.billed()
        if sent["attempt_id"] in paid and sent["first_token_at"]
    }
