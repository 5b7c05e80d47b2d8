"""The log of what was received and what was billed: the truth that a ledger is compared with.

A call is billed at the moment its reply has been computed, whether or not the reply then arrives.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from simulator.lines import JsonLines

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
        self._lines = JsonLines(path)
        self._calls = _load(self._lines)
        self._lines.open()
        self._next = max(self._calls, default=0) + 1
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
        self._lines.clear()
        self._notify()

    def close(self) -> None:
        self._lines.close()

    def _write(self, call: Call) -> None:
        if call.number in self._calls:
            self._lines.write(asdict(call))
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def as_json(call: Call) -> dict[str, Any]:
    return asdict(call) | {"request_id": call.request_id}


def _load(lines: JsonLines) -> dict[int, Call]:
    calls: dict[int, Call] = {}
    for line in lines.read():
        try:
            call = Call(**line)
        except TypeError:
            continue  # not a call
        if call.state == "in_flight":
            call.state = "lost"
        calls[call.number] = call
    return calls
