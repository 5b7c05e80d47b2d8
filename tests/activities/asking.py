"""The requests of the tests, and their users."""

import asyncio
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from temporalio.testing import ActivityEnvironment

from activities.paid_call import PaidCalls
from parley.client.reading import recording_seconds
from parley.domain.pricing import ConfiguredRates, cost, rates_for, upper_bound
from parley.domain.requests import ChatRequest, Message, Provider, Request, TranscriptionRequest, Usage
from parley.settings import Settings
from parley.storage.ledger import Charge, Settled
from tests.parts import SAMPLES
from tests.storage.ledger_fixture import JOB, PRICE, STEP, USER, WORKSPACE

CHAT = ChatRequest(messages=(Message(role="user", content="Summarise: the demo went well."),), max_tokens=200)
AUDIO = (SAMPLES / "gatekeeper-dental-clinic.ogg").read_bytes()
SPEECH = TranscriptionRequest(audio_sha256="not looked at", audio_seconds=recording_seconds(AUDIO), audio=AUDIO)


@dataclass(frozen=True)
class Ask:
    """One request to one provider."""

    provider: Provider
    model: str
    request: Request

    @property
    def bound(self) -> Decimal:
        return upper_bound(self.provider, self.model, self.request, RATES)[0]

    def cost(self, counted: dict[str, Any]) -> Decimal:
        """What the provider charges for this usage."""
        usage = Usage(**{name: counted[name] for name in ("input_tokens", "output_tokens", "audio_seconds")})
        return cost(usage, rates_for(self.provider, self.model, RATES, usage.input_tokens))


RATES = ConfiguredRates.of(Settings())
ANTHROPIC = Ask(Provider.ANTHROPIC, "claude-haiku-4-5", CHAT)
OPENAI = Ask(Provider.OPENAI, "gpt-4o-mini", CHAT)
ELEVENLABS = Ask(Provider.ELEVENLABS, "scribe_v1", SPEECH)


async def make(paid_calls: PaidCalls, ask: Ask = ANTHROPIC, step: str = STEP, **changes: Any) -> Settled:
    """Make a paid call as an activity does."""
    charge: dict[str, Any] = {
        "workspace_id": WORKSPACE,
        "user_id": USER,
        "job_key": JOB,
        "workflow_id": "workflow",
        "request_id": f"{JOB}/{step}",
        "action": "coaching",
        "energy": PRICE,
    }
    return await ActivityEnvironment().run(
        paid_calls.make, Charge(**{**charge, **changes}), ask.request, ask.provider, ask.model
    )


def started(paid_calls: PaidCalls, ask: Ask = ANTHROPIC, step: str = STEP) -> asyncio.Task[Settled]:
    return asyncio.create_task(make(paid_calls, ask, step))
