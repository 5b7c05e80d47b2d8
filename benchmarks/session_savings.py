"""How much shared requests and cached analyses save on a mixed load of 200 sessions, each alone and together.

The same load runs three times. A user of another tier than `free` neither shares nor gets a cached result, so that the
first pass has the cost without both. The simulator's rules determine the length of replies: savings on prompts are
realistic, the cost of replies is that of the simulator's wording. The shares of the load are assumptions, and the
savings depend on them.
"""

import asyncio
import random  # noqa: TID251 - the load is random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Literal
from uuid import uuid4

from sqlalchemy import text

from benchmarks.options import MUST_BE_ZERO, Figures, Options
from benchmarks.stack import Bench, running, say
from parley import Client
from parley.client.reading import read_session
from parley.domain.session import Session, Turn

SESSIONS, SEED, AT_ONCE = 200, 7, 40
SAMPLES = Path(__file__).resolve().parent.parent / "samples"
TARGET = "40%"
# Of the load: short sessions of free users, sessions that free users have analysed again and again while they practise,
# and sessions of paying users.
SHORT, REPEATED = 0.5, 0.3
REPETITIONS = 10
NAMES = ("cold-call-logistics", "gatekeeper-dental-clinic", "discovery-bakery-maintenance", "price-negotiation-ferries")
OPENINGS = ("Hi, this is {who} from {firm}.", "My name is {who}, I am calling about {what}.", "{who} here from {firm}.")
QUESTIONS = ("What do you use for {what} today?", "How do you handle {what}?", "Do you have a minute?", "Can I help?")
REPLIES = (
    "We have a tool for {what}, and it is fine.",
    "It is too expensive for us.",
    "I am busy right now.",
    "Tell me.",
)
CLOSINGS = (
    "Shall we meet on Tuesday at ten?",
    "I will send you an offer.",
    "Thank you for your time.",
    "Goodbye then.",
)
WORDS = {
    "who": ("Ann", "Ben", "Cleo", "Dan", "Eva", "Finn"),
    "firm": ("Northline", "Acme Tools", "Brightwater", "Fieldstone"),
    "what": ("invoices", "your fleet", "cold storage", "the night shift", "spare parts", "bookings"),
}
TURNS: tuple[tuple[Literal["rep", "prospect"], tuple[str, ...]], ...] = (
    ("rep", OPENINGS),
    ("prospect", REPLIES),
    ("rep", QUESTIONS),
    ("prospect", REPLIES),
    ("rep", CLOSINGS),
)
SPENT = text("""
    SELECT coalesce(sum(u.cost_usd), 0) AS usd, coalesce(sum(u.tokens_total), 0) AS tokens,
           count(DISTINCT coalesce(t.joint_id, t.id)) AS requests, count(t.joint_id) AS joint,
           count(DISTINCT t.joint_id) AS joint_requests,
           coalesce(sum(u.cost_usd) FILTER (WHERE u.user_id LIKE 'short-%'), 0) AS short_usd
    FROM ai_usage_logs u JOIN attempts t ON t.id = u.attempt_id WHERE u.workspace_id = :workspace""")


@dataclass(frozen=True)
class Work:
    """Analyses of one session, one after the other. `kind`: of the load. `is_paying`: its user's tier is not `free`."""

    kind: str
    session: Session
    times: int = 1
    is_paying: bool = False


@dataclass(frozen=True)
class Spent:
    """What one pass over the load has cost. `joint`: the attempts that were claimed to share a request, also alone."""

    usd: Decimal
    tokens: int
    requests: int
    joint: int
    joint_requests: int
    short_usd: Decimal
    strategies: Counter[str]
    disagreements: int


async def measure(options: Options) -> Figures:
    load = draw(options.sessions or SESSIONS)
    environment = {"PARLEY_STARTING_ENERGY": "1000000"}
    async with running(**environment, PARLEY_COLLECT_SECONDS="0") as bench:
        neither = await _pass(bench, "neither", load, all_pay=True)
        cached = await _pass(bench, "cached analyses", load)
    async with running(**environment) as bench:
        both = await _pass(bench, "both", load)
    return {
        "the load, analyses": Counter(
            {kind: sum(one.times for one in load if one.kind == kind) for kind in _kinds(load)}
        ),
        "neither": _figures(neither, neither),
        "cached analyses": _figures(cached, neither),
        "shared requests": {
            "saved, % of dollars": float((cached.usd - both.usd) / neither.usd * 100),
            "saved, % of the dollars of short sessions": float((1 - both.short_usd / cached.short_usd) * 100),
        },
        f"both (target: {TARGET} of dollars)": _figures(both, neither),
        MUST_BE_ZERO: {"disagreements": float(neither.disagreements + cached.disagreements + both.disagreements)},
    }


def draw(count: int) -> list[Work]:
    """A load of so many analyses."""
    chance = random.Random(SEED)
    short = [Work("short, free", _short(chance, number)) for number in range(round(count * SHORT))]
    repeated = [
        Work("repeated, free", _sample(number, f"practising-{number}"), REPETITIONS)
        for number in range(round(count * REPEATED / REPETITIONS))
    ]
    paying = count - len(short) - REPETITIONS * len(repeated)
    return [*short, *repeated, *(Work("paying", _sample(n, f"paying-{n}"), is_paying=True) for n in range(paying))]


def _kinds(load: Sequence[Work]) -> list[str]:
    return list(dict.fromkeys(one.kind for one in load))


def _sample(number: int, name: str) -> Session:
    """One of the samples, as a session of its own whose words differ from the others'."""
    sample = read_session(SAMPLES / f"{NAMES[number % len(NAMES)]}.json")
    return sample.model_copy(update={"session_id": name, "user_id": name, "scenario": f"{sample.scenario} ({name})"})


def _short(chance: random.Random, number: int) -> Session:
    words = {name: chance.choice(options) for name, options in WORDS.items()}
    turns = tuple(
        Turn(role=role, start=4.0 * place, end=4.0 * place + 3, text=chance.choice(lines).format(**words))
        for place, (role, lines) in enumerate(TURNS)
    )
    name = f"short-{number}"
    return Session(session_id=name, user_id=name, language="en", duration_seconds=4 * len(turns), turns=turns)


async def _pass(bench: Bench, name: str, load: Sequence[Work], *, all_pay: bool = False) -> Spent:
    """Run the whole load in a new workspace."""
    client = await bench.client(f"bench-{uuid4().hex[:8]}")
    slots = asyncio.Semaphore(AT_ONCE)
    for one in load:
        if all_pay or one.is_paying:
            await client.set_tier(one.session.user_id, "pro")
    found = await asyncio.gather(*(_analyse(client, one, slots) for one in load))
    strategies = Counter(strategy for of_work in found for strategy in of_work)
    async with client.database.transaction() as tx:
        row = (await tx.execute(SPENT, {"workspace": client.workspace_id})).mappings().one()
    say(f"{name}: {strategies.total()} analyses, ${row['usd']}")
    return Spent(**row, strategies=strategies, disagreements=len(await client.audit()))


async def _analyse(client: Client, work: Work, slots: asyncio.Semaphore) -> list[str]:
    strategies: list[str] = []
    async with slots:
        for time in range(work.times):
            report = await (await client.analyze(work.session, run_name=str(time))).result(final=True)
            assert report.analysis is not None
            assert report.analysis.coaching.processed
            strategies.append(report.analysis.strategy.value)
    return strategies


def _figures(spent: Spent, without: Spent) -> dict[str, float | str]:
    return {
        "spent, $": float(spent.usd),
        "saved, % of dollars": float((without.usd - spent.usd) / without.usd * 100),
        "saved, % of tokens": (without.tokens - spent.tokens) / without.tokens * 100,
        "requests to providers": float(spent.requests),
        "sessions that may share": float(spent.joint),
        "requests that they share": float(spent.joint_requests),
        **{f"analyses by {name}": float(count) for name, count in sorted(spent.strategies.items())},
    }
