"""Workers that are lost with a reply: killed at every attempt, or frozen until another worker has answered."""

import asyncio
import signal
from decimal import Decimal
from pathlib import Path

from parley.domain.requests import Provider
from starter.embedded import Addresses
from tests.faults.scene import exited, scene
from tests.parts import until


async def test_an_answer_of_the_last_attempt_is_returned(stack: Addresses, template: str, tmp_path: Path) -> None:
    async with scene(stack, template, tmp_path) as place:
        worker = await place.start_worker("claimed=kill")
        answer = asyncio.create_task(
            place.client.generate("How do I sound?", user_id="ann", provider=Provider.OPENAI, cache="off")
        )
        for point in ("claimed", "settled"):
            await exited(worker, signal.SIGKILL)
            worker = await place.start_worker(f"{point}=kill")
        await exited(worker, signal.SIGKILL)
        await place.start_worker()
        assert (await answer).success
        assert (await place.client.energy("ann")).charged == 1


async def test_the_row_includes_the_cost_of_a_late_reply(stack: Addresses, template: str, tmp_path: Path) -> None:
    async with scene(stack, template, tmp_path) as place:
        # With one paid call in flight it polls for no other: the next attempt goes to another worker.
        frozen = await place.start_worker(roles=("openai",), PARLEY_PAID_CALLS_IN_FLIGHT="1")
        await place.start_worker(roles=("workflows", "storage"))
        await place.simulator.gate(closed=True, provider="openai")
        answer = asyncio.create_task(
            place.client.generate("How do I sound?", user_id="ann", provider=Provider.OPENAI, cache="off")
        )
        await place.simulator.requests(at_least=1, state="in_flight")
        frozen.send_signal(signal.SIGSTOP)
        await place.start_worker()
        await place.simulator.requests(at_least=2, state="in_flight")
        await place.simulator.gate(closed=False, provider="openai")
        assert (await answer).success
        frozen.send_signal(signal.SIGCONT)

        async def late() -> bool:
            return sorted(await place.attempts()) == ["duplicate", "settled"]

        await until(late)
        (generation,) = await place.query("SELECT cost_usd FROM generations")
        (spent,) = await place.query("SELECT sum(cost_usd) AS usd, count(*) FROM ai_usage_logs")
        assert (generation["cost_usd"], spent["count"]) == (spent["usd"], 2)
        assert Decimal(str(spent["usd"])) > 0
        assert (await place.client.energy("ann")).charged == 1
        assert await place.client.audit() == []
