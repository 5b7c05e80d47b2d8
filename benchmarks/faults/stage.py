"""The services of one case, each a process of its own, so that a case can make any of them fail."""

import asyncio
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from random import Random  # noqa: TID251 - the plan is random
from signal import SIGKILL

from benchmarks.faults.load import Load
from benchmarks.stack import own_environment, say
from parley import Client
from parley.connection import Addresses
from parley.visibility import DEFINITIONS
from starter.embedded.ports import Ports
from starter.embedded.process import Process
from starter.embedded.services import Temporal
from starter.embedded.state import HOST, StateDir
from tests.faults.gated_simulator import gated_simulator
from tests.faults.postgres import OwnPostgres, own_postgres
from tests.faults.scene import Scene, scene

# Long enough for Temporal to consider a worker dead and for its leases to expire.
FROZEN_SECONDS = 14.0
LEASE_SECONDS = 6
LOCAL_USD_PER_MILLION = Decimal(1)
# The replies of so many calls are held, or of this time: much less than the time-out of a call.
IN_FLIGHT, HELD_SECONDS = 10, 6.0


class OwnTemporal:
    """A Temporal server of its own, with the same database file and ports after each start."""

    def __init__(self, directory: Path) -> None:
        state = StateDir(directory)
        state.create()
        self._temporal = Temporal(state, DEFINITIONS)
        self._ports = Ports({}, directory).choose(self._temporal.port_names)
        self._process: Process | None = None

    @property
    def port(self) -> int:
        return self._ports["temporal"]

    @property
    def addresses(self) -> Addresses:
        port, ui = self._ports["temporal"], self._ports["ui"]
        return Addresses(
            temporal_address=f"{HOST}:{port}", ui_url=f"http://{HOST}:{ui}", database_url="", codec_keys="off"
        )

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = await Process.start(replace(self._temporal.command(self._ports), stops=((SIGKILL, 10.0),)))
        await self._process.answer(lambda: self._temporal.answers(self._ports), self._temporal.start_timeout)

    async def kill(self) -> None:
        """End it with SIGKILL."""
        if self._process:
            await self._process.stop(asyncio.Event())


@dataclass
class Stage:
    """The running services of a case, and its load.

    Attributes:
        disk: the file system that has PostgreSQL's data alone, if there is one.
        random: decides when faults happen.
        happened: how many faults of each kind happened.
        too_late: how many of them happened when every job had ended, and so tested nothing.
    """

    place: Scene
    server: OwnPostgres
    temporal: OwnTemporal
    load: Load
    disk: Path | None
    random: Random
    happened: Counter[str] = field(default_factory=Counter)
    too_late: int = 0

    async def after(self, share: float) -> None:
        """Wait until this share of the jobs has ended."""
        while len(self.load.results) < share * self.load.jobs:  # noqa: ASYNC110 - the load runs concurrently
            await asyncio.sleep(0.02)

    @asynccontextmanager
    async def calls_in_flight(self, share: float) -> AsyncIterator[None]:
        """Once this share of the jobs has ended, hold the replies to several paid calls during the block."""
        await self.after(share)
        simulator = self.place.simulator
        await simulator.post("gate", closed=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(HELD_SECONDS):
                while len(await simulator.requests(state="in_flight")) < IN_FLIGHT:  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.1)
        yield
        await simulator.post("gate", closed=False)

    def note(self, fault: str) -> None:
        """Count a fault, and print it."""
        self.happened[fault] += 1
        self.too_late += len(self.load.results) == self.load.jobs
        say(f"{len(self.load.results)} of {self.load.jobs} jobs have ended: {fault}")

    def logged(self, words: str) -> int:
        """How often the workers have logged these words."""
        return sum(log.read_text().count(words) for log in self.place.directory.glob("worker-*.log"))


@asynccontextmanager
async def stage(make_load: Callable[[Client], Load], disk: Path | None, seed: int) -> AsyncIterator[Stage]:
    """Start the services. `disk`: a directory for PostgreSQL's data; None makes one."""
    async with AsyncExitStack() as parts:
        parts.enter_context(own_environment())
        directory = Path(parts.enter_context(tempfile.TemporaryDirectory(prefix="parley-bench-")))
        temporal = OwnTemporal(directory / "temporal")
        parts.push_async_callback(temporal.kill)
        await temporal.start()
        server = await parts.enter_async_context(own_postgres(disk))
        simulator = await parts.enter_async_context(gated_simulator())
        place = await parts.enter_async_context(scene(temporal.addresses, server.url, directory / "scene", simulator))
        place.environment |= {
            # Longer than a worker is frozen, so that a reply that arrived meanwhile is still used.
            "PARLEY_PROVIDER_TIMEOUT_SECONDS": f"{FROZEN_SECONDS + 4}",
            "PARLEY_LEASE_SECONDS": str(LEASE_SECONDS),
            "PARLEY_BREAKER_OPEN_SECONDS": "2",
            "LOCAL_BASE_URL": f"{simulator.url}/local/v1",
            "LOCAL_USD_PER_MILLION_INPUT": str(LOCAL_USD_PER_MILLION),
            "LOCAL_USD_PER_MILLION_OUTPUT": str(LOCAL_USD_PER_MILLION),
        }
        await simulator.post("latency", median=0.3, sigma=0.8)
        yield Stage(place, server, temporal, make_load(place.client), disk, Random(seed))
