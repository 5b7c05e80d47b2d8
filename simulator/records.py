"""What a simulator remembers: the requests that it received and the completions that it stores.

The request log is what a test compares Parley's ledger with. A request is billed as soon as its reply is computed,
whether or not the reply arrives. A stream is billed up to the last token that was sent before the client left.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from math import ceil
from pathlib import Path
from typing import IO, Any, Literal

from simulator.wire import Reply

RequestState = Literal["in_flight", "answered", "refused", "cut", "gone", "lost"]
Completion = dict[str, Any]
DEFAULT_LIMIT = 20


class JsonLines:
    """An append-only file of JSON lines. Without a path it stores nothing.

    If the process is killed while it writes, the incomplete last line is ignored when the file is read.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def read(self) -> Iterator[dict[str, Any]]:
        if self._path is None or not self._path.exists():
            return
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                yield value

    def open(self) -> None:
        """Open the file for appending, on a new line if the last one is incomplete."""
        if self._path is None:
            return
        is_complete = not self._path.exists() or self._path.read_bytes()[-1:] in (b"", b"\n")
        self._file = self._path.open("a", encoding="utf-8")
        if not is_complete:
            self._file.write("\n")

    def write(self, value: object) -> None:
        if self._file:
            self._file.write(json.dumps(value) + "\n")
            self._file.flush()

    def clear(self) -> None:
        if self._file:
            self._file.truncate(0)

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None


@dataclass
class ReceivedRequest:
    """One HTTP request to a provider's endpoint, or one line of a batch, which costs half.

    `state`: `in_flight`; `answered`; `refused` with an error reply; `cut` by a fault; `gone` if the client closed the
    connection before the whole reply was sent; `lost` if the simulator ended first. Times are Unix time in seconds.
    """

    number: int
    provider: str
    attempt_id: str | None
    received_at: float
    model: str = ""
    stream: bool = False
    batch: bool = False
    state: RequestState = "in_flight"
    status: int | None = None
    fault: str | None = None
    billed: bool = False
    billed_at: float | None = None
    first_token_at: float | None = None
    ended_at: float | None = None
    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    audio_seconds: float = 0.0

    @property
    def request_id(self) -> str:
        """The id that the reply carries in the vendor's own header."""
        return f"req_sim{self.number:08d}"

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"request_id": self.request_id}


class RequestLog:
    """Received requests in order of arrival, in memory and, with a path, in a JSON-lines file.

    The file has one line for each change; the last line of a number is the valid one. A simulator that starts with
    the same file knows what the previous one billed.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._lines = JsonLines(path)
        self._requests = _read_requests(self._lines)
        self._lines.open()
        self._next_number = max(self._requests, default=0) + 1
        self._changed = asyncio.Event()

    def receive(self, provider: str, attempt_id: str | None) -> ReceivedRequest:
        received = ReceivedRequest(self._next_number, provider, attempt_id, time.time())
        self._next_number += 1
        self._requests[received.number] = received
        self._notify()
        return received

    def bill(self, received: ReceivedRequest, reply: Reply) -> None:
        received.billed, received.billed_at = True, time.time()
        received.input_tokens, received.output_tokens = reply.input_tokens, reply.output_tokens
        received.cached_input_tokens, received.cache_write_tokens = reply.cache_read, reply.cache_written
        received.audio_seconds = reply.audio_seconds
        self._write(received)

    def bill_part(self, received: ReceivedRequest, share: float) -> None:
        """Bill so much of the answer, after the whole one was billed."""
        received.output_tokens = ceil(received.output_tokens * share)
        self._write(received)

    def end(self, received: ReceivedRequest, state: RequestState, status: int | None) -> None:
        received.state, received.status, received.ended_at = state, status, time.time()
        self._write(received)

    def select(self, **filters: object) -> list[ReceivedRequest]:
        """Return the requests whose fields equal the filters."""
        return [
            received
            for received in self._requests.values()
            if all(getattr(received, field) == value for field, value in filters.items())
        ]

    async def wait_for(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait until the condition holds. Returns False if it does not hold within `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def reset(self) -> None:
        """Delete all requests. Numbering continues, so that a request in flight never has the number of a new one."""
        self._requests.clear()
        self._lines.clear()
        self._notify()

    def close(self) -> None:
        self._lines.close()

    def _write(self, received: ReceivedRequest) -> None:
        if received.number in self._requests:
            self._lines.write(asdict(received))
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _read_requests(lines: JsonLines) -> dict[int, ReceivedRequest]:
    requests: dict[int, ReceivedRequest] = {}
    for line in lines.read():
        try:
            received = ReceivedRequest(**line)
        except TypeError:
            continue  # not a request
        if received.state == "in_flight":
            received.state = "lost"
        requests[received.number] = received
    return requests


@dataclass(frozen=True)
class StoredQuery:
    """Which stored completions to list. `after`: the id of the last completion on the previous page."""

    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    model: str | None = None
    after: str | None = None
    limit: int = DEFAULT_LIMIT
    descending: bool = False

    def matches(self, completion: Completion) -> bool:
        metadata = completion["metadata"]
        return self.model in (None, completion["model"]) and all(
            metadata.get(name) == value for name, value in self.metadata.items()
        )


class StoredCompletions:
    """Completions requested with `store`, in order of arrival, in memory and, with a path, in a JSON-lines file.

    They can be listed even if their delivery failed.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._lines = JsonLines(path)
        self._completions: dict[str, Completion] = {line["id"]: line for line in self._lines.read() if "id" in line}
        self._lines.open()

    def add(self, completion: Completion) -> None:
        self._completions[completion["id"]] = completion
        self._lines.write(completion)

    def get(self, id_: str) -> Completion | None:
        return self._completions.get(id_)

    def page(self, query: StoredQuery) -> tuple[list[Completion], bool]:
        """Return one page, and whether there are more."""
        found = [completion for completion in self._completions.values() if query.matches(completion)]
        found = found[::-1] if query.descending else found
        ids = [completion["id"] for completion in found]
        start = ids.index(query.after) + 1 if query.after in ids else 0
        return found[start : start + query.limit], len(found) > start + query.limit

    def reset(self) -> None:
        self._completions.clear()
        self._lines.clear()

    def close(self) -> None:
        self._lines.close()
