"""The person on the phone: does what a script says, as politely as the script wants."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from simulator.twilio.phone_call import Ended, PhoneCall
from simulator.twilio.script import Script, Step
from simulator.twilio.session import Session

# Seconds: how long a person waits for an answer or for what a script expects, and for more after the agent's last word.
# The first two are times of a server, which a fast clock does not shorten.
ANSWER, EXPECTED, PAUSE = 15.0, 15.0, 0.7
# Steps that may be left when the agent ends the phone call.
OPTIONAL = {"hang up", "wait until quiet", "expect end", "wait"}


class Person:
    """Follows a script in a phone call."""

    def __init__(self, phone_call: PhoneCall, script: Script) -> None:
        self._phone_call, self._script = phone_call, script
        self._log, self._clock = phone_call.log, phone_call.clock
        self._steps: dict[str, Callable[..., Awaitable[None]]] = {
            "say": self._say,
            "partial": self._partial,
            "barge in": self._barge_in,
            "press": self._press,
            "wait": self._wait,
            "wait until quiet": self._wait_until_quiet,
            "expect": self._expect,
            "expect transfer": self._expect_transfer,
            "expect end": self._expect_end,
            "drop": self._drop,
            "malformed": self._malformed,
            "error": self._error,
            "hang up": self._hang_up,
        }

    async def act(self) -> None:
        """Do the steps; hang up after the last one."""
        left = list(self._script.steps)
        try:
            while left:
                step = left[0]
                await self._steps[step.name](**step.arguments)
                left.pop(0)
            await self._hang_up()
        except Ended:
            self._note_left(left)

    def _note_left(self, left: list[Step]) -> None:
        missed = next((step for step in left if step.name not in OPTIONAL), None)
        if missed is not None:
            self._log.note("error", text=f"the phone call was over before the step: {missed.line}")

    # Steps

    async def _say(self, text: str, *, at_once: bool) -> None:
        session = await self._phone_call.session() if at_once else await self._quiet()
        await session.say(text)

    async def _partial(self, text: str) -> None:
        (await self._phone_call.session()).partial(text)

    async def _barge_in(self, text: str, seconds: float | None) -> None:
        session = await self._phone_call.session()
        if not seconds:
            heard = await self._until(lambda one: one.voice.is_busy, self._server_time(ANSWER))
        else:
            heard = await self._until(_is_heard, self._server_time(ANSWER))
            await self._clock.sleep(seconds)
        session = await self._phone_call.session()
        if heard and not session.voice.is_busy:
            self._log.note("warning", text="the answer was over before the caller could interrupt it")
        await session.say(text)

    async def _press(self, keys: str, *, at_once: bool) -> None:
        session = await self._phone_call.session() if at_once else await self._quiet()
        await session.press(keys)

    async def _wait(self, seconds: float) -> None:
        await self._phone_call.session()
        await self._until_over(lambda: False, seconds)

    async def _wait_until_quiet(self) -> None:
        await self._quiet()

    async def _expect(self, text: str, seconds: float | None) -> None:
        def is_said(_: Session | None = None) -> bool:
            return _plain(text) in _plain(self._answer())

        try:
            came = await self._until(is_said, self._server_time(seconds or EXPECTED))
        except Ended:
            came = is_said()
        self._note_expected(text, came=came)

    async def _expect_transfer(self) -> None:
        over = self._server_time(EXPECTED)
        await self._until_over(lambda: self._phone_call.transferred_to is not None, over)
        self._note_expected("transfer", came=self._phone_call.transferred_to is not None)

    async def _expect_end(self) -> None:
        await self._until_over(lambda: self._phone_call.is_over, self._server_time(EXPECTED))
        self._note_expected("end", came=self._phone_call.is_over)

    async def _drop(self) -> None:
        (await self._phone_call.session()).drop()

    async def _malformed(self) -> None:
        (await self._phone_call.session()).send_malformed()

    async def _error(self, text: str) -> None:
        (await self._phone_call.session()).report_error(text)

    async def _hang_up(self) -> None:
        await self._clock.sleep(PAUSE)
        self._phone_call.hang_up()

    # Waiting

    async def _quiet(self) -> Session:
        """Wait until the agent has answered and is silent for a moment."""
        answered = await self._until(lambda session: not session.awaits_answer, self._server_time(ANSWER))
        if not answered:
            self._log.note("error", text=f"no answer within {ANSWER:g} s")
        while await self._until_silent():
            if not await self._until(lambda session: session.voice.is_busy, PAUSE):
                break
        return await self._phone_call.session()

    async def _until_silent(self) -> bool:
        """Wait until the agent has said what it sent. Returns False if nothing comes any more, and it has not ended."""
        while (session := await self._phone_call.session()).voice.is_busy:
            if await self._next_change(session.changed, self._server_time(ANSWER)):
                continue
            if session.voice.is_incomplete:
                self._log.note("error", text=f"an answer is not complete: for {ANSWER:g} s no text came, and no `last`")
            return False
        return True

    async def _until(self, condition: Callable[[Session], bool], seconds: float) -> bool:
        """Wait for a condition, also over the end of a session. Returns False after `seconds`.

        Raises:
            Ended: the phone call is over.
        """
        until = self._clock.now() + seconds
        while not condition(session := await self._phone_call.session()):
            left = until - self._clock.now()
            if left <= 0:
                return False
            await self._next_change(session.changed, left)
        return True

    async def _until_over(self, condition: Callable[[], Any], seconds: float) -> None:
        """Wait for a condition, the end of the phone call, or so many seconds."""
        until = self._clock.now() + seconds
        while not condition() and not self._phone_call.is_over and (left := until - self._clock.now()) > 0:
            await self._next_change(self._phone_call.changed, left)

    def _server_time(self, seconds: float) -> float:
        """The seconds of the phone call's clock in which a server has so many seconds."""
        return seconds * self._clock.speed

    async def _next_change(self, changed: asyncio.Event, seconds: float) -> bool:
        changed.clear()
        try:
            async with asyncio.timeout(seconds / self._clock.speed):
                return await changed.wait()
        except TimeoutError:
            return False

    def _answer(self) -> str:
        """What the agent has sent since the caller's last words."""
        pieces: list[str] = []
        for event in reversed(self._log.events):
            if event.kind == "said":
                break
            if event.kind in {"text", "greeting"}:
                pieces.append(event.details.get("token") or event.details.get("text", ""))
        return "".join(reversed(pieces))

    def _note_expected(self, text: str, *, came: bool) -> None:
        self._log.note("expected", text=text, came=came)
        if not came:
            self._log.note("error", text=f"expected {text!r}, and it did not come: {self._answer()[-200:]!r}")


def _is_heard(session: Session) -> bool:
    current = session.voice.current
    return current is not None and current.began is not None


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
