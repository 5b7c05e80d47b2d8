"""Two hundred callers at once on a dollar cap for fifty: exactly fifty are asked, and the others are told why not."""

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

CALLERS, FITTING = 200, 50
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
    """All that fit are in flight at once, for as long as it takes."""
    return settings.model_copy(update={"paid_calls_in_flight": CALLERS, "provider_timeout_seconds": 120})


async def all_asked(client: Client, simulator: SimulatorAdmin, callers: int, *gates: str) -> list[GenerateResult]:
    """Everybody asks; nobody is answered before each has been asked for or refused."""
    for gate in gates:
        await simulator.gate(closed=True, provider=gate)
    asked = [asyncio.create_task(client.generate(question(number), user_id=USER)) for number in range(callers)]
    async with asyncio.timeout(90):
        while len(await simulator.requests()) + sum(one.done() for one in asked) < callers:
            await asyncio.sleep(0.1)
    for gate in gates:
        await simulator.gate(closed=False, provider=gate)
    return await asyncio.gather(*asked)


async def test_exactly_as_many_as_the_cap_covers_are_asked(client: Client, simulator: SimulatorAdmin) -> None:
    await client.set_cap(Period.DAY, FITTING * bound(*MODELS[-1]))
    results = await all_asked(client, simulator, CALLERS, "openai")
    outcomes = Counter(result.refusal.code if result.refusal else None for result in results)
    assert outcomes == {None: FITTING, Refused.BUDGET_EXHAUSTED: CALLERS - FITTING}
    assert len(await simulator.requests()) == len(await simulator.billed()) == FITTING
    assert all("left" in result.refusal.message for result in results if result.refusal)
    energy = await client.energy(USER)
    assert (energy.charged, energy.reserved) == (FITTING, 0)
    assert await client.audit() == []


async def test_who_is_too_late_for_the_better_model_takes_the_best_that_still_fits(
    client: Client, simulator: SimulatorAdmin
) -> None:
    await client.set_tier(USER, "pro")
    best, next_best, cheapest = (bound(*model) for model in MODELS)
    rest = 20 * cheapest
    await client.set_cap(Period.DAY, 10 * best + rest)
    results = await all_asked(client, simulator, 40, "anthropic", "openai")
    answered = Counter(result.meta.model for result in results if result.success)
    assert answered == {
        MODELS[0][1]: 10,
        MODELS[1][1]: rest // next_best,
        MODELS[2][1]: rest % next_best // cheapest,
    }
    assert {result.refusal.code for result in results if result.refusal} == {Refused.BUDGET_EXHAUSTED}
    assert len(await simulator.billed()) == answered.total()
    assert await client.audit() == []
