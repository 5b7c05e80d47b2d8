"""A small Twilio for tests: it signs webhooks and the socket, and speaks ConversationRelay as a caller."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4
from xml.etree import ElementTree

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from parley.domain.phone.signature import HEADER, signature
from simulator.twilio.line import Account
from simulator.twilio.script import parse
from simulator.twilio.simulation import Plan, Simulated, simulate
from tests.gateway.parts import Running
from tests.parts import TEST_TIMEOUT_SECONDS

TOKEN = "0123456789abcdef0123456789abcdef"
NUMBER, CALLER = "+15550100002", "+15550100001"
FORM = "application/x-www-form-urlencoded"


@dataclass
class Twilio:
    """Twilio's side of the phone calls of one gateway."""

    gateway: Running
    token: str = TOKEN
    sessions: int = 0

    async def post(self, path: str, fields: Mapping[str, str], **headers: str) -> httpx.Response:
        """A signed webhook."""
        url = f"{self.gateway.url}{path}"
        signed = {HEADER: signature(self.token, url, fields.items()), "content-type": FORM}
        async with self.gateway.http() as http:
            return await http.post(path, content=urlencode(fields), headers={**signed, **headers})

    def phone(self, call_sid: str | None = None, **fields: str) -> "Phone":
        return Phone(self, call_sid or f"CA{uuid4().hex}", fields)


@dataclass
class Phone:
    """One phone call of a caller."""

    twilio: Twilio
    sid: str
    fields: dict[str, str] = field(default_factory=dict)

    def form(self, **more: str) -> dict[str, str]:
        known = {"CallSid": self.sid, "AccountSid": "AC1", "From": CALLER, "To": NUMBER, "Direction": "inbound"}
        return {**known, "CallStatus": "ringing", **self.fields, **more}

    async def ring(self, **more: str) -> ElementTree.Element:
        """The voice webhook; returns the TwiML."""
        answer = await self.twilio.post("/phone/voice", self.form(**more))
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/xml")
        return ElementTree.fromstring(answer.text)

    async def follow(self, twiml: ElementTree.Element) -> ElementTree.Element:
        """Ask the address of the `<Redirect>`, without the pause before it; returns the TwiML."""
        url = twiml.findtext("Redirect") or ""
        answer = await self.twilio.post(url.removeprefix(self.twilio.gateway.url), self.form())
        assert answer.status_code == 200, answer.text
        return ElementTree.fromstring(answer.text)

    async def action(self, **more: str) -> ElementTree.Element:
        """The callback after a session; returns the TwiML."""
        answer = await self.twilio.post("/phone/action", self.form(CallStatus="in-progress", SessionId="VX1") | more)
        assert answer.status_code == 200, answer.text
        return ElementTree.fromstring(answer.text)

    async def status(self, now: str) -> None:
        answer = await self.twilio.post("/phone/status", self.form(CallStatus=now))
        assert answer.status_code == 204, answer.text

    @asynccontextmanager
    async def session(self, url: str | None = None, *, setup: bool = True) -> AsyncIterator["Session"]:
        """A session on the socket, with its first frame. A gateway of this process has then recorded the last one."""
        url = url or f"{self.twilio.gateway.url.replace('http', 'ws')}/phone/relay"
        headers = {HEADER: signature(self.twilio.token, url)}
        self.twilio.sessions += 1
        async with connect(url, additional_headers=headers) as socket:
            session = Session(socket)
            if setup:
                known = self.form()
                await session.send(
                    "setup",
                    sessionId=f"VX{uuid4().hex}",
                    callSid=self.sid,
                    parentCallSid=None,
                    **{"from": known["From"]},
                    to=known["To"],
                    direction=known["Direction"],
                    callStatus="RINGING",
                    customParameters={},
                )
            yield session
        self.twilio.sessions -= 1
        gateway = self.twilio.gateway
        if isinstance(gateway, Running) and not self.twilio.sessions:
            async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
                await gateway.server.phone.until_left()


async def simulated(gateway: Running, script: str, speed: float = 10) -> Simulated:
    """A simulated phone call; its caller misses nothing, and Twilio would warn of nothing."""
    url = gateway.url
    plan = Plan(parse(script), f"{url}/phone/voice", f"{url}/phone/status", account=Account(token=TOKEN), speed=speed)
    async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
        [one] = await simulate(plan)
    assert [event.details for kind in ("error", "warning") for event in one.log.of(kind)] == []
    return one


class Session:
    """A session, as the caller has it."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.frames: list[dict[str, Any]] = []
        self.is_slow = False
        """Whether the voice takes time: `spoken` ends it. That of other sessions takes none."""

    async def send(self, kind: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def say(self, text: str, lang: str = "en-US") -> None:
        await self.send("prompt", voicePrompt=text, lang=lang, last=True)

    async def partial(self, text: str) -> None:
        await self.send("prompt", voicePrompt=text, lang="en-US", last=False)

    async def interrupt(self, heard: str, milliseconds: Any = 0) -> None:
        await self.send("interrupt", utteranceUntilInterrupt=heard, durationUntilInterruptMs=milliseconds)

    async def press(self, keys: Sequence[str]) -> None:
        for key in keys:
            await self.send("dtmf", digit=key)

    async def frame(self) -> dict[str, Any]:
        """The next frame of the agent."""
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            frame = json.loads(await self.socket.recv())
        self.frames.append(frame)
        if frame["type"] == "text" and frame["last"] and not self.is_slow:
            await self.spoken()
        return frame

    async def spoken(self) -> None:
        """The voice has said all that was sent."""
        await self.send("info", name="agentSpeaking", value="off")

    async def answer(self) -> str:
        """What the agent says, until it has finished."""
        said = ""
        while True:
            frame = await self.frame()
            if frame["type"] == "text":
                said += frame["token"]
                if frame["last"]:
                    return said.strip()

    async def first_text(self) -> str:
        """The first piece of what the agent says."""
        while (frame := await self.frame())["type"] != "text":
            pass
        return frame["token"]

    async def until(self, kind: str) -> dict[str, Any]:
        while (frame := await self.frame())["type"] != kind:
            pass
        return frame

    async def closed(self) -> int:
        """The code with which the agent closes the session."""
        async with asyncio.timeout(TEST_TIMEOUT_SECONDS):
            try:
                while True:
                    self.frames.append(json.loads(await self.socket.recv()))
            except ConnectionClosed as closed:
                return closed.rcvd.code if closed.rcvd else 1006
