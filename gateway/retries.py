"""Which request an SDK repeats: SDKs repeat requests by themselves, and without an idempotency key."""

import time
from collections import OrderedDict
from dataclasses import dataclass, field
from uuid import uuid4

# An SDK repeats within seconds of an error, and at once after its own timeout, which is ten minutes.
WINDOW_SECONDS = 900.0
MOST_BODIES = 10_000


@dataclass
class _Sent:
    """The requests with one body that may be repeated, by their keys: the oldest first. A key is in one of both.

    open: the keys whose answers are awaited, with the number of connections that do. undelivered: the other keys.
    """

    open: dict[str, int] = field(default_factory=dict[str, int])
    undelivered: list[str] = field(default_factory=list[str])
    used_at: float = 0.0


class Retries:
    """The keys of requests that had none, while a repetition may come.

    Two equal requests that no SDK repeats are two generations. A repetition joins one whose response did not reach
    its caller, and only where there is none, one that still runs: its connection may have broken unseen.

    joined: how many repetitions joined a request.
    """

    def __init__(self) -> None:
        self._sent: OrderedDict[str, _Sent] = OrderedDict()
        self.joined = 0

    def begin(self, body: str, *, is_retry: bool) -> str:
        """The key of a request. `body`: a hash of what is sent, with the caller's key."""
        sent = self._sent.setdefault(body, _Sent())
        sent.used_at = time.monotonic()
        self._sent.move_to_end(body)
        self._forget()
        joined = next(iter(sent.undelivered or sent.open), None) if is_retry else None
        self.joined += joined is not None
        key = joined or uuid4().hex
        if key in sent.undelivered:
            sent.undelivered.remove(key)
        # The last of the open ones: the next repetition joins another.
        sent.open[key] = sent.open.pop(key, 0) + 1
        return key

    def end(self, body: str, key: str, *, is_delivered: bool) -> None:
        """Note the end of a request. A delivered one is not repeated, whatever other connections awaited its answer."""
        sent = self._sent.get(body)
        if sent is None or key not in sent.open:
            return
        sent.open[key] -= 1
        if is_delivered or not sent.open[key]:
            del sent.open[key]
            if not is_delivered:
                sent.undelivered.append(key)
        if not sent.open and not sent.undelivered:
            del self._sent[body]

    def _forget(self) -> None:
        """Forget the bodies that are too old, and the oldest where there are too many."""
        oldest = time.monotonic() - WINDOW_SECONDS
        while self._sent:
            body, sent = next(iter(self._sent.items()))
            if len(self._sent) <= MOST_BODIES and sent.used_at >= oldest:
                return
            del self._sent[body]
