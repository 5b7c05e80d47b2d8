"""Text-to-speech by the paid call: how long a gateway takes until a text of a phone call is audio.

The provider answers after a median of 400 ms. Every text is new, so that each is paid.
"""

import asyncio
import time
from random import Random  # noqa: TID251 - a benchmark draws its load
from statistics import median, quantiles

import httpx2

from benchmarks.calling.callers import QUESTIONS
from benchmarks.options import Figures, Options
from benchmarks.stack import running, say

CALLS = (1, 5, 20)
TEXTS = 10
MEDIAN_SECONDS, SIGMA = 0.4, 0.35
# The specification's target, in seconds.
SPEECH_SECONDS = 2.0


async def as_speech(options: Options) -> tuple[Figures, dict[str, int]]:
    """Texts of 1, 5 and 20 phone calls at once as speech, each of them paid."""
    figures: Figures = {}
    failed: dict[str, int] = {}
    rng = Random(options.seed or 7)
    async with running(gateway="gateway", PARLEY_STARTING_ENERGY="1000000") as bench:
        client = await bench.client("speech")
        key = await client.gateway_keys.create("bench", requests_per_minute=1_000_000, concurrent_streams=10_000)
        await bench.latency(median=MEDIAN_SECONDS, sigma=SIGMA)
        headers = {"authorization": f"Bearer {key.secret}"}
        async with httpx2.AsyncClient(base_url=bench.addresses.gateway_url or "", headers=headers, timeout=60) as http:
            await _said(http, rng)  # a warm-up
            for count in CALLS:
                texts = await asyncio.gather(*(_of_call(http, Random(rng.random())) for _ in range(count)))
                seconds = sorted(one for call in texts for one in call if one is not None)
                figures[f"{count} phone calls"] = {
                    "texts": count * TEXTS,
                    "speech, ms": {"p50": 1000 * median(seconds), "p95": 1000 * quantiles(seconds, n=20)[-1]},
                    f"speech after {SPEECH_SECONDS:g} s": sum(one > SPEECH_SECONDS for one in seconds),
                }
                failed[f"texts without speech, of {count} phone calls"] = count * TEXTS - len(seconds)
                say(f"{count} phone calls: done")
        paid = len(await bench.billed())
    return figures, {**failed, "texts that were not paid": 1 + TEXTS * sum(CALLS) - paid}


async def _of_call(http: httpx2.AsyncClient, rng: Random) -> list[float | None]:
    """The texts of one phone call, one after the other."""
    return [await _said(http, rng) for _ in range(TEXTS)]


async def _said(http: httpx2.AsyncClient, rng: Random) -> float | None:
    """The seconds until a new text is speech; None: it is not."""
    text = f"{rng.choice(QUESTIONS)} The number is {rng.randrange(10**6)}."
    began = time.monotonic()
    answer = await http.post("/api/speech", json={"text": text, "user_id": "bench", "language": "en-US"})
    return time.monotonic() - began if answer.status_code == httpx2.codes.OK else None
