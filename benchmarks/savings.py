"""How much caching, condensing and cheaper models save on a mixed load of generations, each alone and all together.

The same load runs five times, each time with another action of one policy. The simulator's rules determine the length
of replies: savings on prompts are realistic, the cost of replies is not.

The saving of condensing depends on how often a chat is sent, so there are two loads: one sends the last turns of each
chat, the other every turn.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from sqlalchemy import text

from benchmarks import load
from benchmarks.load import Ask, User
from benchmarks.options import Figures, Options
from benchmarks.stack import Bench, running, say
from parley import Client
from parley.domain.generate.contract import GenerateResult
from parley.settings import DEFAULT_POLICY
from simulator.wire import BYTES_PER_TOKEN

GENERATIONS = 1000
CONCURRENCY = 20
MAX_TOKENS = 200
TOKENS_TARGET = "30-40%"
USD_TARGET = Decimal("0.02")
CONDENSE_ABOVE_TOKENS = 1000
MAX_COST_USD = "0.004"
OFF, ALL = "everything off", "all together"
ACTIONS = {
    OFF: {"cache": "off"},
    "cache": {"cache": "similar"},
    "condensing": {"cache": "off", "condense_above_tokens": CONDENSE_ABOVE_TOKENS},
    "cheaper models": {"cache": "off", "max_cost_usd": MAX_COST_USD},
    ALL: {"cache": "similar", "condense_above_tokens": CONDENSE_ABOVE_TOKENS, "max_cost_usd": MAX_COST_USD},
}
# The actions that affect a load of chats.
AT_EVERY_TURN = (OFF, "condensing", ALL)
SPENT = text("""
    SELECT coalesce(sum(cost_usd), 0), coalesce(sum(tokens_total), 0), count(*),
           coalesce(sum(tokens_total) FILTER (WHERE request_id NOT LIKE '%/condense%'), 0),
           count(*) FILTER (WHERE request_id LIKE '%/condense%'),
           coalesce(avg(tokens_completion) FILTER (WHERE request_id LIKE '%/condense%'), 0)
    FROM ai_usage_logs WHERE workspace_id = :workspace""")


@dataclass(frozen=True)
class Spent:
    """The cost and the outcomes of one pass over the load."""

    usd: Decimal
    tokens: int
    requests: int
    answering_tokens: int
    summaries: int
    summary_tokens: Decimal
    outcomes: Counter[str]
    models: Counter[str]
    config_loads: int


async def measure(options: Options) -> Figures:
    generations = options.requests or GENERATIONS
    loads = {
        "": (load.draw(generations), tuple(ACTIONS)),
        " at every turn": (load.draw(generations, max_users=load.FEW_USERS, turns=load.EVERY_TURN), AT_EVERY_TURN),
    }
    with TemporaryDirectory(prefix="parley-bench-") as directory:
        policy = Path(directory) / "policy.toml"
        policy.write_text(_policy(), encoding="utf-8")
        environment = {"PARLEY_STARTING_ENERGY": "1000000", "PARLEY_POLICY_FILE": str(policy)}
        async with running("benchmarks.traced_worker", **environment) as bench:
            passes = [await _passes(bench, suffix, *drawn) for suffix, drawn in loads.items()]
    return passes[0] | passes[1]


async def _passes(bench: Bench, suffix: str, users: list[User], names: Sequence[str]) -> Figures:
    """Run one load with each of these actions. `suffix` distinguishes the load in the names of the figures."""
    asks = [ask for user in users for ask in user.asks]
    conversations = len({ask.conversation for ask in asks})
    spent = {name: await _pass(bench, name, users) for name in names}
    figures: Figures = {f"the load{suffix}, generations": {**_kinds(asks), "conversations": conversations}}
    return figures | {
        f"{name}{suffix}": _figures(of_action, spent[OFF], conversations) for name, of_action in spent.items()
    }


def _kinds(asks: Sequence[Ask]) -> dict[str, int]:
    """The number of generations of each kind, and of their tokens as the simulator counts them."""
    requests = Counter(ask.kind for ask in asks)
    sizes = Counter[str]()
    for ask in asks:
        sizes[ask.kind] += sum(len(message["content"].encode()) for message in ask.messages) // BYTES_PER_TOKEN
    return {**requests, **{f"{kind}, tokens": size for kind, size in sizes.items()}}


def _policy() -> str:
    """The default policy with an action for each pass."""
    lines = [DEFAULT_POLICY.read_text(encoding="utf-8")]
    for name, terms in ACTIONS.items():
        lines += [f"[action.{_action(name)}]", *(f"{key} = {json.dumps(value)}" for key, value in terms.items()), ""]
    return "\n".join(lines)


def _action(name: str) -> str:
    return name.replace(" ", "_")


async def _pass(bench: Bench, name: str, users: list[User]) -> Spent:
    """Run the whole load in a new workspace."""
    client = await bench.client(f"bench-{uuid4().hex[:8]}")
    for user in users:
        await client.set_tier(user.id, user.tier)
    loads_before = _config_loads(bench)
    slots = asyncio.Semaphore(CONCURRENCY)
    results_of_users = await asyncio.gather(*(_ask(client, user, _action(name), slots) for user in users))
    results = [result for results in results_of_users for result in results]
    async with client.database.transaction() as tx:
        usd, tokens, requests, answering_tokens, summaries, summary_tokens = (
            await tx.execute(SPENT, {"workspace": client.workspace_id})
        ).one()
    say(f"{name}: {len(results)} generations, ${usd}, {tokens} tokens")
    return Spent(
        usd=usd,
        tokens=tokens,
        requests=requests,
        answering_tokens=answering_tokens,
        summaries=summaries,
        summary_tokens=summary_tokens,
        outcomes=Counter(_outcome(result) for result in results),
        models=Counter(result.meta.model for result in results if result.success),
        config_loads=_config_loads(bench) - loads_before,
    )


async def _ask(client: Client, user: User, action: str, slots: asyncio.Semaphore) -> list[GenerateResult]:
    results: list[GenerateResult] = []
    async with slots:
        for ask in user.asks:
            results.append(await client.generate(ask.messages, user_id=user.id, action=action, max_tokens=MAX_TOKENS))
    return results


def _outcome(result: GenerateResult) -> str:
    if result.refusal:
        return f"refused: {result.refusal.code.value}"
    return f"cached: {result.meta.cached.value}" if result.meta.cached else "answered"


def _config_loads(bench: Bench) -> int:
    return sum('"step": "configuration"' in line for line in bench.spans.read_text(encoding="utf-8").splitlines())


def _figures(spent: Spent, without: Spent, conversations: int) -> dict[str, float | str]:
    generations = spent.outcomes.total()
    figures: dict[str, float | str] = {
        "spent, $": float(spent.usd),
        "saved, $": float(without.usd - spent.usd),
        "saved, % of dollars": float((without.usd - spent.usd) / without.usd * 100),
        "tokens": float(spent.tokens),
        f"saved, % of tokens (target: {TOKENS_TARGET})": (without.tokens - spent.tokens) / without.tokens * 100,
        "saved, % of tokens of answers": (without.answering_tokens - spent.answering_tokens)
        / without.answering_tokens
        * 100,
        f"a conversation, $ (target: under {USD_TARGET})": f"{spent.usd / conversations:.5f}",
        "paid requests": float(spent.requests),
        "of these, for summaries": float(spent.summaries),
        "a summary, tokens": float(spent.summary_tokens),
        "configuration loads per 1,000 generations": spent.config_loads * 1000 / generations,
    }
    return figures | {**spent.outcomes} | {f"answered by {model}": number for model, number in spent.models.items()}
