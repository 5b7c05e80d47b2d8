"""PostgreSQL crashes under load and is down for 10 seconds: nothing is lost, paid twice or charged twice."""

import asyncio
import json
from pathlib import Path

from parley.cli.billed import read_billed
from starter.embedded import Addresses
from tests.faults.postgres import own_postgres
from tests.faults.scene import scene

GENERATIONS = 40
AWAY_SECONDS = 10.0
USER = "ann"
# Long enough that the prompt is passed by reference.
ASIDE = " And what does each of its columns mean?" * 50


async def test_generations_survive_ten_seconds_without_the_database(stack: Addresses, tmp_path: Path) -> None:
    async with own_postgres() as server, scene(stack, server.url, tmp_path) as place:
        client, simulator = place.client, place.simulator
        await place.start_worker(OPENAI_REQUESTS_PER_SECOND="1000", ANTHROPIC_REQUESTS_PER_SECOND="1000")
        await client.set_tier(USER, "pro")
        await simulator.post("latency", seconds=0.3)

        def ask(number: int, provider: str):
            text = f"What is in export {number:02}?{ASIDE if number % 2 else ''}"
            return asyncio.create_task(client.generate(text, user_id=USER, provider=provider))

        # A quarter is in flight throughout, the others are anywhere between their start and their end.
        await simulator.gate(closed=True, provider="anthropic")
        generations = [ask(number, "anthropic") for number in range(GENERATIONS // 4)]
        await simulator.requests(at_least=len(generations), provider="anthropic")
        generations += [ask(number, "openai") for number in range(len(generations), GENERATIONS)]
        await simulator.requests(at_least=GENERATIONS // 4, provider="openai", billed="true")
        await server.crash()
        await asyncio.sleep(AWAY_SECONDS / 2)
        await simulator.gate(closed=False, provider="anthropic")
        await asyncio.sleep(AWAY_SECONDS / 2)
        unanswered = [task for task in generations if not task.done()]
        await server.start()
        results = await asyncio.gather(*generations)

        assert server.recoveries == 1
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
