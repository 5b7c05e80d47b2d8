"""What the agent says in a phone call: it is sent at once, and a voice needs some time to say it."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from parley.domain.phone.frames import Play, Text, ToTwilio
from parley.domain.phone.heard import heard_of, speech_seconds

Send = Callable[[ToTwilio], Awaitable[None]]
# The address of the recording of a text; None: it has none.
Recorded = Callable[[str], str | None]


class Voice:
    """Sends what is said. It knows what was sent since the caller spoke, and about when that has been spoken."""

    def __init__(self, send: Send, recorded: Recorded) -> None:
        self._send, self._recorded, self._clock = send, recorded, asyncio.get_running_loop()
        self._ends_at = 0.0
        self._is_last, self._is_quiet = True, asyncio.Event()
        self.said = ""
        """All that was sent since the caller spoke."""
        self.played = ""
        """What Twilio has reported since then as spoken."""

    def begin(self, said: str = "") -> None:
        """The caller has spoken: what was said before is not interrupted any more. `said`: what was sent since."""
        self.said, self.played = said, ""

    async def say(self, text: str, *, last: bool = False) -> None:
        """Send the next piece. `last`: nothing follows until the caller speaks."""
        if not text and not last:
            return
        self.said += text
        self._is_last = last
        self.expect(text)
        await self._send(Text(token=text, last=last))

    async def say_fixed(self, text: str, *, last: bool = False) -> None:
        """Say a text that no model has made: by its recording, if it has one and begins a sentence."""
        source = None if self.is_open else self._recorded(text)
        if source is None:
            await self.say(f" {text}" if self.said and not self.said.endswith(" ") else text, last=last)
            return
        self.said += f"{text} "
        self.expect(text)
        await self._send(Play(source=source))

    def expect(self, text: str) -> None:
        """A text is spoken that was sent in another way: the greeting."""
        self._ends_at = max(self._ends_at, self._clock.time()) + speech_seconds(text)

    def stopped(self) -> None:
        """The voice has stopped. In the middle of an answer it may only wait for more of it."""
        if self._is_last:
            self._end()

    def was_played(self, text: str) -> None:
        """A part of what was sent has been spoken."""
        self.played += f"{text} "

    def interrupted(self, utterance: str, milliseconds: float) -> str:
        """The caller interrupts. Returns what of the text was heard."""
        self._is_last = True
        self._end()
        return heard_of(self.said, utterance, milliseconds, self.played)

    @property
    def heard_by_now(self) -> str:
        """About what the caller has heard of all that was sent, whole words of it."""
        if not (left := self.seconds_left):
            return self.said
        return heard_of(self.said, "", (speech_seconds(self.said) - left) * 1000)

    @property
    def is_open(self) -> bool:
        """Whether the last sentence that was sent may go on."""
        return not self._is_last

    @property
    def seconds_left(self) -> float:
        """About how long the voice still needs for what was sent."""
        return max(self._ends_at - self._clock.time(), 0.0)

    async def until_spoken(self) -> None:
        """Wait until what was sent has been spoken."""
        self._is_quiet.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(self.seconds_left):
                await self._is_quiet.wait()

    def _end(self) -> None:
        self._ends_at = self._clock.time()
        self._is_quiet.set()
