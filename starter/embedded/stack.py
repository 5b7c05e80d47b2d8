"""The stack: start its parts in order, hold its lock, and stop them."""

import asyncio
import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from parley.codec import WHERE, EncryptionCodec
from parley.connection import Addresses, running_stack
from parley.domain.errors import ParleyError
from starter.embedded.ports import Ports
from starter.embedded.postgres import Postgres
from starter.embedded.process import Command, PortTaken, Process, end_leftover, end_session, until
from starter.embedded.services import TWILIO_AUTH_TOKEN, Gateway, Service, Simulator, Temporal, Worker
from starter.embedded.state import PartFailed, StackRunning, StateDir, addresses_of

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOP_ORDER = (Gateway.name, Worker.name, Simulator.name, Temporal.name, Postgres.name)
PORT_ATTEMPTS = 5
# A part that dies sooner would die again: its configuration or its code is broken.
SHORTEST_LIFE_SECONDS = 5.0


def _ignore_progress(_: str) -> None:
    pass


@dataclass(eq=False)
class EmbeddedStack:
    """Starts PostgreSQL, Temporal, the simulator, a worker and a gateway on one machine, and ends them all.

        async with EmbeddedStack(Path(".parley"), search_attributes=names, migrate=migrate) as addresses:
            ...

    A stop signal, or a part that dies, cancels the body; the `async with` then raises `SystemExit` or
    `PartFailed`. `wait` returns or raises instead of cancelling. A second signal shortens the worker's drain.
    """

    state_dir: Path
    _: KW_ONLY
    search_attributes: Sequence[str]
    """Each as `Name=Type`."""
    migrate: Callable[[str], Awaitable[None]] | None = None
    """Brings the schema of the database at the given URL up to date."""
    simulator: str | None = "simulator"
    """The module to run as the simulator, None for no simulator."""
    simulator_latency: float | None = None
    worker: str | None = "worker"
    """The module to run as the worker, None for no worker."""
    gateway: str | None = None
    """The module to run as the gateway, None for no gateway."""
    drain: float = 75.0
    """Seconds that the worker gets to finish its activities, and the gateway to finish its streams."""
    fresh: bool = False
    """Remove the data of earlier runs first."""
    temporary: bool = False
    """Remove the state directory and all data at the end."""
    restart_worker: bool = False
    """Start the worker or the gateway again if it dies. One that dies within 5 s of its start ends the stack."""
    announce: Callable[[Addresses], Awaitable[None]] | None = None
    """Runs when every part is up, before the clients on this machine can find the stack."""
    signals: bool = True
    """Handle SIGINT, SIGTERM and SIGHUP while the stack is up."""
    on_progress: Callable[[str], None] = _ignore_progress

    def __post_init__(self) -> None:
        self.on_progress = _tolerant(self.on_progress)
        self._state = StateDir(self.state_dir)
        self._processes: dict[str, Process] = {}
        self._cleanup = contextlib.AsyncExitStack()
        self._ending: PartFailed | signal.Signals | None = None
        self._watched = self._closing = False
        self._restarting: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Addresses:
        """Start every part. If one fails, or a stop signal comes, end those already started."""
        self._owner = asyncio.current_task()
        self._ended, self._hurry = asyncio.Event(), asyncio.Event()
        try:
            self._catch_signals()
            await self._lock()
            return await self._start()
        except BaseException as error:  # noqa: BLE001  raised again, or its cause
            await self._close()
            raise self._reason(error) from error.__cause__

    async def __aexit__(
        self, _: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the gateway, the worker, the simulator, Temporal and PostgreSQL, in this order."""
        await self._close()
        if error is not None and (reason := self._reason(error)) is not error:
            raise reason from None

    async def wait(self) -> signal.Signals:
        """Wait for a stop signal, and return it; raise `PartFailed` when a part dies."""
        self._watched = True
        try:
            await self._ended.wait()
        finally:
            self._watched = False
        if isinstance(self._ending, signal.Signals):
            return self._ending
        assert self._ending  # noqa: S101  a stop has a cause
        raise self._ending

    async def _start(self) -> Addresses:
        began = time.monotonic()
        await self._end_leftovers()
        self._record = self._state.read_stack()
        self._record.pid, self._record.processes = os.getpid(), {}
        self._ports = Ports(self._record.ports, self._state.path)
        self._postgres = Postgres(self._state, self.on_progress, temporary=self.temporary)
        if self.temporary:
            self._cleanup.callback(self._remove_everything)
        if self.fresh:
            self._postgres.erase()
            self._state.erase()
        self._codec_keys = _given_codec_keys() or self._state.codec_keys()
        # Without an account in the environment, phone calls are simulated, and signed with a token of this stack.
        self._twilio_token = None if os.environ.get(TWILIO_AUTH_TOKEN) else self._state.twilio_token()
        self._state.rotate_logs()
        self._save()

        temporal = Temporal(self._state, self.search_attributes, temporary=self.temporary)
        await _together(self._start_postgres(), self._bring_up(temporal))
        await _together(self._run_migrations(), self._start_simulator())
        addresses = self._addresses()
        await _together(self._start_worker(addresses), self._start_gateway(addresses))
        addresses = self._addresses()
        if self.announce:
            await self.announce(addresses)
        self._state.publish(addresses)
        self.on_progress(f"The stack is up ({time.monotonic() - began:.1f} s): Temporal UI {addresses.ui_url}")
        return addresses

    def _addresses(self) -> Addresses:
        found = addresses_of(self._record, self._postgres.password, self._codec_keys)
        return replace(found, twilio_auth_token=self._twilio_token)

    async def _start_postgres(self) -> None:
        await self._postgres.prepare()
        self._cleanup.push_async_callback(self._postgres.wait_until_unused)
        await self._bring_up(self._postgres)

    async def _start_simulator(self) -> None:
        if self.simulator:
            await self._bring_up(Simulator(self._state, self.simulator, self.simulator_latency))

    async def _start_worker(self, addresses: Addresses) -> None:
        if self.worker:
            await self._bring_up(Worker(self._state, self.worker, addresses, self.drain))

    async def _start_gateway(self, addresses: Addresses) -> None:
        if self.gateway:
            await self._bring_up(Gateway(self._state, self.gateway, addresses, self.drain))

    async def _run_migrations(self) -> None:
        if not self.migrate:
            return
        password = self._postgres.password
        try:
            await self.migrate(self._addresses().database_url)
        except ParleyError:
            raise
        except Exception as error:
            detail = f"{type(error).__name__}: {error}".splitlines()[0].replace(password, "***")
            raise PartFailed("migrations", f"failed: {detail}") from error
        self.on_progress("The database schema is up to date")

    async def _bring_up(self, service: Service, attempts: int = PORT_ATTEMPTS) -> None:
        """Start a part and wait until it is ready; choose other ports if another process took these."""
        began = time.monotonic()
        ports = self._ports.choose(service.port_names)
        process = await self._spawn(service.name, service.command(ports))
        try:
            await process.answer(lambda: service.answers(ports), service.start_timeout)
        except PortTaken:
            if attempts == 1:
                raise
            await process.stop(self._hurry)
            self._ports.refuse(service.port_names)
            return await self._bring_up(service, attempts - 1)
        process.exited.add_done_callback(lambda _: self._on_death(process, began))
        return self.on_progress(f"{service.name} is up ({time.monotonic() - began:.1f} s)")

    async def _spawn(self, name: str, command: Command) -> Process:
        """Start a process and record it at once, so that the next stack can end it after a crash."""
        process = self._processes[name] = await Process.start(command)
        self._record.ports, self._record.processes[name] = self._ports.by_name, process.record
        self._save()
        return process

    def _on_death(self, process: Process, began: float) -> None:
        if self._closing:
            return
        death = process.death()
        lived = time.monotonic() - began
        start = {Worker.name: self._start_worker, Gateway.name: self._start_gateway}.get(death.part)
        if start is not None and self.restart_worker and lived >= SHORTEST_LIFE_SECONDS:
            self.on_progress(f"{death.part} {death.problem}; it starts again, and the jobs continue")
            again = asyncio.ensure_future(self._start_again(process, start))
            self._restarting.add(again)
            again.add_done_callback(self._restarting.discard)
        else:
            self._end(death)

    async def _start_again(self, dead: Process, start: Callable[[Addresses], Awaitable[None]]) -> None:
        before = self._addresses()
        try:
            await end_session(dead.record)  # its child processes may hold what it needs, such as its port
            await start(before)
            if (now := self._addresses()) != before:
                self._state.publish(now)
                self.on_progress(f"The gateway listens on {now.gateway_url} now")
        except PartFailed as failure:
            self._end(failure)
        except Exception as error:  # noqa: BLE001  of the machine, such as a full disk: nothing else would say it
            self._end(PartFailed(dead.command.name, f"cannot start again: {error}"))

    def _end(self, ending: PartFailed | signal.Signals) -> None:
        """Wake `wait`, or cancel the body of the `async with` if it does not wait."""
        if self._ending or self._closing:
            if isinstance(ending, signal.Signals):
                self._hurry.set()
            return
        self._ending = ending
        if isinstance(ending, PartFailed) and ending.part == Postgres.name:
            self._hurry.set()  # no activity can finish without the database
        self._ended.set()
        self.on_progress(f"{ending.part} {ending.problem}" if isinstance(ending, PartFailed) else "Stopping")
        if self._owner and not self._watched:
            self._owner.cancel()

    def _reason(self, error: BaseException) -> BaseException:
        """The error to raise: the cause if this stack cancelled the body, else the error of the body."""
        if isinstance(error, asyncio.CancelledError) and self._ending is not None:
            if self._owner:
                self._owner.uncancel()
            error = self._ending if isinstance(self._ending, PartFailed) else SystemExit(128 + self._ending)
        return error.without_log() if self.temporary and isinstance(error, PartFailed) else error

    async def _close(self) -> None:
        """End every part, even if this task is cancelled meanwhile."""
        self._closing = True
        closing = asyncio.ensure_future(self._end_parts())
        cancelled: asyncio.CancelledError | None = None
        while not closing.done():
            try:
                await asyncio.shield(closing)
            except asyncio.CancelledError as error:
                cancelled = error
                self._hurry.set()
        closing.result()
        if cancelled:
            raise cancelled

    async def _end_parts(self) -> None:
        async with self._cleanup:
            for restarting in (stopping := [*self._restarting]):
                restarting.cancel()
            await asyncio.gather(*stopping, return_exceptions=True)
            for name in filter(self._processes.__contains__, STOP_ORDER):
                if name == Worker.name and not (self._hurry.is_set() or self._processes[name].exited.done()):
                    self.on_progress("Waiting for the worker to finish its activities (Ctrl-C shortens the wait)")
                await self._processes[name].stop(self._hurry)
            if self._processes:
                self._record.processes = {}
                self._save()

    async def _end_leftovers(self) -> None:
        """End processes of an earlier stack that was killed and could not end them."""
        for record in reversed(self._state.read_stack().processes.values()):
            await end_leftover(record)

    async def _lock(self) -> None:
        self._state.create()
        taken: list[int] = []

        def take() -> bool:
            descriptor = self._state.try_lock()
            taken.extend(() if descriptor is None else (descriptor,))
            return descriptor is not None

        # A command that checks whether a stack runs holds the lock for a moment.
        if not await until(take, within=0.5):
            directory = self._state.path
            raise StackRunning(directory, self._state.read_stack().pid, running_stack(directory))
        self._cleanup.callback(os.close, taken[0])
        self._cleanup.callback(self._state.withdraw)
        self._state.withdraw()  # a stack that was killed has left its addresses

    def _remove_everything(self) -> None:
        self._postgres.erase()
        shutil.rmtree(self._state.path)

    def _catch_signals(self) -> None:
        if not self.signals or threading.current_thread() is not threading.main_thread():
            return
        for number in STOP_SIGNALS:
            previous = signal.getsignal(number)
            # nohup ignores SIGHUP on purpose. A shell without job control ignores SIGINT for each command in the
            # background, which `kill -INT` is meant to end nevertheless.
            if number != signal.SIGHUP or previous is not signal.SIG_IGN:
                asyncio.get_running_loop().add_signal_handler(number, self._end, number)
                self._cleanup.callback(self._restore_signal, number, previous)

    def _restore_signal(self, number: signal.Signals, previous: Any) -> None:
        asyncio.get_running_loop().remove_signal_handler(number)
        signal.signal(number, previous)

    def _save(self) -> None:
        self._state.write_stack(self._record)


def _tolerant(report: Callable[[str], None]) -> Callable[[str], None]:
    """Reports where that is possible: a terminal that is closed must not keep the stack from ending its parts."""

    def report_if_possible(line: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            report(line)

    return report_if_possible


def _given_codec_keys() -> str | None:
    """The keys of the environment; None where the stack uses those of its state directory."""
    given = os.environ.get(WHERE)
    if given:
        EncryptionCodec(given)
    return given or None


async def _together(*parts: Coroutine[None, None, None]) -> None:
    """Run these concurrently; the first failure cancels the others and is raised without its group."""
    try:
        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(part)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from failures.exceptions[0].__cause__
