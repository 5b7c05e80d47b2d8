"""Conversations whose turns are streamed at two gateways, while the worker and the gateways are killed with kill -9.

Two clients talk in each conversation, and each sends every turn twice. See tests/faults/talking.py. The seed decides
which process is killed and when. It exits with 1 if a turn is answered or charged more or less than once, or a reader
has seen another text than the answer.
"""

from collections import Counter
from random import Random  # noqa: TID251 - the plan is random
from secrets import randbelow

import httpx

from benchmarks.faults.load import Load
from benchmarks.faults.stage import stage
from benchmarks.options import MUST_BE_ZERO, Figures, Options
from benchmarks.stack import say
from parley import Client
from parley.cli.console import silence_temporal
from tests.faults.talking import CLIENTS, Talk, Talking, faults_of, runs_of

CONVERSATIONS, TURNS, KILLS = 3, 60, 20
LONGEST_ANSWER_SECONDS = 120


async def measure(options: Options) -> Figures:
    silence_temporal()
    seed = randbelow(10_000) if options.seed is None else options.seed
    say(f"--seed {seed}")
    kills = [*["worker"] * KILLS, *["gateway"] * KILLS]
    Random(seed).shuffle(kills)
    talks = [Talk(f"talk-{number}", options.requests or TURNS) for number in range(CONVERSATIONS)]
    async with stage(_nothing, None, seed) as running, httpx.AsyncClient(timeout=LONGEST_ANSWER_SECONDS) as http:
        place = running.place
        talking = Talking(place, http, talks, seed, say)
        await talking.start()
        hits = await talking.run(kills)
        faults = await faults_of(place, talks)
        runs = [await runs_of(place, talk) for talk in talks]
        attempts = Counter(await place.attempts())
    return {
        f"{CONVERSATIONS} conversations of {len(CLIENTS)} clients": {
            "turns": len(talks) * len(CLIENTS) * talks[0].turns,
            "kills": len(kills),
            "kills while turns were answered": hits,
            "runs of the workflows": sum(runs),
            "attempts": dict(attempts),
        },
        MUST_BE_ZERO: faults,
    }


def _nothing(client: Client) -> Load:
    """The load of the stage: the talks are a load of their own."""
    return Load(client, jobs=0)
