"""The interface of a vendor's batch API, which answers many requests within a day at a lower price.

A request in a batch is a line, under the id of its attempt. The vendor calls that id `custom_id`.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO, Literal, NamedTuple, Protocol, cast

from parley.domain.errors import ProviderError
from parley.domain.requests import ChatReply, Request

# A listing of a vendor may be long. Batches are listed from the newest on, and no older one is of interest.
LISTED_AT_ONCE = 100


class Limits(NamedTuple):
    """The most that one batch may have."""

    lines: int
    bytes: int


@dataclass(frozen=True)
class Sending:
    """A batch that is to be sent, or was.

    submission_id: ours, for a vendor that keeps it. lines: how many it has. attempt_ids: of some of the lines.
    sent_at: not later than the request that creates it.
    """

    submission_id: str
    lines: int
    attempt_ids: frozenset[str]
    sent_at: datetime


@dataclass(frozen=True)
class BatchStatus:
    """A batch as the vendor reports it.

    state: `rejected` where the vendor has read the file and refuses it, so that no line is answered or billed.
    is_complete: every line was processed; else the batch has expired or was cancelled, and some lines were not.
    """

    state: Literal["working", "ended", "rejected"]
    answered: int = 0
    failed: int = 0
    problem: str = ""
    is_complete: bool = True


@dataclass(frozen=True)
class LineResult:
    """The result of one line: its reply, or the error that it has in place of one. attempt_id: as the vendor gives it.

    Both are None for a line that cannot be read.
    """

    attempt_id: str = ""
    reply: ChatReply | None = None
    error: ProviderError | None = None


class BatchApi(Protocol):
    """The batches of one vendor, with one key."""

    limits: Limits

    def line(self, request: Request, model: str, attempt_id: str) -> bytes:
        """A request as a line of a batch's file, without the line break.

        Raises:
            BadRequest: the vendor has no such requests.
        """
        ...

    async def submit(self, lines: BinaryIO, sending: Sending) -> str:
        """Send a file of lines; returns the vendor's id of the batch.

        Raises:
            ProviderError: it was refused, or it is unknown whether it was accepted.
        """
        ...

    async def find(self, sending: Sending) -> str | None:
        """The vendor's id of a batch that may have been sent before; None if the vendor lists none.

        Raises:
            ProviderUnavailable: a listed batch may be it, and the vendor does not say yet.
            ProviderError: the listing failed.
        """
        ...

    async def status(self, vendor_id: str) -> BatchStatus:
        """Raises: ProviderError."""
        ...

    async def cancel(self, vendor_id: str) -> None:
        """Ask the vendor to stop. What is answered is billed, and is among the results. Does nothing after its end.

        Raises:
            ProviderError: the vendor does not answer.
        """
        ...

    def results(self, vendor_id: str) -> AsyncGenerator[LineResult]:
        """The results of a batch that has ended, in any order, read line by line.

        Raises:
            ProviderError: they cannot be read now.
        """
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


async def lines_in(content: AsyncIterable[bytes]) -> AsyncGenerator[str]:
    """The lines of a file that are not blank, as it arrives.

    Only a line break ends one: `iter_lines` of the SDKs also cuts at U+2028 or U+0085, which a reply may contain.
    """
    rest = b""
    async for part in content:
        *complete, rest = (rest + part).split(b"\n")
        for line in complete:
            if line.strip():
                yield line.decode(errors="replace")
    if rest.strip():
        yield rest.decode(errors="replace")


def read_line(line: str) -> dict[str, Any] | None:
    """A line of results as an object; None if it is not one."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def fields_of(value: object) -> dict[str, Any]:
    """An object, or one without fields in place of anything else."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def text_of(value: object) -> str:
    """A text, or an empty one in place of anything else."""
    return value if isinstance(value, str) else ""
