"""The spool: paid requests that are sent while the ledger cannot be reached, as files of this machine.

A phone call does not wait for a database that is down. What a request may cost is written before it is sent, within the
spool's cap in dollars; how it ended is written before its answer is used. When the ledger is back, the paid call
(`PaidCalls.book_spooled`) books each file and deletes it.

A file is locked by the process that works on it, so that another one books its attempt only after that process has
ended, however it ended.
"""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import IO
from uuid import UUID

from pydantic import ValidationError

from parley.domain.errors import BudgetExhausted, Unreachable
from parley.domain.model import Model
from parley.domain.pricing import Rates
from parley.domain.requests import Reply
from parley.storage.ledger import Charge, Failure, Offer

SUFFIX = ".jsonl"
LOCK = "lock"

log = logging.getLogger(__name__)


class Outcome(Model):
    """How an attempt ended: with a reply and its cost, or with a failure. `cost_usd`: None where it is not known."""

    reply: Reply | None = None
    cost_usd: Decimal | None = None
    rates: Rates | None = None
    failure: Failure | None = None


class SpooledAttempt(Model):
    """An attempt that was sent without a claim. `outcome`: None while it runs, or if its process ended before it."""

    attempt_id: UUID
    charge: Charge
    fingerprint: str
    offer: Offer
    sent_at: datetime
    outcome: Outcome | None = None


class SpoolFile:
    """The file of one attempt, locked until it is closed. Attribute `spooled`: what it says."""

    def __init__(self, path: Path, opened: IO[bytes], spooled: SpooledAttempt) -> None:
        self._path, self._opened, self.spooled = path, opened, spooled

    def end(self, outcome: Outcome) -> None:
        """Write how the attempt ended.

        Raises:
            OSError: the disk does not take it. The attempt is booked as one that may have cost its upper bound.
        """
        self.spooled = self.spooled.model_copy(update={"outcome": outcome})
        _append(self._opened, self.spooled)

    def delete(self) -> None:
        """Delete it: the ledger has the attempt."""
        self._path.unlink()

    def close(self) -> None:
        """Release its lock."""
        self._opened.close()


class Spool:
    """The spool of a directory. Several processes may use it; its cap is theirs together."""

    def __init__(self, directory: Path, cap_usd: Decimal) -> None:
        """Nothing is created.

        Args:
            directory: for its files only; they are readable by this user alone.
            cap_usd: the most that all attempts of the spool may cost together, by their upper bounds.
        """
        self._directory, self._cap_usd = directory, cap_usd

    def open(self, spooled: SpooledAttempt) -> SpoolFile:
        """Write an attempt to disk, before it is sent.

        Raises:
            BudgetExhausted: it would exceed the spool's cap; nothing was written.
            Unreachable: the directory cannot be written.
        """
        # Names sort by time: attempts are booked in the order in which they were sent.
        name = f"{spooled.sent_at:%Y%m%dT%H%M%S.%f}-{spooled.attempt_id}{SUFFIX}"
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _private(self._directory / LOCK, "wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._check_cap(spooled.offer.upper_bound_usd)
                return self._create(self._directory / name, spooled)
        except OSError as error:
            raise Unreachable(f"the spool cannot be written: {error.strerror}") from error

    def pending(self) -> Iterator[SpoolFile]:
        """The attempts that no process works on, the earliest first. Each is locked until the next one is read."""
        for path in self._paths():
            with suppress(FileNotFoundError, BlockingIOError), path.open("r+b") as opened:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Another process may have booked and deleted it before this one had its lock.
                if path.exists() and (spooled := _read(opened, path)):
                    yield SpoolFile(path, opened, spooled)

    def attempts(self) -> list[SpooledAttempt]:
        """All attempts that the ledger does not have yet, the earliest first."""
        found: list[SpooledAttempt] = []
        for path in self._paths():
            with suppress(FileNotFoundError), path.open("rb") as opened:
                if spooled := _read(opened, path):
                    found.append(spooled)
        return found

    def _paths(self) -> list[Path]:
        return sorted(self._directory.glob(f"*{SUFFIX}"))

    def _check_cap(self, upper_bound_usd: Decimal) -> None:
        left = self._cap_usd - sum((one.offer.upper_bound_usd for one in self.attempts()), Decimal(0))
        if upper_bound_usd > left:
            raise BudgetExhausted(
                f"${left} of the spool's ${self._cap_usd} is left while the ledger is down, and this request may cost "
                f"${upper_bound_usd}"
            )

    def _create(self, path: Path, spooled: SpooledAttempt) -> SpoolFile:
        opened = _private(path, "x+b")
        fcntl.flock(opened, fcntl.LOCK_EX)
        _append(opened, spooled)
        _sync_directory(self._directory)
        return SpoolFile(path, opened, spooled)


def _private(path: Path, mode: str) -> IO[bytes]:
    return open(path, mode, opener=lambda name, flags: os.open(name, flags, 0o600))


def _append(opened: IO[bytes], spooled: SpooledAttempt) -> None:
    """Add a line. The lines before it stay, so that a process that dies while it writes loses only this one."""
    opened.seek(0, os.SEEK_END)
    opened.write(spooled.model_dump_json().encode() + b"\n")
    opened.flush()
    os.fsync(opened.fileno())


def _read(opened: IO[bytes], path: Path) -> SpooledAttempt | None:
    """The last line that is whole."""
    found = None
    for line in opened:
        try:
            found = SpooledAttempt.model_validate_json(line)
        except ValidationError:
            break
    if found is None:
        log.warning("%s has no whole line: its attempt was not sent, or another version of Parley wrote it", path)
    return found


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
