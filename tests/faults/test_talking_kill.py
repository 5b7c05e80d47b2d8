"""kill -9 of worker and gateways while two clients talk in one conversation, each turn sent twice, across its runs."""

from pathlib import Path

import httpx

from parley.domain.conversation.contract import TURNS_PER_RUN
from starter.embedded import Addresses
from tests.faults.scene import scene
from tests.faults.talking import Talk, Talking, faults_of, runs_of
from tests.parts import TEST_TIMEOUT_SECONDS, until

KILLS = ("worker", "gateway", "worker")
TURNS = 10
# The run of the workflow ends in the middle of the turns that are sent twice.
BEFORE = TURNS_PER_RUN - TURNS


async def test_turns_sent_twice_are_answered_once_whatever_dies(stack: Addresses, template: str, tmp_path: Path):
    async with scene(stack, template, tmp_path) as place, httpx.AsyncClient(timeout=TEST_TIMEOUT_SECONDS) as http:
        talking = Talking(place, http, [Talk("talk", TURNS, BEFORE)], seed=12)
        await talking.start()
        assert await talking.run(KILLS) == len(KILLS)
        faults = await faults_of(place, talking.talks)
        assert not any(faults.values()), faults

        async def it_continued_as_new() -> bool:
            return await runs_of(place, talking.talks[0]) > 1

        # A run that became long in the middle of its upkeep takes turns until the upkeep has ended.
        await until(it_continued_as_new)
