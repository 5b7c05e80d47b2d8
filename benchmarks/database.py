"""What a slow network between worker and database costs: claim, settle and `Generate`, direct and with a delay.

The delayed connection goes through a proxy in this process that delays each packet by 1 ms in each direction, so that a
round trip takes 2 ms more. It is a delay line: packets in flight overlap. Rounds of both take turns. The proxy counts
round trips: how often the client speaks after the server did.
"""

import asyncio
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from statistics import median
from uuid import UUID, uuid4

from pydantic import SecretStr
from sqlalchemy.engine import make_url

from benchmarks.gateway.question import MAX_TOKENS, MODEL, QUESTION
from benchmarks.gateway.served import Served
from benchmarks.options import Figures, Options
from benchmarks.stack import Bench, running, say
from parley.domain.generate.contract import GenerateInput, Job, Prompt, Serving
from parley.domain.pricing import Rates
from parley.domain.requests import ChatReply, Finish, Message, Provider, Usage
from parley.storage import energy, generations, ledger
from parley.storage.breaker import BreakerTerms
from parley.storage.budgets import Envelope
from parley.storage.database import Database
from parley.storage.ledger import Charge, Claim, Granted, Offer, Settlement, Terms

DELAY_SECONDS = 0.001
ROUNDS, REQUESTS, WARM_UP = 5, 40, 10
DIRECT, DELAYED = "direct", "1 ms of delay each way"
RATES = Rates(source="a price list", input=Decimal(1), cached_input=Decimal("0.1"), output=Decimal(5))
TERMS = Terms(60, 3600, BreakerTerms(failures=3, open_seconds=60, probe_seconds=60))
REPLY = ChatReply(
    text="The second one.", finish=Finish.STOP, usage=Usage(input_tokens=20, output_tokens=5), model=MODEL
)

Times = dict[str, dict[str, list[float]]]


async def measure(options: Options) -> Figures:
    requests = options.requests or REQUESTS
    async with (
        running(worker=None, PARLEY_STARTING_ENERGY="1000000") as bench,
        delay_line(bench.addresses.database_url) as line,
    ):
        times: Times = {place: defaultdict(list) for place in (DIRECT, DELAYED)}
        trips = await _ledger(bench, line, times, requests)
        say("claim and settle: done")
        for number in range(2):
            for place, url in ((DIRECT, bench.addresses.database_url), (DELAYED, line.url)):
                async with _worker(bench, url, f"{number}-{place.split()[0]}"):
                    times[place]["Generate"] += await _generate(bench, line, requests)
            trips["Generate"] = line.since_mark() / requests
    return _figures(times, trips)


class DelayLine:
    """A TCP proxy in front of PostgreSQL."""

    def __init__(self, url: str) -> None:
        self.url, self._target = url, make_url(url)
        self.round_trips = self._mark = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, to_server = await asyncio.open_connection(self._target.host, self._target.port)
        server_spoke = True

        def client_speaks() -> None:
            nonlocal server_spoke
            self.round_trips += server_spoke
            server_spoke = False

        def server_speaks() -> None:
            nonlocal server_spoke
            server_spoke = True

        await asyncio.gather(_pass_on(reader, to_server, client_speaks), _pass_on(upstream, writer, server_speaks))

    def mark(self) -> None:
        self._mark = self.round_trips

    def since_mark(self) -> int:
        return self.round_trips - self._mark


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, on_data: Callable[[], None]) -> None:
    """Write what is read, each piece after the delay, without waiting for earlier pieces."""
    loop = asyncio.get_running_loop()
    try:
        while data := await reader.read(1 << 16):
            on_data()
            loop.call_later(DELAY_SECONDS, writer.write, data)
    except ConnectionError:
        pass
    loop.call_later(DELAY_SECONDS * 2, writer.close)


@asynccontextmanager
async def delay_line(url: str) -> AsyncIterator[DelayLine]:
    line = DelayLine(url)
    server = await asyncio.start_server(line.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    line.url = make_url(url).set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
    try:
        yield line
    finally:
        server.close()


async def _ledger(bench: Bench, line: DelayLine, times: Times, requests: int) -> dict[str, float]:
    """Claims and settlements, each in its transaction, as a paid call makes them; returns the round trips of each."""
    databases = {DIRECT: Database(SecretStr(bench.addresses.database_url)), DELAYED: Database(SecretStr(line.url))}
    trips: dict[str, list[int]] = {"claim": [], "settle": []}
    async with databases[DIRECT].transaction() as tx:
        await energy.open_account(tx, "bench", "user", starting_energy=1_000_000)
    for number in range(ROUNDS + 1):
        for place, database in databases.items():
            for _ in range(requests):
                line.mark()
                began, job = time.perf_counter(), _job()
                attempt_id = await _claim(database, job)
                claimed, claim_trips = time.perf_counter(), line.since_mark()
                line.mark()
                await _settle(database, job, attempt_id)
                settled, settle_trips = time.perf_counter(), line.since_mark()
                if number:  # the first round warms up
                    times[place]["claim"].append((claimed - began) * 1000)
                    times[place]["settle"].append((settled - claimed) * 1000)
                if number and place == DELAYED:
                    trips["claim"].append(claim_trips)
                    trips["settle"].append(settle_trips)
    for database in databases.values():
        await database.close()
    return {step: float(median(found)) for step, found in trips.items()}


def _job() -> Job:
    prompt = Prompt(messages=(Message(role="user", content=QUESTION),))
    asked = GenerateInput(workspace_id="bench", user_id="user", action="ai_message", prompt=prompt)
    return Job(input=asked, job_key=uuid4().hex, workflow_id="bench", started_at=datetime.now(UTC))


async def _claim(database: Database, job: Job) -> UUID:
    charge = Charge(
        workspace_id="bench",
        user_id="user",
        job_key=job.job_key,
        workflow_id="bench",
        request_id=f"{job.job_key}/generate/ask-1",
        action="ai_message",
        energy=1,
        envelope=Envelope(cap_usd=Decimal(1)),
    )
    offer = Offer(provider=Provider.OPENAI, model=MODEL, simulated=True, upper_bound_usd=Decimal("0.001"), rates=RATES)
    async with database.transaction() as tx:
        claimed = await ledger.claim(tx, Claim(charge, "fingerprint", offer, TERMS, uuid4()))
    assert isinstance(claimed, Granted)
    return claimed.attempt_id


async def _settle(database: Database, job: Job, attempt_id: UUID) -> None:
    settlement = Settlement("bench", attempt_id, REPLY, Decimal("0.0001"), RATES)
    async with database.transaction() as tx:
        settled = await ledger.settle(tx, settlement)
    async with database.transaction() as tx:
        row = generations.row(job, Serving(), outcome="completed", attempt_id=settled.attempt_id)
        await generations.record(tx, row)


async def _generate(bench: Bench, line: DelayLine, requests: int) -> list[float]:
    """Milliseconds of each; the first ones warm the worker up, and are not in the line's count either."""
    client = await bench.client("bench")
    taken: list[float] = []
    for number in range(WARM_UP + requests):
        if number == WARM_UP:
            line.mark()
        began = time.perf_counter()
        done = await client.generate(QUESTION, user_id="user", key=uuid4().hex, cache="off", max_tokens=MAX_TOKENS)
        assert done.success, done
        if number >= WARM_UP:
            taken.append((time.perf_counter() - began) * 1000)
    return taken


@asynccontextmanager
async def _worker(bench: Bench, database_url: str, name: str) -> AsyncIterator[None]:
    """Parley's worker, with that way to its database."""
    ready = bench.directory / f"worker-polls-{name}"

    async def polls() -> bool:
        return ready.exists()

    environment = {
        "DATABASE_URL": database_url,
        "TEMPORAL_ADDRESS": bench.addresses.temporal_address,
        "PARLEY_SIMULATOR_URL": bench.addresses.simulator_url or "",
        "PARLEY_READY_FILE": str(ready),
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    worker = Served([sys.executable, "-m", "worker"], environment, bench.directory / f"worker-{name}.log", polls)
    await worker.start()
    try:
        yield
    finally:
        worker.kill()


def _figures(times: Times, trips: Mapping[str, float]) -> Figures:
    figures: Figures = {}
    for step in ("claim", "settle", "Generate"):
        direct, delayed = (median(times[place][step]) for place in (DIRECT, DELAYED))
        figures[step] = {
            f"{DIRECT}, median, ms": direct,
            f"{DELAYED}, median, ms": delayed,
            "added by the delay, ms": delayed - direct,
            "round trips": trips[step],
        }
    return figures
