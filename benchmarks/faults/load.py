"""The load of a case: concurrent callers, each of which runs one job after the other."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeVar

from parley import Client
from parley.client.reading import read_session
from parley.domain.budgets import Period
from parley.domain.errors import JobFailed, Unreachable
from parley.domain.requests import ChatProvider
from tests.parts import SAMPLES

T = TypeVar("T")
CONCURRENCY, USERS = 20, 5
# Long enough that the prompt is stored, and passed by reference.
ASIDE = " I mean my voice, my words, the pauses, and what a listener makes of them." * 30
ANSWERED, NO_PROVIDER = "answered", "failed: ProviderUnavailable"
SESSION = SAMPLES / "cold-call-logistics.json"
SCHEMA = {
    "type": "object",
    "properties": {"mood": {"type": "string"}, "sure": {"type": "boolean"}},
    "required": ["mood", "sure"],
    "additionalProperties": False,
}


@dataclass
class Load:
    """Generations and session analyses, and how each of them ended.

    Attributes:
        jobs: how many.
        analysis_every: one job of so many is a session analysis, each of a user of its own; 0: none is.
        behaviours: what the provider does at the first request of a generation, in turn.
        providers: the provider of a generation, in turn; None: by policy.
    """

    client: Client
    jobs: int
    analysis_every: int = 0
    behaviours: tuple[str, ...] = ("ok",)
    providers: tuple[ChatProvider | None, ...] = (None,)
    results: list[str] = field(default_factory=list)

    async def prepare(self) -> None:
        """Give the users enough energy, and set a cap whose row every generation locks."""
        for user in range(USERS):
            await self.client.set_tier(f"user-{user}", "pro")
            await self.client.grant_energy(f"user-{user}", 10 * self.jobs, key="bench")
        await self.client.set_cap(Period.DAY, Decimal(1000))

    async def run(self) -> None:
        waiting = iter(range(self.jobs))

        async def caller() -> None:
            for number in waiting:
                self.results.append(await self._result(number))

        await asyncio.gather(*(caller() for _ in range(CONCURRENCY)))

    async def _result(self, number: int) -> str:
        """Run one job. Returns `answered`, or why it was refused or failed."""
        is_analysis = self.analysis_every and number % self.analysis_every == 0
        try:
            return await (self._analyse(number) if is_analysis else self._ask(number))
        except JobFailed as failure:
            return f"failed: {failure.reason}"

    async def _ask(self, number: int) -> str:
        behaviour = self.behaviours[number % len(self.behaviours)]
        provider = self.providers[number // len(self.behaviours) % len(self.providers)]
        text = f"How do I sound? [{behaviour} for call-{number}]{ASIDE if number % 3 == 0 else ''}"
        terms: dict[str, Any] = {"response_schema": SCHEMA, "key": f"call-{number}", "provider": provider}
        user_id = f"user-{number % USERS}"
        result = await _reached(lambda: self.client.generate(text, user_id=user_id, **terms))
        if result.refusal:
            return f"refused: {result.refusal.code}"
        return ANSWERED if result.parsed else "without a value"

    async def _analyse(self, number: int) -> str:
        session = read_session(SESSION).model_copy(
            update={"user_id": f"analysed-{number}", "session_id": f"session-{number}"}
        )
        job = await _reached(lambda: self.client.analyze(session))
        report = await _reached(lambda: job.result(final=True))
        return ANSWERED if report.analysis and report.analysis.coaching.processed else "without a coach's answer"


async def _reached(step: Callable[[], Awaitable[T]]) -> T:
    """Repeat a step while Temporal or the database is unreachable: keys and ids make it idempotent."""
    while True:
        try:
            return await step()
        except Unreachable:
            await asyncio.sleep(0.5)
