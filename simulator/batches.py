"""The vendors' batch APIs: files of requests that are answered later, at half price.

A batch is due `Config.batch_seconds` after it was created. It is computed, and billed, when a client first asks for it
after that. Nothing is kept on disk.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from simulator.state import State
from simulator.wire import Refusal, Vendor

# How a line ended.
Outcome = Literal["answered", "refused", "expired", "cancelled"]


@dataclass(frozen=True)
class Line:
    """A request of a batch, under the id that the client gave it."""

    custom_id: str
    body: dict[str, Any]


@dataclass(frozen=True)
class Result:
    """The reply to a line, or the vendor's error of a line that was refused."""

    line: Line
    outcome: Outcome
    status: int = 0
    body: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass
class Batch:
    """A batch. `fault`: what goes wrong with it. `problem`: why its file is refused. Times are Unix time in seconds.

    `results` is None until it has ended.
    """

    id: str
    lines: Sequence[Line]
    created_at: float
    fault: str = ""
    problem: dict[str, Any] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    file_id: str = ""
    cancelled: bool = False
    results: list[Result] | None = None
    ended_at: float | None = None

    def count(self, *outcomes: Outcome) -> int:
        return sum(result.outcome in outcomes for result in self.results or ())

    @property
    def is_expired(self) -> bool:
        return self.count("expired") > 0


class Batches:
    """The batches of one vendor."""

    def __init__(self, vendor: Vendor, state: State, prefix: str, parse: Callable[[Mapping[str, Any]], Any]) -> None:
        """`parse`: reads the body of one request, and raises Refusal as its own endpoint does."""
        self._vendor, self._state, self._prefix, self._parse = vendor, state, prefix, parse

    @property
    def _batches(self) -> dict[str, Batch]:
        return self._state.batches[self._vendor.name]

    def create(self, lines: Sequence[Line], fault: str, **more: Any) -> Batch:
        """Add a batch. `fault`: the name of what goes wrong with it; empty for nothing."""
        number = next(self._state.batch_numbers)
        batch = Batch(f"{self._prefix}sim{number:08d}", lines, time.time(), fault, **more)
        self._batches[batch.id] = batch
        return batch

    async def listed(self) -> list[Batch]:
        """All batches as they are now, the newest first."""
        return [await self.get(id_) for id_ in reversed(list(self._batches))]

    async def get(self, id_: str) -> Batch:
        """A batch as it is now."""
        batch = self._batches.get(id_)
        if batch is None:
            raise Refusal("not_found", f"No batch with the id '{id_}' was found.")
        due = batch.created_at + self._state.batch_seconds
        if batch.results is None and batch.problem is None and (batch.cancelled or time.time() >= due):
            await self._end(batch)
        return batch

    async def cancel(self, id_: str) -> Batch:
        """Stop a batch. The lines that a fault lets it answer before are answered."""
        batch = await self.get(id_)
        if batch.results is not None or batch.problem is not None:
            raise Refusal("bad_request", f"Batch {id_} has ended and cannot be cancelled.")
        batch.cancelled = True
        return await self.get(id_)

    async def _end(self, batch: Batch) -> None:
        batch.results = []  # a second request does not end it again
        done = self._processed(batch)
        results = [await self._answer(line) for line in batch.lines[:done]]
        left: Outcome = "cancelled" if batch.cancelled else "expired"
        results += [Result(line, left) for line in batch.lines[done:]]
        if batch.fault == "batch_missing":
            del results[-1]
        batch.results, batch.ended_at = results, time.time()

    def _processed(self, batch: Batch) -> int:
        """How many lines it processes before it ends."""
        if batch.fault == "batch_half":
            return len(batch.lines) // 2
        return 0 if batch.cancelled or batch.fault == "batch_expired" else len(batch.lines)

    async def _answer(self, line: Line) -> Result:
        log = self._state.requests
        received = log.receive(self._vendor.name, line.custom_id)
        received.batch = True
        try:
            parsed = self._parse(line.body)
            received.model = parsed.model
            reply = await self._vendor.answer(parsed, received.number, "")
        except Refusal as refusal:
            status, body = self._vendor.error(refusal, received.request_id)
            log.end(received, "refused", status)
            return Result(line, "refused", status, dict(body) if isinstance(body, dict) else {})
        log.bill(received, reply)
        log.end(received, "answered", 200)
        return Result(line, "answered", 200, json.loads(reply.body.parts[0]))


def as_json_lines(batch: Batch, lines: Sequence[Mapping[str, Any]]) -> bytes:
    """The lines of a file of results. With the fault `batch_odd_lines` one comes twice, and two are of no use."""
    texts = [json.dumps(line, ensure_ascii=False) for line in lines]
    if batch.fault == "batch_odd_lines" and lines:
        unknown = {**lines[0], "custom_id": "00000000-0000-0000-0000-000000000000"}
        texts += [texts[0], json.dumps(unknown), "this is not JSON"]
    return "".join(f"{text}\n" for text in texts).encode()


def page_of(batches: Sequence[Batch], after: str | None, limit: int) -> tuple[list[Batch], bool]:
    """A page of a list, after the batch with an id, and whether more follow."""
    ids = [batch.id for batch in batches]
    start = ids.index(after) + 1 if after in ids else 0
    return list(batches[start : start + limit]), len(batches) > start + limit


def as_time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()
