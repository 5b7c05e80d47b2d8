"""What is remembered of scripted conversations: facts, corrections, other people's facts, small talk, and bait.

Each conversation plants facts of its user in several wordings, changes some of them later, and mixes in what must not
be remembered of the user: facts of other people, questions, suppositions, moods, instructions. Facts are extracted from
ten turns at a time, as a conversation does, and from twenty. Then each fact is asked for.

The simulator extracts by rules of its own, and the wordings include some that it does not know. So the figures measure
what Parley does with a careless model's claims, and not a model.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from statistics import median
from typing import Any
from unittest import mock

from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.testing import ActivityEnvironment

from activities.conversation.memory import ConversationMemory, ReadTurns
from activities.parts import Parts
from benchmarks.options import MUST_BE_ZERO, Figures, Options
from benchmarks.scripts import QUESTIONS, Fact, Script, write
from benchmarks.stack import running, say
from parley.domain.conversation.contract import TURNS_PER_EXTRACTION
from parley.domain.conversation.extraction import ACTION, SourceTurn
from parley.domain.conversation.memory import Memory, RememberStep
from parley.domain.requests import Provider
from parley.domain.routing import Candidate
from parley.embedder import Embedder
from parley.settings import Settings
from parley.storage import memories
from parley.storage.database import Database

CONVERSATIONS = 30
# How many turns are extracted from at a time.
TURNS_AT_A_TIME = (TURNS_PER_EXTRACTION, 20)
WORKSPACE = "bench"
# The cheapest one that the default policy offers to a conversation.
CANDIDATE = Candidate(provider=Provider.OPENAI, model="gpt-4o-mini", simulated=True, reason="the cheapest")


@dataclass
class Score:
    """What was remembered at the ends of the conversations."""

    true: int = 0
    found: int = 0
    remembered: int = 0
    superseded: int = 0
    usd: Decimal = Decimal(0)


@dataclass
class Recalled:
    """What was recalled for questions. `found`: of those asked in the words of the fact, and in other words."""

    asked: int = 0
    found: list[int] = field(default_factory=lambda: [0, 0])
    superseded: int = 0
    milliseconds: list[float] = field(default_factory=list)


async def measure(options: Options) -> Figures:
    scripts = [write(number, options.seed) for number in range(options.requests or CONVERSATIONS)]
    recalled = {"vectors": Recalled(), "words": Recalled()}
    scores = {f"{turns} turns at a time": Score() for turns in TURNS_AT_A_TIME}
    # Every vector is waited for, so that the figures do not depend on the load of the machine.
    with mock.patch("activities.conversation.memory.VECTOR_SECONDS", 60):
        return await _measure(scripts, recalled, scores)


async def _measure(scripts: Sequence[Script], recalled: dict[str, Recalled], scores: dict[str, Score]) -> Figures:
    async with running(worker=None) as bench:
        database_url = SecretStr(bench.addresses.database_url)
        parts = Parts(
            Database(database_url), Settings(database_url=database_url, simulator_url=bench.addresses.simulator_url)
        )
        embedder = Embedder()
        for turns, (case, score) in zip(TURNS_AT_A_TIME, scores.items(), strict=True):
            for number, script in enumerate(scripts):
                memory = ConversationMemory(parts.database, parts.paid_calls, embedder, read_turns=_reading(script))
                user = f"{case}-{number}"
                score.usd += await _converse(memory, script, user, turns)
                await _compare(score, parts.database, script, user)
            say(f"{len(scripts)} conversations, {case}")
        for number, script in enumerate(scripts):
            for how, counts in recalled.items():
                with_model = embedder if how == "vectors" else None
                memory = ConversationMemory(parts.database, parts.paid_calls, with_model, read_turns=_reading(script))
                await _ask(counts, parts.database, memory, script, f"{next(iter(scores))}-{number}")
        await parts.close()
        await parts.database.close()
    load = {
        "conversations": len(scripts),
        "turns of the user": sum(len(script.turns) for script in scripts),
        "facts at their ends": sum(len(script.true) for script in scripts),
    }
    superseded = {f"superseded facts, {case}": score.superseded for case, score in scores.items()}
    superseded |= {f"superseded facts recalled by {how}": counts.superseded for how, counts in recalled.items()}
    remembered = {case: _remembered(score, len(scripts)) for case, score in scores.items()}
    asked = {f"recalled by {how}": _recalled(counts) for how, counts in recalled.items()}
    return {"load": load, **remembered, **asked, MUST_BE_ZERO: superseded}


def _reading(script: Script) -> ReadTurns:
    by_id = {turn.turn_id: turn for turn in script.turns}

    async def read(_: AsyncSession, _workspace: str, _conversation: str, ids: Sequence[str]) -> list[SourceTurn]:
        return [by_id[turn_id] for turn_id in ids]

    return read


async def _converse(memory: ConversationMemory, script: Script, user: str, turns: int) -> Decimal:
    """Extract the facts of a conversation; returns what it cost in USD."""
    usd = Decimal(0)
    for first in range(0, len(script.turns), turns):
        step = RememberStep(
            workspace_id=WORKSPACE,
            user_id=user,
            conversation_id=user,
            turn_ids=tuple(turn.turn_id for turn in script.turns[first : first + turns]),
            action=ACTION,
            candidate=CANDIDATE,
            job_key=user,
            workflow_id=user,
        )
        usd += (await ActivityEnvironment().run(memory.remember, step)).cost_usd
    return usd


async def _compare(score: Score, database: Database, script: Script, user: str) -> None:
    async with database.reads() as tx:
        known = {_fact(one) for one in await memories.of_user(tx, WORKSPACE, user, with_ended=False)}
    score.true += len(script.true)
    score.found += len(known & script.true)
    score.remembered += len(known)
    score.superseded += len(known & script.superseded)


async def _ask(counts: Recalled, database: Database, memory: ConversationMemory, script: Script, user: str) -> None:
    """Ask for each fact that is true, twice."""
    asked = [fact for fact in script.true if fact[0] == "user" or fact[1] == "is_named"]
    async with database.reads() as tx:
        for fact in asked:
            counts.asked += 1
            for place, question in enumerate(QUESTIONS[fact[1]]):
                began = time.perf_counter()
                recalled = await memory.recall(tx, WORKSPACE, user, question.format(fact[2]))
                counts.milliseconds.append((time.perf_counter() - began) * 1000)
                facts = {_fact(one) for one in recalled}
                counts.found[place] += fact in facts
                counts.superseded += len(facts & script.superseded)


def _fact(memory: Memory) -> Fact:
    return memory.subject, memory.predicate, memory.value


def _remembered(score: Score, conversations: int) -> dict[str, Any]:
    return {
        "true facts that are remembered (recall)": score.found / score.true,
        "memories that are true (precision)": score.found / score.remembered,
        "junk among the memories": 1 - score.found / score.remembered,
        "superseded facts among the memories": score.superseded,
        "USD of extraction for a conversation": float(score.usd / conversations),
    }


def _recalled(counts: Recalled) -> dict[str, Any]:
    same, other = counts.found
    return {
        "true facts recalled, asked in their words": same / counts.asked,
        "true facts recalled, asked in other words": other / counts.asked,
        "superseded facts recalled": counts.superseded,
        "milliseconds of a recall, median": median(counts.milliseconds),
    }
