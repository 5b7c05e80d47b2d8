"""One process of the stack: start it, wait until it is ready, end it with its child processes."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from starter.embedded.state import PartFailed, ProcessRecord

POLL = 0.03
HURRIED = 5.0
LOG_TAIL = 16_384
LAST_LINES = 10
PORT_TAKEN = re.compile("address already in use", re.IGNORECASE)
ERROR_LINE = re.compile("fatal|panic|error", re.IGNORECASE)


@dataclass(frozen=True)
class Account:
    """An account of this machine."""

    uid: int
    gid: int


@dataclass(frozen=True)
class Command:
    """How one part runs and ends. `stops`: the signals to send before SIGKILL, each with its wait in seconds."""

    name: str
    argv: list[str]
    env: Mapping[str, str] = field(repr=False)  # it may hold the database password
    log: Path
    stops: tuple[tuple[signal.Signals, float], ...] = ((signal.SIGTERM, 10.0),)
    death_signal: signal.Signals = signal.SIGKILL
    cwd: Path | None = None
    account: Account | None = None
    ports: tuple[int, ...] = ()


class PortTaken(PartFailed):
    """Another process took the port after it was chosen and before the part listened on it."""


class Process:
    """A started part, the leader of a new session."""

    def __init__(self, command: Command, process: asyncio.subprocess.Process, log_start: int) -> None:
        self.command = command
        self._process = process
        self.record = ProcessRecord(
            pid=process.pid,
            created=_created(process.pid),
            argv=command.argv,
            stop_signal=command.stops[0][0],
        )
        self.exited = asyncio.ensure_future(process.wait())
        self._log_start = log_start

    @classmethod
    async def start(cls, command: Command) -> "Process":
        """Start the part; on Linux it also dies when this process dies."""
        account = command.account or Account(-1, -1)
        identity = (os.getpid(), int(command.death_signal), account.uid, account.gid)
        child = Path(__file__).with_name("child.py")
        with command.log.open("ab") as log:
            start = log.tell()
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(child), *map(str, identity), *command.argv),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=command.env,
                cwd=command.cwd,
                start_new_session=True,
            )
        return cls(command, process, start)

    async def succeed(self) -> None:
        """Wait for a command that does its work and ends.

        Raises:
            PartFailed: its exit code is not 0.
        """
        try:
            if await asyncio.shield(self.exited) != 0:
                raise self.failure("failed")
        finally:
            await self._kill()

    async def answer(self, answers: Callable[[], Awaitable[bool]], within: float) -> None:
        """Wait until the part listens on its ports and answers.

        Args:
            within: timeout in seconds.

        Raises:
            PartFailed: it ended, or the timeout passed.
        """
        try:
            async with asyncio.timeout(within):
                while not (self._listens() and await answers()):
                    if self.exited.done():
                        raise self.failure("did not come up")
                    await asyncio.sleep(POLL)
        except TimeoutError:
            raise self.failure(f"did not come up within {within:g} s") from None

    async def stop(self, hurry: asyncio.Event) -> None:
        """Send the stop signals one after the other, then kill the session. `hurry` shortens each wait."""
        for number, grace in self.command.stops:
            if self.exited.done():
                break
            self._process.send_signal(number)
            await self._exits_within(grace, hurry)
        await self._kill()

    def failure(self, problem: str) -> PartFailed:
        """The error for a failed start: how the part ended, and the line of its log that most likely says why."""
        lines = self._logged()
        reason = next((line for line in reversed(lines[-5:]) if ERROR_LINE.search(line)), "".join(lines[-1:]))
        kind = PortTaken if any(map(PORT_TAKEN.search, lines)) else PartFailed
        message = f"{problem}{self._ended()}: {reason[:300] or 'its log is empty'}"
        return kind(self.command.name, message, self.command.log, lines[-LAST_LINES:])

    def death(self) -> PartFailed:
        """The error for a part that died after its start: its last log line may not be the cause."""
        return PartFailed(self.command.name, f"died{self._ended()}", self.command.log, self._logged()[-LAST_LINES:])

    def _logged(self) -> list[str]:
        """The last lines that the part logged; none where its log was removed."""
        try:
            with self.command.log.open("rb") as log:
                log.seek(max(self._log_start, self.command.log.stat().st_size - LOG_TAIL))
                text = log.read().decode(errors="replace")
        except OSError:
            return []
        return [line.strip() for line in text.splitlines() if line.strip()]

    def _ended(self) -> str:
        return f": {_ending(self.exited.result())}" if self.exited.done() else ""

    def _listens(self) -> bool:
        """Whether this process itself listens on its ports: another stack may answer there."""
        try:
            sockets = psutil.Process(self.record.pid).net_connections("tcp") if self.command.ports else []
        except psutil.Error:
            return False
        return {socket.laddr.port for socket in sockets if socket.status == psutil.CONN_LISTEN} >= {*self.command.ports}

    async def _kill(self) -> None:
        if not self.exited.done():
            self._process.kill()
        await self.exited
        await end_session(self.record)

    async def _exits_within(self, grace: float, hurry: asyncio.Event) -> None:
        hurried = asyncio.ensure_future(hurry.wait())
        await asyncio.wait({self.exited, hurried}, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
        if not hurried.cancel():
            await asyncio.wait({self.exited}, timeout=min(grace, HURRIED))


def is_alive(record: ProcessRecord) -> bool:
    """Whether the recorded process still runs: another process may have its id now."""
    try:
        process = psutil.Process(record.pid)
        same_age = abs(process.create_time() - record.created) < 2
        same_command = process.cmdline()[-len(record.argv) :] == record.argv
        return same_age and same_command and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


async def end_leftover(record: ProcessRecord) -> None:
    """End a process of an earlier stack, whose parent was killed, and its child processes."""
    if is_alive(record):
        _signal(record.pid, record.stop_signal)
    await until(lambda: not is_alive(record), within=10)
    await end_session(record)


async def end_session(record: ProcessRecord) -> None:
    """Kill the remaining processes of the part's session, and wait until they end."""
    while members := _session(record):
        for pid in members:
            _signal(pid, signal.SIGKILL)
        await asyncio.sleep(POLL)


async def until(condition: Callable[[], bool], within: float) -> bool:
    """Poll a condition for up to `within` seconds; return whether it was met."""
    deadline = asyncio.get_running_loop().time() + within
    while not (met := condition()) and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(POLL)
    return met


def _session(record: ProcessRecord) -> list[int]:
    """The live members of the session that the process led: its id is not reused while it has any."""
    if psutil.pid_exists(record.pid) and not is_alive(record) and not _is_zombie(record.pid):
        return []
    return [pid for pid in psutil.pids() if _session_id(pid) == record.pid and not _is_zombie(pid)]


def _session_id(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _created(pid: int) -> float:
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return 0.0


def _ending(code: int) -> str:
    return f"it exited with code {code}" if code >= 0 else f"it was ended by {signal.Signals(-code).name}"
