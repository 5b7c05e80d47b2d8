"""Representative runs of `Generate` and of its related workflows."""

import asyncio
from decimal import Decimal
from typing import Any

from parley import Client
from parley.domain.budgets import Period
from parley.domain.errors import JobFailed
from parley.domain.generate.contract import CachePolicy, OnRateLimit, workflow_id
from parley.domain.generate.quality import workflow_id as scoring_id
from tests.parts import SimulatorAdmin
from tests.storage.ledger_fixture import LedgerFixture

# The policy of these runs: one action whose answers are all graded, and one that condenses long prompts.
GRADED, CONDENSED = "graded", "condensed"
POLICY = f"""
[action.{GRADED}]
quality_sample = 1
[action.{CONDENSED}]
condense_above_tokens = 1000
"""

USER = "ann"
QUESTION = "What does the export to CSV contain?"
VERDICT = {
    "type": "object",
    "properties": {"mood": {"type": "string"}},
    "required": ["mood"],
    "additionalProperties": False,
}
TALK = [{"role": ("user", "assistant")[turn % 2], "content": f"turn {turn}: about the invoice"} for turn in range(31)]


async def generated(client: Client, messages: Any = QUESTION, *, key: str = "key", **terms: Any) -> str:
    await client.generate(messages, user_id=USER, key=key, **terms)
    return workflow_id(client.workspace_id, key)


async def generate_answered(client: Client, _: SimulatorAdmin) -> str:
    return await generated(client)


async def generate_refused(client: Client, _: SimulatorAdmin) -> str:
    await client.set_cap(Period.DAY, Decimal("0.000001"))
    return await generated(client)


async def generate_cached(client: Client, _: SimulatorAdmin) -> str:
    await generated(client, key="first", cache=CachePolicy.EXACT)
    return await generated(client, cache=CachePolicy.EXACT)


async def generate_fallback(client: Client, simulator: SimulatorAdmin) -> str:
    await client.set_tier(USER, "pro")
    await simulator.fault("auth", provider="anthropic", times=None)
    return await generated(client)


async def generate_rate_limited(client: Client, simulator: SimulatorAdmin) -> str:
    await simulator.fault("rate_limit", provider="openai")
    return await generated(client, on_rate_limit=OnRateLimit.WAIT)


async def generate_condensed_on_arrival(client: Client, simulator: SimulatorAdmin) -> str:
    await simulator.fault("context_too_long", provider="openai")
    return await generated(client, TALK)


async def generate_condensed(client: Client, _: SimulatorAdmin) -> str:
    """A long conversation that uses the summary of an earlier turn and extends it."""
    talk = [{**message, "content": message["content"].ljust(400, ".")} for message in TALK]
    await generated(client, talk[:21], key="first", action=CONDENSED)
    return await generated(client, talk, action=CONDENSED)


async def generate_asked_again(client: Client, simulator: SimulatorAdmin) -> str:
    await simulator.fault("malformed", provider="openai")
    return await generated(client, response_schema=VERDICT)


async def generate_stale(client: Client, simulator: SimulatorAdmin) -> str:
    """No provider can answer, and an expired cached answer is used."""
    await generated(client, key="first")
    await LedgerFixture(client.database).run("UPDATE llm_cache SET expires_at = now() - interval '1 day'")
    await simulator.fault("auth", times=None)
    return await generated(client)


async def generate_cancelled(client: Client, simulator: SimulatorAdmin) -> str:
    await simulator.gate(closed=True, provider="openai")
    waiting = asyncio.create_task(generated(client))
    await simulator.requests(at_least=1, state="in_flight")
    job_id = workflow_id(client.workspace_id, "key")
    await client.temporal.get_workflow_handle(job_id).cancel()
    try:
        await waiting
    except JobFailed:
        await simulator.gate(closed=False, provider="openai")
    return job_id


async def generate_graded(client: Client, _: SimulatorAdmin) -> str:
    return await generated(client, action=GRADED)


async def score_quality(client: Client, _: SimulatorAdmin) -> str:
    result = await client.generate(QUESTION, user_id=USER, action=GRADED)
    handle = client.temporal.get_workflow_handle(scoring_id(client.workspace_id, result.meta.request_id))
    await handle.result()
    return handle.id


async def score_quality_failed(client: Client, simulator: SimulatorAdmin) -> str:
    await client.set_tier(USER, "pro")
    await simulator.fault("server_error", provider="openai", times=None)
    return await score_quality(client, simulator)


async def health(client: Client, simulator: SimulatorAdmin) -> str:
    """One provider is down. The order of the replies does not change the commands."""
    await simulator.fault("server_error", provider="anthropic", times=None)
    await client.health()
    (found,) = [one async for one in client.temporal.list_workflows(f"ParleyWorkspace = '{client.workspace_id}'")]
    return found.id


SCENARIOS = (
    generate_answered,
    generate_refused,
    generate_cached,
    generate_fallback,
    generate_rate_limited,
    generate_condensed_on_arrival,
    generate_condensed,
    generate_asked_again,
    generate_stale,
    generate_cancelled,
    generate_graded,
    score_quality,
    score_quality_failed,
    health,
)
