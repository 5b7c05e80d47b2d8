"""The state directory of an embedded stack: its lock, its records, and the files of each part."""

import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from parley.codec import EncryptionCodec, new_keys
from parley.connection import Addresses, addresses_file, lock_file, logs_dir, try_lock
from parley.domain.errors import ErrorKind, InvalidInput, ParleyError

HOST = "127.0.0.1"
DATABASE = "parley"

Record = TypeVar("Record", bound=BaseModel)


class StackRunning(ParleyError):
    """Another stack runs with this state directory."""

    kind = ErrorKind.CONFLICT

    def __init__(self, state_dir: Path, pid: int | None, addresses: Addresses | None) -> None:
        self.addresses = addresses
        holder = f"process {pid}" if pid else "another process"
        where = "it is still starting or stopping"
        if addresses:
            where = f"Temporal UI {addresses.ui_url}, Temporal {addresses.temporal_address}"
            where += f", simulator {addresses.simulator_url}" if addresses.simulator_url else ""
            where += f", gateway {addresses.gateway_url}" if addresses.gateway_url else ""
        advice = "`parley down` stops it; with another PARLEY_STATE_DIR another one runs beside it"
        super().__init__(f"a stack is already running in {state_dir} ({holder}): {where}. {advice}")


class PartFailed(ParleyError):
    """A part of the stack did not start, or died. `last_lines`: the end of its log."""

    kind = ErrorKind.UNAVAILABLE

    def __init__(self, part: str, problem: str, log: Path | None = None, last_lines: Sequence[str] = ()) -> None:
        self.part, self.problem, self.log, self.last_lines = part, problem, log, last_lines
        super().__init__(f"{part} {problem}" + (f" (log: {log})" if log else ""))

    def without_log(self) -> "PartFailed":
        """The same error with the last lines of the log in its message, for a log that is removed with the stack."""
        if self.log is None:
            return self
        lines = "".join(f"\n  {line}" for line in self.last_lines)
        ending = f"its last log lines were:{lines}" if lines else "its log is empty"
        return PartFailed(self.part, f"{self.problem}; {ending}", last_lines=self.last_lines)


class ProcessRecord(BaseModel):
    """A process of the stack; `created` and `argv` distinguish it from a later process with the same id."""

    pid: int
    created: float
    argv: list[str]
    stop_signal: int


class StackRecord(BaseModel):
    """The stack of the state directory that runs now, or ran last."""

    state_dir: Path
    pid: int | None = None
    ports: dict[str, int] = {}
    processes: dict[str, ProcessRecord] = {}


class PostgresRecord(BaseModel):
    """Where PostgreSQL's files are, and the password of its initialization."""

    home: Path
    password: str


class StateDir:
    """The paths of one state directory, its lock and its records."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.temporal_db = self.path / "temporal.db"
        self.simulator_log = self.path / "simulator-billed.jsonl"
        self.worker_ready = self.path / "worker-ready"
        self._codec_keys = self.path / "codec-keys"
        self._gateway_key = self.path / "gateway.key"
        self._twilio_token = self.path / "twilio.token"
        self._logs = logs_dir(self.path)

    def create(self) -> None:
        """Create the directory.

        Raises:
            InvalidInput: it cannot be used.
        """
        try:
            # As root: PostgreSQL's account must pass through the directory, but cannot read the files in it.
            self.path.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
            self._logs.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from error

    def log(self, part: str) -> Path:
        """The log file of a part."""
        return self._logs / f"{part.lower()}.log"

    def rotate_logs(self) -> None:
        """Start with empty logs; rename those of the last run to `.previous`."""
        for log in self._logs.glob("*.log"):
            log.replace(log.with_suffix(".previous"))

    def erase(self) -> None:
        """Remove the data, but not the record: the ports stay the same, so that bookmarked addresses work."""
        for path in self.path.glob(f"{self.temporal_db.name}*"):
            path.unlink()
        for path in self.path.glob(f"{self.simulator_log.stem}*"):
            path.unlink()
        # Its requests belong to the ledger that is erased.
        shutil.rmtree(self.path / "spool", ignore_errors=True)
        (self.path / "postgres.json").unlink(missing_ok=True)
        self._codec_keys.unlink(missing_ok=True)
        shutil.rmtree(self._logs)
        self._logs.mkdir(mode=0o700)

    def try_lock(self) -> int | None:
        """Take the lock, held until the returned descriptor is closed; None when another process holds it."""
        try:
            descriptor = os.open(lock_file(self.path), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise self._unusable(error) from error
        if not try_lock(descriptor, fcntl.LOCK_EX):
            return None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())  # for `parley down`
        return descriptor

    def read_stack(self) -> StackRecord:
        """The stack's record; empty when there is none, or when it was copied from another directory."""
        record = _read(self.path / "stack.json", StackRecord)
        here = StackRecord(state_dir=self.path)
        return record if record and record.state_dir == self.path else here

    def write_stack(self, record: StackRecord) -> None:
        """Replace the stack's record."""
        _write(self.path / "stack.json", record.model_dump_json(indent=2).encode())

    def publish(self, addresses: Addresses) -> None:
        """Write the addresses, so that clients on this machine find the stack."""
        _write(addresses_file(self.path), TypeAdapter(Addresses).dump_json(addresses, indent=2))

    def withdraw(self) -> None:
        """Remove the addresses: clients can no longer find the stack."""
        addresses_file(self.path).unlink(missing_ok=True)

    def read_postgres(self) -> PostgresRecord | None:
        """PostgreSQL's record; None before its initialization."""
        return _read(self.path / "postgres.json", PostgresRecord)

    def write_postgres(self, record: PostgresRecord) -> None:
        """Replace PostgreSQL's record."""
        _write(self.path / "postgres.json", record.model_dump_json(indent=2).encode())

    def codec_keys(self) -> str:
        """The keys that encrypt payloads, made by the first start. The owner may add a newer one in front.

        Raises:
            InvalidInput: the file cannot be read, or its keys are not valid.
        """
        try:
            keys = self._codec_keys.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            keys = new_keys()
            _write(self._codec_keys, keys.encode())
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput("cannot be read", where=str(self._codec_keys)) from error
        try:
            EncryptionCodec(keys)
        except InvalidInput as error:
            raise InvalidInput(error.problem, where=str(self._codec_keys)) from None
        return keys

    def twilio_token(self) -> str:
        """The auth token of the simulated Twilio account, made by the first start."""
        try:
            token = self._twilio_token.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            token = ""
        if not token:
            token = secrets.token_hex(16)
            _write(self._twilio_token, token.encode())
        return token

    def read_gateway_key(self) -> str | None:
        """The development key of the gateway; None before there is one."""
        try:
            return self._gateway_key.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return None

    def write_gateway_key(self, secret: str) -> None:
        """Replace the development key of the gateway."""
        _write(self._gateway_key, f"{secret}\n".encode())

    def _unusable(self, error: OSError) -> InvalidInput:
        return InvalidInput(f"cannot be used as state directory: {error.strerror}", where=str(self.path))


def addresses_of(record: StackRecord, password: str, codec_keys: str) -> Addresses:
    """The addresses that follow from the ports and parts of a stack."""
    ports = record.ports
    return Addresses(
        database_url=f"postgresql://{DATABASE}:{password}@{HOST}:{ports['postgres']}/{DATABASE}",
        codec_keys=codec_keys,
        temporal_address=f"{HOST}:{ports['temporal']}",
        ui_url=f"http://{HOST}:{ports['ui']}",
        simulator_url=f"http://{HOST}:{ports['simulator']}" if "simulator" in record.processes else None,
        gateway_url=f"http://{HOST}:{ports['gateway']}" if "gateway" in record.processes else None,
    )


def is_private_to_root(path: Path) -> bool:
    """Whether only root can create or replace files in the directory."""
    info = path.lstat()
    return stat.S_ISDIR(info.st_mode) and info.st_uid == 0 and not info.st_mode & 0o022


def _read(path: Path, model: type[Record]) -> Record | None:
    try:
        return model.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _write(path: Path, content: bytes) -> None:
    """Write in one step, so that a crash leaves the old file or the new one. Only the owner can read it."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    new.replace(path)
