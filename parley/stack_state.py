"""What a state directory holds: the lock of the running stack, its record, and the files of each part."""

import fcntl
import os
import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from parley.domain.errors import InvalidInput, ParleyError

HOST = "127.0.0.1"
DATABASE = "parley"

Record = TypeVar("Record", bound=BaseModel)


@dataclass(frozen=True)
class Addresses:
    """Where a running stack answers. The database URL holds the password, so it is not part of the repr."""

    database_url: str = field(repr=False)
    temporal_address: str
    ui_url: str
    simulator_url: str | None = None


class StackRunning(ParleyError):
    """The state directory belongs to another stack, which is running."""

    def __init__(self, state_dir: Path, pid: int | None, addresses: Addresses | None) -> None:
        self.addresses = addresses
        holder = f"process {pid}" if pid else "another process"
        where = "it is still starting or stopping"
        if addresses:
            where = f"Temporal UI {addresses.ui_url}, Temporal {addresses.temporal_address}"
            where += f", simulator {addresses.simulator_url}" if addresses.simulator_url else ""
        super().__init__(f"a stack is already running in {state_dir} ({holder}): {where}")


class PartFailed(ParleyError):
    """A part of the stack did not come up, or died. `last_lines`: what its log said at the end."""

    def __init__(self, part: str, problem: str, log: Path | None = None, last_lines: Sequence[str] = ()) -> None:
        self.part, self.problem, self.log, self.last_lines = part, problem, log, last_lines
        super().__init__(f"{part} {problem}" + (f" (log: {log})" if log else ""))

    def without_log(self) -> "PartFailed":
        """The same where the log is removed with the stack: its last lines stand in the message."""
        if self.log is None:
            return self
        said = "".join(f"\n  {line}" for line in self.last_lines)
        ending = f"its last log lines were:{said}" if said else "its log is empty"
        return PartFailed(self.part, f"{self.problem}; {ending}", last_lines=self.last_lines)


class ProcessRecord(BaseModel):
    """A process that we started, with what tells it from a later one of the same id."""

    pid: int
    created: float
    argv: list[str]
    stop_signal: int


class StackRecord(BaseModel):
    """The stack in the state directory: what runs now, or ran last."""

    state_dir: Path
    pid: int | None = None
    ready: bool = False
    ports: dict[str, int] = {}
    processes: dict[str, ProcessRecord] = {}


class PostgresRecord(BaseModel):
    """Where PostgreSQL's files are, and the password that it was initialized with."""

    home: Path
    password: str


class StateDir:
    """The paths of one state directory, its lock and its records."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.temporal_db = self.path / "temporal.db"
        self.simulator_log = self.path / "simulator-billed.jsonl"
        self.worker_ready = self.path / "worker-ready"
        self._logs = self.path / "logs"

    def create(self) -> None:
        """Make the directory, or say in one line why it cannot be used."""
        try:
            # As root: PostgreSQL's account has to pass through. What lies here stays unreadable to it.
            self.path.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
            self._logs.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from error

    def log(self, part: str) -> Path:
        """The log file of a part."""
        return self._logs / f"{part.lower()}.log"

    def rotate_logs(self) -> None:
        """Start every log anew, keeping that of the run before."""
        for log in self._logs.glob("*.log"):
            log.replace(log.with_suffix(".previous"))

    def erase(self) -> None:
        """Remove the data, but not the record: ports survive, so that bookmarked addresses live on."""
        for path in self.path.glob(f"{self.temporal_db.name}*"):
            path.unlink()
        self.simulator_log.unlink(missing_ok=True)
        (self.path / "postgres.json").unlink(missing_ok=True)
        shutil.rmtree(self._logs)
        self._logs.mkdir(mode=0o700)

    def try_lock(self) -> int | None:
        """Take the lock, which lives as long as the returned descriptor; None when another stack holds it."""
        try:
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise self._unusable(error) from error
        return descriptor if _locked(descriptor, fcntl.LOCK_EX) else None

    def is_locked(self) -> bool:
        """Whether a stack is running here (or starting, or stopping)."""
        try:
            descriptor = os.open(self.path / "lock", os.O_RDWR)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._unusable(error) from error
        if not _locked(descriptor, fcntl.LOCK_SH):
            return True
        os.close(descriptor)
        return False

    def read_stack(self) -> StackRecord:
        """The stack's record; empty when there is none, or it was copied from another directory."""
        record = _read(self.path / "stack.json", StackRecord)
        here = StackRecord(state_dir=self.path)
        return record if record and record.state_dir == self.path else here

    def write_stack(self, record: StackRecord) -> None:
        """Replace the stack's record."""
        _write(self.path / "stack.json", record)

    def read_postgres(self) -> PostgresRecord | None:
        """PostgreSQL's record, when it was ever initialized."""
        return _read(self.path / "postgres.json", PostgresRecord)

    def write_postgres(self, record: PostgresRecord) -> None:
        """Replace PostgreSQL's record."""
        _write(self.path / "postgres.json", record)

    def _unusable(self, error: OSError) -> InvalidInput:
        return InvalidInput(f"cannot be used as state directory: {error.strerror}", where=str(self.path))


def running_stack(state_dir: Path) -> Addresses | None:
    """The addresses of the stack that runs in the state directory; None when none does, or not yet."""
    state = StateDir(state_dir)
    record, postgres = state.read_stack(), state.read_postgres()
    if not record.ready or postgres is None or not state.is_locked():
        return None
    return addresses_of(record, postgres.password)


def addresses_of(record: StackRecord, password: str) -> Addresses:
    """The addresses that follow from the ports and parts of a stack."""
    ports = record.ports
    return Addresses(
        database_url=f"postgresql://{DATABASE}:{password}@{HOST}:{ports['postgres']}/{DATABASE}",
        temporal_address=f"{HOST}:{ports['temporal']}",
        ui_url=f"http://{HOST}:{ports['ui']}",
        simulator_url=f"http://{HOST}:{ports['simulator']}" if "simulator" in record.processes else None,
    )


def is_private_to_root(path: Path) -> bool:
    """Whether only root can put or replace anything in the directory."""
    info = path.lstat()
    return stat.S_ISDIR(info.st_mode) and info.st_uid == 0 and not info.st_mode & 0o022


def _locked(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    return True


def _read(path: Path, model: type[Record]) -> Record | None:
    try:
        return model.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _write(path: Path, record: BaseModel) -> None:
    """Write in one step, so that a crash leaves the old record or the new one; private from birth."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(record.model_dump_json(indent=2))
    new.replace(path)
