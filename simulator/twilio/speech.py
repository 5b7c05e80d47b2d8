"""The voice: texts become speech in time, word by word, and stop at an interruption."""

import asyncio
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from simulator.twilio.clock import Clock

WORD = re.compile(r"\s*\S+")
# Where a voice takes a breath: what was played is reported up to there, and an interruption counts from there.
SEGMENT_END = re.compile(r"[.!?:;][\"')\]]*$")
PLAY_SECONDS, DIGIT_SECONDS = 2.0, 0.38
# The shortest silence in the middle of an answer that a caller notices.
GAP_SECONDS = 0.5


@dataclass(frozen=True)
class VoiceSettings:
    """How the voice speaks.

    characters_per_second: its speed. latency: seconds from a text to its sound.
    """

    characters_per_second: float = 15.0
    latency: float = 0.3


@dataclass(frozen=True)
class Heard:
    """What an interruption reports: the words since the last breath, and for how many seconds they were spoken."""

    text: str
    seconds: float


@dataclass
class Item:
    """One thing in the queue of the voice: a text, a recording or keys.

    Attributes:
        kind: `text`, `greeting`, `play` or `digits`.
        interruptible: what stops it: `any`, `speech`, `dtmf` or `none`.
        preemptible: whether a later item stops it.
        is_open: whether more text may come.
        turn: the number of the caller's turn that it answers; 0 before the first one.
        heard: what was spoken.
    """

    kind: str
    interruptible: str
    preemptible: bool = False
    is_open: bool = False
    turn: int = 0
    seconds: float = 0.0
    rest: str = ""
    heard: str = ""
    began: float | None = None
    segment: str = ""
    segment_began: float = 0.0
    quiet_since: float = 0.0
    arrivals: deque[tuple[int, float]] = field(default_factory=deque)
    received: int = 0
    taken: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, token: str, now: float) -> None:
        self.rest += token
        self.received += len(token)
        self.arrivals.append((self.received, now))
        self.changed.set()

    def close(self) -> None:
        self.is_open = False
        self.changed.set()

    def next_word(self) -> tuple[str, float] | None:
        """The next complete word and when its last character arrived. A word is complete when another text follows."""
        match = WORD.match(self.rest)
        if match is None:
            return None
        word = match.group()
        if self.is_open and len(word) == len(self.rest) and not SEGMENT_END.search(word):
            return None
        return word, self._arrival(self.taken + len(word))

    def _arrival(self, position: int) -> float:
        return next((at for end, at in self.arrivals if end >= position), self.arrivals[-1][1])

    def take(self, word: str) -> None:
        """Note that a word was spoken."""
        self.rest = self.rest[len(word) :]
        self.taken += len(word)
        while self.arrivals and self.arrivals[0][0] <= self.taken:
            self.arrivals.popleft()
        self.heard += word
        self.segment += word

    def stops_for(self, by: str) -> bool:
        return self.interruptible in {"any", by}


class Voice:
    """Speaks the queue of one session. `on_event(name, **details)` is called for what happens:

    speaking (item), word (item, word), played (text), gap (item, seconds), finished (item), quiet ().
    """

    def __init__(self, clock: Clock, settings: VoiceSettings, on_event: Callable[..., None]) -> None:
        self._clock, self._settings, self._on_event = clock, settings, on_event
        self._queue: deque[Item] = deque()
        self._current: Item | None = None
        self._speaking: asyncio.Task[None] | None = None
        self._added = asyncio.Event()
        self._open: Item | None = None
        self._is_dropping = False
        self.turn = 0

    async def run(self) -> None:
        """Speak until cancelled."""
        try:
            while True:
                await self._speak_next()
        finally:
            if self._speaking:
                self._speaking.cancel()

    async def _speak_next(self) -> None:
        while not self._queue:
            self._added.clear()
            await self._added.wait()
        self._current = self._queue.popleft()
        self._speaking = asyncio.create_task(self._say(self._current))
        await asyncio.wait({self._speaking})
        if not self._speaking.cancelled():
            self._speaking.result()
        item, self._current, self._speaking = self._current, None, None
        self._on_event("finished", item=item)
        if not self._queue:
            self._on_event("quiet")

    # What the server sends

    def say(self, token: str, *, last: bool, interruptible: str, preemptible: bool, kind: str = "text") -> Item | None:
        """Add a piece of text to the open item, or to a new one.

        Returns None if it belongs to an answer that was interrupted: it is not spoken.
        """
        if self._is_dropping:
            self._is_dropping = not last
            return None
        if self._open is None:
            self._open = Item(kind, interruptible, preemptible, is_open=True)
            self.add(self._open)
        item = self._open
        item.add(token, self._clock.now())
        if last:
            item.close()
            self._open = None
        return item

    def add(self, item: Item) -> None:
        """Queue an item; one that is preemptible, and is spoken now, stops for it."""
        item.turn = self.turn
        self._queue.append(item)
        self._added.set()
        if self._current is not None and self._current.preemptible:
            self._stop()

    # What the caller does

    def interrupt(self, by: str) -> Heard | None:
        """Stop and forget what may be interrupted `by` speech or dtmf. None: nothing was stopped."""
        item = self._current or (self._queue[0] if self._queue else None)
        if item is None or not item.stops_for(by):
            return None
        heard = self._heard_of(item)
        self._queue = deque(waiting for waiting in self._queue if not waiting.stops_for(by))
        if self._open is not None and self._open.stops_for(by):
            self._open, self._is_dropping = None, True
        self._stop()
        return heard

    def begin_turn(self, number: int) -> None:
        """The caller has said something: what comes from now on answers it."""
        self.turn = number
        self._is_dropping = False

    @property
    def current(self) -> Item | None:
        return self._current

    @property
    def is_busy(self) -> bool:
        """Whether something is spoken, waits to be spoken, or is not yet complete."""
        return self._current is not None or bool(self._queue) or self._open is not None

    @property
    def is_incomplete(self) -> bool:
        """Whether an answer waits for its `last`."""
        return self._open is not None

    @property
    def unspoken(self) -> str:
        """The text that was received and not yet spoken."""
        return "".join(item.rest for item in self._items())

    def _items(self) -> Iterator[Item]:
        if self._current is not None:
            yield self._current
        yield from self._queue

    def _heard_of(self, item: Item) -> Heard:
        if item.began is None:
            return Heard("", 0.0)
        return Heard(item.segment.strip(), max(0.0, self._clock.now() - item.segment_began))

    def _stop(self) -> None:
        if self._current is not None and self._current.segment:
            self._on_event("played", text=self._current.segment)
        if self._speaking is not None:
            self._speaking.cancel()

    async def _say(self, item: Item) -> None:
        if item.kind in {"play", "digits"}:
            self._begin(item, self._clock.now())
            await self._clock.sleep(item.seconds)
            self._on_event("played", text=item.rest)
            return
        while item.is_open or item.rest.strip():
            found = item.next_word()
            if found is None:
                item.changed.clear()
                await item.changed.wait()
                continue
            await self._say_word(item, *found)
        self._end_segment(item)

    async def _say_word(self, item: Item, word: str, arrived: float) -> None:
        """Speak a word when its sound can be there, and the word before it is over.

        Times are computed, not measured, so that a busy machine does not change what is heard.
        """
        start = max(arrived + self._settings.latency, item.quiet_since)
        await self._clock.sleep_until(start)
        if item.began is None:
            self._begin(item, start)
        gap = start - item.quiet_since
        if gap >= GAP_SECONDS:
            self._on_event("gap", item=item, seconds=gap)
        if not item.segment:
            item.segment_began = start
        end = start + len(word) / self._settings.characters_per_second
        await self._clock.sleep_until(end)
        item.take(word)
        item.quiet_since = end
        self._on_event("word", item=item, word=word)
        if SEGMENT_END.search(word) and item.kind != "greeting":
            self._end_segment(item)

    def _begin(self, item: Item, start: float) -> None:
        item.began = item.segment_began = item.quiet_since = start
        self._on_event("speaking", item=item)

    def _end_segment(self, item: Item) -> None:
        if item.segment:
            self._on_event("played", text=item.segment)
        item.segment = ""
