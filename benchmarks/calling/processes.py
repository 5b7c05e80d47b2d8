"""Phone calls to two workers and two gateways, each a process, behind a front that plays the load balancer."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random  # noqa: TID251 - the moments of the faults are random
from typing import Any
from urllib.parse import urlsplit

from benchmarks.calling.callers import NUMBER, Callers
from benchmarks.faults.load import Load
from benchmarks.faults.stage import stage
from simulator.twilio.script import Script
from simulator.twilio.simulation import Simulated
from tests.faults.gateways import start_gateway
from tests.faults.postgres import OwnPostgres
from tests.faults.processes import AnyProcess
from tests.faults.scene import Scene

TOKEN = "0123456789abcdef0123456789abcdef"
EACH = 2
DEADLINES = {"silence": 60}
# A turn of a phone call is free for its caller, unless it has the action of a message.
CHARGED = {"action": "ai_message"}
FIRST_TOKEN_SECONDS, SIGMA, TOKENS_PER_SECOND = 0.4, 0.35, 60

# What happens while callers talk. It is given the task of the phone calls, and ends with it.
Fault = Callable[["asyncio.Task[list[Simulated]]"], Coroutine[Any, Any, None]]


class Front:
    """Forwards each connection to a gateway that lives. A connection to one that dies ends."""

    def __init__(self) -> None:
        self.gateways: list[str] = []
        self._next = 0

    async def start(self) -> str:
        """Listen; returns the address."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def close(self) -> None:
        self._server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2 * EACH):
            self._next += 1
            target = urlsplit(self.gateways[self._next % len(self.gateways)])
            try:
                far_reader, far_writer = await asyncio.open_connection(target.hostname, target.port)
            except OSError:
                continue
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
            return
        writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        writer.transport.abort()
    writer.close()


@dataclass
class Calling:
    """The processes of the phone calls.

    server: their PostgreSQL. url: the address that Twilio knows.
    """

    place: Scene
    random: Random
    server: OwnPostgres
    front: Front = field(default_factory=Front)
    url: str = ""
    workers: list[AnyProcess] = field(default_factory=list[AnyProcess])
    gateways: list[AnyProcess] = field(default_factory=list[AnyProcess])

    async def start(self) -> None:
        """Start everything."""
        self.url = await self.front.start()
        self.place.environment |= {"TWILIO_AUTH_TOKEN": TOKEN, "PARLEY_PHONE_PUBLIC_URL": self.url}
        self.workers = list(await asyncio.gather(*(self.place.start_worker() for _ in range(EACH))))
        for _ in range(EACH):
            process, gateway = await self._gateway()
            self.gateways.append(process)
            self.front.gateways.append(gateway)

    async def talk(self, scripts: Sequence[Script], fault: Fault) -> list[Simulated]:
        """Hold the phone calls, while `fault` happens."""
        async with asyncio.TaskGroup() as both:
            talking = both.create_task(Callers(self.url, TOKEN).hold(scripts, self.random))
            both.create_task(fault(talking))
        return talking.result()

    async def replace(self, what: str) -> None:
        """Kill a `worker` or a `gateway` with kill -9, and start it again."""
        place = self.random.randrange(EACH)
        if what == "worker":
            await _killed(self.workers[place])
            self.workers[place] = await self.place.start_worker()
        else:
            await _killed(self.gateways[place])
            self.gateways[place], self.front.gateways[place] = await self._gateway()

    async def _gateway(self) -> tuple[AnyProcess, str]:
        return await start_gateway(self.place, f"gateway-{len(self.place.processes)}")


async def _killed(process: AnyProcess) -> None:
    process.kill()
    await process.wait()


@asynccontextmanager
async def calling(seed: int, **environment: str) -> AsyncIterator[Calling]:
    """Start the processes, and give them a number. `environment`: further variables of workers and gateways."""
    async with stage(lambda client: Load(client, jobs=0), None, seed) as running:
        place = running.place
        own = {"PARLEY_STARTING_ENERGY": "1000000", "PARLEY_SPOOL_DIR": str(place.directory / "spool")}
        place.environment |= {**own, **environment}
        limits = {"workspace_concurrent": None}
        await place.client.phone.set_number(NUMBER, {"limits": limits, "deadlines": DEADLINES, **CHARGED})
        await place.simulator.post(
            "latency", median=FIRST_TOKEN_SECONDS, sigma=SIGMA, tokens_per_second=TOKENS_PER_SECOND
        )
        one = Calling(place, Random(seed), running.server)
        await one.start()
        yield one
        one.front.close()
