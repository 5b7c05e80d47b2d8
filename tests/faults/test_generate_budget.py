"""80 concurrent generations with a cap that covers 20: exactly 20 are paid, the others are refused with the reason."""

import asyncio
from collections import Counter
from decimal import Decimal

import pytest

from parley import Client
from parley.domain.budgets import Period
from parley.domain.generate.contract import DEFAULT_MAX_TOKENS, GenerateResult, Refused
from parley.domain.pricing import ConfiguredRates, upper_bound
from parley.domain.requests import ChatRequest, Message, Provider
from parley.settings import Settings
from tests.parts import SimulatorAdmin

pytestmark = pytest.mark.usefixtures("worker")

CALLERS, FITTING = 80, 20
USER = "ann"
MODELS = (
    (Provider.ANTHROPIC, "claude-sonnet-4-6"),
    (Provider.ANTHROPIC, "claude-haiku-4-5"),
    (Provider.OPENAI, "gpt-4o-mini"),
)


def question(number: int) -> str:
    return f"What is in export {number:03}?"


def bound(provider: Provider, model: str) -> Decimal:
    request = ChatRequest(messages=(Message(role="user", content=question(0)),), max_tokens=DEFAULT_MAX_TOKENS)
    return upper_bound(provider, model, request, ConfiguredRates.of(Settings()))[0]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """All requests that the cap covers can be in flight at once."""
    return settings.model_copy(update={"paid_calls_in_flight": CALLERS, "provider_timeout_seconds": 120})


async def generate_all(client: Client, simulator: SimulatorAdmin, callers: int, *gates: str) -> list[GenerateResult]:
    """Start all generations; hold the replies until each generation has sent its request or been refused."""
    for gate in gates:
        await simulator.gate(closed=True, provider=gate)
    generations = [asyncio.create_task(client.generate(question(number), user_id=USER)) for number in range(callers)]
    async with asyncio.timeout(90):
        while len(await simulator.requests()) + sum(task.done() for task in generations) < callers:
            await asyncio.sleep(0.1)
    for gate in gates:
        await simulator.gate(closed=False, provider=gate)
    return await asyncio.gather(*generations)


async def test_exactly_as_many_requests_as_the_cap_covers_are_paid(client: Client, simulator: SimulatorAdmin) -> None:
    await client.set_cap(Period.DAY, FITTING * bound(*MODELS[-1]))
    results = await generate_all(client, simulator, CALLERS, "openai")
    outcomes = Counter(result.refusal.code if result.refusal else None for result in results)
    assert outcomes == {None: FITTING, Refused.BUDGET_EXHAUSTED: CALLERS - FITTING}
    assert len(await simulator.requests()) == len(await simulator.billed()) == FITTING
    assert all("left" in result.refusal.message for result in results if result.refusal)
    energy = await client.energy(USER)
    assert (energy.charged, energy.reserved) == (FITTING, 0)
    assert await client.audit() == []


async def test_generations_that_cannot_reserve_the_better_model_use_the_best_that_fits(
    client: Client, simulator: SimulatorAdmin
) -> None:
    await client.set_tier(USER, "pro")
    best, next_best, cheapest = (bound(*model) for model in MODELS)
    rest = 2 * next_best + 2 * cheapest
    await client.set_cap(Period.DAY, 10 * best + rest)
    results = await generate_all(client, simulator, 40, "anthropic", "openai")
    answered = Counter(result.meta.model for result in results if result.success)
    assert answered == {
        MODELS[0][1]: 10,
        MODELS[1][1]: rest // next_best,
        MODELS[2][1]: rest % next_best // cheapest,
    }
    assert {result.refusal.code for result in results if result.refusal} == {Refused.BUDGET_EXHAUSTED}
    assert len(await simulator.billed()) == answered.total()
    assert await client.audit() == []
