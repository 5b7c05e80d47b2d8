"""One session of ConversationRelay: frames come in, each is checked, and the talk takes it."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from gateway.phone.calls import KnownNumber, OpenCall, PhoneCalls
from gateway.phone.talk import Talk
from parley.client.phone import new_call
from parley.correlation import CORRELATION_ID, correlation
from parley.domain.errors import Unreachable
from parley.domain.phone.frames import (
    MOST_MALFORMED,
    MalformedFrame,
    Setup,
    ToTwilio,
    TwilioFrame,
    read_frame,
)
from parley.domain.phone.settings import masked

# The first frame comes at once. Frames that overtake it wait for it.
SETUP_SECONDS = 10.0
MOST_EARLY = 50
# Codes of a close: too many malformed frames; what is not a session; a phone call that this gateway cannot hold.
MALFORMED, NO_SESSION, UNKNOWN, RESTARTING = 1007, 1002, 1008, 1012
# How long a process that ends waits for the end of an answer.
LAST_WORDS_SECONDS = 15.0

log = logging.getLogger("parley.gateway.phone")


class PhoneSession:
    """Holds a session on a socket that Twilio has opened."""

    def __init__(self, calls: PhoneCalls, socket: WebSocket, public_url: str = "") -> None:
        """`public_url`: of the gateway, from which Twilio fetches recordings; empty: the other end plays none."""
        self._calls, self._socket, self._public_url = calls, socket, public_url
        self._malformed = 0
        self._sending = asyncio.Lock()

    async def run(self) -> None:
        """Hold the session until either side ends it."""
        try:
            setup, early = await self._until_setup()
        except (WebSocketDisconnect, TimeoutError, _TooManyMalformed):
            await self._close(NO_SESSION)
            return
        correlation.set({**correlation.get(), CORRELATION_ID: setup.call_sid})
        found = await self._find(setup)
        if found is None:
            log.warning("%s: no workspace has the number %s", setup.call_sid, masked(setup.to))
            await self._close(UNKNOWN)
            return
        with self._calls.session():
            await self._hold(await self._joined(*found), setup, early)

    async def _hold(self, call: OpenCall, setup: Setup, early: list[TwilioFrame]) -> None:
        call.public_url = self._public_url
        talk, code = Talk(self._calls, call, self._send), 1000
        draining = asyncio.ensure_future(self._leave_when_draining(talk))
        self._calls.report_connected(call, setup.session_id)
        log.info("%s: session %s begins%s", call.call_sid, setup.session_id, " again" if call.is_resumed else "")
        try:
            await talk.begin()
            for frame in early:
                await talk.take(frame)
            async for frame in self._frames():
                await talk.take(frame)
        except _TooManyMalformed:
            code = MALFORMED
        except (WebSocketDisconnect, ConnectionError):
            pass
        finally:
            draining.cancel()
            await asyncio.shield(self._leave(talk, call, setup.session_id, code))

    async def _leave_when_draining(self, talk: Talk) -> None:
        """Leave the session to another gateway, after the answer that is being spoken."""
        await self._calls.draining.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_SECONDS):
                await talk.until_quiet()
        await self._close(RESTARTING)

    async def _leave(self, talk: Talk, call: OpenCall, session_id: str, code: int) -> None:
        await talk.close()
        self._calls.report_left(call, session_id)
        log.info("%s: session %s is over", call.call_sid, session_id)
        await self._close(code)

    async def _find(self, setup: Setup) -> tuple[KnownNumber, dict[str, Any]] | None:
        is_inbound = not setup.direction.startswith("outbound")
        number, caller = (setup.to, setup.from_) if is_inbound else (setup.from_, setup.to)
        try:
            known = await self._calls.number(number)
        except Unreachable:
            return None
        if known is None:
            return None
        return known, {
            "caller": caller,
            "number": number,
            "call_sid": setup.call_sid,
            "direction": "inbound" if is_inbound else "outbound",
            "parent_call_sid": setup.parent_call_sid,
            "forwarded_from": setup.forwarded_from,
            "caller_name": setup.caller_name,
            "account_sid": setup.account_sid,
            "parameters": {name: str(value) for name, value in setup.custom_parameters.items()},
        }

    async def _joined(self, known: KnownNumber, described: dict[str, Any]) -> OpenCall:
        call = new_call(known.workspace_id, settings=known.settings, **described)
        try:
            return await self._calls.join(known, call)
        except Unreachable:
            log.warning("%s: PostgreSQL does not answer: the phone call goes on unrecorded", call.call_sid)
            return self._calls.unrecorded(known, call)

    async def _until_setup(self) -> tuple[Setup, list[TwilioFrame]]:
        early: list[TwilioFrame] = []
        async with asyncio.timeout(SETUP_SECONDS):
            async for frame in self._frames():
                if isinstance(frame, Setup):
                    return frame, early
                if len(early) < MOST_EARLY:
                    early.append(frame)
        raise WebSocketDisconnect

    async def _frames(self) -> AsyncGenerator[TwilioFrame]:
        """The frames that are valid.

        Raises:
            _TooManyMalformed: too many in a row were not.
            WebSocketDisconnect: the session is over.
        """
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1000))
            try:
                text = message.get("text")
                frame = read_frame(b"" if text is None else text)
            except MalformedFrame as problem:
                self._malformed += 1
                log.warning("a malformed frame of Twilio's: %s", problem)
                if self._malformed >= MOST_MALFORMED:
                    raise _TooManyMalformed from None
                continue
            self._malformed = 0
            yield frame

    async def _send(self, frame: ToTwilio) -> None:
        """Send a frame.

        Raises:
            ConnectionError: the session is over.
        """
        try:
            async with self._sending:
                await self._socket.send_text(frame.wire())
        except (RuntimeError, WebSocketDisconnect) as error:
            raise ConnectionError("the session is over") from error

    async def _close(self, code: int) -> None:
        with suppress(RuntimeError, WebSocketDisconnect):
            await self._socket.close(code)


class _TooManyMalformed(Exception):
    """The other end does not speak ConversationRelay."""
