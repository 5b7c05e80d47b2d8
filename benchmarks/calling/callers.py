"""Callers of a benchmark: what they say, and their phone calls at once, each with a number and a pace of its own."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random  # noqa: TID251 - a benchmark draws its load

from benchmarks.stack import Bench
from simulator.twilio.line import Account
from simulator.twilio.script import Script, parse
from simulator.twilio.simulation import Plan, Simulated, simulate

NUMBER = "+15550100002"
# Between the beginnings of two phone calls, and before a caller speaks again.
MOST_BETWEEN_SECONDS, MOST_PAUSE_SECONDS = 0.5, 3.0
QUESTIONS = (
    "Hello, could you tell me when you are open on Saturday, please?",
    "What does the check-up of a child cost without an insurance?",
    "Is there a place to park in front of the entrance?",
    "I would like to move my appointment from Monday to Thursday.",
    "Which papers do I have to bring with me next time?",
    "How long does it take until the results are there?",
    "Can I pay with a card, or do you take cash alone?",
    "Thank you. And what may I do if something hurts tonight?",
)


@dataclass(frozen=True)
class Callers:
    """Calls a gateway at `url`. `token` signs what Twilio sends; `speed`: of speech and pauses."""

    url: str
    token: str
    speed: float = 1.0

    async def hold(self, scripts: Sequence[Script], rng: Random, first: int = 0) -> list[Simulated]:
        """Hold phone calls at once, which begin one after the other. `first`: the number of the first caller."""
        holding: list[asyncio.Task[list[Simulated]]] = []
        begins = 0.0
        for number, script in enumerate(scripts, start=first):
            holding.append(asyncio.create_task(self._call(script, number, begins)))
            begins += rng.uniform(0, MOST_BETWEEN_SECONDS)
        return [one for held in await asyncio.gather(*holding) for one in held]

    async def _call(self, script: Script, number: int, begins: float) -> list[Simulated]:
        await asyncio.sleep(begins / self.speed)
        plan = Plan(
            script,
            f"{self.url}/phone/voice",
            f"{self.url}/phone/status",
            f"{self.url}/phone/voice",
            Account(token=self.token),
            caller=f"+1555{200_000 + number:07}",
            number=NUMBER,
            seed=number,
            speed=self.speed,
        )
        return await simulate(plan)


def callers_of(bench: Bench, speed: float = 1.0) -> Callers:
    """The callers of a stack that runs."""
    gateway, token = bench.addresses.gateway_url, bench.addresses.twilio_auth_token
    assert gateway and token
    return Callers(gateway, token, speed)


def script(rng: Random, turns: int) -> Script:
    """Ask some questions, one after the other, with pauses. No two phone calls ask the same."""
    lines: list[str] = []
    for _ in range(turns):
        question = f"{rng.choice(QUESTIONS)} My number is {rng.randrange(10_000)}."
        lines += [f"wait {rng.uniform(0, MOST_PAUSE_SECONDS):.1f} s", f'say "{question}"']
    return parse("\n".join([*lines, "wait until quiet", "hang up"]))
