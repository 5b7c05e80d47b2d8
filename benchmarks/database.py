"""How much time a slow network between worker and database adds to claim, settle and `Generate`.

The delayed connection goes through a proxy in this process that delays each packet by 1 ms in each direction, so that a
round trip takes 2 ms more. Packets do not wait for each other. Rounds with and without the delay alternate. A round
trip is counted when the client sends after the server has sent.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from statistics import median
from uuid import UUID, uuid4

from pydantic import SecretStr
from sqlalchemy.engine import make_url

from benchmarks.gateway import processes
from benchmarks.gateway.prompt import MAX_TOKENS, MODEL, PROMPT
from benchmarks.options import Figures, Options
from benchmarks.stack import Bench, running, say
from parley.domain.generate.contract import CachePolicy, GenerateInput, Job, Prompt, Serving
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
TERMS = Terms(
    lease_seconds=60, reservation_seconds=3600, breaker=BreakerTerms(failures=3, open_seconds=60, probe_seconds=60)
)
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
                if place == DELAYED:
                    trips["Generate"] = line.since_mark() / requests
    return _figures(times, trips)


class DelayLine:
    """A TCP proxy in front of PostgreSQL. `port`: where it listens."""

    def __init__(self, target_url: str) -> None:
        self._target, self.port = make_url(target_url), 0
        self._round_trips = self._mark = 0

    @property
    def url(self) -> str:
        return self._target.set(host="127.0.0.1", port=self.port).render_as_string(hide_password=False)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, to_server = await asyncio.open_connection(self._target.host, self._target.port)
        server_has_sent = True

        def client_sends() -> None:
            nonlocal server_has_sent
            if server_has_sent:
                self._round_trips += 1
            server_has_sent = False

        def server_sends() -> None:
            nonlocal server_has_sent
            server_has_sent = True

        await asyncio.gather(_forward(reader, to_server, client_sends), _forward(upstream, writer, server_sends))

    def mark(self) -> None:
        self._mark = self._round_trips

    def since_mark(self) -> int:
        return self._round_trips - self._mark


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, on_data: Callable[[], None]) -> None:
    """Write each packet that is read after the delay, without waiting for earlier packets."""
    loop = asyncio.get_running_loop()
    try:
        while data := await reader.read(1 << 16):
            on_data()
            loop.call_later(DELAY_SECONDS, writer.write, data)
    except ConnectionError:
        pass
    loop.call_later(DELAY_SECONDS * 2, writer.close)


@asynccontextmanager
async def delay_line(target_url: str) -> AsyncIterator[DelayLine]:
    line = DelayLine(target_url)
    server = await asyncio.start_server(line.serve, "127.0.0.1", 0)
    line.port = server.sockets[0].getsockname()[1]
    try:
        yield line
    finally:
        server.close()


async def _ledger(bench: Bench, line: DelayLine, times: Times, requests: int) -> dict[str, float]:
    """Time claims and settlements, each in a transaction, as in a paid call. Returns the median round trips of each."""
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
    return {step: float(median(counts)) for step, counts in trips.items()}


def _job() -> Job:
    prompt = Prompt(messages=(Message(role="user", content=PROMPT),))
    request = GenerateInput(workspace_id="bench", user_id="user", action="ai_message", prompt=prompt)
    return Job.of(request, f"bench/{uuid4().hex}", datetime.now(UTC))


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
        await generations.defer_record(tx, row)


async def _generate(bench: Bench, line: DelayLine, requests: int) -> list[float]:
    """Milliseconds of each generation. The first ones are a warm-up, and neither timed nor counted by the line."""
    client = await bench.client("bench")
    milliseconds: list[float] = []
    for number in range(WARM_UP + requests):
        if number == WARM_UP:
            line.mark()
        began = time.perf_counter()
        result = await client.generate(
            PROMPT, user_id="user", key=uuid4().hex, cache=CachePolicy.OFF, max_tokens=MAX_TOKENS
        )
        assert result.success, result
        if number >= WARM_UP:
            milliseconds.append((time.perf_counter() - began) * 1000)
    return milliseconds


@asynccontextmanager
async def _worker(bench: Bench, database_url: str, name: str) -> AsyncIterator[None]:
    """Parley's worker with this address of the database, during the block."""
    worker = processes.worker(bench, database_url=database_url, name=f"worker-{name}")
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
