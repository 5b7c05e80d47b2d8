"""The log of what was received and what was billed: the truth that a ledger is compared with.

A call is billed at the moment its reply has been computed, whether or not the reply then arrives.
"""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

State = Literal["in_flight", "answered", "refused", "cut", "gone", "lost"]


@dataclass
class Call:
    """One request. `gone`: the client left before the whole reply; `lost`: the simulator stopped before."""

    number: int
    provider: str
    attempt_id: str | None
    received_at: float
    model: str = ""
    stream: bool = False
    state: State = "in_flight"
    status: int | None = None
    fault: str | None = None
    billed: bool = False
    billed_at: float | None = None
    ended_at: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    audio_seconds: float = 0.0

    @property
    def request_id(self) -> str:
        return f"req_sim{self.number:08d}"


class CallLog:
    """Calls in order of arrival, kept in memory and, if asked, in a JSON-lines file, where the last line of a
    number holds. A simulator that is started again still knows what its predecessor billed."""

    def __init__(self, path: Path | None = None) -> None:
        self._calls: dict[int, Call] = _load(path) if path else {}
        self._next = max(self._calls, default=0) + 1
        self._file = _open(path) if path else None
        self._changed = asyncio.Event()

    def receive(self, provider: str, attempt_id: str | None) -> Call:
        call = Call(self._next, provider, attempt_id, time.time())
        self._next += 1
        self._calls[call.number] = call
        self._notify()
        return call

    def bill(self, call: Call, *, input_tokens: int, output_tokens: int, audio_seconds: float) -> None:
        call.billed, call.billed_at = True, time.time()
        call.input_tokens, call.output_tokens = input_tokens, output_tokens
        call.audio_seconds = audio_seconds
        self._write(call)

    def end(self, call: Call, state: State, status: int | None) -> None:
        call.state, call.status, call.ended_at = state, status, time.time()
        self._write(call)

    def select(self, **wanted: object) -> list[Call]:
        """The calls whose fields equal those given."""
        return [
            call
            for call in self._calls.values()
            if all(getattr(call, field) == value for field, value in wanted.items())
        ]

    async def wait_for(self, enough: Callable[[], bool], seconds: float) -> bool:
        """Wait until the log satisfies a condition; False if it does not in time."""
        try:
            async with asyncio.timeout(seconds):
                while not enough():
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def reset(self) -> None:
        """Forget all calls. Numbers go on, so that a call in flight is never mistaken for a new one."""
        self._calls.clear()
        if self._file:
            self._file.truncate(0)
        self._notify()

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None

    def _write(self, call: Call) -> None:
        if self._file and call.number in self._calls:
            self._file.write(json.dumps(asdict(call)) + "\n")
            self._file.flush()
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def as_json(call: Call) -> dict[str, Any]:
    return asdict(call) | {"request_id": call.request_id}


def _open(path: Path) -> IO[str]:
    """The file to append to, on a new line whatever a kill has left there."""
    is_whole = not path.exists() or path.read_bytes()[-1:] in (b"", b"\n")
    file = path.open("a", encoding="utf-8")
    if not is_whole:
        file.write("\n")
    return file


def _load(path: Path) -> dict[int, Call]:
    if not path.exists():
        return {}
    calls: dict[int, Call] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        call = _parse(line)
        if call:
            calls[call.number] = call
    return calls


def _parse(line: str) -> Call | None:
    try:
        call = Call(**json.loads(line))
    except (ValueError, TypeError):
        return None  # a line that a kill cut short
    if call.state == "in_flight":
        call.state = "lost"
    return call
