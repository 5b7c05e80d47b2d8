"""PostgreSQL is away for ten seconds amid everything: nothing is lost, and nothing paid or charged twice."""

import asyncio
import json
from pathlib import Path

from starter.billed import read_billed
from starter.embedded import Addresses
from tests.activities.proxy import DatabaseProxy
from tests.faults.scene import scene

GENERATIONS = 40
AWAY_SECONDS = 10.0
USER = "ann"


async def test_forty_generations_outlast_ten_seconds_without_the_database(
    stack: Addresses, template: str, tmp_path: Path
) -> None:
    async with scene(stack, template, tmp_path) as place:
        client, simulator = place.client, place.simulator
        async with DatabaseProxy(place.environment["DATABASE_URL"]) as proxy:
            await place.start_worker(
                DATABASE_URL=proxy.url, OPENAI_CALLS_PER_SECOND="1000", ANTHROPIC_CALLS_PER_SECOND="1000"
            )
            await client.set_tier(USER, "pro")
            await simulator.post("latency", seconds=0.3)

            def ask(number: int, provider: str):
                return asyncio.create_task(
                    client.generate(f"What is in export {number:02}?", user_id=USER, provider=provider)
                )

            # A quarter is in flight throughout, the others are anywhere between their start and their end.
            await simulator.gate(closed=True, provider="anthropic")
            asked = [ask(number, "anthropic") for number in range(GENERATIONS // 4)]
            await simulator.calls(at_least=len(asked), provider="anthropic")
            asked += [ask(number, "openai") for number in range(len(asked), GENERATIONS)]
            await simulator.calls(at_least=GENERATIONS // 4, provider="openai", billed="true")
            proxy.cut()
            await asyncio.sleep(AWAY_SECONDS / 2)
            await simulator.gate(closed=False, provider="anthropic")
            await asyncio.sleep(AWAY_SECONDS / 2)
            unanswered = [one for one in asked if not one.done()]
            proxy.restore()
            results = await asyncio.gather(*asked)

        assert len(unanswered) >= GENERATIONS // 2
        assert all(result.success for result in results)
        billed = await simulator.billed()
        assert len(billed) == GENERATIONS
        assert await place.attempts() == ["settled"] * GENERATIONS
        listing = tmp_path / "billed.json"
        listing.write_text(json.dumps(billed))
        assert await client.audit(read_billed(listing)) == []
        energy = await client.energy(USER)
        assert (energy.charged, energy.reserved) == (GENERATIONS, 0)
        assert await place.query("SELECT outcome, count(*) FROM generations GROUP BY outcome") == [
            {"outcome": "completed", "count": GENERATIONS}
        ]
