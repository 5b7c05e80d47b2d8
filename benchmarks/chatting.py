"""Simultaneous conversations: how long the first token and the whole turn take, over the same stream by the SDK alone.

Two loads: every conversation sends its turns one after the other without a pause, so that all of them speak at once;
and every conversation waits 2 to 8 s before a turn, as a person who reads and types. Then the memory that open and idle
conversations take: an open one has just been answered a turn, an idle one waits with what it carried over from its last
run. The provider takes 200 ms to the first token and 10 ms for each.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from random import Random  # noqa: TID251 - a benchmark draws its load
from statistics import median, quantiles
from typing import Any

import httpx2
import openai
from sqlalchemy import text

from benchmarks.gateway.prompt import MAX_TOKENS, MODEL
from benchmarks.options import Figures, Options
from benchmarks.stack import MEBIBYTE, Bench, running, say
from parley import CachePolicy, Client
from parley.domain.conversation.context import KEPT_EXCHANGES
from parley.domain.conversation.contract import (
    RECENT_TURNS,
    WORKFLOW,
    Carried,
    ConversationInput,
    Ended,
    TurnOutcome,
    workflow_id,
)
from parley.domain.queues import WORKFLOWS
from parley.domain.streaming import TextDelta

CONVERSATIONS = (1, 5, 50, 100)
TURNS = {1: 20, 5: 8, 50: 3, 100: 2}
LATENCY_SECONDS, TOKENS_PER_SECOND = 0.2, 100
LEAST_PAUSE, MOST_PAUSE = 2.0, 8.0
OPEN, IDLE, STARTING = 1_000, 20_000, 50
TEXT = "Turn {}: what does the export to CSV contain, and who may start it?"
ALONE, PARLEY = "SDK alone", "Parley"
PACES = {"without a pause": (0.0, 0.0), "with pauses": (LEAST_PAUSE, MOST_PAUSE)}

# Answers the turn of a conversation with that number; returns the seconds to the first text, and to the end.
Speak = Callable[[int, int], Awaitable[tuple[float, float]]]


async def measure(options: Options) -> Figures:
    figures: Figures = {}
    async with running(PARLEY_STARTING_ENERGY="1000000") as bench:
        await bench.latency(seconds=LATENCY_SECONDS, tokens_per_second=TOKENS_PER_SECOND)
        client = await bench.client("chatting")
        for count in options.conversations or CONVERSATIONS:
            for pace, pause in PACES.items() if count > 1 else [*PACES.items()][:1]:
                figures[f"{count} conversations {pace}"] = await _compared(bench, client, count, pause)
                say(f"{count} {pace}: done")
        if not options.conversations:
            await bench.latency(seconds=0)
            figures["memory, MiB"] = await _memory(bench, client, options.sessions or IDLE)
    return figures


async def _compared(bench: Bench, client: Client, count: int, pause: tuple[float, float]) -> dict[str, float]:
    """Percentiles of both, and what Parley adds. The first turn of each conversation is not counted."""
    systems = {ALONE: _alone(bench), PARLEY: _parley(client, f"{count}-{pause[1]:.0f}")}
    times = {name: await _all(speak, count, pause) for name, speak in systems.items()}
    firsts = {name: _percentiles([first for first, _ in one]) for name, one in times.items()}
    ends = {name: _percentiles([end for _, end in one]) for name, one in times.items()}
    added = {f"added to the first token, {p}, ms": firsts[PARLEY][p] - firsts[ALONE][p] for p in ("p50", "p95")}
    shown = {
        f"{name}, {what}, {p}, ms": value
        for what, found in (("first token", firsts), ("whole turn", ends))
        for name, percentiles in found.items()
        for p, value in percentiles.items()
    }
    return added | shown


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    return {"p50": 1000 * median(seconds), "p95": 1000 * quantiles(seconds, n=20, method="inclusive")[-1]}


async def _all(speak: Speak, count: int, pause: tuple[float, float]) -> list[tuple[float, float]]:
    """Run so many conversations at the same time."""

    async def converse(number: int) -> list[tuple[float, float]]:
        rng, times = Random(number), list[tuple[float, float]]()
        for turn in range(TURNS[count] + 1):
            await asyncio.sleep(rng.uniform(*pause))
            times.append(await speak(number, turn))
        return times[1:]

    return [one for times in await asyncio.gather(*map(converse, range(count))) for one in times]


def _alone(bench: Bench) -> Speak:
    limits = httpx2.Limits(max_connections=1000, max_keepalive_connections=1000)
    sdk = openai.AsyncOpenAI(
        api_key="none",
        base_url=f"{bench.addresses.simulator_url}/openai/v1",
        max_retries=0,
        http_client=httpx2.AsyncClient(limits=limits, timeout=60),
    )

    said = defaultdict[int, list[Any]](list)

    async def speak(number: int, turn: int) -> tuple[float, float]:
        """As a program does that sends the last exchanges along."""
        began, first, answer = time.perf_counter(), 0.0, ""
        said[number].append({"role": "user", "content": TEXT.format(turn)})
        async with await sdk.chat.completions.create(
            model=MODEL,
            messages=said[number][-2 * KEPT_EXCHANGES - 1 :],
            max_completion_tokens=MAX_TOKENS,
            stream=True,
        ) as chunks:
            async for chunk in chunks:
                answer += (chunk.choices[0].delta.content or "") if chunk.choices else ""
                first = first or (time.perf_counter() if answer else 0.0)
        said[number].append({"role": "assistant", "content": answer})
        return first - began, time.perf_counter() - began

    return speak


def _parley(client: Client, name: str) -> Speak:
    async def speak(number: int, turn: int) -> tuple[float, float]:
        talk = client.conversation(f"{name}-{number}", user_id=f"user-{number}")
        began, first = time.perf_counter(), 0.0
        async with talk.stream(TEXT.format(turn), cache=CachePolicy.OFF, max_tokens=MAX_TOKENS) as stream:
            async for delta in stream:
                if not first and isinstance(delta, TextDelta):
                    first = time.perf_counter()
            result = await stream.result()
        assert result.success, result
        return first - began, time.perf_counter() - began

    return speak


async def _memory(bench: Bench, client: Client, idle: int) -> dict[str, float]:
    """The memory of each part: without further conversations, with open ones, and with idle ones beside them."""
    figures = {f"{name}, before": value for name, value in bench.memory().items()}
    speak = _parley(client, "open")
    await _bounded(lambda number: speak(number, 0), OPEN)
    await asyncio.sleep(5)
    figures |= {f"{name}, with {OPEN} open": value for name, value in bench.memory().items()}
    say(f"{OPEN} open conversations: done")
    await _bounded(lambda number: _start_idle(client, number), idle)
    await asyncio.sleep(5)
    figures |= {f"{name}, with {idle} idle too": value for name, value in bench.memory().items()}
    async with client.database.reads() as tx:
        size = (await tx.execute(text("SELECT pg_database_size(current_database())"))).scalar_one()
    return figures | {"tables and indexes of Parley at the end": size / MEBIBYTE}


async def _bounded(run: Callable[[int], Awaitable[object]], count: int) -> None:
    waiting = iter(range(count))

    async def caller() -> None:
        for number in waiting:
            await run(number)

    await asyncio.gather(*(caller() for _ in range(STARTING)))


async def _start_idle(client: Client, number: int) -> None:
    """Start the workflow of a conversation as a run that follows another one begins."""
    conversation_id = f"idle-{number}"
    recent = tuple(
        TurnOutcome(turn_id=f"{conversation_id}-{turn}", number=turn, outcome=Ended.COMPLETED)
        for turn in range(1, RECENT_TURNS + 1)
    )
    given = ConversationInput(
        workspace_id=client.workspace_id,
        conversation_id=conversation_id,
        user_id=f"user-{number}",
        carried=Carried(turns=RECENT_TURNS, recent=recent),
    )
    await client.temporal.start_workflow(
        WORKFLOW, given, id=workflow_id(client.workspace_id, conversation_id), task_queue=WORKFLOWS
    )
