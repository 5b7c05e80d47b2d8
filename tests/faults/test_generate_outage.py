"""PostgreSQL crashes under load and is down for 10 seconds: nothing is lost, paid twice or charged twice."""

import asyncio
import json
from pathlib import Path

from parley import GenerationHandle, Provider
from parley.cli.billed import read_billed
from starter.embedded import Addresses
from tests.faults.postgres import own_postgres
from tests.faults.scene import scene

GENERATIONS = 40
AWAY_SECONDS = 10.0
USER = "ann"
# Long enough that the prompt is passed by reference.
ASIDE = " And what does each of its columns mean?" * 50
# Long enough that the answer is passed by reference.
FIELDS = [f"field_{number}" for number in range(120)]
LONG_ANSWER = {
    "type": "object",
    "properties": {key: {"type": "string"} for key in FIELDS},
    "required": FIELDS,
    "additionalProperties": False,
}


async def test_generations_survive_ten_seconds_without_the_database(stack: Addresses, tmp_path: Path) -> None:
    async with own_postgres() as server, scene(stack, server.url, tmp_path) as place:
        client, simulator = place.client, place.simulator
        await place.start_worker(OPENAI_REQUESTS_PER_SECOND="1000", ANTHROPIC_REQUESTS_PER_SECOND="1000")
        await client.set_tier(USER, "pro")
        await simulator.post("latency", seconds=0.3)

        async def ask(number: int, provider: Provider) -> GenerationHandle:
            text = f"What is in export {number:02}?{ASIDE if number % 2 else ''}"
            return await client.start_generation(text, user_id=USER, provider=provider)

        long = await client.start_generation(
            "Describe the export.", user_id=USER, response_schema=LONG_ANSWER, max_tokens=20_000
        )
        described = await long.result()
        assert described.stored
        # Half are in flight throughout, the others are anywhere between their start and their end.
        await simulator.gate(closed=True, provider="anthropic")
        handles = await asyncio.gather(*(ask(number, Provider.ANTHROPIC) for number in range(GENERATIONS // 2)))
        await simulator.requests(at_least=len(handles), provider="anthropic")
        handles += await asyncio.gather(
            *(ask(number, Provider.OPENAI) for number in range(len(handles), GENERATIONS - 1))
        )
        generations = [asyncio.create_task(handle.result()) for handle in handles]
        await server.crash()
        # The answer is in the database alone.
        generations.append(asyncio.create_task(long.result()))
        await asyncio.sleep(AWAY_SECONDS / 2)
        await simulator.gate(closed=False, provider="anthropic")
        await asyncio.sleep(AWAY_SECONDS / 2)
        unanswered = [task for task in generations if not task.done()]
        await server.start()
        results = await asyncio.gather(*generations)

        assert server.recoveries == 1
        assert len(unanswered) >= GENERATIONS // 2
        assert all(result.success for result in results)
        assert results[-1] == described
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
